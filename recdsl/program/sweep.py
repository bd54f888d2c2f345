"""Reverse mode inside one step: what losses ask of states and parameters, for rules that carry influence forwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recdsl.credit.influence import states
from recdsl.credit.plan import RoutingClass
from recdsl.graph.ragged import chooses
from recdsl.graph.step import Carry, StepGraph
from recdsl.graph.types import Type
from recdsl.jacobian.pieces import Axes, fit, lane
from recdsl.ops import primitive
from recdsl.ops.base import add_all
from recdsl.program.timeline import TimelineBuilder, TNode


@dataclass(frozen=True)
class Trace:
    """One stored piece of an influence. node: what enters a step; `start`: what it is before the first.

    last: what it is behind the last step, where no loop carries it (the node is then what enters the call).
    """

    name: str
    node: int
    start: int
    last: int | None = None


@dataclass(frozen=True)
class Leaf:
    """The influence on the entries of `target` at the end of a window: of an effective parameter inside the window, or
    of the carried value `through` as it enters the window."""

    node: int
    target: str
    source: int | None = None
    through: str = ""


@dataclass(frozen=True)
class Traced:
    """The timeline with a class's traces; gradients by parameter, each a node that does not vary.

    leaves: where traces go from boundary to boundary, what reverse passes over the window give them.
    """

    nodes: tuple[TNode, ...]
    gradients: tuple[tuple[str, int], ...]
    traces: tuple[Trace, ...]
    leaves: tuple[Leaf, ...] = ()


def entry(graph: StepGraph, carry: Carry) -> int:
    """The node that a step reads a carried value from: the leaf, or behind it the choice that a reset makes."""
    for node in graph.nodes:
        if chooses(graph, node, "reset") and node.args[2] == carry.read:
            return node.id
    return carry.read


def flag_of(graph: StepGraph, carry: Carry, entering: int) -> int | None:
    """The condition of the reset that a carried value goes through; None where there is none."""
    return None if entering == carry.read else graph.nodes[entering].args[0]


def decay_factor(b: TimelineBuilder, graph: StepGraph, carry: Carry, values: Sequence[int], rho: float) -> int:
    """What an influence on a carried value is multiplied by behind a step: rho, or 1 where the step is masked."""
    kept = Type("float", graph.nodes[carry.read].type.axes)
    node = graph.nodes[carry.write]
    factor = b.constant(rho, kept)
    if not chooses(graph, node, "mask"):
        return factor
    return b.op("where", values[node.args[0]], factor, b.constant(1.0, kept))


class Sweep:
    """Reverse mode inside one step, up to the states that enter it (and, read late, those that it leaves).

    What arrives at a node that does not vary is summed over steps and samples, or (apart) kept for each of them.
    """

    def __init__(
        self,
        graph: StepGraph,
        builder: TimelineBuilder,
        values: Sequence[int],
        routing: RoutingClass,
        entering: Mapping[str, int],
        *,
        apart: bool = False,
    ) -> None:
        self.graph, self.b, self.values, self.routing, self.apart = graph, builder, values, routing, apart
        self.parts: dict[int, list[int]] = {}
        self.entered: dict[str, int] = {}
        self.left: dict[str, int] = {}
        self.done = False
        self.stops = {node: name for name, node in entering.items()}
        self.leaving = self._leaving() if routing.late else {}

    def _leaving(self) -> dict[int, str]:
        """Nodes that hold a state as the step leaves it: what is carried on, and (before a mask) what made it."""
        found: dict[int, str] = {}
        for carry in states(self.graph):
            node = self.graph.nodes[carry.write]
            made = node.args[1] if chooses(self.graph, node, "mask") else carry.write
            if made not in self.stops:  # what enters a step and is taken over as it is was left by the step before
                found.setdefault(carry.write, carry.name)
                found.setdefault(made, carry.name)
        return found

    def run(self, seeds: Sequence[tuple[int, int]]) -> None:
        for node, cotangent in seeds:
            self.give(node, cotangent)
        for k in range(len(self.graph.nodes) - 1, -1, -1):
            if k in self.graph.varying:
                self._visit(k)
        self.done = True

    def give(self, node: int, cotangent: int | None) -> None:
        """Add to a node's cotangent; a sum over steps and samples where the node does not vary."""
        if cotangent is None or self.graph.nodes[node].type.dtype != "float":
            return
        if node in self.leaving and node not in self.graph.varying and not self.done:
            name = self.leaving[node]
            self.left[name] = self.b.op("add", self.left[name], cotangent) if name in self.left else cotangent
            return
        if self.b.nodes[cotangent].time and node not in self.graph.varying and not self.apart:
            cotangent = self.b.op("collect", cotangent)
        self.parts.setdefault(node, []).append(cotangent)

    def _visit(self, k: int) -> None:
        total = add_all(self.b, self.parts.pop(k, []))
        if total is None:
            return
        if k in self.stops:
            self.entered[self.stops[k]] = total
        elif k in self.leaving:
            name = self.leaving[k]
            self.left[name] = self.b.op("add", self.left[name], total) if name in self.left else total
        else:
            self._pass(k, total)

    def _pass(self, k: int, total: int) -> None:
        node = self.graph.nodes[k]
        if not node.args or primitive(node.op).structure == "zero":
            return
        args = tuple(self.values[arg] for arg in node.args)
        self.b.span = node.span
        given = primitive(node.op).vjp(self.b, args, self.values[k], total, node.attrs)
        for arg, cotangent in zip(node.args, given, strict=True):
            if (arg, k) not in self.routing.cuts:
                self.give(arg, cotangent)

    def direct(self, source: int, seed: Axes) -> int | None:
        """What arrived at an effective parameter inside the step, for each step and sample, on lanes."""
        lanes = tuple(lane(seed, k) for k in range(len(seed)))
        return add_all(self.b, [fit(self.b, part, lanes) for part in self.parts.get(source, [])])

    def parameters(self) -> tuple[tuple[str, int], ...]:
        """On from effective parameters to the parameters in them."""
        found: dict[str, int] = {}
        for k in range(len(self.graph.nodes) - 1, -1, -1):
            node = self.graph.nodes[k]
            if k in self.graph.varying:
                continue
            total = add_all(self.b, self.parts.pop(k, []))
            if node.op == "parameter" and node.name in self.routing.parameters:
                found[node.name] = self.b.const(0.0, self.values[k]) if total is None else total
            elif total is not None and node.op not in ("parameter", "constant"):
                self._pass(k, total)
        return tuple(sorted(found.items()))
