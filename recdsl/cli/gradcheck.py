"""`recdsl gradcheck`: verdict and measurement side by side."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from recdsl.cli.frame import FAILED, OK, AsJson, BadInput, Overrides, SpecArgument, command, say, say_json, spec_text

if TYPE_CHECKING:
    from recdsl.training.gradcheck import Check

HEAD = ("parameter", "rule", "verdict", "vs definition", "vs full", "cosine", "norm ratio", "signs", "")
WORDS = (0, 1, 2, 8)


def add(app: typer.Typer) -> None:
    @command(app, "gradcheck")
    def gradcheck(  # pyright: ignore[reportUnusedFunction]
        spec: SpecArgument,
        overrides: Overrides = None,
        steps: Annotated[
            int | None, typer.Option(min=1, help="Steps of the random batch (default: by window).")
        ] = None,
        batch: Annotated[int, typer.Option(min=1, help="Its samples.")] = 2,
        seed: Annotated[int, typer.Option(help="Its seed.")] = 0,
        backend: Annotated[str, typer.Option(help="What runs the model: auto, native or torch.")] = "torch",
        as_json: AsJson = False,
    ) -> int:
        """Compare gradients with the rule's definition and with full backpropagation. Status 1 if a claim is wrong."""
        from recdsl.driver import analyse

        compilation = analyse(spec_text(spec), overrides or ())
        from recdsl.training.gradcheck import CannotMeasure
        from recdsl.training.gradcheck import gradcheck as measure

        try:
            check = measure(compilation, steps, batch, seed, backend)
        except (CannotMeasure, ValueError) as error:
            raise BadInput(str(error)) from None
        if as_json:
            say_json({**asdict(check), "holds": check.holds})
        else:
            say(table(check))
        return OK if check.holds else FAILED


def table(check: Check) -> str:
    """A row a parameter, then the conclusion."""
    rows: list[tuple[str, ...]] = [HEAD]
    for row in check.rows:
        numbers = (
            f"{row.definition:.1e}",
            f"{row.full:.1e}",
            f"{row.cosine:.4f}",
            f"{row.ratio:.4f}",
            f"{row.signs:.0%}",
        )
        rows.append((row.parameter, row.rule, row.verdict, *numbers, row.problem or row.note))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines: list[str] = []
    for row in rows:
        cells = [c.ljust(w) if k in WORDS else c.rjust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True))]
        lines.append("  ".join(cells).rstrip())
    wrong = sum(bool(row.problem) for row in check.rows)
    end = f"{wrong} of {len(check.rows)} claims are contradicted" if wrong else "every claim holds"
    return "\n".join([*lines, "", f"{end} ({check.steps} steps, {check.batch} samples, float64)"])
