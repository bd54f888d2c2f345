"""Reads a program from its text form. The parser and the builder are iterative over lists of any length."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from lark import Lark, Token, Transformer

from recdsl.graph.types import Axis
from recdsl.program.affine import add, make, scaled
from recdsl.program.ir import (
    Add,
    Affine,
    At,
    Bound,
    Call,
    Edge,
    Effect,
    For,
    Function,
    If,
    Load,
    Op,
    Program,
    Range,
    Scalar,
    Storage,
    Store,
    VType,
)
from recdsl.program.text import RELATIONS
from recdsl.source import Source, Span

GRAMMAR = Path(__file__).parent.parent / "grammars" / "program.lark"


class _Trailer(NamedTuple):
    span: tuple[str, int, int] | None
    reason: str


class _Part(NamedTuple):
    """An optional piece of a statement, so that a list of children can be sorted by what they are."""

    kind: str
    value: Any


def parse(text: str, sources: Iterable[Source] = ()) -> Program:
    """The program that `text` prints. Places are kept where their file is among `sources`."""
    known = {source.path: source for source in sources}
    return _Builder(known).transform(_lark().parse(text))


@cache
def _lark() -> Lark:
    return Lark(GRAMMAR.read_text(encoding="utf-8"), parser="lalr", maybe_placeholders=False)


def _pick(children: Iterable[Any], kind: str, default: Any) -> Any:
    return next((c.value for c in children if isinstance(c, _Part) and c.kind == kind), default)


def _plain(children: Iterable[Any]) -> list[Any]:
    return [child for child in children if not isinstance(child, _Part)]


def _axis(label: str, size: Affine | None) -> Axis:
    return Axis(label, size.const if size is not None else int(label))


def _bound(value: Affine | Bound, kind: str) -> Bound:
    """A bound that is written as a plain expression is the `kind` of one part."""
    return value if isinstance(value, Bound) else Bound(kind, (value,))


class _Builder(Transformer[Token, Any]):
    """One method a rule of the grammar. Lark's transformer recurses over the tree, whose depth is that of blocks."""

    def __init__(self, sources: Mapping[str, Source]) -> None:
        super().__init__()
        self.sources = sources

    # leaves
    def word(self, c: list[Any]) -> str:
        return str(c[0])

    def name(self, c: list[Any]) -> str:
        return str(c[0]).strip("`")

    def places(self, c: list[Any]) -> tuple[str, ...]:
        return tuple(c)

    def names(self, c: list[Any]) -> tuple[str, ...]:
        return tuple(c)

    def text(self, c: list[Any]) -> str:
        return json.loads(c[0])

    def number_value(self, c: list[Any]) -> int | float:
        number = c[-1]
        value = int(number) if number.type == "INT" else float(number)
        return -value if c[0] == "-" else value

    def constant(self, c: list[Any]) -> bool | None:
        return {"true": True, "false": False, "none": None}[c[0]]

    def items(self, c: list[Any]) -> tuple[Any, ...]:
        return tuple(c)

    def axis(self, c: list[Any]) -> Axis:
        return _axis(*c[0])

    def attr(self, c: list[Any]) -> tuple[str, Any]:
        return c[0], c[1]

    def attrs(self, c: list[Any]) -> _Part:
        return _Part("attrs", tuple(c))

    # affine expressions, indices
    def scaled(self, c: list[Any]) -> Affine:
        return make(0, {c[1]: int(c[0])})

    def number(self, c: list[Any]) -> Affine:
        return Affine(int(c[0]))

    def symbol(self, c: list[Any]) -> Affine:
        return make(0, {c[0]: 1})

    def affine(self, c: list[Any]) -> Affine:
        total, sign = Affine(), 1
        for child in c:
            if isinstance(child, Affine):
                total, sign = add(total, scaled(child, sign)), 1
            else:
                sign = -1 if child == "-" else 1
        return total

    def single(self, c: list[Any]) -> Affine:
        return c[0]

    def several(self, c: list[Any]) -> Bound:
        return Bound(str(c[0]), tuple(c[1:]))

    def range(self, c: list[Any]) -> Range:
        return Range(_bound(c[0], "max"), _bound(c[1], "max"))

    def rows(self, c: list[Any]) -> At:
        return At(c[0])

    def index(self, c: list[Any]) -> _Part:
        return _Part("index", tuple(c))

    # types
    def dim(self, c: list[Any]) -> tuple[str, Affine | None]:
        return str(c[0]), c[1] if len(c) > 1 else None

    def tail(self, c: list[Any]) -> _Part:
        return _Part("tail", c)

    def dims(self, c: list[Any]) -> tuple[tuple[tuple[str, Affine], ...], tuple[Axis, ...]]:
        front, tail = _plain(c), _pick(c, "tail", None)
        lead, own = ([], front) if tail is None else (front, tail)
        sizes = tuple((label, size if size is not None else make(0, {label: 1})) for label, size in lead)
        return sizes, tuple(_axis(label, size) for label, size in own)

    def type(self, c: list[Any]) -> VType:
        lead, own = c[1] if len(c) > 1 else ((), ())
        return VType(c[0], lead, own)

    def types(self, c: list[Any]) -> tuple[VType, ...]:
        return tuple(c)

    def parameter(self, c: list[Any]) -> tuple[str, VType]:
        return c[0], c[1]

    def parameters(self, c: list[Any]) -> tuple[tuple[str, VType], ...]:
        return tuple(c)

    # pieces of statements
    def _kept(self, kind: str, c: list[Any]) -> _Part:
        return _Part(kind, c[0])

    def joint(self, c: list[Any]) -> _Part:
        return self._kept("joint", c)

    def tag(self, c: list[Any]) -> _Part:
        return self._kept("tag", c)

    def over(self, c: list[Any]) -> _Part:
        return self._kept("over", c)

    def produces(self, c: list[Any]) -> _Part:
        return self._kept("types", c)

    def fields(self, c: list[Any]) -> _Part:
        return self._kept("fields", c)

    def instance(self, c: list[Any]) -> _Part:
        return _Part("at", tuple(c))

    def follows(self, c: list[Any]) -> _Part:
        return _Part("follows", tuple(c))

    def by(self, c: list[Any]) -> _Part:
        return _Part("by", -int(c[-1]) if c[0] == "-" else int(c[-1]))

    def span(self, c: list[Any]) -> _Part:
        return _Part("span", (json.loads(c[0]), int(c[1]), int(c[2])))

    def reason(self, c: list[Any]) -> _Part:
        return _Part("reason", json.loads(c[0]))

    def trailer(self, c: list[Any]) -> _Trailer:
        return _Trailer(_pick(c, "span", None), _pick(c, "reason", ""))

    def _end(self, trailer: _Trailer) -> dict[str, Any]:
        span: Span | None = None
        if trailer.span and trailer.span[0] in self.sources:
            path, start, end = trailer.span
            span = Span(self.sources[path], start, end)
        return {"span": span, "reason": trailer.reason}

    # statements
    def op(self, c: list[Any]) -> Op:
        results, op, args, types, trailer = _plain(c)
        more = self._end(trailer)
        return Op(results, op, args, _pick(c, "attrs", ()), types, **more, joint=_pick(c, "joint", ()))

    def scalar(self, c: list[Any]) -> Scalar:
        (result,), value, kind, trailer = c
        return Scalar(result, value, kind, **self._end(trailer))

    def load(self, c: list[Any]) -> Load:
        (result,), storage, kind, trailer = _plain(c)
        return Load(result, storage, _pick(c, "index", ()), kind, **self._end(trailer))

    def store(self, c: list[Any]) -> Store:
        storage, value, trailer = _plain(c)
        return Store(storage, _pick(c, "index", ()), value, **self._end(trailer))

    def accumulate(self, c: list[Any]) -> Add:
        storage, value, trailer = _plain(c)
        more = self._end(trailer)
        return Add(storage, _pick(c, "index", ()), value, _pick(c, "tag", ()), **more, at=_pick(c, "at", ()))

    def block(self, c: list[Any]) -> tuple[Any, ...]:
        return tuple(c)

    def loop(self, c: list[Any]) -> For:
        var, lo, hi, body = _plain(c)
        return For(var, _bound(lo, "max"), _bound(hi, "min"), _pick(c, "by", 1), body)

    def cond(self, c: list[Any]) -> If:
        left, relation, right, body = c
        kinds = {sign: kind for kind, sign in RELATIONS.items()}
        return If((kinds.get(str(relation), str(relation)), left, right), body)

    def invoke(self, c: list[Any]) -> Call:
        results, mode, function, args, trailer = _plain(c)
        mode = "value" if mode == "call" else str(mode)
        return Call(results, function, mode, args, _pick(c, "over", ()), **self._end(trailer))

    def effect(self, c: list[Any]) -> Effect:
        *head, kind, resource, args, trailer = _plain(c)
        results = head[0] if head else ()
        more = self._end(trailer)
        return Effect(kind, resource, args, results, _pick(c, "attrs", ()), _pick(c, "types", ()), **more)

    # the program
    def storage(self, c: list[Any]) -> Storage:
        label, kind, vtype, lifetime = _plain(c)
        return Storage(label, kind, vtype, lifetime, _pick(c, "attrs", ()), _pick(c, "fields", ()))

    def function(self, c: list[Any]) -> Function:
        label, args, results, body = c
        return Function(label, args, body, results)

    def entry(self, c: list[Any]) -> _Part:
        label, body = _plain(c)
        return _Part("entry", (label, body, _pick(c, "follows", ())))

    def edge(self, c: list[Any]) -> Edge:
        return Edge(c[0], c[1])

    def fact(self, c: list[Any]) -> _Part:
        return _Part("fact", c[0])

    def scalars(self, c: list[Any]) -> _Part:
        return _Part("scalars", tuple(c))

    def start(self, c: list[Any]) -> Program:
        entries = [part.value for part in c if isinstance(part, _Part) and part.kind == "entry"]
        return Program(
            name=c[0],
            storages=tuple(item for item in c if isinstance(item, Storage)),
            functions=tuple(item for item in c if isinstance(item, Function)),
            entries=tuple((label, body) for label, body, _ in entries),
            scalars=_pick(c, "scalars", ()),
            edges=tuple(item for item in c if isinstance(item, Edge)),
            facts=tuple(part.value for part in c if isinstance(part, _Part) and part.kind == "fact"),
            follows=tuple((label, first) for label, _, after in entries for first in after),
        )
