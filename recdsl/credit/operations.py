"""Operations of one step, counted as ops write them: of the step, of reverse and of forward mode through it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from recdsl.credit.flow import Edge, flow_of
from recdsl.graph.step import Node, StepGraph
from recdsl.graph.types import Type
from recdsl.ops import primitive


class Count:
    """A `Builder` that keeps what an op writes, to be counted. types: of values that are there already."""

    def __init__(self, types: Iterable[Type]) -> None:
        self.types = list(types)
        self._made: dict[int, tuple[tuple[int, ...], int]] = {}

    def op(self, name: str, *args: int, **attrs: Any) -> int:
        ordered, own = tuple(sorted(attrs.items())), [self.types[arg] for arg in args]
        self.types.append(primitive(name).infer(own, ordered))
        place = len(self.types) - 1
        self._made[place] = args, primitive(name).flops(own, self.types[place], ordered)
        return place

    def const(self, value: float, like: int) -> int:
        self.types.append(self.types[like])
        return len(self.types) - 1

    def type(self, value: int) -> Type:
        return self.types[value]

    def flops(self, ends: Iterable[int]) -> int:
        """Operations of what the ends are made of."""
        found, stack = set[int](), list(ends)
        while stack:
            place = stack.pop()
            if place in self._made and place not in found:
                found.add(place)
                stack.extend(self._made[place][0])
        return sum(self._made[place][1] for place in found)


class Costs:
    """Operations over one graph, a step and sample. What does not vary is computed once a call and counts nothing."""

    def __init__(self, graph: StepGraph) -> None:
        self.graph, self.flow = graph, flow_of(graph)
        self.work = [node for node in graph.nodes if node.args and node.id in graph.varying]

    def forward(self) -> int:
        return sum(flops(self.graph.nodes, node) for node in self.work)

    def back(self, starts: Iterable[int], ends: Iterable[int], cuts: frozenset[Edge], *, across: bool) -> int:
        """Of reverse mode from the ends to the starts; `across` steps or inside one."""
        reached, live = self.flow.forward(starts, cuts, across), self.flow.backward(ends, cuts, across)
        return sum(self._vjp(node, reached, cuts) for node in self.work if node.id in reached & live)

    def along(self, starts: Iterable[int], ends: Iterable[int], cuts: frozenset[Edge]) -> int:
        """Of forward mode inside a step, for one tangent."""
        reached, live = self.flow.forward(starts, cuts, False), self.flow.backward(ends, cuts, False)
        return sum(self._jvp(node, reached, cuts) for node in self.work if node.id in reached & live)

    def _count(self, node: Node) -> tuple[Count, tuple[int, ...], int]:
        """A builder with the arguments of a node, the node, and a cotangent of it."""
        types = [self.graph.nodes[arg].type for arg in node.args]
        return Count([*types, node.type, node.type]), tuple(range(len(types))), len(types)

    def _vjp(self, node: Node, reached: set[int], cuts: frozenset[Edge]) -> int:
        """Of the cotangents of those arguments that credit goes to."""
        met = [arg in reached and (arg, node.id) not in cuts for arg in node.args]
        if looked_up(self.graph.nodes, node):
            return node.type.numel
        builder, args, out = self._count(node)
        made = primitive(node.op).vjp(builder, args, out, out + 1, node.attrs)
        return builder.flops(k for k, there in zip(made, met, strict=True) if there and k is not None)

    def _jvp(self, node: Node, reached: set[int], cuts: frozenset[Edge]) -> int:
        met = [arg in reached and (arg, node.id) not in cuts for arg in node.args]
        if primitive(node.op).structure == "zero" or not any(met):
            return 0
        builder, args, out = self._count(node)
        given = [builder.const(0.0, k) if there else None for k, there in zip(args, met, strict=True)]
        made = primitive(node.op).jvp(builder, args, out, given, node.attrs)
        return 0 if made is None else builder.flops([made])


def flops(nodes: Sequence[Node], node: Node) -> int:
    """Of one of some nodes. A product with a one-hot vector reads a column."""
    if looked_up(nodes, node):
        return node.type.numel
    return primitive(node.op).flops([nodes[arg].type for arg in node.args], node.type, node.attrs) if node.args else 0


def looked_up(nodes: Sequence[Node], node: Node) -> bool:
    """Whether a product is done by index."""
    return node.op == "contract" and any(nodes[arg].op == "one_hot" for arg in node.args)


def leaves(graph: StepGraph, names: Iterable[str]) -> set[int]:
    """The parameters of these names that the graph reads."""
    return {graph.leaf[f"parameter:{name}"] for name in names if f"parameter:{name}" in graph.leaf}
