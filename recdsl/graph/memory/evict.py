"""Which slot the next item goes to, and which slots hold one, as states of the store.

`oldest` needs one number: how many items were written, as far as that matters. The others remember for each slot how
many steps ago it was written, and what they choose by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recdsl.graph.emit import Emitter
from recdsl.graph.memory.store import Store
from recdsl.graph.types import FLOAT, Axis, Type

States = Mapping[str, int]


def state_types(store: Store, slot: Axis) -> dict[str, Type]:
    """States beside keys and values, by the last part of their names."""
    wide = Type("float", (slot,))
    own = {"least_used": {"use": wide}, "lowest": {"priority": wide}}.get(store.evict.kind)
    return {"count": FLOAT} if own is None else {"count": FLOAT, "age": wide, **own}


@dataclass(frozen=True)
class Slots:
    """The slots of one step, before its write. The axis may have one slot more, of zeros, which is never written."""

    b: Emitter
    store: Store
    axis: Axis
    states: States

    @property
    def size(self) -> int:
        assert self.store.slots is not None
        return self.store.slots

    @property
    def place(self) -> int:
        """The number of each slot."""
        return self.b.constant(tuple(float(k) for k in range(self.axis.size)), Type("float", (self.axis,)))

    def wide(self, value: int) -> int:
        return self.b.op("broadcast", value, axes=(self.axis,), at=())

    def number(self, value: float, like: int) -> int:
        return self.b.const(value, like)

    def held(self, *, null: bool) -> int:
        """bool: slots that hold an item; with `null`, the slot of zeros too."""
        b, place = self.b, self.place
        written = b.op("lt", place, self.wide(self.states["count"]))
        if self.axis.size == self.size:
            return written
        extra = b.op("eq", place, self.number(self.size, place))
        return b.op("or", written, extra) if null else b.op("and", written, b.op("not", extra))

    def order(self) -> int:
        """Numbers that grow from the oldest item to the newest; the slot of zeros is the oldest."""
        b, n = self.b, self.size
        if self.store.evict.kind != "oldest":
            return b.op("neg", self.states["age"])
        place = self.place
        newest = self.wide(b.op("sub", self.states["count"], self.number(1.0, self.states["count"])))
        behind = b.op("mod", b.op("sub", newest, place), self.number(n, place))
        order = b.op("sub", newest, behind)
        if self.axis.size == n:
            return order
        extra = b.op("eq", place, self.number(n, place))
        return b.op("where", extra, self.number(-2.0 * n, order), order)

    def target(self, priority: int | None) -> int:
        """bool: the slot that an item written now goes to (none: it is not kept)."""
        b, place, count = self.b, self.place, self.wide(self.states["count"])
        if self.store.evict.kind == "oldest":
            return b.op("eq", place, b.op("mod", count, self.number(self.size, place)))
        full = b.op("ge", count, self.number(self.size, place))
        free = b.op("and", b.op("eq", place, count), b.op("not", full))
        return b.op("or", free, b.op("and", full, self._evicted(priority)))

    def _evicted(self, priority: int | None) -> int:
        """The slot that makes room: of the lowest number, the older first. It stays if the new item's is lower."""
        b, place = self.b, self.place
        worth = self.states["use" if self.store.evict.kind == "least_used" else "priority"]
        least = b.op("neg", worth)
        if self.axis.size > self.size:
            extra = b.op("eq", place, self.number(self.size, place))
            least = b.op("where", extra, self.number(-1e30, least), least)
        first = b.op("rank", least, self.order(), at=0)
        chosen = b.op("eq", first, self.number(0.0, first))
        return chosen if priority is None else b.op("and", chosen, b.op("ge", self.wide(priority), worth))

    def next(self, hit: int, wrote: int | None, used: int | None, priority: int | None) -> dict[str, int]:
        """The states after the step. hit: bool, the slot written; wrote: bool, whether any (None: always)."""
        found = {"count": self._counted(wrote)}
        if self.store.evict.kind == "oldest":
            return found
        b, age = self.b, self.states["age"]
        found["age"] = b.op("where", hit, self.number(0.0, age), b.op("add", age, self.number(1.0, age)))
        if used is not None:
            faded = b.op("mul", self.states["use"], self.number(self.store.evict.decay, used))
            faded = b.op("add", faded, b.op("stop", used))
            found["use"] = b.op("where", hit, self.number(1.0, faded), faded)
        if priority is not None:
            wide = self.wide(b.op("stop", priority))
            found["priority"] = b.op("where", hit, wide, self.states["priority"])
        return found

    def _counted(self, wrote: int | None) -> int:
        """One more item. Above the number of slots only what fixes the next place is kept, so that it never grows
        beyond what floats count exactly."""
        b, count, n = self.b, self.states["count"], self.size
        more = b.op("add", count, self.number(1.0, count))
        if self.store.evict.kind == "oldest":
            round_ = b.op("ge", more, self.number(2.0 * n, more))
            more = b.op("where", round_, self.number(n, more), more)
        else:
            more = b.op("minimum", more, self.number(n, more))
        return more if wrote is None else b.op("where", wrote, more, count)
