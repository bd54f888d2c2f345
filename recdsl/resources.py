"""Files that come with the package: grammars, blocks, backend sources."""

from __future__ import annotations

from importlib.resources import files


def read_text(*path: str) -> str:
    """The text of a packaged file, such as ("grammars", "types.lark")."""
    return files("recdsl").joinpath(*path).read_text("utf-8")
