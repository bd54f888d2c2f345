"""Where parameters act as matrices: what Kronecker-factored traces are made of (KF-RTRL; Mujika et al. 2018).

The immediate influence of W through `y = W @ z` is the product of z and of d state / d y: one Kronecker term for each
use of W in a step. A parameter that is added, a bias, is a matrix whose input is the number 1. Uses that no state sees
within their step, as in a readout, need no trace.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from recdsl.credit.flow import Flow, flow_of
from recdsl.credit.influence import effective, states
from recdsl.graph.step import Node, StepGraph


class NoMatrixError(Exception):
    """A use of a parameter that is no product of a matrix with what varies; `name` is the parameter's."""

    def __init__(self, name: str, what: str) -> None:
        super().__init__(f"`{name}` {what}")
        self.name = name


@dataclass(frozen=True)
class Site:
    """A use `y = W @ z` at `node`. other: the node of z (None: the number `sign`); order: its axes as W has them."""

    node: int
    other: int | None
    order: tuple[int, ...] = ()
    sign: float = 1.0


@dataclass(frozen=True)
class Block:
    """The uses of one effective parameter that sum over the same axes of it. kept, summed: places of its axes."""

    source: int
    kept: tuple[int, ...]
    summed: tuple[int, ...]
    sites: tuple[Site, ...]


def blocks(graph: StepGraph, parameters: Collection[str]) -> tuple[Block, ...]:
    """The blocks of the named parameters, in the graph's order. Raises NoMatrixError."""
    flow, found = flow_of(graph), list[Block]()
    for source, names in sorted(effective(graph).items()):
        if not names.isdisjoint(parameters):
            found += blocks_of(graph, flow, source, min(names))
    return tuple(found)


def blocks_of(graph: StepGraph, flow: Flow, source: int, name: str) -> list[Block]:
    """Those of one effective parameter."""
    carries = states(graph)
    if any(carry.init == source for carry in carries):
        raise NoMatrixError(name, "is what a state starts from, and the estimate begins after that")
    writes = {carry.write for carry in carries}
    if source in writes:
        raise NoMatrixError(name, "is what a state becomes, and no product")
    sites: dict[tuple[tuple[int, ...], tuple[int, ...]], list[Site]] = {}
    for node in graph.nodes:
        used = source in node.args and node.id in graph.varying and (node.id, 0) in flow.after[source]
        if used and flow.forward([node.id], across=False) & writes:
            kept, summed, site = _site(graph, node, source, name)
            sites.setdefault((kept, summed), []).append(site)
    return [Block(source, kept, summed, tuple(found)) for (kept, summed), found in sorted(sites.items())]


def _site(graph: StepGraph, node: Node, source: int, name: str) -> tuple[tuple[int, ...], tuple[int, ...], Site]:
    """(places that the result has, places that are summed over, the use)"""
    place = node.args.index(source)
    if node.op in ("add", "sub"):
        count = len(graph.nodes[source].type.axes)
        sign = -1.0 if node.op == "sub" and place == 1 else 1.0
        return tuple(range(count)), (), Site(node.id, None, (), sign)
    if node.op == "contract":
        mine, theirs = (node.attr("x"), node.attr("y")) if place == 0 else (node.attr("y"), node.attr("x"))
        out = tuple(node.attr("out"))
        summed = tuple(k for k, label in enumerate(mine) if label not in out)
        kept = tuple(k for k, label in enumerate(mine) if label in out)
        labels = [mine[k] for k in summed]
        if sorted(theirs) == sorted(labels) and tuple(mine[k] for k in kept) == out:
            order = tuple(tuple(theirs).index(label) for label in labels)
            return kept, summed, Site(node.id, node.args[1 - place], order)
    raise NoMatrixError(name, f"is used in `{node.op}`, which is no product of a matrix with a vector, nor a sum")


def draws(found: Collection[Block]) -> list[str]:
    """A label for each random sign of a step: one for what is carried, one for each use, by block."""
    return [f"{n}.{m}" for n, block in enumerate(found) for m in range(len(block.sites) + 1)]
