"""Loads only after stores, on every iteration and for every size; indices inside their storage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from recdsl.program.affine import add, make, scaled, substitute
from recdsl.program.ir import Affine, At, Index, Load, Program, Range, Storage, Store
from recdsl.program.regions import Condition, Eq, Ge, at_most, empty, equal, less, minus, replaced
from recdsl.program.text import line
from recdsl.program.walk import Place, above, below, group, sizes

CHECKED = ("buffer", "ring", "carry", "output")
MARK = "'"
# A region that falls into more pieces than this is reported as not covered.
PIECES = 64


@dataclass(frozen=True)
class Target:
    """The element of a storage that an access touches: one expression a leading axis, with its conditions."""

    elements: tuple[Affine | None, ...]
    domain: tuple[Condition, ...]


def check_storages(program: Program, entry: str) -> Iterator[str]:
    """What is wrong with the loads of an entry, given the entries before it."""
    around, declared = sizes(program), {storage.name: storage for storage in program.storages}
    found = group(program, entry)
    last = max((place.run for place in found), default=0)
    for place in found:
        stmt = place.stmt
        if place.run != last or not isinstance(stmt, Load | Store):
            continue
        storage = declared[stmt.storage]
        yield from _inside(place, stmt.index, storage, around)
        if isinstance(stmt, Load) and storage.kind in CHECKED and not _held(storage):
            stores = [other for other in found if isinstance(other.stmt, Store) and other.stmt.storage == stmt.storage]
            yield from _covered(place, stores, storage, around)


def _held(storage: Storage) -> bool:
    """Whether a call finds the storage filled."""
    return storage.lifetime in ("stream", "model") or any(key in ("init", "value") for key, _ in storage.attrs)


def _inside(place: Place, index: Sequence[Index], storage: Storage, around: list[Condition]) -> Iterator[str]:
    region = [*around, *place.domain]
    for k, (part, (label, extent)) in enumerate(zip(index, storage.type.lead, strict=False)):
        if isinstance(part, At) or (storage.kind == "ring" and k == 0):
            continue
        if isinstance(part, Range):
            low, high = [less(p, Affine()) for p in part.lo.parts], [less(extent, p) for p in part.hi.parts]
            # The largest of several lower ends is negative if all are; one of them is enough for the smallest.
            wrong = [low] if part.lo.kind == "max" else [[one] for one in low]
            wrong += [high] if part.hi.kind == "min" else [[one] for one in high]
            if part.lo.kind == "max" and part.hi.kind == "min":
                wrong += [[less(end, start)] for start, end in product(part.lo.parts, part.hi.parts)]
        else:
            wrong = [[less(part, Affine())], [at_most(extent, part)]]
        if any(not empty([*region, *bad]) for bad in wrong):
            yield f"`{line(place.stmt)}`: the index may leave axis `{label}` of `{storage.name}`"


def _target(place: Place, index: Sequence[Index], storage: Storage, free: bool) -> Target | None:
    """What an access touches. `free`: axes without an expression get a variable (a load needs all of them)."""
    elements: list[Affine | None] = []
    domain: list[Condition] = []
    for k, (_, extent) in enumerate(storage.type.lead):
        part = index[k] if k < len(index) else None
        if isinstance(part, Affine):
            elements.append(part)
            continue
        if isinstance(part, At) and not free:
            return None
        element = make(0, {f"#{k}": 1})
        elements.append(element if free or isinstance(part, Range) else None)
        if isinstance(part, Range):
            domain += above(part.lo, element) + below(part.hi, element)
        elif free:
            domain += [Ge(element), less(element, extent)]
    return Target(tuple(elements), (*place.domain, *domain))


def _covered(place: Place, stores: Sequence[Place], storage: Storage, around: list[Condition]) -> Iterator[str]:
    assert isinstance(place.stmt, Load)
    load = _target(place, place.stmt.index, storage, free=True)
    assert load is not None
    open_parts: list[list[Condition]] = [[*around, *load.domain]]
    open_parts = [part for part in open_parts if not empty(part)]
    for hole in (hole for store in reversed(stores) for hole in _holes(place, load, store, storage)):
        if not open_parts or len(open_parts) > PIECES:
            break
        open_parts = [piece for part in open_parts for piece in minus(part, hole)]
    if open_parts:
        yield f"`{line(place.stmt)}`: may read `{storage.name}` where nothing was stored"
    elif storage.kind == "ring" and any(_overwritten(place, load, store, storage, around) for store in stores):
        yield f"`{line(place.stmt)}`: `{storage.name}` may already hold a later entry there"


def _before(load: Place, store: Place) -> Iterator[tuple[int, list[Condition]]]:
    """Ways for an instance of `store` to come before one of `load`: (shared loops whose variable differs, conditions).

    The store's variables carry the mark. A level of -1: no shared loop differs.
    """
    shared = 0
    for one, other in zip(load.loops, store.loops, strict=False):
        if load.run != store.run or one[0] != other[0]:
            break
        shared += 1
    variables = [(make(0, {var: 1}), make(0, {var + MARK: 1}), step) for _, var, step in load.loops[:shared]]
    if (store.run, store.order) < (load.run, load.order):
        yield -1, [equal(mine, theirs) for mine, theirs, _ in variables]
    for level in reversed(range(shared)):
        mine, theirs, step = variables[level]
        same = [equal(one, other) for one, other, _ in variables[:level]]
        yield level, [*same, less(theirs, mine) if step > 0 else less(mine, theirs)]


def _holes(load: Place, target: Target, store: Place, storage: Storage) -> Iterator[list[Condition]]:
    """Regions of the load that this store is sure to have filled: one for each guess of the store's loop variables."""
    assert isinstance(store.stmt, Store)
    touched = _target(store, store.stmt.index, storage, free=False)
    if touched is None:
        return
    mark = {var: make(0, {var + MARK: 1}) for _, var, _ in store.loops}
    # An element of a stored range is the element that the load asks for.
    for mine, theirs in zip(target.elements, touched.elements, strict=True):
        if mine is not None and theirs is not None and _free_element(theirs):
            mark[theirs.terms[0][0]] = mine
    for level, before in _before(load, store):
        pairs = [
            (mine, substitute(theirs, mark))
            for mine, theirs in zip(target.elements, touched.elements, strict=True)
            if mine is not None and theirs is not None and not _free_element(theirs)
        ]
        ranged = [replaced(c, mark) for c in touched.domain]
        wanted = [*before, *(Eq(add(mine, theirs, -1)) for mine, theirs in pairs), *ranged]
        for guess in _guesses(load, store, level, pairs, ranged[len(store.domain) :]):
            yield [replaced(c, guess) for c in wanted]


