"""Calls: how arguments are matched to what a function, loss or initialiser takes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from recdsl.diagnostics import suggest
from recdsl.errors.names import BadCall
from recdsl.graph.scope import Item, Stop
from recdsl.source import Span

if TYPE_CHECKING:
    from recdsl.graph.expressions import Evaluator


@dataclass(frozen=True)
class Call:
    """A call whose arguments have been evaluated (keywords may still be words)."""

    name: str
    args: tuple[Item, ...]
    keywords: Mapping[str, Item]
    span: Span


@dataclass(frozen=True)
class Signature:
    """What may be written: `clamp(x, lo, hi)`, `elu(x, alpha=1)`, `max(x, *others, axis=)`, `rename(x, **axes)`."""

    use: str
    names: tuple[str, ...]
    required: int
    only_keyword: tuple[str, ...]
    rest: str
    free: bool


@lru_cache(maxsize=1024)
def signature(use: str) -> Signature:
    """A signature from its text."""
    inside = use[use.index("(") + 1 : use.rindex(")")]
    names, only, rest, free, required = list[str](), list[str](), "", False, 0
    for part in filter(None, (piece.strip() for piece in inside.split(","))):
        name, default, _ = part.partition("=")
        if part.startswith("**"):
            free = True
        elif part.startswith("*"):
            rest = part[1:]
        elif rest or part.endswith("="):
            only.append(name)
        else:
            names.append(name)
            required += not default
    return Signature(use, tuple(names), required, tuple(only), rest, free)


def bind(call: Call, use: str) -> dict[str, Item]:
    """Arguments by name; further positional ones as `0`, `1`, ... where the signature has a rest."""
    sign = signature(use)
    if len(call.args) > len(sign.names) and not sign.rest:
        what = f"{len(call.args)} arguments, but it takes {len(sign.names) or 'none'}"
        raise Stop(BadCall(call.span, call.name, what, f"`{use}`"))
    found = dict(zip(sign.names, call.args, strict=False))
    found.update({str(k): item for k, item in enumerate(call.args[len(sign.names) :])})
    for keyword, item in call.keywords.items():
        if keyword in found:
            raise Stop(BadCall(call.span, call.name, f"`{keyword}` is given twice", f"`{use}`"))
        if not sign.free and keyword not in (*sign.names, *sign.only_keyword):
            near = suggest(keyword, (*sign.names, *sign.only_keyword))
            raise Stop(BadCall(call.span, call.name, f"no argument `{keyword}`", near or f"`{use}`"))
        found[keyword] = item
    for name in sign.names[: sign.required]:
        if name not in found:
            raise Stop(BadCall(call.span, call.name, f"argument `{name}` is missing", f"`{use}`"))
    return found


Given = dict[str, Item]
"""Arguments by name."""


Work = Callable[["Evaluator", Call, Given], Item]
"""What a function builds."""


@dataclass(frozen=True)
class Builtin:
    """A function or loss: how it is written, and what it builds."""

    use: str
    work: Work
