"""`recdsl check`: every error of a spec, without building anything."""

from __future__ import annotations

import os
from math import prod
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recdsl.cli.frame import BAD_INPUT, OK, AsJson, BadInput, command, complain, report, say, say_json, spec_text

if TYPE_CHECKING:
    from recdsl.driver import Compilation


def add(app: typer.Typer) -> None:
    @command(app, "check", brief=True)
    def check(  # pyright: ignore[reportUnusedFunction]
        arguments: Annotated[list[str], typer.Argument(metavar="SPEC|KEY=VALUE", help="Files or -; changes to them.")],
        as_json: AsJson = False,
    ) -> int:
        """Check specs: names, shapes, settings, credit. With --json: diagnostics as editors take them."""
        specs, overrides = split(arguments)
        found: list[dict[str, Any]] = []
        worst = OK
        for spec in specs:
            worst = max(worst, one(spec, overrides, found if as_json else None))
        if as_json:
            say_json(found)
        return worst


def split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Specs and overrides. A file whose name holds `=` is a file."""
    overrides = [word for word in arguments if "=" in word and "\n" not in word and not os.path.exists(word)]
    specs = [word for word in arguments if word not in overrides]
    if not specs:
        raise BadInput("no spec is given, only overrides")
    return specs, overrides


def one(spec: str, overrides: list[str], found: list[dict[str, Any]] | None) -> int:
    """Check one spec; its diagnostics go to `found`, or to stderr."""
    from recdsl.diagnostics import SpecError, to_json, visible, warning_json
    from recdsl.driver import analyse

    try:
        compilation = analyse(spec_text(spec), overrides)
    except SpecError as error:
        if found is None:
            return report(error)
        found += [to_json(problem) for problem in error.problems]
        return BAD_INPUT
    name = "<text>" if "\n" in spec else spec
    warned = [remark for remark in compilation.plan.remarks if remark.warns]
    if found is None:
        say(visible(f"{name}: ok ({summary(compilation)})"))
        for remark in warned:
            complain(visible(f"{name}:{remark.line}: warning: {remark.text}"))
    else:
        found += [warning_json(remark.text, remark.line or 1, name) for remark in warned]
    return OK


def summary(compilation: Compilation) -> str:
    """`14 parameters, 72,586 numbers; 2 states; credit exact`."""
    graph = compilation.graph
    numbers = sum(prod(item.type.shape) for item in graph.parameters)
    shown = [carry for carry in graph.carries if not carry.name.startswith("td.")]
    verdicts = sorted({row.verdict for row in compilation.plan.rows})
    return (
        f"{_count(len(graph.parameters), 'parameter')}, {_count(numbers, 'number')}; "
        f"{_count(len(shown), 'state')}; credit {' and '.join(verdicts) or 'none'}"
    )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
