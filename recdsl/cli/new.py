"""`recdsl new`: a spec to start from."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from recdsl.cli.frame import OK, AsJson, BadInput, command, complain, say_json

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")

HEADER = """\
# {name}: a copy of the shipped spec `{origin}`.
#
#   recdsl check {file}       every error at once
#   recdsl explain {file}     which credit reaches which parameter
#   recdsl train {file}       train it; train.steps=100 and the like change a setting for one run
#   recdsl compile {file} -o model.py
"""


def add(app: typer.Typer) -> None:
    @command(app, "new", brief=True)
    def new(  # pyright: ignore[reportUnusedFunction]
        name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name; the file is NAME.yaml.")],
        origin: Annotated[str, typer.Option("--from", metavar="SPEC", help="The shipped spec to copy.")] = "copy_lstm",
        as_json: AsJson = False,
    ) -> int:
        """Write a new spec with comments. A file that exists is left alone."""
        path = Path(name if name.endswith((".yaml", ".yml")) else f"{name}.yaml")
        if not NAME.fullmatch(path.stem):
            advice = "letters a to z, digits, `_`, `-` and `.`, beginning with no sign"
            raise BadInput(f"`{path.stem}` is not a name: {advice}")
        text = renamed(shipped(origin), path, origin)
        create(path, text)
        if as_json:
            say_json({"path": str(path), "from": origin})
        else:
            complain(f"wrote {path}; next: recdsl train {path}")
        return OK


def shipped_names() -> list[str]:
    """The specs that come with the package."""
    from importlib.resources import files

    entries = (files("recdsl") / "specs").iterdir()
    return sorted(entry.name.removesuffix(".yaml") for entry in entries if entry.name.endswith(".yaml"))


def shipped(origin: str) -> str:
    """The text of a shipped spec."""
    from recdsl.diagnostics import suggest
    from recdsl.resources import read_text

    names = shipped_names()
    if origin not in names:
        advice = suggest(origin, names) or f"there are {', '.join(names)}"
        raise BadInput(f"there is no shipped spec `{origin}`; {advice}")
    return read_text("specs", f"{origin}.yaml")


def renamed(text: str, path: Path, origin: str) -> str:
    """The spec under another name, with a word on what to do with it."""
    body = re.sub(r"^name: .*$", f"name: {path.stem}", text, count=1, flags=re.MULTILINE)
    return HEADER.format(name=path.stem, origin=origin, file=path) + body


def create(path: Path, text: str) -> None:
    """Write a file that does not exist yet."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        raise BadInput(f"{path} exists already; it is left as it is") from None
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}") from None
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(text)
