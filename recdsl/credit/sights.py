"""How many steps after it has entered one a carried value can be seen by a loss: sets of carried values by distance."""

from __future__ import annotations

from collections.abc import Iterable

from recdsl.credit.influence import Influence

LONGEST = 20_000
"""Distances after which sets that have not come round yet are given up, and everything taken as seen from there on."""


class Sights:
    """By distance d: the carried values from which a loss is reached in the d-th step after the one that they enter.

    The sets come round in the end, since each follows from the one before. A superset of the truth.
    """

    def __init__(self, influence: Influence, reads: Iterable[str]) -> None:
        self.sets: list[frozenset[str]] = [frozenset(reads)]
        known = {self.sets[0]: 0}
        while len(self.sets) < LONGEST:
            following = self.sets[-1]
            found = frozenset(u for u, targets in influence.carried.items() if not following.isdisjoint(targets))
            if found in known:
                self.start = known[found]
                break
            known[found] = len(self.sets)
            self.sets.append(found)
        else:
            self.sets.append(frozenset(influence.carried))
            self.start = len(self.sets) - 1

    def __getitem__(self, distance: int) -> frozenset[str]:
        if distance < len(self.sets):
            return self.sets[distance]
        return self.sets[self.start + (distance - self.start) % (len(self.sets) - self.start)]

    def at_least(self, name: str, distance: int) -> int | None:
        """The smallest distance from `distance` on at which a loss sees the value."""
        end = max(distance, self.start) + len(self.sets) - self.start
        return next((d for d in range(distance, end) if name in self[d]), None)

    def at_most(self, name: str, distance: int) -> int | None:
        """The largest one up to `distance`."""
        near = min(distance, len(self.sets) - 1)
        far = range(distance, max(near, distance - (len(self.sets) - self.start)), -1)
        return next((d for d in (*far, *range(near, -1, -1)) if name in self[d]), None)
