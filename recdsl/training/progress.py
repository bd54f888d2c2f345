"""What a run says while it works: a bar on a terminal, a line now and then elsewhere, on the error stream."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Reporter(Protocol):
    """`start`, then `advance` after each update and `values` at each measurement, then `close`."""

    def start(self, total: int, at: int) -> None: ...
    def advance(self, step: int) -> None: ...
    def values(self, step: int, split: str, values: Mapping[str, float]) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self) -> None: ...


def shown(values: Mapping[str, float]) -> str:
    """`loss 1.234  accuracy 0.5`."""
    return "  ".join(f"{name} {value:.4g}" for name, value in values.items())


class Silent:
    """Says nothing."""

    def start(self, total: int, at: int) -> None: ...
    def advance(self, step: int) -> None: ...
    def values(self, step: int, split: str, values: Mapping[str, float]) -> None: ...
    def note(self, text: str) -> None: ...
    def close(self) -> None: ...


class Lines:
    """Plain lines."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.total = 0

    def start(self, total: int, at: int) -> None:
        self.total = total

    def advance(self, step: int) -> None: ...

    def values(self, step: int, split: str, values: Mapping[str, float]) -> None:
        self.note(f"step {step}/{self.total}  {split}  {shown(values)}")

    def note(self, text: str) -> None:
        self.stream.write(text + "\n")
        self.stream.flush()

    def close(self) -> None: ...


class Bar:
    """A progress bar. Markup is off: the text is the user's, and `[t-1]` would vanish."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, markup=False, highlight=False)
        self.bar = max(10, min(40, (self.console.width - 40) // 2))
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=self.bar),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[values]}", markup=False),
        )
        self.progress = Progress(*columns, console=self.console, transient=False)
        self.task = self.progress.add_task("training", total=None, values="")

    def start(self, total: int, at: int) -> None:
        self.progress.update(self.task, total=total, completed=at)
        self.progress.start()

    def advance(self, step: int) -> None:
        self.progress.update(self.task, completed=step)

    def values(self, step: int, split: str, values: Mapping[str, float]) -> None:
        if split == "train":
            self.progress.update(self.task, values=self._fitting(values))
        else:
            self.note(f"step {step}  {split}  {shown(values)}")

    def _fitting(self, values: Mapping[str, float]) -> str:
        """As many of the values as leave room for bar, count and time, which would give way to a longer text."""
        count = 2 * len(str(self.progress.tasks[0].total)) + len("/ ")
        room = self.console.width - len("training ") - self.bar - count - len(" 0:00:00 ")
        while values and len(shown(values)) > room:
            values = dict(list(values.items())[:-1])
        return shown(values)

    def note(self, text: str) -> None:
        # Soft: a break in the middle of a path would be copied with it.
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        self.progress.stop()


def reporter(kind: str = "auto") -> Reporter:
    """`kind`: auto (a bar on a terminal, else lines), bar, lines or silent."""
    if kind == "auto":
        kind = "bar" if sys.stderr.isatty() else "lines"
    return {"bar": Bar, "lines": Lines, "silent": Silent}[kind]()
