"""Order of work: what is done for all steps at once, and what needs a loop, in which direction.

A recurrence is a strongly connected set of the timeline; each becomes a loop of its own (stacked layers so become
one loop after the other, with everything between them done for all steps at once). The rest is ordered around them.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import networkx as nx

from recdsl.jacobian.pieces import is_lane
from recdsl.program.timeline import EARLIER, LATER, TNode, here, pooled, sampled

STEPWISE = ("nearest", "fetch", "unfetch")
"""Moves that have no form for all steps at once."""
PRODUCTS = ("contract", "scatter", "scatter_rows")
"""What can be summed while it is made."""


@dataclass(frozen=True)
class Item:
    """`direction` 0: one node for all steps; +1 or -1: a loop over `nodes`, listed in the order within a step."""

    direction: int
    nodes: tuple[int, ...]


def needed(nodes: tuple[TNode, ...], roots: Iterable[int], given: frozenset[int]) -> set[int]:
    """Everything the roots depend on, not looking behind `given`."""
    found: set[int] = set()
    stack = [root for root in roots if root not in given]
    while stack:
        k = stack.pop()
        if k not in found:
            found.add(k)
            stack.extend(arg for arg in nodes[k].args if arg not in given)
    return found


def schedule(nodes: tuple[TNode, ...], wanted: set[int]) -> tuple[Item, ...]:
    """Items in an order in which each finds its arguments. The lowest node first, so that the order is stable."""
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(sorted(wanted))
    graph.add_edges_from((arg, k) for k in sorted(wanted) for arg in nodes[k].args if arg in wanted)
    groups = [sorted(group) for group in nx.strongly_connected_components(graph)]
    home = {k: group[0] for group in groups for k in group}
    order = _order([(group[0], group) for group in groups], graph, home)
    return tuple(_item(nodes, graph, group) for group in order)


def trace_schedule(
    nodes: tuple[TNode, ...], wanted: set[int], starts: Sequence[int] = ()
) -> tuple[tuple[Item, ...], Item | None, tuple[Item, ...]]:
    """Before, inside and after the one loop that carries traces.

    In the loop is what depends on a trace (or on one of `starts`) or has a lane: a value as large as a trace is never
    kept over time. So is what all samples have in common at a step.
    What else there is, is done for all steps at once, before; what is made of sums over steps comes after it.
    """
    members = _dependants(nodes, wanted, starts)
    late = {k for k in wanted - members if not nodes[k].time and nodes[k].op != "collect" and _summed(nodes, k)}
    before = schedule(nodes, wanted - members - late)
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_nodes_from(sorted(members))
    graph.add_edges_from(
        (a, k) for k in sorted(members) if nodes[k].op != "trace" for a in nodes[k].args if a in members
    )
    order = tuple(nx.lexicographical_topological_sort(graph))
    return before, Item(1, order) if order else None, schedule(nodes, late)


def _dependants(nodes: tuple[TNode, ...], wanted: set[int], starts: Sequence[int]) -> set[int]:
    """Traces, values with lanes that vary, all that depends on them within a step, and their sums."""
    users: dict[int, list[int]] = {k: [] for k in wanted}
    for k in wanted:
        for arg in nodes[k].args if nodes[k].op != "trace" else ():
            if arg in users:
                users[arg].append(k)
    # A recurrence that runs backwards is done before the loop, which runs forwards, begins.
    tallies = [k for k in wanted if nodes[k].op in ("tally", "next")]
    early = sampled(nodes) | needed(nodes, tallies, frozenset())
    wide = [k for k in wanted - early if nodes[k].time and any(is_lane(axis) for axis in nodes[k].type.axes)]
    wide += sorted(pooled(nodes) & wanted)
    wide += [arg for k in wanted if nodes[k].op == "pool" for arg in nodes[k].args if nodes[arg].op in PRODUCTS]
    stack = [*wide, *(k for k in wanted if nodes[k].op == "trace"), *(k for k in starts if k in wanted)]
    found = set(stack)
    while stack:
        for user in users[stack.pop()]:
            if user not in found and (nodes[user].time or nodes[user].op == "collect"):
                found.add(user)
                if nodes[user].op != "collect":
                    stack.append(user)
    for k in sorted(wanted - found, reverse=True):
        if users[k] and found.issuperset(users[k]) and _grows(nodes, k):
            found.add(k)
    return found


def _grows(nodes: tuple[TNode, ...], k: int) -> bool:
    """Whether a node that varies is larger than what it is made of: better made where it is read than kept."""
    sizes = [nodes[arg].type.numel for arg in nodes[k].args if nodes[arg].time]
    return nodes[k].time and bool(sizes) and nodes[k].type.numel > max(sizes)


def _summed(nodes: tuple[TNode, ...], k: int) -> bool:
    """Whether a node that does not vary depends on a sum over steps."""
    stack, seen = [k], {k}
    while stack:
        for arg in nodes[stack.pop()].args:
            if nodes[arg].op == "collect":
                return True
            if arg not in seen and not nodes[arg].time:
                seen.add(arg)
                stack.append(arg)
    return False


def _order(groups: list[tuple[int, list[int]]], graph: nx.DiGraph[int], home: Mapping[int, int]) -> list[list[int]]:
    """Kahn's order of the groups, the smallest head first."""
    members = dict(groups)
    before = {head: {home[p] for k in group for p in graph.predecessors(k)} - {head} for head, group in groups}
    after: dict[int, list[int]] = {head: [] for head in members}
    for head, sources in before.items():
        for source in sources:
            after[source].append(head)
    ready = [head for head, sources in before.items() if not sources]
    heapq.heapify(ready)
    out: list[list[int]] = []
    while ready:
        head = heapq.heappop(ready)
        out.append(members[head])
        for user in after[head]:
            before[user].discard(head)
            if not before[user]:
                heapq.heappush(ready, user)
    return out


def _item(nodes: tuple[TNode, ...], graph: nx.DiGraph[int], group: list[int]) -> Item:
    looped = len(group) > 1 or graph.has_edge(group[0], group[0])
    if not looped and nodes[group[0]].op not in STEPWISE:
        return Item(0, (group[0],))
    directions = {1 if nodes[k].op in EARLIER else -1 for k in group if nodes[k].op in (*EARLIER, *LATER)}
    assert len(directions) == 1, "a recurrence runs in one direction"
    inner = nx.DiGraph()
    inner.add_nodes_from(group)
    members = set(group)
    for k in group:
        inner.add_edges_from((arg, k) for arg in here(nodes[k]) if arg in members)
    order = tuple(nx.lexicographical_topological_sort(inner))
    return Item(directions.pop(), order)
