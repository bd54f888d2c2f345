"""The verdict of each parameter: Theorem 1 (semantics 6.3) on the graph of values, with the rule's windows and cuts.

A rule here drops two kinds of path from a parameter to a loss: those that use a cut edge, at any lag, and those that
cross the boundary of their window. The losses of a window see at least the lags 0 .. window - every whatever their
place in it, so `exact` holds if no path uses a cut edge and no live lag is above window - every. The graph's edges are
a superset of those with a derivative, for every input, length, reset and parameter; loss schedules are not used.

A mask stretches lags: a step that is skipped still counts in the window. Where a verdict rests on a bound of lags it
is therefore qualified as "unmasked": it holds if no masked step stands before a valid one of the same sequence.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from recdsl.credit.flow import NO_CUTS, Edge, flow_of
from recdsl.credit.lags import Walk
from recdsl.credit.operations import flops
from recdsl.credit.place import in_spec, spec_source
from recdsl.credit.plan import Dropped, RoutingClass, Row, Window
from recdsl.credit.select import label
from recdsl.graph.step import LEAVES, Carry, StepGraph
from recdsl.ops import primitive

FLOAT_BYTES = 4
WORD = 96
"""Bits that no number of entries of a step fills."""


@dataclass(frozen=True)
class Case:
    """What a verdict is about: a parameter, its rule as written, and the losses that may train it.

    altered: edges that carry credit, but not as their derivative says. spared: carries that the windows do not cut.
    budget: steps of the other carries that credit crosses in a row (0: any number). thinned: whether credit is cut at
    random between steps.
    """

    parameter: str
    rule: str
    window: Window
    cuts: frozenset[Edge]
    losses: tuple[int, ...]
    altered: frozenset[Edge] = NO_CUTS
    spared: frozenset[str] = frozenset()
    budget: int = 0
    thinned: bool = False


class Judge:
    """Verdicts over one graph."""

    def __init__(self, graph: StepGraph) -> None:
        self.graph, self.flow, self.source = graph, flow_of(graph), spec_source(graph)
        work = [node for node in graph.nodes if node.op not in LEAVES]
        self._costs = [0] * len(graph.nodes)  # FLOPs and entries in one number: rows sum them over thousands of nodes
        for node in work:
            self._costs[node.id] = flops(graph.nodes, node) << WORD | node.type.numel
        self._rough = {node.id for node in work if not primitive(node.op).smooth}
        recalls = [recall for memory in graph.memories for recall in memory.recalls if recall.selective]
        self._selected = {edge for recall in recalls for edge in (*recall.values, *recall.keys)}
        self._queries = {edge for memory in graph.memories for recall in memory.recalls for edge in recall.queries}
        self._reads = {carry.read for carry in graph.carries}
        self._states = {carry.read for carry in graph.carries if carry.kind == "state"}
        self._edges: dict[Edge, Dropped] = {}
        self._walks: dict[tuple[frozenset[int], frozenset[Edge]], Walk] = {}

    def row(self, case: Case) -> Row:
        """The row of one trained parameter."""
        start = self.graph.leaf.get(f"parameter:{case.parameter}")
        if start is None:
            return Row(case.parameter, case.rule, "exact", (), None, None, (), 0, 0)
        ends = frozenset(self.graph.losses[k].root for k in case.losses)
        free = self._walk(ends, NO_CUTS)
        kept = self._walk(ends, case.cuts)
        reached = self.flow.forward([start])
        wrong = case.cuts | case.altered
        by_cut = self.flow.shortest_cut(start, ends, wrong) if wrong else None
        part = case.spared or case.budget
        by_window = self._crossing(case, start, ends) if part else self._outside(free, start, case.window)
        longest = self._longest(case, kept, start)
        dropped = [] if by_cut is None else self._cut_edges(case, reached, free.live)
        if by_window is not None:
            dropped += self._carried_edges(reached, free.live, case.spared)
        first = min((lag for lag in (by_cut, by_window) if lag is not None), default=None)
        inside = self.flow.forward([start], case.cuts) if case.cuts else reached
        window = Window(case.budget + 1, 1) if case.budget else case.window
        none = first is not None and self._none(case, kept, start)
        work, size = (0, 0) if none else self._cost(inside & kept.live, window)
        return Row(
            case.parameter,
            case.rule,
            "exact" if first is None else "biased",
            (*self._qualifiers(reached & free.live, first is None and self._bounded(case)), *(("no-credit",) * none)),
            first,
            longest,
            tuple(dict.fromkeys(dropped)),
            work,
            size,
        )

    def _none(self, case: Case, kept: Walk, start: int) -> bool:
        """Whether no path is kept: each is cut, or longer than every window."""
        lags, size = kept.lags(start), case.window.size
        if case.spared or case.budget or size is None:
            return lags.at_least(0) is None
        return lags.at_most(size - 1) is None

    def crosses(self, case: Case) -> bool:
        """Whether a kept path goes from a use of the parameter to a loss of a later step."""
        return self.first_crossing(case) is not None

    def altered(self, case: Case, routing: RoutingClass) -> tuple[str, ...]:
        """Qualifiers of edges between the parameter and its losses that carry another derivative than their own."""
        start = self.graph.leaf.get(f"parameter:{case.parameter}")
        ends = frozenset(self.graph.losses[k].root for k in case.losses)
        kinds = {"scaled": routing.scales, "feedback": routing.feedback}
        edges = {word: frozenset((a, b) for a, b, _ in found) for word, found in kinds.items() if found}
        met = [w for w, e in edges.items() if start is not None and self.flow.shortest_cut(start, ends, e) is not None]
        return tuple(met)

    def first_crossing(self, case: Case) -> int | None:
        """The smallest lag above 0 of a kept path."""
        start = self.graph.leaf.get(f"parameter:{case.parameter}")
        ends = frozenset(self.graph.losses[k].root for k in case.losses)
        return None if start is None else self._walk(ends, case.cuts).lags(start).at_least(1)

    def crossed(self, case: Case) -> list[Dropped]:
        """Every use of a carried value between the parameter and a loss."""
        start = self.graph.leaf.get(f"parameter:{case.parameter}")
        ends = frozenset(self.graph.losses[k].root for k in case.losses)
        if start is None:
            return []
        return self._carried_edges(self.flow.forward([start]), self._walk(ends, NO_CUTS).live)

    def _walk(self, ends: frozenset[int], cuts: frozenset[Edge]) -> Walk:
        if (ends, cuts) not in self._walks:
            self._walks[ends, cuts] = Walk(self.flow, ends, cuts)
        return self._walks[ends, cuts]

    def _outside(self, walk: Walk, start: int, window: Window) -> int | None:
        """The smallest live lag that a window does not guarantee."""
        return None if window.size is None else walk.lags(start).at_least(window.size - window.every + 1)

    def _crossing(self, case: Case, start: int, ends: frozenset[int]) -> int | None:
        """The smallest lag of a path over a boundary that some window cuts: any, but through what is spared; with a
        budget, one behind more steps than that."""
        if case.budget:
            return self.flow.longest_run(start, ends, self._memories(case), case.budget)
        return self.flow.shortest_cut(start, ends, self._cuttable(case))

    def _cuttable(self, case: Case) -> frozenset[Edge]:
        return frozenset((c.write, c.read) for c in self.graph.carries if c.name not in case.spared)

    def _longest(self, case: Case, kept: Walk, start: int) -> int | None:
        """The largest lag of a kept path. One through what windows spare may be as long as paths are without them."""
        lags, size = kept.lags(start), case.budget + 1 if case.budget else case.window.size
        if size is None:
            return lags.longest()
        if not case.spared:
            return lags.at_most(size - 1)
        if size == 1:
            return self._walk(kept.ends, case.cuts | self._cuttable(case)).lags(start).longest()
        through = self.flow.forward([start], case.cuts) & kept.live & self._memories(case)
        return lags.longest() if through else lags.at_most(size - 1)

    @staticmethod
    def _bounded(case: Case) -> bool:
        """Whether a verdict of exact rests on a bound of lags."""
        return case.thinned or case.budget > 0 or (case.window.size is not None and not case.spared)

    def _memories(self, case: Case) -> frozenset[int]:
        return frozenset(carry.read for carry in self.graph.carries if carry.name in case.spared)

    def _qualifiers(self, path: set[int], exact: bool) -> tuple[str, ...]:
        words: list[str] = []
        if not path.isdisjoint(self._rough):
            words.append("declared-jacobian")
        if any(source in path and target in path for source, target in self._selected):
            words.append("if-selected")
        if exact and not path.isdisjoint(self._reads):
            words.append("unmasked")
        return tuple(words)

    def _cut_edges(self, case: Case, reached: set[int], live: set[int]) -> list[Dropped]:
        """Cut edges between the parameter and a loss."""
        reads = {carry.read: carry for carry in self.graph.carries}
        return [
            self.edge(reads[source], target) if source in reads else self.inner(source, target)
            for source, target in sorted(case.cuts | case.altered)
            if source in reached and target in live
        ]

    def _carried_edges(self, reached: set[int], live: set[int], spared: frozenset[str] = frozenset()) -> list[Dropped]:
        """Every use of a carried value between the parameter and a loss: what a window's boundary cuts.

        A carried value that another one takes over as it is, is used where that is a state of its own, and not where
        it is the next link of a delay line.
        """
        return [
            self.edge(carry, target)
            for carry in self.graph.carries
            if carry.write in reached and carry.read in live and carry.name not in spared
            for target, lag in self.flow.after[carry.read]
            if target in live and (not lag or target in self._states)
        ]

    def edge(self, carry: Carry, target: int) -> Dropped:
        """The use of a carried value, with its place in the spec."""
        if (carry.read, target) not in self._edges:
            home = self._home(target)
            span = in_spec(self.graph.nodes[target].span or carry.span, home, self.source)
            line = None if span is None else span.line
            self._edges[carry.read, target] = Dropped(f"{label(carry)} -> {home}", line, span)
        return self._edges[carry.read, target]

    def inner(self, source: int, target: int) -> Dropped:
        """The use of a value that is not carried."""
        home = self._home(target)
        span = in_spec(self.graph.nodes[target].span, home, self.source)
        use = " (query)" if (source, target) in self._queries else ""
        return Dropped(f"{self._home(source)} -> {home}{use}", None if span is None else span.line, span)

    def _home(self, node: int) -> str:
        """The user's name for what a node is part of: its own, or that of the first named value computed from it."""
        names = {loss.root: loss.name for loss in reversed(self.graph.losses)}
        names |= {carry.read: carry.name for carry in self.graph.carries}
        level = {node}
        while level:
            for k in sorted(level):
                name = names.get(k) or self.graph.nodes[k].name
                if name:
                    return name
            level = {target for k in level for target, lag in self.flow.after[k] if not lag}
        return f"%{node}"

    def stored(self, start: int, items: Collection[int]) -> tuple[int, int]:
        """(FLOPs, bytes) of a parameter's way to what a store keeps, for one item: forward, and twice reverse."""
        return self._cost(self.flow.forward([start]) & self.flow.backward(items), Window(None, 1))

    def _cost(self, path: set[int], window: Window) -> tuple[int, int]:
        """(FLOPs, bytes) a step and sample.

        Over the ops between the parameter and its losses on kept edges: once forward, twice reverse, the reverse pass
        repeated for overlapping windows, F + 2 F window / every; and one float32 saved for each entry of their values.
        Ops that several parameters share count in each of their rows, so rows do not add up.
        """
        forward, size = divmod(sum(map(self._costs.__getitem__, path)), 1 << WORD)
        again = Fraction(1) if window.size is None else Fraction(window.size, window.every)
        return forward + ceil(2 * forward * again), FLOAT_BYTES * size
