"""Statements of an entry with where they stand: loops around them, conditions, textual order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from recdsl.program.affine import add, make, substitute
from recdsl.program.ir import Add, Affine, Bound, Call, Effect, For, If, Load, Op, Program, Scalar, Stmt, Store
from recdsl.program.regions import Condition, Divisible, Either, Eq, Ge, at_most, less

Simple = Op | Scalar | Load | Store | Add | Call | Effect


@dataclass(frozen=True)
class Place:
    """A statement that is not a block.

    `loops` are (id, variable, step) from the outside in, `domain` what holds whenever it runs. `order` is its number
    in the text, `run` the number of the entry in the call.
    """

    stmt: Simple
    loops: tuple[tuple[int, str, int], ...]
    domain: tuple[Condition, ...]
    order: int
    run: int = 0


def places(body: Sequence[Stmt], run: int = 0) -> list[Place]:
    return [replace(place, order=k, run=run) for k, place in enumerate(_places(body, (), ()))]


def _places(
    body: Sequence[Stmt], loops: tuple[tuple[int, str, int], ...], domain: tuple[Condition, ...]
) -> Iterator[Place]:
    for stmt in body:
        match stmt:
            case For():
                inside = (*loops, (id(stmt), stmt.var, stmt.step))
                yield from _places(stmt.body, inside, (*domain, *loop_domain(stmt)))
            case If():
                yield from _places(stmt.body, loops, (*domain, *condition(stmt.predicate)))
            case _:
                yield Place(stmt, loops, domain, 0)


def loop_domain(loop: For) -> list[Condition]:
    """The values that a loop's variable takes."""
    var = make(0, {loop.var: 1})
    found = above(loop.lo, var) + below(loop.hi, var)
    if abs(loop.step) > 1:
        # With several lower ends the grid starts at an unknown one: leaving the grid out would be unsound for a
        # store, so such a loop is refused by the checker's `loops` instead.
        found.append(Divisible(abs(loop.step), add(var, loop.lo.parts[0], -1)))
    return found


def above(low: Bound, value: Affine) -> list[Condition]:
    """`low <= value`"""
    parts = [at_most(part, value) for part in low.parts]
    return list(parts) if low.kind == "max" or len(parts) == 1 else [Either(tuple(parts))]


def below(high: Bound, value: Affine) -> list[Condition]:
    """`value < high`"""
    parts = [less(value, part) for part in high.parts]
    return list(parts) if high.kind == "min" or len(parts) == 1 else [Either(tuple(parts))]


def condition(predicate: tuple[str, Affine, Affine]) -> list[Condition]:
    """A uniform condition as one over integers."""
    kind, left, right = predicate
    match kind:
        case "lt":
            return [less(left, right)]
        case "le":
            return [at_most(left, right)]
        case "ge":
            return [at_most(right, left)]
        case "eq":
            return [Eq(add(left, right, -1))]
        case "ne":
            return [Either((less(left, right), less(right, left)))]
        case _:
            return [Divisible(left.const, right, kind == "divides")]


def sizes(program: Program) -> list[Condition]:
    """Every size is at least 1, and the program's facts hold."""
    found = {name for s in program.storages for _, extent in s.type.lead for name, _ in extent.terms}
    least = [Ge(make(-1, {name: 1})) for name in sorted({"T", "B", *found} - set(program.scalars))]
    return [*least, *(Ge(fact) for fact in program.facts)]


def group(program: Program, entry: str) -> list[Place]:
    """The statements of an entry behind those of the entries that it follows."""
    bodies = dict(program.entries)
    before = [first for later, first in program.follows if later == entry]
    found = [place for k, first in enumerate(before) for place in places(bodies[first], k)]
    return found + places(bodies[entry], len(before))


def renamed(value: Affine, suffix: str, variables: set[str]) -> Affine:
    return substitute(value, {name: make(0, {name + suffix: 1}) for name in variables})
