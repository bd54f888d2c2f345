"""What an update in blocks of lanes puts into memory, one item each, and how memory is read."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from recdsl.backends.native.kernel import Kernel
from recdsl.backends.native.values import (
    Ix,
    Ref,
    Value,
    fixed,
)

LEAD = {"g": "g", "B": "b"}
"""Loop variables: of blocks, and of samples."""
Box = tuple[tuple[int, int], ...]
"""(first entry, number of entries) of each own axis."""


@dataclass
class Reader(Kernel):
    """A kernel that notes which entries are read: (name, address, from, to), lanes and samples aside."""

    ranges: set[tuple[str, str, int, int]] = field(default_factory=set[tuple[str, str, int, int]])


@dataclass(eq=False)
class Item:
    """A value that goes to memory. over: own axes that are summed; joint: samples are, too. placed: the value as later
    ones read it. lasts: written when all is read. square: it is added to the norm instead. largest: in the place of
    the sum, the largest entry."""

    value: Value
    lane: int | None
    dest: Ref | None
    box: Box
    place: int
    over: tuple[int, ...] = ()
    joint: bool = False
    batch: bool = False
    placed: Value | None = None
    lasts: bool = False
    square: bool = False
    largest: bool = False
    level: int = 0

    @property
    def rows(self) -> tuple[int, ...]:
        return tuple(n for k, (_, n) in enumerate(self.box) if n > 1 and k != self.lane and k not in self.over)

    @property
    def sums(self) -> tuple[int, ...]:
        return tuple(n for k, (_, n) in enumerate(self.box) if n > 1 and k != self.lane and k in self.over)

    @property
    def total(self) -> bool:
        """Whether lanes are summed."""
        return self.lane is not None and self.lane in self.over

    @property
    def inner(self) -> bool:
        """Whether it is computed for each sample."""
        return self.batch or self.joint

    @property
    def shape(self) -> tuple[object, ...]:
        """What items of one nest have in common."""
        if self.total:
            return ("total", id(self))
        return ("sum", self.rows, self.sums, self.joint, self.batch) if self.over else ("plain", self.rows)

    def own(self, width: int) -> tuple[Ix, ...]:
        """Indices of the value's axes."""
        found: list[Ix] = []
        rows = sums = 0
        for k, (start, count) in enumerate(self.box):
            if k == self.lane:
                found.append(Ix("l", "l", 0, width))
            elif count == 1:
                found.append(fixed(start))
            elif k in self.over:
                found.append(Ix(f"k{sums}", f"k{sums}", 0, count).shifted(start))
                sums += 1
            else:
                found.append(Ix(f"r{rows}", f"r{rows}", 0, count).shifted(start))
                rows += 1
        return tuple(found)

    def kept(self, width: int) -> tuple[Ix, ...]:
        return tuple(ix for k, ix in enumerate(self.own(width)) if k not in self.over)


def place(value: Value, ref: Ref) -> None:
    """From now on the value is read from memory."""
    value.ref, value.cost, value.at = ref, 0.25, loader(ref, value.dtype)


def loader(ref: Ref, dtype: str) -> Callable[[Kernel, Mapping[str, str], tuple[Ix, ...]], str]:
    def at(kernel: Kernel, lead: Mapping[str, str], own: tuple[Ix, ...]) -> str:
        address = ref.address(lead, own)
        key = ("load", ref.base, address)
        if key not in kernel.memo:
            if isinstance(kernel, Reader):
                kernel.ranges.add((ref.base, address, *span(ref, own)))
            kernel.memo[key] = kernel.let(dtype, f"{ref.base}[{address}]")
        return kernel.memo[key]

    return at


def nothing(kernel: Kernel, lead: Mapping[str, str], own: tuple[Ix, ...]) -> str:
    return ""


def span(ref: Ref, own: Sequence[Ix]) -> tuple[int, int]:
    """The first and last entry that an index may reach, lanes and samples aside."""
    low = high = sum(int(part) for part in ref.offset.split(" + "))
    for ix, stride in zip(own, ref.own, strict=True):
        if ix.variable == "l" or not stride:
            continue
        if ix.hi <= ix.lo:
            return -(1 << 60), 1 << 60
        low, high = low + stride * ix.lo, high + stride * (ix.hi - 1)
    return low, high


def split(item: Item, axis: int, points: Collection[int]) -> list[Item]:
    start, count = item.box[axis]
    ends = sorted({start, start + count, *(p for p in points if start < p < start + count)})
    parts = itertools.pairwise(ends)
    return [replace(item, box=(*item.box[:axis], (lo, hi - lo), *item.box[axis + 1 :])) for lo, hi in parts]
