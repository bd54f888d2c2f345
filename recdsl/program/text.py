"""Prints a program. `recdsl.program.parse` reads the text back; the form is shown in `recdsl.program.ir`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from recdsl.graph.types import Axis
from recdsl.program.ir import (
    Add,
    Affine,
    At,
    Bound,
    Call,
    Effect,
    Entry,
    For,
    Function,
    If,
    Index,
    Load,
    Op,
    Program,
    Range,
    Scalar,
    Stmt,
    Storage,
    Store,
    VType,
)
from recdsl.source import Span

KEYWORDS = frozenset(
    (
        *("program", "storage", "function", "entry", "edge", "scalars", "fact", "fields", "after"),
        *("scalar", "load", "store", "add", "tag", "at", "for", "in", "by", "if", "call", "vjp", "jvp", "over", "do"),
        *("sum", "because", "max", "min", "true", "false", "none", "inf", "nan", "divides", "indivisible"),
    )
)
# The parser knows a keyword only where one may stand: an op or an attribute may share its name.
_BEHIND_EQUALS = frozenset(("scalar", "load", "call", "vjp", "jvp"))
_NONE: frozenset[str] = frozenset()
RELATIONS = {"lt": "<", "le": "<=", "eq": "==", "ge": ">=", "ne": "!="}
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*\Z")


def show(program: Program, spans: bool = True) -> str:
    """The program as text. Without `spans` the places in the spec are left out."""
    return "\n".join(_program(program, spans)) + "\n"


def _program(program: Program, spans: bool) -> Iterator[str]:
    yield f"program {name(program.name)}"
    yield ""
    if program.scalars:
        yield f"scalars {names(program.scalars)}"
    yield from (f"fact {affine(fact)}" for fact in program.facts)
    yield from (f"edge ({names(edge.tag)}) {name(edge.policy)}" for edge in program.edges)
    yield from (_storage(storage) for storage in program.storages)
    for function in program.functions:
        yield ""
        yield from _function(function, spans)
    for label, body in program.entries:
        after = [first for later, first in program.follows if later == label]
        yield ""
        yield f"entry {name(label)}{f' after {names(after)}' if after else ''} {{"
        yield from body_lines(body, 1, spans)
        yield "}"


def name(text: str, keywords: frozenset[str] = KEYWORDS) -> str:
    """A name as it is written: in backquotes where it is a keyword or no plain word."""
    return text if _PLAIN.match(text) and text not in keywords else f"`{text}`"


def names(items: Iterable[str]) -> str:
    return ", ".join(map(name, items))


def affine(value: Affine) -> str:
    """`2*t + T - 1`."""
    parts = [(k, name(symbol) if abs(k) == 1 else f"{abs(k)}*{name(symbol)}") for symbol, k in value.terms]
    if value.const or not parts:
        parts.append((value.const, str(abs(value.const))))
    first, *rest = parts
    head = f"{'-' if first[0] < 0 else ''}{first[1]}"
    return head + "".join(f" {'-' if sign < 0 else '+'} {text}" for sign, text in rest)


def bound(value: Bound, plain: str = "max") -> str:
    """A bound; one part is written without its kind where that is `plain`."""
    if len(value.parts) == 1 and value.kind == plain:
        return affine(value.parts[0])
    return f"{value.kind}({', '.join(map(affine, value.parts))})"


def vtype(value: VType) -> str:
    """`float[T, B; hid=4]`."""
    lead = ", ".join(name(axis) + ("" if affine(size) == axis else f"={affine(size)}") for axis, size in value.lead)
    own = ", ".join(map(_axis, value.axes))
    if lead:
        return f"{value.dtype}[{lead};{' ' if own else ''}{own}]"
    return f"{value.dtype}[{own}]" if own else value.dtype


def _axis(axis: Axis) -> str:
    return f"{name(axis.name)}={axis.size}"


def _vtypes(types: Sequence[VType]) -> str:
    return ", ".join(map(vtype, types))


def _parameters(parameters: Iterable[tuple[str, VType]]) -> str:
    return ", ".join(f"{name(label)}: {vtype(kind)}" for label, kind in parameters)


def _place(value: Index) -> str:
    if isinstance(value, At):
        return f"@{name(value.value)}"
    if isinstance(value, Range):
        return f"{bound(value.lo)}..{bound(value.hi)}"
    return affine(value)


def index(places: Sequence[Index]) -> str:
    return f"[{', '.join(map(_place, places))}]" if places else ""


def attribute(value: Any) -> str:
    """A literal: number, text, true, false, none, an axis, or a tuple of literals."""
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Axis):
        return f"[{_axis(value)}]"
    if isinstance(value, tuple):
        items: tuple[Any, ...] = value
        return f"({', '.join(map(attribute, items))}{',' if len(items) == 1 else ''})"
    raise TypeError(f"an attribute of a program may not be a {type(value).__name__}")


def _attrs(attrs: Sequence[tuple[str, Any]]) -> str:
    return f" {{{', '.join(f'{name(key, _NONE)}={attribute(value)}' for key, value in attrs)}}}" if attrs else ""


def _storage(storage: Storage) -> str:
    fields = f" fields ({_parameters(storage.fields)})" if storage.fields else ""
    kind = f"{storage.kind} {vtype(storage.type)} {storage.lifetime}"
    return f"storage {name(storage.name)}: {kind}{_attrs(storage.attrs)}{fields}"


def _function(function: Function, spans: bool) -> Iterator[str]:
    yield f"function {name(function.name)}({_parameters(function.args)}) -> {names(function.results)} {{"
    yield from body_lines(function.body, 1, spans)
    yield "}"


def body_lines(body: Sequence[Stmt], depth: int, spans: bool) -> Iterator[str]:
    """The lines of a block. Recurses over the nesting of loops only."""
    pad = "  " * depth
    for stmt in body:
        if isinstance(stmt, For | If):
            yield f"{pad}{_head(stmt)} {{"
            yield from body_lines(stmt.body, depth + 1, spans)
            yield f"{pad}}}"
        else:
            yield f"{pad}{line(stmt)}{_trailer(stmt.span if spans else None, stmt.reason)}"


def _head(stmt: For | If) -> str:
    if isinstance(stmt, If):
        kind, left, right = stmt.predicate
        return f"if {affine(left)} {RELATIONS.get(kind, kind)} {affine(right)}"
    by = f" by {stmt.step}" if stmt.step != 1 else ""
    return f"for {name(stmt.var)} in {bound(stmt.lo)}..{bound(stmt.hi, 'min')}{by}"


def _trailer(span: Span | None, reason: str) -> str:
    place = f" @ {json.dumps(span.source.path)} {span.start} {span.end}" if span else ""
    return place + (f" because {json.dumps(reason)}" if reason else "")


def line(stmt: Op | Scalar | Load | Store | Add | Call | Effect) -> str:
    """One statement that is not a block, without place and reason."""
    match stmt:
        case Op():
            joint = f" sum ({names(stmt.joint)})" if stmt.joint else ""
            what = f"{name(stmt.op, _BEHIND_EQUALS)}({names(stmt.args)}){_attrs(stmt.attrs)}{joint}"
            return f"{names(stmt.results)} = {what} : {_vtypes(stmt.types)}"
        case Scalar():
            return f"{name(stmt.result)} = scalar {affine(stmt.value)} : {vtype(stmt.type)}"
        case Load():
            return f"{name(stmt.result)} = load {name(stmt.storage)}{index(stmt.index)} : {vtype(stmt.type)}"
        case Store():
            return f"store {name(stmt.storage)}{index(stmt.index)} {name(stmt.value)}"
        case Add():
            tag = f" tag ({names(stmt.tag)})" if stmt.tag else ""
            at = f" at ({', '.join(map(affine, stmt.at))})" if stmt.at else ""
            return f"add {name(stmt.storage)}{index(stmt.index)} {name(stmt.value)}{tag}{at}"
        case Call():
            mode = "call" if stmt.mode == "value" else stmt.mode
            over = f" over ({names(stmt.over)})" if stmt.over else ""
            return f"{names(stmt.results)} = {mode} {name(stmt.function)}({names(stmt.args)}){over}"
        case Effect():
            results = f"{names(stmt.results)} = " if stmt.results else ""
            types = f" : {_vtypes(stmt.types)}" if stmt.types else ""
            what = f"{stmt.kind} {name(stmt.resource)}({names(stmt.args)})"
            return f"do {results}{what}{_attrs(stmt.attrs)}{types}"


def entry_text(entry: Entry, spans: bool = False) -> str:
    """One entry's body, for messages and golden files."""
    return "\n".join(body_lines(entry[1], 0, spans))
