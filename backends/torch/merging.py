"""Writes to a table: an item whose key is stored already changes the value there, and takes no slot of its own.

Items are written one after the other, those of the first step first, those of one step by sample, so a later item meets
what an earlier one of the same call has written, and no longer what that one has displaced. The text of this file is
part of every exported model; it needs torch only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recdsl.backends.torch.searches import PIECE

Rated = tuple[float, int, int]
"""Of a stored key: its distance, the number of its write, its slot."""


class Table:
    """What a call finds of its items' keys, and makes of the values beside them.

    merge: (kind, rate, within); keys, values, serial: of all slots, as the call finds them; items: what it writes.
    """

    def __init__(
        self, merge: tuple[str, float, float], keys: Tensor, values: Tensor, serial: Tensor, items: dict[str, Tensor]
    ) -> None:
        self.kind, self.rate, within = merge
        self.values, self.offered = values, items["value"]
        held = (serial > 0).nonzero().squeeze(1)
        self.stored: dict[int, list[Rated]] = {}
        written = serial[held].tolist()
        numbers = held.tolist()
        for k, other, apart in near(items["key"], keys, held, within):
            self.stored.setdefault(k, []).append((apart, written[other], numbers[other]))
        self.earlier: dict[int, list[tuple[float, int]]] = {}
        every = torch.arange(len(items["key"]), device=keys.device)
        for k, other, apart in near(items["key"], items["key"], every, within):
            if other < k:
                self.earlier.setdefault(k, []).append((apart, other))
        self.holds: dict[int, int] = {}
        self.place: dict[int, int] = {}
        self.changed: dict[int, Tensor] = {}

    def slot(self, k: int) -> int | None:
        """Where the nearest key to that of an item stands, of equally near ones the older; None: none is near."""
        found = [(apart, 0, serial, slot) for apart, serial, slot in self.stored.get(k, []) if slot not in self.holds]
        found += [(apart, 1, j, self.place[j]) for apart, j in self.earlier.get(k, []) if j in self.place]
        return min(found)[3] if found else None

    def put(self, k: int, slot: int) -> None:
        """An item takes a slot."""
        self.place.pop(self.holds.get(slot, -1), None)
        self.holds[slot], self.place[k] = k, slot
        self.changed.pop(slot, None)

    def merge(self, k: int, slot: int) -> None:
        """An item changes the value of a slot."""
        old = self.changed.get(slot)
        if old is None:
            old = self.offered[self.holds[slot]] if slot in self.holds else self.values[slot]
        new = self.offered[k]
        self.changed[slot] = torch.maximum(old, new) if self.kind == "max" else old + self.rate * (new - old)

    def taking(self, slot_of: Callable[[int], int]) -> Tensor:
        """The items that take slots of their own, where the n-th of them gets slot_of(n)."""
        found: list[int] = []
        for k in range(len(self.offered)):
            same = self.slot(k)
            if same is None:
                self.put(k, slot_of(len(found)))
                found.append(k)
            else:
                self.merge(k, same)
        return torch.tensor(found, dtype=torch.long, device=self.values.device)

    def revised(self) -> tuple[Tensor, Tensor]:
        """(slots, values) that have changed, behind what was put into slots."""
        slots = torch.tensor(sorted(self.changed), dtype=torch.long, device=self.values.device)
        rows = [self.changed[slot] for slot in sorted(self.changed)]
        return slots, torch.stack(rows) if rows else self.values[:0]


def near(asked: Tensor, keys: Tensor, held: Tensor, within: float) -> list[tuple[int, int, float]]:
    """(item, place among `held`, distance) where keys are no further apart than `within`.

    Along a fixed direction two keys are no further apart than they are, up to rounding; where they are near along it,
    the distance itself decides.
    """
    if not len(asked) or not len(held):
        return []
    asked, flat = asked.reshape(len(asked), -1), keys.reshape(len(keys), -1)
    width = flat.shape[1]
    line = torch.randn(width, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    line = (line / line.norm()).to(flat)
    room = within + 4 * width * torch.finfo(flat.dtype).eps * (asked.norm(dim=1) + within)
    at, there, found = asked @ line, (flat @ line)[held], list[tuple[int, int, float]]()
    step = max(1, PIECE // max(1, len(asked)))
    for start in range(0, len(held), step):
        close = (there[start : start + step] - at[:, None]).abs() <= room[:, None]
        for pairs in close.nonzero().split(max(1, PIECE // width)):
            apart = (asked[pairs[:, 0]] - flat[held[start + pairs[:, 1]]]).square().sum(1).sqrt()
            hit = (apart <= within).nonzero().squeeze(1)
            chosen: Any = pairs[hit].tolist()
            found += [(k, start + j, d) for (k, j), d in zip(chosen, apart[hit].tolist(), strict=True)]
    return found
