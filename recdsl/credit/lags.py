"""The lags at which a parameter can matter to a loss: a walk over sets of carried values, one step at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from recdsl.credit.flow import Edge, Flow

LONGEST = 20_000
"""Steps after which a walk that has not come round yet is given up, and every further lag taken as possible."""


@dataclass(frozen=True)
class Lags:
    """The set of live lags: `prefix[L]` for small L, then the last `period` entries over and over (0: none follow).

    `open`: the walk was given up, so any further lag may be live. A superset of the truth in every case.
    """

    prefix: tuple[bool, ...]
    period: int
    open: bool

    def __contains__(self, lag: int) -> bool:
        if lag < len(self.prefix):
            return self.prefix[lag]
        if self.period:
            start = len(self.prefix) - self.period
            return self.prefix[start + (lag - start) % self.period]
        return self.open

    @property
    def bounded(self) -> bool:
        return not self.open and not (self.period and any(self.prefix[-self.period :]))

    def at_least(self, lag: int) -> int | None:
        """The smallest live lag from `lag` on."""
        return self._first(range(lag, max(lag, len(self.prefix)) + self.period + 1))

    def at_most(self, lag: int) -> int | None:
        """The largest live lag up to `lag`."""
        low = max(-1, lag - max(self.period, 1)) if lag >= len(self.prefix) else -1
        found = self._first(range(lag, low, -1))
        return found if found is not None or low < 0 else self._first(range(len(self.prefix) - 1, -1, -1))

    def longest(self) -> int | None:
        """The largest live lag; None if there is none, or no largest."""
        return self.at_most(len(self.prefix) - 1) if self.bounded else None

    def _first(self, lags: Iterable[int]) -> int | None:
        return next((lag for lag in lags if lag in self), None)


class Walk:
    """Lags from any parameter to one set of losses, over the edges that are not cut. Sets of carries are bit masks."""

    def __init__(self, flow: Flow, ends: frozenset[int], cuts: frozenset[Edge]) -> None:
        self.flow, self.ends, self.cuts = flow, ends, cuts
        self.bits = {carry.read: 1 << k for k, carry in enumerate(flow.graph.carries)}
        self.live = flow.backward(ends, cuts)
        self._steps: dict[int, tuple[bool, int]] = {}
        self.rows = [self._step(carry.read) for carry in flow.graph.carries]
        self.hits = sum(1 << k for k, (hit, _) in enumerate(self.rows) if hit)
        self._known: dict[tuple[bool, int], Lags] = {}

    def _step(self, start: int) -> tuple[bool, int]:
        """Whether a node reaches a loss within the step, and which live carries it reaches in the next."""
        stack = [start]
        while stack:  # what a node reaches follows from what the next ones reach: edges inside a step have no cycle
            node = stack[-1]
            edges = [(target, lag) for target, lag in self.flow.after[node] if (node, target) not in self.cuts]
            waiting = [target for target, lag in edges if not lag and target not in self._steps]
            stack += waiting
            if not waiting:
                self._steps[stack.pop()] = self._joined(node, edges)
        return self._steps[start]

    def _joined(self, node: int, edges: Sequence[tuple[int, int]]) -> tuple[bool, int]:
        hit, carried = node in self.ends, 0
        for target, lag in edges:
            if not lag:
                hit, carried = hit or self._steps[target][0], carried | self._steps[target][1]
            elif target in self.live:
                carried |= self.bits[target]
        return hit, carried

    def lags(self, start: int) -> Lags:
        """Live lags of a node."""
        first = self._step(start)
        if first not in self._known:
            self._known[first] = self._walk(*first)
        return self._known[first]

    def _walk(self, hit: bool, carried: int) -> Lags:
        prefix, seen = [hit], dict[int, int]()
        while carried and carried not in seen and len(prefix) < LONGEST:
            seen[carried] = len(prefix)
            prefix.append(bool(carried & self.hits))
            carried = self._next(carried)
        period = len(prefix) - seen[carried] if carried in seen else 0
        return Lags(tuple(prefix), period, bool(carried) and not period)

    def _next(self, carried: int) -> int:
        found = 0
        while carried:
            low = carried & -carried
            found |= self.rows[low.bit_length() - 1][1]
            carried ^= low
        return found
