"""The grammars of the little languages as parsers, made when first used.

To work out the tables of a parser takes a tenth of `recdsl check`, so they are kept as plain data in
`grammars/tables.json` (`python tests/syntax/test_grammar_tables.py` writes it). Tables of another version of Lark or
of other grammars are passed over.
"""

from __future__ import annotations

import json
from functools import lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any
from zlib import crc32

from recdsl.resources import read_text

if TYPE_CHECKING:
    from lark import Lark

EQUATIONS = ("types", ("equation", "expression", "declaration", "initial"))
CALLS = ("calls", ("value",))
_FILES = ("calls", "common", "equations", "types")
_OPTIONS = ("parser", "lexer", "start", "maybe_placeholders", "priority", "ambiguity", "keep_all_tokens")


def _load(_base: object, path: str) -> tuple[str, str]:
    """Lark's hook for `%import .common`: grammar files live in `recdsl/grammars`, perhaps in a zip."""
    return path, read_text("grammars", path)


@lru_cache
def parser(file: str, starts: tuple[str, ...]) -> Lark:
    """One parser serves a grammar's start rules. Imported late: most commands never parse."""
    from lark import Lark

    known = _tables().get(file)
    return built(file, starts) if known is None else Lark.load(known)


def built(file: str, starts: tuple[str, ...]) -> Lark:
    """The parser, worked out from the grammar."""
    from lark import Lark

    return Lark(
        _load(None, f"{file}.lark")[1],
        start=list(starts),
        parser="lalr",
        lexer="basic",
        import_paths=[_load],
        maybe_placeholders=False,
    )


@lru_cache(maxsize=1)
def _tables() -> dict[str, Any]:
    """The stored tables by grammar, if they are of this version of Lark and of these grammars."""
    place = files("recdsl") / "grammars" / "tables.json"
    if not place.is_file():
        return {}
    found = json.loads(place.read_text("utf-8"), object_hook=_numbered)
    return found["tables"] if found["of"] == origin() else {}


def _numbered(value: dict[str, Any]) -> dict[Any, Any]:
    """JSON has texts as keys where Lark has numbers."""
    return {int(key) if key.isdecimal() else key: item for key, item in value.items()}


def origin() -> str:
    """What tables depend on."""
    import lark

    sums = [f"{crc32(read_text('grammars', f'{name}.lark').encode()):08x}" for name in _FILES]
    return f"lark {lark.__version__}, grammars {' '.join(sums)}"


def tables() -> dict[str, Any]:
    """What `tables.json` should hold: the same for the same grammars, however sets are ordered."""
    return {"of": origin(), "tables": {file: _table(built(file, starts)) for file, starts in (EQUATIONS, CALLS)}}


def _table(lark: Lark) -> dict[str, Any]:
    from lark.grammar import Rule
    from lark.lexer import TerminalDef

    data, memo = lark.memo_serialize([TerminalDef, Rule])
    data["options"] = {name: data["options"][name] for name in _OPTIONS}
    data["parser"]["parser"] |= _ordered(data["parser"]["parser"])
    return {"data": data, "memo": memo}


def _ordered(table: dict[str, Any]) -> dict[str, Any]:
    """The table with tokens numbered by name, and states in the order in which they are met from the start."""
    names: dict[int, str] = table["tokens"]
    order = sorted(names, key=lambda token: names[token])
    new = {token: place for place, token in enumerate(order)}
    found = dict.fromkeys(table["start_states"][start] for start in sorted(table["start_states"]))
    queue = list(found)
    for state in queue:
        for token in order:
            kind, target = table["states"][state].get(token, (1, None))
            if kind == 0 and target not in found:
                found[target] = None
                queue.append(target)
    place = {state: number for number, state in enumerate(found)}
    return {
        "tokens": {new[token]: names[token] for token in order},
        "states": {place[state]: _row(table["states"][state], order, new, place) for state in found},
        "start_states": {name: place[state] for name, state in sorted(table["start_states"].items())},
        "end_states": {name: place[state] for name, state in sorted(table["end_states"].items())},
    }


def _row(row: dict[int, Any], order: list[int], new: dict[int, int], place: dict[int, int]) -> dict[int, Any]:
    actions = {new[token]: row[token] for token in order if token in row}
    return {token: (0, place[target]) if kind == 0 else (kind, target) for token, (kind, target) in actions.items()}
