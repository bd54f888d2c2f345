"""`recdsl explain`: what credit reaches which parameter, or what an error code means."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from recdsl.cli.frame import OK, AsJson, BadInput, Overrides, command, say, say_json, spec_text

CODE = re.compile(r"RD\d{4}", re.IGNORECASE)


def add(app: typer.Typer) -> None:
    @command(app, "explain", brief=True)
    def explain(  # pyright: ignore[reportUnusedFunction]
        subject: Annotated[str, typer.Argument(metavar="SPEC|CODE", help="A YAML file, -, or a code such as RD0101.")],
        overrides: Overrides = None,
        as_json: AsJson = False,
    ) -> int:
        """Say for each parameter which credit it gets and what is dropped; or say more about an error."""
        if CODE.fullmatch(subject):
            return explain_code(subject.upper(), as_json)
        from recdsl.driver import analyse

        compilation = analyse(spec_text(subject), overrides or ())
        found = compilation.report
        from recdsl.training.backend import chosen

        runs = chosen(compilation)
        if as_json:
            say_json(found.to_dict() | {"backend": {"name": runs.backend, "reason": runs.reason}})
        else:
            say(f"{found}\n\nbackend: {runs}")
        return OK


def explain_code(code: str, as_json: bool) -> int:
    """The long text of an error."""
    from recdsl.diagnostics import catalogue, suggest

    known = catalogue()
    if code not in known:
        near = suggest(code, known)
        raise BadInput(f"there is no error {code}{'; ' + near if near else ''}")
    found = known[code]
    if as_json:
        say_json({"code": code, "message": found.message, "hint": found.hint, "explain": found.explain})
    else:
        message, hint = (text.replace("{{", "{").replace("}}", "}") for text in (found.message, found.hint))
        say(f"{code}: {message}\n\n{found.explain}" + (f"\n\nhelp: {hint}" if hint else ""))
    return OK
