"""Where blocks come from: the spec, files beside it, the standard library."""

from __future__ import annotations

from importlib.resources import files

from recdsl.graph.context import Context
from recdsl.syntax.ast import BlockDecl
from recdsl.syntax.spec import find_block


def find(ctx: Context, name: str) -> BlockDecl | None:
    """A block of the spec, of a file beside it, or of the library."""
    if name not in ctx.library:
        own = next((block for block in ctx.spec.blocks if block.name.text == name), None)
        ctx.library[name] = own or find_block(name, ctx.spec.span.source.path)
    return ctx.library[name]


def names(ctx: Context) -> list[str]:
    """Names of the spec's own blocks and of the library's, for suggestions."""
    shipped = (item.name for item in files("recdsl").joinpath("specs", "blocks").iterdir())
    return [*(block.name.text for block in ctx.spec.blocks), *sorted(n.removesuffix(".yaml") for n in shipped)]
