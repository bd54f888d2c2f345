"""Sets of integer points given by affine conditions, and whether they are empty.

`empty` answers True only where no integer point exists for any size (Fourier-Motzkin elimination over the
rationals after exact substitution of equalities, so it may miss an emptiness, never invent one). That is the safe
side for every question the checker asks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, product
from math import gcd

from recdsl.program.affine import add, make, scaled, substitute
from recdsl.program.ir import Affine

LIMIT = 400
_fresh = count()


@dataclass(frozen=True)
class Ge:
    """`value >= 0`"""

    value: Affine


@dataclass(frozen=True)
class Eq:
    """`value == 0`"""

    value: Affine


@dataclass(frozen=True)
class Divisible:
    """`by` divides `value` (or, if not `yes`, does not)."""

    by: int
    value: Affine
    yes: bool = True


@dataclass(frozen=True)
class Either:
    parts: tuple[Ge, ...]


Condition = Ge | Eq | Divisible | Either


def less(left: Affine, right: Affine) -> Ge:
    """`left < right`"""
    return Ge(add(add(right, left, -1), Affine(-1)))


def at_most(left: Affine, right: Affine) -> Ge:
    return Ge(add(right, left, -1))


def equal(left: Affine, right: Affine) -> Eq:
    return Eq(add(left, right, -1))


def negated(condition: Condition) -> list[list[Condition]]:
    """The complement: alternatives, each a list of conditions."""
    match condition:
        case Ge(value):
            return [[Ge(add(scaled(value, -1), Affine(-1)))]]
        case Eq(value):
            return [[Ge(add(value, Affine(-1)))], [Ge(add(scaled(value, -1), Affine(-1)))]]
        case Divisible(by, value, yes):
            return [[Divisible(by, value, not yes)]]
        case Either(parts):
            return [[inner for part in parts for inner in negated(part)[0]]]


def replaced(condition: Condition, known: dict[str, Affine]) -> Condition:
    """The condition with symbols substituted."""
    match condition:
        case Ge(value):
            return Ge(substitute(value, known))
        case Eq(value):
            return Eq(substitute(value, known))
        case Divisible(by, value, yes):
            return Divisible(by, substitute(value, known), yes)
        case Either(parts):
            return Either(tuple(Ge(substitute(part.value, known)) for part in parts))


def _alternatives(condition: Condition) -> list[tuple[list[Affine], list[Affine]]]:
    """(inequalities, equalities) of each way to hold."""
    match condition:
        case Ge(value):
            return [([value], [])]
        case Eq(value):
            return [([], [value])]
        case Either(parts):
            return [([part.value], []) for part in parts]
        case Divisible(by, value, yes):
            rests = [0] if yes else range(1, abs(by))
            return [([], [add(add(value, Affine(-rest)), make(0, {f"q#{next(_fresh)}": -by}))]) for rest in rests]


def empty(conditions: Sequence[Condition]) -> bool:
    """Whether no integer point satisfies all conditions, whatever the sizes."""
    for choice in product(*(_alternatives(condition) for condition in conditions)):
        inequalities = [value for part, _ in choice for value in part]
        equalities = [value for _, part in choice for value in part]
        if not _empty(inequalities, equalities):
            return False
    return True


def _empty(inequalities: list[Affine], equalities: list[Affine]) -> bool:
    solved = _solve(inequalities, equalities)
    return solved is None or _eliminate(solved)


def _solve(inequalities: list[Affine], equalities: list[Affine]) -> list[Affine] | None:
    """The inequalities after exact substitution of the equalities; None if those contradict."""
    rest, left = list(inequalities), list(equalities)
    while left:
        value = left.pop()
        if not value.terms:
            if value.const:
                return None
            continue
        factor = gcd(*(k for _, k in value.terms))
        if value.const % factor:
            return None
        value = make(value.const // factor, {name: k // factor for name, k in value.terms})
        unit = next(((name, k) for name, k in value.terms if abs(k) == 1), None)
        if unit is None:
            rest += [value, scaled(value, -1)]
            continue
        name, k = unit
        others = make(value.const, {n: c for n, c in value.terms if n != name})
        known = {name: scaled(others, -k)}
        left = [substitute(item, known) for item in left]
        rest = [substitute(item, known) for item in rest]
    return rest


def _eliminate(inequalities: list[Affine]) -> bool:
    """Fourier-Motzkin; True if a contradiction appears."""
    rows = set(map(_tight, inequalities))
    while True:
        if any(not row.terms and row.const < 0 for row in rows):
            return True
        rows = {row for row in rows if row.terms}
        names = sorted({name for row in rows for name, _ in row.terms})
        if not names or len(rows) > LIMIT:
            return False
        name = min(names, key=lambda label: (_growth(rows, label), label))
        rows = set(_without(rows, name))


def _coefficient(row: Affine, name: str) -> int:
    return dict(row.terms).get(name, 0)


def _growth(rows: set[Affine], name: str) -> int:
    signs = [_coefficient(row, name) for row in rows]
    return sum(k > 0 for k in signs) * sum(k < 0 for k in signs)


def _without(rows: set[Affine], name: str) -> Iterator[Affine]:
    above = [row for row in rows if _coefficient(row, name) > 0]
    below = [row for row in rows if _coefficient(row, name) < 0]
    yield from (row for row in rows if not _coefficient(row, name))
    for low in above:
        for high in below:
            up, down = _coefficient(low, name), -_coefficient(high, name)
            yield _tight(add(scaled(low, down), scaled(high, up)))


def _tight(row: Affine) -> Affine:
    """Divided by the common factor of its coefficients, the constant rounded down: no integer point is lost."""
    factor = gcd(*(k for _, k in row.terms)) if row.terms else 1
    return make(row.const // factor, {name: k // factor for name, k in row.terms})


def minus(region: Sequence[Condition], hole: Sequence[Condition]) -> list[list[Condition]]:
    """The parts of `region` outside `hole` that may hold a point."""
    held: list[Condition] = list(region)
    if empty([*region, *hole]):
        return [held]
    found: list[list[Condition]] = []
    for condition in hole:
        for alternative in negated(condition):
            piece = [*held, *alternative]
            if not empty(piece):
                found.append(piece)
        held.append(condition)
    return found
