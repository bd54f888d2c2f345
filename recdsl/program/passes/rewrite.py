"""Rewriting a timeline: nodes are made anew in an order that recipes ask for, cycles closed at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import networkx as nx

from recdsl.program.timeline import LEAVES, MOVES, TimelineBuilder, TNode

Make = Callable[[TimelineBuilder, Sequence[int]], int]


@dataclass(frozen=True)
class Recipe:
    """How a node is made: from the new ids of `deps` (old ids, or names of other recipes)."""

    deps: tuple[int, ...]
    make: Make


def recurrent(nodes: tuple[TNode, ...]) -> dict[int, int]:
    """Nodes that lie on a cycle through time, with the number of their cycle."""
    graph: nx.DiGraph[int] = nx.DiGraph()
    graph.add_edges_from((arg, k) for k, node in enumerate(nodes) for arg in node.args)
    groups = [group for group in nx.strongly_connected_components(graph) if len(group) > 1]
    return {k: number for number, group in enumerate(sorted(groups, key=min)) for k in group}


def plain(node: TNode) -> Recipe:
    """The node itself, on its new arguments."""

    def make(b: TimelineBuilder, args: Sequence[int]) -> int:
        b.span = node.span
        if node.op in LEAVES or node.op == "first":
            return b.add(TNode(node.op, tuple(args), node.attrs, node.type, node.time, node.name, node.span))
        return b.op(node.op, *args, **dict(node.attrs))

    return Recipe(node.args, make)


def rewrite(
    nodes: tuple[TNode, ...], recipes: Mapping[int, Recipe], kept: int = 0
) -> tuple[tuple[TNode, ...], dict[int, int]]:
    """New nodes and the map from old ids (and recipe ids) to new ones. The first `kept` nodes stay as they are."""
    builder = TimelineBuilder(nodes[:kept])
    new: dict[int, int] = {k: k for k in range(kept)}
    moves = [k for k in range(kept, len(nodes)) if nodes[k].op in MOVES]
    for k in moves:
        node = nodes[k]
        builder.span = node.span
        new[k] = builder.again(node, [-1] * len(node.args))
    for k in range(kept, len(nodes)):
        _demand(builder, nodes, recipes, new, k)
    for k in moves:
        node = nodes[k]
        made = builder.nodes[new[k]]
        args = tuple(new[arg] for arg in node.args)
        builder.nodes[new[k]] = TNode(made.op, args, made.attrs, made.type, True, made.name, made.span)
    return tuple(builder.nodes), new


def _demand(
    builder: TimelineBuilder,
    nodes: tuple[TNode, ...],
    recipes: Mapping[int, Recipe],
    new: dict[int, int],
    wanted: int,
) -> None:
    """Make a node and what it needs, without recursion."""
    stack = [wanted]
    while stack:
        k = stack[-1]
        if k in new:
            stack.pop()
            continue
        recipe = recipes[k] if k in recipes else plain(nodes[k])
        missing = [dep for dep in recipe.deps if dep not in new]
        if missing:
            stack.extend(reversed(missing))
            continue
        new[k] = recipe.make(builder, [new[dep] for dep in recipe.deps])
        stack.pop()
