"""What an error is: a frozen dataclass with a code, a place, and words; and the one exception that carries them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from typing import ClassVar

from recdsl.source import Span


@dataclass(frozen=True)
class Note:
    """A second place that helps to understand the first."""

    span: Span
    message: str


@dataclass(frozen=True)
class Problem:
    """Base of all errors in a spec. Subclasses live in `recdsl/errors/<phase>.py`.

    `message` and `hint` are templates filled from the fields; `explain` is the long text of
    `recdsl explain CODE`.
    """

    code: ClassVar[str] = "RD0000"
    message: ClassVar[str] = ""
    hint: ClassVar[str] = ""
    explain: ClassVar[str] = ""

    span: Span
    notes: tuple[Note, ...] = field(default=(), kw_only=True)

    def _fields(self) -> dict[str, object]:
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def text(self) -> str:
        return self.message.format_map(self._fields())

    def help(self) -> str:
        return self.hint.format_map(self._fields())


class SpecError(Exception):
    """One or more problems in a spec: all that could be found in one go, in file order."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(set(problems), key=lambda p: (p.span.source.path, p.span.start, p.code)))
        super().__init__("\n".join(headline(problem) for problem in self.problems))


class Problems:
    """A collector, so that one run reports every error of a phase."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, problem: Problem) -> None:
        self.found.append(problem)

    def check(self) -> None:
        """Raise what was collected, if anything was."""
        if self.found:
            raise SpecError(self.found)


def headline(problem: Problem) -> str:
    """`PATH:LINE:COL: error[CODE]: message`."""
    return f"{problem.span}: error[{problem.code}]: {problem.text()}"


def suggest(word: str, known: Iterable[str]) -> str:
    """` did you mean 'x'?` or an empty string."""
    near = get_close_matches(word, sorted(known), n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else ""
