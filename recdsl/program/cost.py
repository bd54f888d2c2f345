"""Bytes and floating point operations of a program, as polynomials in its sizes and in plain integers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod

from recdsl.ops import catalogue
from recdsl.program.affine import add, substitute
from recdsl.program.derive import DERIVED, own
from recdsl.program.ir import Affine, Call, For, Function, If, Op, Program, Stmt, VType

WIDTH = {"float": 4, "int": 8, "bool": 1, "complex": 8}


@dataclass(frozen=True)
class Count:
    """A polynomial: coefficient of each product of symbols (a sorted tuple of names)."""

    terms: Mapping[tuple[str, ...], Fraction] = field(default_factory=dict[tuple[str, ...], Fraction])

    def __add__(self, other: Count) -> Count:
        found = dict(self.terms)
        for key, k in other.terms.items():
            found[key] = found.get(key, Fraction()) + k
        return Count({key: k for key, k in found.items() if k})

    def __mul__(self, other: Count) -> Count:
        found: dict[tuple[str, ...], Fraction] = {}
        for a, j in self.terms.items():
            for b, k in other.terms.items():
                key = tuple(sorted(a + b))
                found[key] = found.get(key, Fraction()) + j * k
        return Count({key: k for key, k in found.items() if k})

    def at(self, symbols: Mapping[str, int]) -> Fraction:
        return sum((k * prod(symbols[name] for name in key) for key, k in self.terms.items()), Fraction())

    def __str__(self) -> str:
        ordered = sorted(self.terms.items(), key=lambda item: (-len(item[0]), item[0]))
        return " + ".join("*".join([str(k), *key]) for key, k in ordered) or "0"


def constant(value: int | Fraction) -> Count:
    return Count({(): Fraction(value)} if value else {})


def polynomial(value: Affine) -> Count:
    return Count({(name,): Fraction(k) for name, k in value.terms}) + constant(value.const)


def numel(kind: VType) -> Count:
    total = constant(own(kind).numel)
    for _, extent in kind.lead:
        total = total * polynomial(extent)
    return total


def storage_bytes(program: Program, width: Mapping[str, int] = WIDTH) -> dict[str, Count]:
    """The bytes of each storage; a store's are those of its slots."""
    found: dict[str, Count] = {}
    for storage in program.storages:
        slots = numel(VType(storage.type.dtype, storage.type.lead, ()))
        total = numel(storage.type) * constant(width[storage.type.dtype])
        for _, kind in storage.fields:
            total = total + slots * numel(kind) * constant(width[kind.dtype])
        found[storage.name] = total
    return found


def entry_flops(program: Program, entry: str) -> Count:
    """Floating point operations of an entry: an upper bound where a window's last iterations are shorter.

    A conditional block counts as if it always ran.
    """
    functions = {function.name: function for function in program.functions}
    return _block(dict(program.entries)[entry], functions, {})


def _block(body: Sequence[Stmt], functions: Mapping[str, Function], known: dict[str, VType]) -> Count:
    total, known = Count(), dict(known)
    for stmt in body:
        match stmt:
            case For():
                total = total + _trips(stmt) * _block(stmt.body, functions, known)
            case If():
                total = total + _block(stmt.body, functions, known)
            case Op():
                total = total + _op(stmt, [known[arg] for arg in stmt.args])
                known[stmt.results[0]] = stmt.types[0]
            case Call():
                total = total + _call(stmt, functions, known)
            case _:
                known.update(_typed(stmt))
    return total


def _typed(stmt: Stmt) -> Iterator[tuple[str, VType]]:
    """Results whose types are written at the statement."""
    if hasattr(stmt, "type"):
        yield getattr(stmt, "result", ""), getattr(stmt, "type")  # noqa: B009
    yield from zip(getattr(stmt, "results", ()), getattr(stmt, "types", ()), strict=True)


def _op(stmt: Op, args: Sequence[VType]) -> Count:
    if stmt.op not in catalogue():
        return Count()
    lead: dict[str, Affine] = {}
    for arg in args:
        lead.update(arg.lead)
    samples = numel(VType("float", tuple(lead.items()), ()))
    each = catalogue()[stmt.op].flops([own(arg) for arg in args], own(stmt.types[0]), stmt.attrs)
    return samples * constant(each)


def _call(stmt: Call, functions: Mapping[str, Function], known: dict[str, VType]) -> Count:
    """The function's ops, each once for every index of `over`."""
    function = DERIVED[stmt.mode](functions[stmt.function])
    lead: dict[str, Affine] = {}
    for arg in stmt.args:
        lead.update(known[arg].lead if arg != "_" else ())
    inner = dict(function.args)
    each = Count()
    for op in function.body:
        each = each + _op(op, [inner[arg] for arg in op.args])
        inner[op.results[0]] = op.types[0]
    over = tuple((label, lead[label]) for label in stmt.over)
    for result, name in zip(stmt.results, function.results, strict=True):
        known[result] = VType(inner[name].dtype, over, inner[name].axes)
    return numel(VType("float", over, ())) * each


def _trips(loop: For) -> Count:
    """The number of iterations, at most: of all pairs of ends one whose distance is a number, else the first."""
    pairs = [add(high, low, -1) for high in loop.hi.parts for low in loop.lo.parts]
    numbers = [pair for pair in pairs if not pair.terms]
    distance = min(numbers, key=lambda pair: pair.const) if numbers else pairs[0]
    return polynomial(substitute(distance, {})) * constant(Fraction(1, abs(loop.step)))
