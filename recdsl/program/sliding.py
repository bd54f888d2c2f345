"""The adjoint of a rule that lets credit cross so many steps of recurrence, and as many again behind each memory.

A budget automaton, run backwards (semantics 4.11): a cotangent counts the steps that it has crossed since the loss or
the memory that it comes from. Layer j of the sweep holds the cotangents that have crossed j; crossing a step goes to
the layer above it, and from the last one nowhere; what a memory sends back starts again in layer 0.
"""

from __future__ import annotations

from collections.abc import Iterable

from recdsl.ops import primitive
from recdsl.ops.base import add_all
from recdsl.program.adjoint import Adjoint, Credit, active_nodes, adjoint_timeline, join_pads, topological
from recdsl.program.timeline import LEAVES, TimelineBuilder, TNode


def reverse_timeline(nodes: tuple[TNode, ...], credit: Credit, budget: int) -> Adjoint:
    """The forward nodes with the class's adjoint behind them. budget: steps of recurrence that credit crosses at most
    (0: any number)."""
    return _Layers(nodes, credit, budget).run() if budget else adjoint_timeline(nodes, credit)


class _Layers:
    """One reverse sweep over all layers; a builder, so a class, but with one use.

    A key is (layer, node); what does not vary has cotangents of all layers together, as those of layer 0.
    """

    def __init__(self, nodes: tuple[TNode, ...], credit: Credit, budget: int) -> None:
        self.forward, self.credit, self.budget = nodes, credit, budget
        self.builder = TimelineBuilder(nodes)
        self.order = topological(nodes)
        self.active = active_nodes(nodes, self.order, credit)
        self.parts: dict[tuple[int, int], list[int]] = {}
        self.pending: dict[tuple[int, int], int] = {}
        self.arrived: dict[int, list[int]] = {}
        for seeded, cotangent in credit.seeds:
            self._give(0, seeded, cotangent)

    def run(self) -> Adjoint:
        for k in self.active:
            self._open(k, self.forward[k])
        for layer in range(self.budget + 1):
            for k in reversed(self.order):
                if self.forward[k].time and k in self.active:
                    self._sweep(layer, k)
        for (layer, k), move in self.pending.items():
            if layer == self.budget + 1:
                total = add_all(self.builder, self.arrived.get(k, []))
                self.builder.aim(move, self.builder.const(0.0, k) if total is None else total)
        for k in reversed(self.order):
            if not self.forward[k].time and k in self.active:
                self._sweep(0, k)
        gradients = tuple(sorted(self._gradients()))
        return Adjoint(tuple(self.builder.nodes), gradients)

    def _gradients(self) -> Iterable[tuple[str, int]]:
        for k, node in enumerate(self.forward):
            if node.op == "parameter" and node.name in self.credit.parameters:
                total = self._total(0, k)
                yield node.name, self.builder.const(0.0, k) if total is None else total

    def _remembers(self, k: int) -> bool:
        """Whether a move is one of a memory: credit that crosses it may cross as many steps again."""
        return self.forward[k].op == "fetch" or k in self.credit.spared

    def _open(self, k: int, node: TNode) -> None:
        """Before any sweep: what later steps will send back through this move. Of a memory: all layers together, which
        stand above the last layer; of a recurrence: each layer, to the one that so many steps lead to."""
        if node.op not in ("prev", "fetch") or node.args[0] not in self.active:
            return
        self.builder.span = node.span
        name, type = f"d {node.name}", self.forward[node.args[0]].type
        if node.op == "fetch":
            move = self.builder.again(TNode("unfetch", (), (), type, True, name, node.span), (-1, node.args[1]))
            self.pending[self.budget + 1, k] = move
            self._give(0, node.args[0], move)
            return
        lag = node.attr("lag")
        for layer in [self.budget + 1] if self._remembers(k) else range(self.budget + 1 - lag):
            self.pending[layer, k] = self.builder.move("next", [-1], lag, node.type, name)
            self._give(0 if layer > self.budget else layer + lag, node.args[0], self.pending[layer, k])

    def _give(self, layer: int, k: int, cotangent: int | None) -> None:
        if cotangent is None or k not in self.active:
            return
        varies = self.forward[k].time
        crosses = self.builder.nodes[cotangent].time and not varies
        part = self.builder.op("collect", cotangent) if crosses else cotangent
        self.parts.setdefault((layer if varies else 0, k), []).append(part)

    def _total(self, layer: int, k: int) -> int | None:
        return add_all(self.builder, join_pads(self.builder, self.parts.get((layer, k), [])))

    def _sweep(self, layer: int, k: int) -> None:
        node = self.forward[k]
        self.builder.span = node.span
        total = self._total(layer, k)
        if node.op in ("prev", "fetch"):
            if (layer, k) in self.pending:
                self.builder.aim(self.pending[layer, k], self.builder.const(0.0, k) if total is None else total)
            elif total is not None:
                self.arrived.setdefault(k, []).append(total)
            if node.op == "prev" and total is not None:
                self._begin(layer, k, node, total)
        elif total is not None and node.op not in LEAVES:
            given = primitive(node.op).vjp(self.builder, node.args, k, total, node.attrs)
            for arg, cotangent in zip(node.args, given, strict=True):
                self._give(layer, arg, cotangent)

    def _begin(self, layer: int, k: int, node: TNode, total: int) -> None:
        """The initial value's share. A delay line still holds it some steps later, if credit may cross so many."""
        if node.args[1] not in self.active or self.builder.uniform(total) is not None:
            return
        lag = node.attr("lag") if self._remembers(k) else min(node.attr("lag"), self.budget - layer + 1)
        first = TNode("first", (total,), (("lag", lag),), node.type, False, node.name, node.span)
        self._give(0, node.args[1], self.builder.add(first))
