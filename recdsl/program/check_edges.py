"""Each kept edge once per class, and what a loop may know of a parameter that it updates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement

from recdsl.program.affine import add, make, substitute
from recdsl.program.ir import Add, Affine, Call, Effect, For, If, Load, Op, Program, Scalar, Stmt
from recdsl.program.regions import Condition, Eq, empty, equal, less, replaced
from recdsl.program.text import line
from recdsl.program.walk import Place, group, places, sizes

MARK = "'"


def check_edges(program: Program, entry: str) -> Iterator[str]:
    """Doubled paths of an entry and those that it follows, and tags that no edge table knows."""
    around = sizes(program)
    adds = [place for place in group(program, entry) if isinstance(place.stmt, Add)]
    tagged: dict[tuple[str, ...], list[Place]] = {}
    for place in adds:
        assert isinstance(place.stmt, Add)
        if place.stmt.tag:
            tagged.setdefault(place.stmt.tag, []).append(place)
    for tag, found in tagged.items():
        for first, second in combinations_with_replacement(found, 2):
            if _meet(first, second, around):
                yield f"`{line(second.stmt)}`: the edge ({', '.join(tag)}) is used twice for one instance"
    policies = {edge.tag: edge.policy for edge in program.edges}
    for tag in tagged if policies else ():
        if policies.get(tag, "cut") == "cut":
            yield f"the edge ({', '.join(tag)}) is {'cut' if tag in policies else 'not in the edge table'}, but used"
    yield from _mixed(adds)


def _mixed(adds: Sequence[Place]) -> Iterator[str]:
    """Sums that are credit for one statement and not for another."""
    kinds: dict[str, set[bool]] = {}
    for place in adds:
        assert isinstance(place.stmt, Add)
        kinds.setdefault(place.stmt.storage, set()).add(bool(place.stmt.tag))
    yield from (f"`{name}` has adds with a tag and without" for name, found in kinds.items() if len(found) == 2)


def check_table(program: Program) -> Iterator[str]:
    """Edges that are kept, scaled, replaced or diverted, but that no statement uses."""
    used = {place.stmt.tag for _, body in program.entries for place in places(body) if isinstance(place.stmt, Add)}
    for edge in program.edges:
        if edge.policy != "cut" and edge.tag not in used:
            yield f"the edge ({', '.join(edge.tag)}) is {edge.policy}, but never used"


def _instance(place: Place, other: Place) -> tuple[Affine, ...]:
    """Which instance of its edge an add is: `at`, or the loop variables that both adds have."""
    assert isinstance(place.stmt, Add)
    shared = {var for _, var, _ in other.loops}
    return place.stmt.at or tuple(make(0, {var: 1}) for _, var, _ in place.loops if var in shared)


def _meet(first: Place, second: Place, around: list[Condition]) -> bool:
    """Whether two different executions may be the same instance."""
    mark = {var: make(0, {var + MARK: 1}) for _, var, _ in second.loops}
    mine, theirs = _instance(first, second), tuple(substitute(at, mark) for at in _instance(second, first))
    if len(mine) != len(theirs):
        return True
    both = [*around, *first.domain, *(replaced(c, mark) for c in second.domain)]
    both += [Eq(add(one, other, -1)) for one, other in zip(mine, theirs, strict=True)]
    if first is not second:
        return not empty(both)
    for level, (_, var, _) in enumerate(first.loops):
        same = [equal(make(0, {v: 1}), make(0, {v + MARK: 1})) for _, v, _ in first.loops[:level]]
        if not empty([*both, *same, less(make(0, {var: 1}), make(0, {var + MARK: 1}))]):
            return True
    return False


def check_updates(body: Sequence[Stmt]) -> Iterator[str]:
    """Values of a parameter taken before a loop that updates it and used inside: stale from the second iteration on."""
    yield from _stale(body, {})


def _stale(body: Sequence[Stmt], seen: dict[str, frozenset[str]]) -> Iterator[str]:
    """`seen`: the storages that each value in scope was computed from, directly or not."""
    known = dict(seen)
    for stmt in body:
        if isinstance(stmt, For):
            changed = _updated(stmt.body)
            for inner in places(stmt.body):
                for arg in _operands(inner.stmt):
                    old = known.get(arg, frozenset()) & changed
                    if old:
                        name = min(old)
                        yield f"`{line(inner.stmt)}`: `{arg}` was computed from `{name}` before a loop that updates it"
        if isinstance(stmt, For | If):
            yield from _stale(stmt.body, known)
            continue
        sources = frozenset[str]().union(*(known.get(arg, frozenset()) for arg in _operands(stmt)))
        if isinstance(stmt, Load):
            sources = frozenset((stmt.storage,))
        for result in _results(stmt):
            known[result] = sources


def _updated(body: Sequence[Stmt]) -> frozenset[str]:
    found = (place.stmt for place in places(body))
    return frozenset(stmt.resource for stmt in found if isinstance(stmt, Effect) and stmt.kind == "update")


def _operands(stmt: Stmt) -> tuple[str, ...]:
    match stmt:
        case Op() | Call() | Effect():
            return tuple(arg for arg in stmt.args if arg != "_")
        case Load() | Scalar() | For() | If():
            return ()
        case _:
            return (stmt.value,)


def _results(stmt: Stmt) -> tuple[str, ...]:
    match stmt:
        case Op() | Call() | Effect():
            return tuple(result for result in stmt.results if result != "_")
        case Load() | Scalar():
            return (stmt.result,)
        case _:
            return ()
