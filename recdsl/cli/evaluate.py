"""`recdsl eval`: loss and metrics of a run."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from recdsl.cli.frame import OK, AsJson, Overrides, Trust, command, say, say_json, spec_text


class Split(StrEnum):
    """The parts of a data set."""

    TRAIN = "train"
    VALID = "valid"
    TEST = "test"


def add(app: typer.Typer) -> None:
    @command(app, "eval")
    def evaluate(  # pyright: ignore[reportUnusedFunction]
        path: Annotated[
            str, typer.Argument(metavar="RUN|SPEC", help="A run folder, a checkpoint, or an untrained spec.")
        ],
        overrides: Overrides = None,
        part: Annotated[Split, typer.Option("--split", help="Which part of the data.")] = Split.TEST,
        batches: Annotated[int | None, typer.Option(min=1, help="How many batches (default: one pass).")] = None,
        trust: Trust = False,
        as_json: AsJson = False,
    ) -> int:
        """Measure a trained model."""
        from recdsl.training.progress import shown
        from recdsl.training.run import evaluate as measure

        found = measure(spec_text(path), overrides or (), split=part.value, batches=batches, trust=trust)
        if as_json:
            say_json({"split": part.value, **found})
        else:
            say(f"{part.value}  {shown(found)}")
        return OK
