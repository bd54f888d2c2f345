"""From scores to the weights of a read: which slots take part, and what their weights add up to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from math import isinf

from recdsl.graph.emit import Emitter
from recdsl.graph.memory.store import Read
from recdsl.graph.types import Axis

LOWEST = -1e30
"""Stands for the score of a slot that takes no part; finite, so that a store without any is no 0 / 0."""
TINY = 1e-7
"""Sums of weights below it are not divided by: the slots that take part then share evenly."""


@dataclass(frozen=True)
class Weighing:
    """One read's scores, [slot]. held: bool, which slots hold an item; order: from the oldest item to the newest."""

    b: Emitter
    read: Read
    scores: int
    held: int
    order: Callable[[], int]

    @property
    def axis(self) -> Axis:
        return self.b.type(self.scores).axes[0]

    def wide(self, value: int) -> int:
        """A number of the sample, for every slot."""
        return self.b.op("broadcast", value, axes=(self.axis,), at=())

    def among(self, chosen: int, value: int, other: float = 0.0) -> int:
        """The value where chosen."""
        return self.b.op("where", chosen, value, self.b.const(other, value))

    def compared(self, op: str, value: int, number: float) -> int:
        return self.b.op(op, value, self.b.const(number, value))

    def summed(self, value: int) -> int:
        return self.b.op("sum", value, over=(0,))

    def counted(self, chosen: int) -> int:
        """How many slots are chosen."""
        return self.summed(self.b.op("to_float", chosen))

    @cached_property
    def rank(self) -> int:
        """The place of each slot, the highest score first, of equal ones the older first."""
        return self.b.op("rank", self.among(self.held, self.scores, LOWEST), self.order(), at=0)

    @cached_property
    def number(self) -> int:
        """How many slots hold an item."""
        return self.counted(self.held)

    @cached_property
    def chosen(self) -> int:
        """bool: the slots that take part."""
        select = self.read.select
        if select.kind == "topk" and select.number < self.axis.size:
            return self.b.op("and", self.held, self.compared("lt", self.rank, select.number))
        if select.kind == "threshold":
            return self.b.op("and", self.held, self.compared("ge", self.scores, select.number))
        return self.held

    @cached_property
    def equal(self) -> int:
        """Equal weights."""
        return self.shared_by(self.chosen)

    def shared_by(self, chosen: int) -> int:
        """Equal weights of some slots."""
        count = self.counted(chosen)
        share = self.b.op("div", self.b.const(1.0, count), self.b.op("maximum", count, self.b.const(1.0, count)))
        return self.among(chosen, self.wide(share))

    @cached_property
    def soft(self) -> int:
        """Softmax over what takes part; nothing where nothing does."""
        inside = self.among(self.chosen, self.scores, LOWEST)
        return self.among(self.chosen, self.b.op("softmax", inside, at=0))


def weighed(made: Weighing) -> int:
    """Weights, [slot], 0 where a slot takes no part."""
    return NORMALISERS[made.read.normalise](made)


def _softmax(made: Weighing) -> int:
    return made.soft


def _sum(made: Weighing) -> int:
    """Scores divided by their sum."""
    inside = made.among(made.chosen, made.scores)
    total = made.summed(inside)
    return _shared(made, inside, total, made.b.op("abs", total))


def _mean(made: Weighing) -> int:
    """Equal weights: of the slots with scores from `hit` on, if there are any, else of all that take part."""
    if isinf(made.read.hit):
        return made.equal
    hits = made.b.op("and", made.chosen, made.compared("ge", made.scores, made.read.hit))
    some = made.compared("gt", made.counted(hits), 0.0)
    return made.b.op("where", made.wide(some), made.shared_by(hits), made.equal)


def _shared(made: Weighing, values: int, total: int, size: int) -> int:
    """Values divided by their total; equal weights where its size is too small."""
    b = made.b
    tiny = made.compared("lt", size, TINY)
    safe = b.op("where", tiny, b.const(1.0, total), total)
    return b.op("where", made.wide(tiny), made.equal, b.op("div", values, made.wide(safe)))


def _shifted_relu(made: Weighing) -> int:
    """What scores have above a threshold, divided by its sum (Ke et al. 2018)."""
    b, shift = made.b, made.read.shift
    threshold = _threshold(made)
    threshold = b.op("stop", threshold) if shift.stopped else threshold
    if shift.floor:
        threshold = b.op("add", threshold, b.const(shift.floor, threshold))
    above = b.op("relu", b.op("sub", made.scores, made.wide(threshold)))
    inside = made.among(made.chosen, above)
    total = made.summed(inside)
    if shift.floor:
        weights = b.op("div", inside, made.wide(b.op("add", total, b.const(shift.floor, total))))
    else:
        weights = _shared(made, inside, total, total)
    return _underfull(made, weights)


def _threshold(made: Weighing) -> int:
    """The score after the last one selected, or the last; 1 below the lowest where all are selected."""
    b, select = made.b, made.read.select
    if select.kind == "threshold":
        return b.const(select.number, made.number)
    last = b.op("sub", made.number, b.const(1.0, made.number))
    if select.kind == "all" or select.number >= made.axis.size:
        place, more = last, None
    else:
        at = select.number - (1 if made.read.shift.kth else 0)
        more = made.compared("gt", made.number, select.number)
        place = b.op("where", more, b.const(at, last), last)
    here = b.op("and", made.held, b.op("eq", made.rank, made.wide(place)))
    found = made.summed(made.among(here, made.scores))
    below = b.op("sub", found, b.const(1.0, found))
    return below if more is None else b.op("where", more, found, below)


def _underfull(made: Weighing, weights: int) -> int:
    """What stands for the weights while no more slots are filled than can be selected."""
    how = made.read.shift.underfull
    if how == "shift":
        return weights
    few = made.compared("le", made.number, made.read.select.number)
    instead = {"raw": lambda: made.among(made.chosen, made.scores), "softmax": lambda: made.soft}
    other = instead.get(how, lambda: made.equal)()
    return made.b.op("where", made.wide(few), other, weights)


NORMALISERS: Mapping[str, Callable[[Weighing], int]] = {
    "softmax": _softmax,
    "sum": _sum,
    "mean": _mean,
    "shifted_relu": _shifted_relu,
}
