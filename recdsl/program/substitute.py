"""Edges whose way back differs from their way forward, written into the graph with ops that there are.

A use of x scaled by w reads `straight_through(x, w * x)`: the value of x, the derivative of w * x. A product with
feedback is `straight_through(W @ x, B @ x + W @ stop(x))`: credit for W as it is, credit for x by way of B.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from recdsl.credit.feedback import product
from recdsl.credit.plan import RoutingClass
from recdsl.graph.emit import Emitter
from recdsl.graph.step import Node, StepGraph
from recdsl.program.timeline import EARLIER, TimelineBuilder, TNode


@dataclass(frozen=True)
class Changed:
    """A graph with a class's edges rewritten. new: for each old node the one in its place, which has its value."""

    graph: StepGraph
    new: tuple[int, ...]

    def routing(self, old: RoutingClass) -> RoutingClass:
        """The class on the new graph, where its changed edges are part of the equations."""
        return replace(
            old,
            cuts=frozenset((self.new[a], self.new[b]) for a, b in old.cuts),
            scopes=tuple(replace(s, source=self.new[s.source]) for s in old.scopes),
            scales=(),
            feedback=(),
        )

    def values(self, nodes: Sequence[TNode], values: Sequence[int]) -> tuple[tuple[TNode, ...], tuple[int, ...]]:
        """The timeline with the new nodes, and the value of each node of the new graph. values: of the old nodes.

        What an old node computes is not computed again: only its derivative is another.
        """
        b = TimelineBuilder(nodes)
        known = {new: values[old] for old, new in enumerate(self.new)}
        for node in self.graph.nodes:
            if node.id in known:
                continue
            if node.op == "parameter":
                known[node.id] = b.leaf("parameter", node.name, node.type, time=False)
            elif node.op == "constant":
                known[node.id] = b.constant(node.attr("value"), node.type)
            else:
                known[node.id] = b.op(node.op, *(known[arg] for arg in node.args), **dict(node.attrs))
        return tuple(b.nodes), tuple(known[node.id] for node in self.graph.nodes)


def changed(graph: StepGraph, routing: RoutingClass) -> Changed:
    """The graph for one class. Pure; without such edges nothing is new."""
    if not routing.scales and not routing.feedback:
        return Changed(graph, tuple(range(len(graph.nodes))))
    return _Rewrite(graph, routing).run()


class _Rewrite:
    def __init__(self, graph: StepGraph, routing: RoutingClass) -> None:
        self.graph, self.emit = graph, Emitter()
        self.scales = {(a, b): weight for a, b, weight in routing.scales}
        self.feedback = {(a, b): name for a, b, name in routing.feedback}
        self.new: list[int] = []

    def run(self) -> Changed:
        for node in self.graph.nodes:
            self.emit.span = node.span
            tapes = EARLIER.get(node.op, 0)
            args = tuple(
                self.new[arg] if place < tapes else self._scaled(self.new[arg], self.scales.get((arg, node.id)))
                for place, arg in enumerate(node.args)
            )
            swapped = [(place, arg) for place, arg in enumerate(node.args) if (arg, node.id) in self.feedback]
            made = self.emit.append(node.op, args, node.attrs, node.type, node.name)
            for place, arg in swapped:
                made = self._fed_back(node, made, args, place, self.feedback[arg, node.id])
            if node.op == "fetch":  # linear in the tape, which has no value of its own on the timeline
                made = self._scaled(made, self.scales.get((node.args[0], node.id)))
            self.new.append(made)
        carries = [
            replace(
                carry,
                read=self.new[carry.read],
                write=self._scaled(self.new[carry.write], self.scales.get((carry.write, carry.read))),
                init=self.new[carry.init],
            )
            for carry in self.graph.carries
        ]
        graph = replace(
            self.graph,
            nodes=tuple(self.emit.nodes),
            carries=tuple(carries),
            outputs=tuple((name, self.new[k]) for name, k in self.graph.outputs),
            losses=tuple(loss.moved(self.new) for loss in self.graph.losses),
        )
        return Changed(graph, tuple(self.new))

    def _scaled(self, value: int, weight: float | None) -> int:
        if weight is None:
            return value
        other = self.emit.op("mul", value, self.emit.const(weight, value))
        return self.emit.op("straight_through", value, other)

    def _fed_back(self, node: Node, made: int, args: tuple[int, ...], place: int, name: str) -> int:
        matrix = product(self.graph, (node.args[place], node.id))
        assert matrix is not None
        instead = self.emit.leaf("parameter", name, self.graph.nodes[matrix].type)
        attrs: Mapping[str, object] = dict(node.attrs)
        other = tuple(arg if k == place else instead for k, arg in enumerate(args))
        still = tuple(self.emit.op("stop", arg) if k == place else arg for k, arg in enumerate(args))
        back = self.emit.op("add", self.emit.op(node.op, *other, **attrs), self.emit.op(node.op, *still, **attrs))
        return self.emit.op("straight_through", made, back)