def _free_element(value: Affine) -> bool:
    return any(name.startswith("#") for name, _ in value.terms)


def _guesses(
    load: Place, store: Place, level: int, pairs: Sequence[tuple[Affine, Affine]], touched: Sequence[Condition]
) -> Iterator[dict[str, Affine]]:
    """Expressions for the store's loop variables in terms of the load's."""
    shared = len([1 for one, other in zip(load.loops, store.loops, strict=False) if one[0] == other[0]])
    outer = shared if level < 0 else level
    solved = {var + MARK: make(0, {var: 1}) for _, var, _ in store.loops[:outer]}
    for mine, theirs in pairs:
        theirs = substitute(theirs, solved)
        unknown = [(name, k) for name, k in theirs.terms if name.endswith(MARK) and name not in solved]
        if len(unknown) == 1 and abs(unknown[0][1]) == 1:
            name, k = unknown[0]
            rest = add(theirs, make(0, {name: 1}), -k)
            solved[name] = scaled(add(mine, rest, -1), k)
    loose = [
        [(var + MARK, value) for value in _ends(store, var, step, depth == level, touched)]
        for depth, (_, var, step) in enumerate(store.loops)
        if var + MARK not in solved
    ]
    for choice in product(*loose):
        known = {**solved, **dict(choice)}
        for _ in store.loops:
            known = {name: substitute(value, known) for name, value in known.items()}
        yield known


def _ends(store: Place, var: str, step: int, at_level: bool, touched: Sequence[Condition]) -> list[Affine]:
    """Guesses for a variable that no index decides: the previous iteration of the loop that both are in, the first or
    last one of a private loop, or, where each iteration stores a chunk, every place in the chunk."""
    here = make(0, {var: 1})
    found = [add(here, Affine(-step))] if at_level else []
    outer = {name: make(0, {name + MARK: 1}) for _, name, _ in store.loops}
    for condition in [*store.domain, *touched]:
        value = condition.value if isinstance(condition, Ge) else None
        k = dict(value.terms).get(var, 0) if value is not None else 0
        j = dict(value.terms).get(var + MARK, 0) if value is not None else 0
        if value is not None and abs(k) == 1:
            found.append(substitute(scaled(add(value, make(0, {var: 1}), -k), -k), outer))
        if value is not None and j == -1 and abs(step) <= 64:
            start = add(value, make(0, {var + MARK: 1}))
            found += [add(start, Affine(-place)) for place in range(abs(step))]
    return found or [here]


def _overwritten(load: Place, target: Target, store: Place, storage: Storage, around: list[Condition]) -> bool:
    """Whether a later row may have taken the place of the one that is loaded from a ring."""
    assert isinstance(store.stmt, Store)
    touched = _target(store, store.stmt.index, storage, free=False)
    if touched is None or touched.elements[0] is None or target.elements[0] is None:
        return True
    mark = {var: make(0, {var + MARK: 1}) for _, var, _ in store.loops}
    row, extent = substitute(touched.elements[0], mark), storage.type.lead[0][1]
    backwards = bool(store.loops) and store.loops[-1][2] < 0
    gap = at_most(add(row, extent), target.elements[0]) if backwards else at_most(add(target.elements[0], extent), row)
    theirs = [replaced(c, mark) for c in touched.domain]
    return any(not empty([*around, *target.domain, *theirs, gap, *before]) for _, before in _before(load, store))
