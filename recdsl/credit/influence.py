"""Which entries of which state a parameter's influence can reach: patterns of one step's Jacobians, and their closure.

Parameters count as they are used: what is computed from parameters alone (a masked matrix, a product of two) is one
effective parameter, and its influence is what a trace holds (semantics 7.4, hoisting). An influence is a set of
patterns (`recdsl.jacobian.pieces.Key`) for each carried value; patterns are supersets of what is ever non-zero.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from recdsl.credit.flow import Edge
from recdsl.graph.emit import Emitter
from recdsl.graph.facts import once, once_for_nodes
from recdsl.graph.step import Carry, StepGraph
from recdsl.jacobian.compose import inside, joined, overlaps
from recdsl.jacobian.pieces import Key, Tie, absorb, tied
from recdsl.jacobian.step import NO_EDGES, StepJacobian

Keys = tuple[Key, ...]
Patterns = Mapping[str, Keys]
"""By carry."""
MOST = 24
"""Patterns of one influence before they are taken as one dense block."""


@once
def effective(graph: StepGraph) -> dict[int, frozenset[str]]:
    """Nodes that parameters act through: what the steps (or initial values) use, with the trained parameters in it."""
    trained = {p.name for p in graph.parameters if not p.frozen}
    within: dict[int, frozenset[str]] = {}
    for node in graph.nodes:
        if node.id not in graph.varying and node.type.dtype == "float":
            own = frozenset({node.name} & trained) if node.op == "parameter" else frozenset[str]()
            within[node.id] = own.union(*(within.get(arg, frozenset()) for arg in node.args))
    used = {arg for node in graph.nodes if node.id in graph.varying for arg in node.args}
    used |= {loss.root for loss in graph.losses} | {node for _, node in graph.outputs}
    used |= {node for carry in states(graph) for node in (carry.init, carry.write)}
    return {k: names for k, names in within.items() if names and k in used}


def states(graph: StepGraph) -> tuple[Carry, ...]:
    """What carries influence from step to step: states and their delay lines."""
    return tuple(c for c in graph.carries if c.credited and graph.nodes[c.read].type.dtype == "float")


class Influence:
    """Patterns over one graph with some edges cut."""

    def __init__(self, graph: StepGraph, cuts: Collection[Edge] = NO_EDGES) -> None:
        self.graph, self.carries = graph, states(graph)
        self.axes = {carry.name: graph.nodes[carry.read].type.axes for carry in self.carries}
        self._step = StepJacobian(graph, Emitter(list(graph.nodes)), range(len(graph.nodes)), cuts, hoisted=True)
        self._cuts = frozenset(cuts)
        self._known: dict[int, dict[str, Keys]] = {}
        self.carried = {carry.name: self._from(carry.read) for carry in self.carries}

    def immediate(self, source: int) -> dict[str, Keys]:
        """Where an effective parameter acts within a step; an initial value on its own carry."""
        return union(self.used(source), self.begun(source))

    def used(self, source: int) -> dict[str, Keys]:
        """On the states that a step leaves, of the uses in that step."""
        return self._from(source)

    def begun(self, source: int) -> dict[str, Keys]:
        """On the states that enter the first step (or one with a reset), of an initial value."""
        return {c.name: (tied(self.axes[c.name]),) for c in self.carries if c.init == source}

    def _from(self, seed: int) -> dict[str, Keys]:
        if seed not in self._known:
            linked = [c for c in self.carries if (c.write, c.read) not in self._cuts]
            made = self._step.pieces(seed, {carry.write: () for carry in linked})
            keys = {c.name: absorb(p.key for p in made.get(c.write, ())) for c in linked}
            self._known[seed] = {name: found for name, found in keys.items() if found}
        return self._known[seed]

    def next(self, patterns: Patterns) -> dict[str, Keys]:
        """The influence one step on."""
        found: dict[str, list[Key]] = {}
        for name, keys in patterns.items():
            for target, outer in self.carried[name].items():
                pairs = [joined(left, right, self.axes[name]) for left in outer for right in keys]
                found.setdefault(target, []).extend(key for key in pairs if key is not None)
        return {name: absorb(keys) for name, keys in found.items() if keys}

    def reach(self, source: int) -> dict[str, Keys]:
        """Everything that an effective parameter ever influences."""
        everywhere: dict[str, Keys] = {carry.name: ((),) for carry in self.carries}
        return self.closure(source, everywhere)

    def closure(self, source: int, scope: Patterns) -> dict[str, Keys]:
        """What is ever non-zero of an influence that is confined to a scope at every boundary."""
        found = confine(self.immediate(source), scope)
        while True:
            more = merge(found, confine(self.next(found), scope), scope)
            if more == found:
                return found
            found = more


def influence_of(graph: StepGraph, cuts: Collection[Edge] = NO_EDGES) -> Influence:
    """The patterns of a graph."""
    return _influence(graph, frozenset(cuts))


@once_for_nodes
def _influence(graph: StepGraph, cuts: frozenset[Edge]) -> Influence:
    return Influence(graph, cuts)


def confine(patterns: Patterns, scope: Patterns) -> dict[str, Keys]:
    """Patterns cut down to a scope."""
    found: dict[str, Keys] = {}
    for name, keys in patterns.items():
        parts = [_intersect(key, mine) for key in keys for mine in scope.get(name, ()) if overlaps(key, mine)]
        if parts:
            found[name] = absorb(parts)
    return found


def _intersect(pattern: Key, scope: Key) -> Key:
    """The entries of both, or more of the scope where that cannot be written as ties."""
    ties = list(scope)
    for tie in pattern:
        mate = next((t for t in ties if (t.axis, t.seed) == (tie.axis, tie.seed)), None)
        if mate is not None:
            lo, hi = max(tie.row, mate.row), min(tie.row + tie.size, mate.row + mate.size)
            ties[ties.index(mate)] = Tie(tie.axis, tie.seed, lo, lo + tie.column - tie.row, hi - lo)
        elif not any(t.axis == tie.axis or t.seed == tie.seed for t in ties):
            ties.append(tie)
    return tuple(sorted(ties))


def union(one: Patterns, other: Patterns) -> dict[str, Keys]:
    """The patterns of both."""
    return {name: absorb((*one.get(name, ()), *other.get(name, ()))) for name in {**one, **other}}


def merge(one: Patterns, other: Patterns, scope: Patterns) -> dict[str, Keys]:
    """The union, as patterns without a common entry."""
    names = sorted({*one, *other})
    return {name: _disjoint((*one.get(name, ()), *other.get(name, ())), scope.get(name, ())) for name in names}


def _disjoint(keys: Iterable[Key], scope: Keys) -> Keys:
    """Patterns that overlap become the least pattern that holds both; it must lie in the scope."""
    found = list(absorb(keys))
    if len(found) > MOST:
        found = list(scope)
    again = True
    while again:
        again = False
        for one in found:
            mate = next((key for key in found if key != one and overlaps(one, key)), None)
            if mate is not None:
                joint = _common(one, mate)
                wide = joint if inside(joint, scope) else next(key for key in scope if overlaps(one, key))
                found = list(absorb([key for key in found if key not in (one, mate)] + [wide]))
                again = True
                break
    return absorb(found)


def _common(one: Key, other: Key) -> Key:
    """The ties that both have, over the ranges of either."""
    ties: list[Tie] = []
    for tie in one:
        mate = next((t for t in other if (t.axis, t.seed) == (tie.axis, tie.seed)), None)
        if mate is not None and mate.column - mate.row == tie.column - tie.row:
            lo, hi = min(tie.row, mate.row), max(tie.row + tie.size, mate.row + mate.size)
            ties.append(replace(tie, row=lo, column=lo + tie.column - tie.row, size=hi - lo))
    return tuple(ties)


def beyond(patterns: Patterns, scope: Patterns) -> set[str]:
    """Carried values where an influence has entries outside of a scope."""
    return {name for name, keys in patterns.items() if not all(inside(key, scope.get(name, ())) for key in keys)}
