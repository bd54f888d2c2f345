"""`recdsl export`: one step of a model by torch.export."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from recdsl.cli.frame import BAD_INPUT, OK, BadInput, Overrides, command, complain, spec_text


def add(app: typer.Typer) -> None:
    @command(app, "export")
    def export(  # pyright: ignore[reportUnusedFunction]
        path: Annotated[str, typer.Argument(metavar="RUN|SPEC", help="A run folder, or an untrained spec.")],
        overrides: Overrides = None,
        output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="The file.")] = "step.pt2",
    ) -> int:
        """Write one step, (inputs, state) -> (outputs, state), as a torch.export program for any batch size."""
        target = Path(os.path.realpath(output))
        if target.is_dir():
            raise BadInput(f"{output} is a folder; name a file in it")
        from recdsl.training.stepping import CannotExport, step_file

        try:
            data = step_file(spec_text(path), overrides or ())
        except CannotExport as error:
            complain(f"not supported yet: this model cannot be exported: {error}")
            return BAD_INPUT
        from recdsl.training.store import replace

        replace(target, data)
        complain(f"wrote {output}: {len(data):,} bytes; read it with torch.export.load")
        return OK
