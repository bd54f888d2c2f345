"""`recdsl compile`: any stage of a spec as text, and the generated module as a file."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recdsl.cli.frame import (
    FAILED,
    OK,
    AsJson,
    BadInput,
    Overrides,
    SpecArgument,
    command,
    complain,
    say,
    say_json,
    spec_text,
)

if TYPE_CHECKING:
    from recdsl.driver import Compilation


class Stage(StrEnum):
    """The stages, in the order of the pipeline."""

    SPEC = "spec"
    GRAPH = "graph"
    PLAN = "plan"
    PROGRAM = "program"
    SOURCE = "source"
    C = "c"


class Emit(StrEnum):
    """What is written."""

    PYTHON = "python"
    C = "c"


def add(app: typer.Typer) -> None:
    @command(app, "compile")
    def compile(  # pyright: ignore[reportUnusedFunction]
        spec: SpecArgument,
        overrides: Overrides = None,
        stage: Annotated[Stage, typer.Option("--show", help="Which stage.")] = Stage.SOURCE,
        emit: Annotated[Emit, typer.Option("--emit", help="c: X.py, X.c and libX.so for -o X.py.")] = Emit.PYTHON,
        output: Annotated[str | None, typer.Option("-o", "--output", metavar="FILE", help="Write it there.")] = None,
        as_json: AsJson = False,
    ) -> int:
        """Compile a spec to a PyTorch module: one Python file that needs torch alone."""
        from recdsl.driver import analyse

        if emit is Emit.C and (output is None or not output.endswith((".py", ".so"))):
            raise BadInput("--emit c writes three files; name one of them, for example -o model.py")
        compilation = analyse(spec_text(spec), overrides or ())
        if emit is Emit.C:
            assert output is not None
            return ship(compilation, output)
        text = show(compilation, stage)
        if output is not None and output != "-":
            write(output, text, spec)
        elif as_json:
            say_json(described(compilation, stage, text))
        else:
            say(text.rstrip("\n"))
        return OK


def ship(compilation: Compilation, output: str) -> int:
    """Write C text, library and Python file, each at once or not at all; nothing where there is no compiler.

    The library of model.py is libmodel.so: beside a model.so, Python would take that for the module.
    """
    from recdsl.backends.native.build import BuildError
    from recdsl.backends.native.emit import emit
    from recdsl.training.settings import settings
    from recdsl.training.store import replace

    path = Path(os.path.realpath(output))
    name = path.stem.removeprefix("lib") if path.suffix == ".so" else path.stem
    if not name.isidentifier():
        raise BadInput(f"{path.name}: `import {name}` must be possible; use letters, digits and underscores")
    if path.is_dir():
        raise BadInput(f"{output} is a folder; name a file in it")
    single = settings(compilation.spec)["dtype"] == "float32"
    try:
        made = emit(compilation.graph, compilation.plan, compilation.source, name, single=single)
    except BuildError as error:
        complain(f"error: {error}; --show c prints the C without one")
        return FAILED
    files = {f"{name}.c": made.c.encode(), f"lib{name}.so": made.library, f"{name}.py": made.python.encode()}
    for file, data in files.items():
        replace(path.parent / file, data)
    complain(f"wrote {', '.join(files)} into {path.parent}: `from {name} import Model`")
    for reason in made.left:
        complain(f"note: runs on torch: {reason}")
    return OK


def write(output: str, text: str, spec: str) -> None:
    """Put the text into a file, at once or not at all."""
    from recdsl.training.store import replace

    path = Path(os.path.realpath(output))
    if path == Path(os.path.realpath(spec)):
        raise BadInput(f"{output} is the spec itself")
    if path.is_dir():
        raise BadInput(f"{output} is a folder; name a file in it")
    replace(path, text.encode())
    complain(f"wrote {output}: {len(text.splitlines()):,} lines")


def show(compilation: Compilation, stage: Stage) -> str:
    """The text form of a stage."""
    match stage:
        case Stage.SPEC:
            from recdsl.syntax.printer import print_spec

            return print_spec(compilation.spec)
        case Stage.GRAPH:
            from recdsl.graph.text import text

            return text(compilation.graph)
        case Stage.PLAN:
            return plan_text(compilation)
        case Stage.PROGRAM:
            from recdsl.program.text import show as program_text

            return program_text(compilation.program.program)
        case Stage.SOURCE:
            return compilation.source
        case Stage.C:
            from recdsl.backends.native.lower import text as c_text

            return c_text(compilation.program)


def described(compilation: Compilation, stage: Stage, text: str) -> dict[str, Any]:
    """The stage as data: its text, and for the plan the classes and rows."""
    found: dict[str, Any] = {"name": compilation.spec.name, "stage": stage.value, "text": text}
    if stage is Stage.PLAN:
        found["classes"] = classes(compilation)
        found |= compilation.report.to_dict()
    return found


def classes(compilation: Compilation) -> list[dict[str, Any]]:
    """The reverse passes of a plan."""
    graph = compilation.graph
    return [
        {
            "window": routing.window.size,
            "every": routing.window.every,
            "spared": sorted(routing.spared),
            "losses": [graph.losses[k].name for k in routing.losses],
            "cuts": [list(edge) for edge in sorted(routing.cuts)],
            "parameters": list(routing.parameters),
        }
        for routing in compilation.plan.classes
    ]


def plan_text(compilation: Compilation) -> str:
    """Each reverse pass, then the table of verdicts."""
    lines: list[str] = []
    for number, routing in enumerate(classes(compilation)):
        window = "the whole call"
        if routing["window"] is not None:
            window = f"{routing['window']} steps, moved by {routing['every']}"
        lines.append(f"pass {number}: window {window}; losses {', '.join(routing['losses']) or 'none'}")
        lines += [f"  cut {source} -> {user}" for source, user in routing["cuts"]]
        lines.append(f"  for {', '.join(routing['parameters']) or 'no parameter'}")
    return "\n".join([*lines, "", str(compilation.report), ""])
