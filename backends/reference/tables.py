"""Tables by definition: what a store for all samples holds when the items of calls are written one after the other.

Lists of Python numbers; nothing of the torch backend is used. Blundell et al. 2016 (arXiv 1606.04460): the value of a
known key becomes the larger of both; Pritzel et al. 2017 (arXiv 1703.01988): it goes part of the way to the new one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import dist, inf


@dataclass
class Entry:
    """One stored item. born: the number of its write, from 1 on; worth: what its eviction goes by."""

    key: tuple[float, ...]
    value: tuple[float, ...]
    born: int
    worth: float = 1.0


@dataclass
class Table:
    """A store of `slots` items. evict: "oldest" | "least_used" (fading by `decay` a call) | "lowest".

    merge: None | "max" | "step" (by `rate`), where the nearest key, of equally near ones the older, is no further than
    `within` away: the item that is stored keeps its key, and its place in the queue; it counts as used once more, or
    has the priority of the item that changed it.
    """

    slots: int
    evict: str = "oldest"
    merge: str | None = None
    rate: float = 1.0
    within: float = 0.0
    decay: float = 0.95
    entries: list[Entry] = field(default_factory=list[Entry])
    written: int = 0

    def call(
        self, items: Sequence[tuple[tuple[float, ...], tuple[float, ...], float]], used: Mapping[int, float]
    ) -> None:
        """The writes of one call. items: (key, value, priority); used: what its reads have weighed entries by, by the
        number of their write. Which entry goes is decided by what uses were before the call."""
        before = {entry.born: entry.worth for entry in self.entries}
        own = dict[int, float]()
        for key, value, priority in items:
            self._write(key, value, priority, own)
        for entry in self.entries if self.evict == "least_used" else ():
            old = self.decay * before[entry.born] + used.get(entry.born, 0.0) if entry.born in before else 1.0
            entry.worth = old + own.get(entry.born, 0.0)

    def _write(self, key: tuple[float, ...], value: tuple[float, ...], priority: float, own: dict[int, float]) -> None:
        known = self._known(key)
        if known is not None:
            pairs = list(zip(known.value, value, strict=True))
            if self.merge == "max":
                known.value = tuple(max(old, new) for old, new in pairs)
            else:
                known.value = tuple(old + self.rate * (new - old) for old, new in pairs)
            known.worth = priority if self.evict == "lowest" else known.worth + 1.0
            own[known.born] = own.get(known.born, 0.0) + 1.0
            return
        if len(self.entries) == self.slots:
            gone = min(self.entries, key=lambda entry: (0 if self.evict == "oldest" else entry.worth, entry.born))
            if self.evict == "lowest" and priority < gone.worth:
                return
            self.entries.remove(gone)
        self.written += 1
        worth = priority if self.evict == "lowest" else 1.0
        self.entries.append(Entry(key, value, self.written, worth))

    def _known(self, key: tuple[float, ...]) -> Entry | None:
        if self.merge is None:
            return None
        nearest, least = None, inf
        for entry in self.entries:  # the oldest first
            apart = dist(entry.key, key)
            if apart <= self.within and apart < least:
                nearest, least = entry, apart
        return nearest
