"""The grammars, loaded from the package and built when first used."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lark import Lark

EQUATIONS = ("types", ("equation", "expression", "declaration", "initial"))
CALLS = ("calls", ("value",))


def _load(_base: object, path: str) -> tuple[str, str]:
    """Lark's hook for `%import .common`: grammar files live in `recdsl/grammars`, perhaps in a zip."""
    return path, (files("recdsl") / "grammars" / path).read_text("utf-8")


@lru_cache
def parser(file: str, starts: tuple[str, ...]) -> Lark:
    """One parser serves a grammar's start rules. Imported late: most commands never parse."""
    from lark import Lark

    return Lark(
        _load(None, f"{file}.lark")[1],
        start=list(starts),
        parser="lalr",
        lexer="basic",
        import_paths=[_load],
        maybe_placeholders=False,
    )
