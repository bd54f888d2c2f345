"""`recdsl train`: a spec, its data and a run folder."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from recdsl.cli.frame import (
    AsJson,
    Backend,
    BadInput,
    Overrides,
    Trust,
    command,
    complain,
    say,
    say_json,
    spec_text,
    with_backend,
)

if TYPE_CHECKING:
    from recdsl.training.run import Result


class Progress(StrEnum):
    """How a run reports."""

    AUTO = "auto"
    BAR = "bar"
    LINES = "lines"
    SILENT = "silent"


def add(app: typer.Typer) -> None:
    @command(app, "train")
    def train(  # pyright: ignore[reportUnusedFunction]
        spec: Annotated[
            str | None, typer.Argument(metavar="SPEC", help="A YAML file; not needed with --resume PATH.")
        ] = None,
        overrides: Overrides = None,
        root: Annotated[Path, typer.Option("--run-dir", help="Where run folders go.")] = Path("runs"),
        resume: Annotated[
            str | None, typer.Option("--resume", metavar="last|PATH", help="Go on with a run or checkpoint.")
        ] = None,
        progress: Annotated[Progress, typer.Option(help="auto: a bar on a terminal, else lines.")] = Progress.AUTO,
        backend: Backend = None,
        trust: Trust = False,
        as_json: AsJson = False,
    ) -> int:
        """Train a spec on its data. Ctrl-C writes a checkpoint first."""
        path, changes = arguments(spec, with_backend(overrides, backend), resume)
        from recdsl.training.run import train as run

        result = run(path, changes, root=root, resume=resume, trust=trust, progress=progress.value)
        seen = progress is not Progress.SILENT and sys.stdout.isatty() and sys.stderr.isatty()
        show(result, as_json, seen)
        return result.status


def arguments(spec: str | None, overrides: list[str], resume: str | None) -> tuple[str, list[str]]:
    """The spec and the overrides; with `--resume PATH` the first argument may be an override already."""
    elsewhere = resume is not None and resume != "last"
    if spec is not None and elsewhere and "=" in spec and not os.path.exists(spec):
        return "", [spec, *overrides]
    if spec is None:
        if not elsewhere:
            raise BadInput("which spec? for example `recdsl train specs/copy_lstm.yaml`")
        return "", overrides
    return spec_text(spec), overrides


def show(result: Result, as_json: bool, seen: bool) -> None:
    """Where the run is and how good it is. seen: the user has read the last measurement above this already."""
    from recdsl.training.progress import shown

    if as_json:
        say_json(
            {
                "run": str(result.folder),
                "step": result.step,
                "checkpoint": str(result.checkpoint),
                "valid": result.valid,
                "test": result.test,
                "online": result.online,
                "status": result.status,
            }
        )
        return
    for name, values in (("online", result.online), ("test", result.test)):
        if values and not seen:
            say(f"{name}  {shown(values)}")
    complain(f"run folder: {result.folder}")
