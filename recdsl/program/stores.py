"""What the effects on a store do, slot by slot.

A store's leading axes are its slots and, where each sample has its own, the batch. Slots know when they were
written and last used; ties and evictions go by age, older first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from recdsl.graph.types import INT, Type
from recdsl.program.arrays import Cell, extents, rows, spread


@dataclass
class Slots:
    """`valid`, `age` and `used` are `[slot, ...]`; each of `fields` is `[slot, ..., *own]`."""

    valid: Cell
    age: Cell
    used: Cell
    fields: tuple[Cell, ...]
    evict: str = "oldest"
    clock: int = 0

    @property
    def rest(self) -> tuple[str, ...]:
        return self.valid.lead[1:]


def _positions(lead: Sequence[str], sizes: dict[str, int]) -> list[tuple[int, ...]]:
    return list(product(*(range(sizes[label]) for label in lead)))


def _free(slots: Slots, place: tuple[int, ...]) -> int:
    """The slot to write: an empty one, else the oldest or the least recently used."""
    count = int(slots.valid.array.shape[0])
    empty = [k for k in range(count) if not bool(slots.valid.array[(k, *place)])]
    if empty:
        return empty[0]
    order = slots.used if slots.evict == "least_used" else slots.age
    return min(range(count), key=lambda k: int(order.array[(k, *place)]))


def _write(slots: Slots, slot: int, place: tuple[int, ...], values: Sequence[Any]) -> None:
    where = (slot, *place)
    for field, value in zip(slots.fields, values, strict=True):
        field.array[where] = value
    slots.clock += 1
    slots.valid.array[where] = True
    slots.age.array[where] = slots.clock
    slots.used.array[where] = slots.clock


def _visits(slots: Slots, args: Sequence[Cell]) -> tuple[tuple[str, ...], dict[str, int]]:
    """The leading axes that an effect runs over, batch before what it adds (rank), row by row."""
    sizes = {**dict(zip(slots.rest, slots.valid.array.shape[1:], strict=True)), **extents(args)}
    return (*slots.rest, *(label for label in sizes if label not in slots.rest)), sizes


def append(xp: Any, slots: Slots, args: Sequence[Cell]) -> Cell:
    """Writes one row a sample; a bool behind the fields says which samples write."""
    lead, sizes = _visits(slots, args)
    arrays = [spread(xp, arg, lead, sizes) for arg in args]
    values, keep = arrays[: len(slots.fields)], arrays[len(slots.fields) :]
    found = xp.full(tuple(sizes[label] for label in lead), -1, dtype=xp.int64)
    for position in _positions(lead, sizes):
        if keep and not bool(keep[0][position]):
            continue
        place = position[: len(slots.rest)]
        slot = _free(slots, place)
        _write(slots, slot, place, [value[position] for value in values])
        found[position] = slot
    return Cell(found, lead, INT)


def _each(xp: Any, slots: Slots, args: Sequence[Cell]) -> list[tuple[int, tuple[int, ...], list[Any]]]:
    """(slot, place, further values) of every row that the index `args[0]` names."""
    lead, sizes = _visits(slots, args)
    arrays = [spread(xp, arg, lead, sizes) for arg in args]
    found: list[tuple[int, tuple[int, ...], list[Any]]] = []
    for position in _positions(lead, sizes):
        slot = int(arrays[0][position])
        if slot >= 0:
            found.append((slot, position[: len(slots.rest)], [array[position] for array in arrays[1:]]))
    return found


def overwrite(xp: Any, slots: Slots, args: Sequence[Cell]) -> None:
    for slot, place, values in _each(xp, slots, args):
        _write(slots, slot, place, values)


def evict(xp: Any, slots: Slots, args: Sequence[Cell]) -> None:
    for slot, place, _ in _each(xp, slots, args):
        slots.valid.array[(slot, *place)] = False


def touch(xp: Any, slots: Slots, args: Sequence[Cell]) -> None:
    for slot, place, _ in _each(xp, slots, args):
        slots.clock += 1
        slots.used.array[(slot, *place)] = slots.clock


def search(xp: Any, slots: Slots, scores: Cell, rank: tuple[str, int]) -> Cell:
    """Indices of the best valid slots: best first, older first among equals, -1 where there are fewer."""
    slot = slots.valid.lead[0]
    others = tuple(label for label in scores.lead if label != slot)
    sizes = scores.extents
    label, count = rank
    found = xp.full((*(sizes[other] for other in others), count), -1, dtype=xp.int64)
    array = spread(xp, scores, (*others, slot), sizes)
    for position in _positions(others, sizes):
        place = tuple(position[others.index(axis)] for axis in slots.rest)
        valid = [k for k in range(sizes[slot]) if bool(slots.valid.array[(k, *place)])]
        ages = {k: int(slots.age.array[(k, *place)]) for k in valid}
        best = sorted(valid, key=lambda k: (-float(array[(*position, k)]), ages[k]))[:count]
        for r, k in enumerate(best):
            found[(*position, r)] = k
    return Cell(found, (*others, label), INT)


def read(xp: Any, slots: Slots, index: Cell | None) -> list[Cell]:
    """Each field, then validity: of all slots, or of the rows that `index` names (-1: zeros, not valid)."""
    cells = [*slots.fields, slots.valid]
    if index is None:
        return cells
    found = [rows(xp, cell, index) for cell in slots.fields]
    as_number = Cell(slots.valid.array * 1, slots.valid.lead, Type("int"))
    valid = rows(xp, as_number, index)
    return [*found, Cell(valid.array > 0, valid.lead, slots.valid.type)]
