"""An entry of a value of a straight line as a polynomial in entries of others: sums and products multiplied out.

Values that are no sums and products (loads, sigmoids, sums over an axis) are the unknowns. Equal polynomials are equal
values, whatever the unknowns are: that is how one computation is shown to be another one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from recdsl.program.ir import Load, Op, Program, Stmt, Store

LARGEST = 96
"""Monomials beyond which a value is an unknown itself."""
DEEPEST = 60
"""Ops, one on top of the other, that are multiplied out; so is what is on top of these, in terms of them."""
Place = tuple[str, int]
"""An index along an axis: a variable (none: "") and what is added to it."""
Entry = tuple[str, tuple[Place, ...]]
"""A value and where in it."""
Monomial = tuple[Entry, ...]
Polynomial = Mapping[Monomial, float]


def times(one: Polynomial, other: Polynomial) -> dict[Monomial, float]:
    """The product."""
    found: dict[Monomial, float] = {}
    for a, x in one.items():
        for b, y in other.items():
            key = tuple(sorted((*a, *b)))
            found[key] = found.get(key, 0.0) + x * y
    return nonzero(found)


def plus(one: Polynomial, other: Polynomial, sign: float = 1.0) -> dict[Monomial, float]:
    """The sum, or the difference."""
    found = dict(one)
    for key, x in other.items():
        found[key] = found.get(key, 0.0) + sign * x
    return nonzero(found)


def nonzero(found: Mapping[Monomial, float]) -> dict[Monomial, float]:
    return {key: x for key, x in found.items() if x}


@dataclass
class Polynomials:
    """Of the values of a line. sizes: how far each variable of an index runs."""

    program: Program
    sizes: dict[str, int] = field(default_factory=dict[str, int])
    made: dict[str, Stmt] = field(default_factory=dict[str, Stmt])
    extents: dict[str, tuple[int, ...]] = field(default_factory=dict[str, tuple[int, ...]])
    left: dict[str, str] = field(default_factory=dict[str, str])
    depth: dict[str, int] = field(default_factory=dict[str, int])
    known: dict[Entry, Polynomial] = field(default_factory=dict[Entry, Polynomial])

    def __post_init__(self) -> None:
        ((_, body),) = self.program.entries
        rows: dict[tuple[str, object], str] = {}
        for stmt in body:
            match stmt:
                case Op():
                    self.made[stmt.results[0]] = stmt
                    self.extents[stmt.results[0]] = tuple(axis.size for axis in stmt.types[0].axes)
                    self.depth[stmt.results[0]] = 1 + max((self.depth.get(arg, 0) for arg in stmt.args), default=0)
                case Load():
                    self.made[stmt.result] = stmt
                    self.extents[stmt.result] = tuple(axis.size for axis in stmt.type.axes)
                    if (stmt.storage, stmt.index) in rows:
                        self.left[stmt.result] = rows[stmt.storage, stmt.index]
                        self.depth[stmt.result] = 1 + self.depth.get(self.left[stmt.result], 0)
                case Store():
                    rows[stmt.storage, stmt.index] = stmt.value
                case _:
                    pass

    def of(self, name: str, at: tuple[Place, ...]) -> Polynomial:
        """The entry of a value at a place."""
        at = tuple(("", 0) if size == 1 else place for place, size in zip(at, self.extents[name], strict=True))
        if (name, at) not in self.known:
            found = self._multiplied(name, at)
            self.known[name, at] = {((name, at),): 1.0} if found is None or len(found) > LARGEST else found
        return self.known[name, at]

    def _multiplied(self, name: str, at: tuple[Place, ...]) -> Polynomial | None:
        """None where it is no sum or product of others."""
        if self.depth.get(name, 0) % DEEPEST == DEEPEST - 1:
            return None
        if name in self.left:
            return self.of(self.left[name], at)
        op = self.made.get(name)
        if not isinstance(op, Op) or op.joint or op.op == "collect":
            return None  # samples are summed
        if op.op == "constant":
            number = dict(op.attrs)["value"]
            return nonzero({(): float(number)}) if isinstance(number, int | float) else None
        inner = self.operands(op, at)
        if inner is None:
            return None
        parts = [self.of(*entry) for entry in inner]
        match op.op:
            case "add":
                return plus(parts[0], parts[1])
            case "sub":
                return plus(parts[0], parts[1], -1.0)
            case "neg":
                return {key: -x for key, x in parts[0].items()}
            case "mul" | "contract":
                return times(parts[0], parts[1])
            case _:
                return parts[0]

    def operands(self, op: Op, at: tuple[Place, ...]) -> list[Entry] | None:
        """The entries that an entry of the result is made of; None where these are many of one operand, or unknown."""
        attrs = dict(op.attrs)
        match op.op:
            case "add" | "sub" | "mul" | "neg" | "rename" | "stop" | "collect":
                places = [at] * len(op.args)
            case "broadcast":
                places = [tuple(at[k] for k in attrs["at"])]
            case "transpose":
                order = tuple(attrs["order"])
                places = [tuple(at[order.index(k)] for k in range(len(order)))]
            case "slice":
                places = [_moved(at, attrs["at"], attrs["start"])]
            case "concat":
                return self._part(op, at, attrs["at"])
            case "reshape":
                found = self._reshaped(op, at)
                if found is None:
                    return None
                places = [found]
            case "contract":
                labels = dict(zip(attrs["out"], at, strict=True))
                if not {*attrs["x"], *attrs["y"]} <= labels.keys():
                    return None
                places = [tuple(labels[k] for k in attrs[side]) for side in "xy"]
            case _:
                return None
        return list(zip(op.args, places, strict=True))

    def _part(self, op: Op, at: tuple[Place, ...], axis: int) -> list[Entry] | None:
        """The part of a stack that an index runs through."""
        variable, begin = at[axis]
        end, start = begin + self.sizes.get(variable, 1), 0
        for arg in op.args:
            stop = start + self.extents[arg][axis]
            if start <= begin and end <= stop:
                return [(arg, _moved(at, axis, -start))]
            start = stop
        return None

    def _reshaped(self, op: Op, at: tuple[Place, ...]) -> tuple[Place, ...] | None:
        """Where extents change by axes of one entry alone."""
        old, new = self.extents[op.args[0]], self.extents[op.results[0]]
        if [n for n in old if n > 1] != [n for n in new if n > 1]:
            return None
        kept = iter([place for place, size in zip(at, new, strict=True) if size > 1])
        return tuple(next(kept) if size > 1 else ("", 0) for size in old)


def _moved(at: Sequence[Place], axis: int, by: int) -> tuple[Place, ...]:
    variable, begin = at[axis]
    return (*at[:axis], (variable, begin + by), *at[axis + 1 :])
