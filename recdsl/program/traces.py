"""Forward rules as nodes of the timeline: influences carried along with the states, and what losses read of them.

For an effective parameter theta and a carried value s the trace is J = d s / d theta, confined to the scope of the
rule at every step: `J <- scope * (D J + I)` with the step's own Jacobians D = d s / d s_before and I = d s / d theta
(semantics 2.1 and 4.3). A loss reads it at the states that enter its step (read "pre") or also at those that the step
leaves ("post"), and what parameters do inside a step is added as usual. Only the pieces that a scope can hold are
computed, so a trace costs what its entries cost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from recdsl.credit.influence import effective, states
from recdsl.credit.plan import RoutingClass
from recdsl.graph.step import Carry, StepGraph
from recdsl.jacobian.compose import composed, confined
from recdsl.jacobian.pieces import Axes, Key, Piece, Tie, chosen, cut, fit, free, material, summed, tied, whole
from recdsl.jacobian.step import StepJacobian
from recdsl.ops import primitive
from recdsl.ops.base import add_all
from recdsl.program.timeline import TimelineBuilder, TNode


@dataclass(frozen=True)
class Trace:
    """One stored piece of an influence. node: what enters a step; `start`: what it is before the first."""

    name: str
    node: int
    start: int


@dataclass(frozen=True)
class Traced:
    """The timeline with a class's traces; gradients by parameter, each a node that does not vary."""

    nodes: tuple[TNode, ...]
    gradients: tuple[tuple[str, int], ...]
    traces: tuple[Trace, ...]


Pair = tuple[int, str]


def traced_timeline(
    graph: StepGraph,
    nodes: Sequence[TNode],
    values: Sequence[int],
    routing: RoutingClass,
    seeds: Sequence[tuple[int, int]],
) -> Traced:
    """The traces and gradients of one forward class.

    values: the timeline's node of each node of the graph. seeds: (node of the graph, node of its cotangent).
    """
    return _Tracing(graph, nodes, values, routing).run(seeds)


class _Tracing:
    """Holds what is shared while a class's nodes are written."""

    def __init__(self, graph: StepGraph, nodes: Sequence[TNode], values: Sequence[int], routing: RoutingClass) -> None:
        self.graph, self.values, self.routing = graph, values, routing
        self.b = TimelineBuilder(nodes)
        self.carries = {carry.name: carry for carry in states(graph)}
        self.entering = {name: entry(graph, carry) for name, carry in self.carries.items()}
        self.jacobian = StepJacobian(graph, self.b, values, routing.cuts, self.entering.values(), hoisted=True)
        self.stored: dict[Pair, tuple[Key, ...]] = {(s.source, s.carry): s.stored for s in routing.scopes if s.stored}
        self.labels = _labels(graph, {source for source, _ in self.stored})
        self.held: dict[Pair, list[Piece]] = {}
        self.starts: list[Trace] = []

    def run(self, seeds: Sequence[tuple[int, int]]) -> Traced:
        for pair in sorted(self.stored):
            self._open(pair)
        entered = {pair: self._entered(pair) for pair in sorted(self.stored)}
        left = self._updated(entered)
        for pair, pieces in left.items():
            for piece, old in zip(pieces, self.held[pair], strict=True):
                self.b.aim(old.value, piece.value)
        gradients = self._gradients(seeds, entered, left)
        return Traced(tuple(self.b.nodes), gradients, tuple(self.starts))

    # -- traces ---------------------------------------------------------------------------------------------------
    def _open(self, pair: Pair) -> None:
        """Nodes for what the step before has left."""
        source, name = pair
        rows, seed = self.jacobian.axes(self.carries[name].read), self.jacobian.axes(source)
        begin = {piece.key: piece.value for piece in self._start(pair)}
        pieces: list[Piece] = []
        for number, key in enumerate(self.stored[pair]):
            axes = whole(Piece(key, -1), rows, seed)
            type = replace(self.graph.nodes[source].type, axes=axes)
            label = f"{self.labels[source]}.{name}" + (f".{number}" if number else "")
            self.b.span = self.carries[name].span
            zero = self.b.constant(0.0, type)
            start = begin.get(key, zero)
            node = self.b.move("trace", [-1, start], 1, type, f"credit.{label}")
            self.starts.append(Trace(f"credit.{label}", node, start))
            pieces.append(Piece(key, node))
        self.held[pair] = pieces

    def _start(self, pair: Pair) -> list[Piece]:
        """The influence of a learned initial value on its own state: the identity."""
        source, name = pair
        if self.carries[name].init != source:
            return []
        rows, seed = self.jacobian.axes(self.carries[name].read), self.jacobian.axes(source)
        identity = Piece(tied(rows), self.b.const(1.0, self.values[source]))
        return summed(self.b, confined(self.b, identity, self.stored[pair], rows, seed))

    def _entered(self, pair: Pair) -> list[Piece]:
        """The influence on the state that a step sees: a reset puts the initial value's in its place."""
        name = pair[1]
        node = self.graph.nodes[self.entering[name]]
        if node.id == self.carries[name].read:
            return self.held[pair]
        rows, seed = self.jacobian.axes(node.id), self.jacobian.axes(pair[0])
        flag = self.values[node.args[0]]
        begin = {piece.key: piece for piece in self._start(pair)}
        found: list[Piece] = []
        for piece in self.held[pair]:
            kept = chosen(self.b, piece, flag, rows, seed, then=False)
            if piece.key in begin:
                fresh = chosen(self.b, begin[piece.key], flag, rows, seed, then=True)
                kept = replace(kept, value=self.b.op("add", kept.value, fresh.value))
            found.append(kept)
        return found

    def _updated(self, entered: Mapping[Pair, list[Piece]]) -> dict[Pair, list[Piece]]:
        """`scope * (D J + I)`, one piece for each stored pattern."""
        parts: dict[Pair, list[Piece]] = {pair: [] for pair in self.stored}
        for source in sorted({source for source, _ in self.stored}):
            targets = {self.carries[name].write: name for s, name in self.stored if s == source}
            made = self.jacobian.pieces(source, self._wants(source, targets))
            for write, name in targets.items():
                parts[source, name] += self._confined(made.get(write, []), (source, name))
        for name in sorted(self.carries):
            fed = [source for source, other in sorted(entered) if other == name]
            if fed:
                self._carried(name, fed, entered, parts)
        return {pair: self._filled(pair, parts[pair]) for pair in sorted(parts)}

    def _wants(self, source: int, targets: Mapping[int, str]) -> dict[int, Key]:
        """Of the immediate influence only what one stored pattern holds, where there is one."""
        found: dict[int, Key] = {}
        for write, name in targets.items():
            keys = self.stored[source, name]
            found[write] = keys[0] if len(keys) == 1 else ()
        return found

    def _carried(
        self,
        name: str,
        fed: Sequence[int],
        entered: Mapping[Pair, list[Piece]],
        parts: dict[Pair, list[Piece]],
    ) -> None:
        """The influence through one state: D J, for every parameter that has an influence on it."""
        middle = self.jacobian.axes(self.carries[name].read)
        targets = {self.carries[t].write: t for t in sorted(self.carries) if any((s, t) in self.stored for s in fed)}
        wants = {write: self._needed(name, target, fed) for write, target in targets.items()}
        made = self.jacobian.pieces(self.entering[name], wants)
        for write, target in targets.items():
            rows = self.jacobian.axes(self.carries[target].read)
            for source in fed:
                if (source, target) not in self.stored:
                    continue
                seed = self.jacobian.axes(source)
                for outer in made.get(write, []):
                    for inner in entered[source, name]:
                        piece = composed(self.b, outer, inner, rows, middle, seed)
                        if piece is not None:
                            parts[source, target] += self._confined([piece], (source, target))

    def _needed(self, name: str, target: str, fed: Sequence[int]) -> Key:
        """The ties that every wanted entry of d target / d name has, given what is stored on both sides."""
        common: set[Tie] | None = None
        for source in fed:
            for inner in self.stored.get((source, name), ()):
                for outer in self.stored.get((source, target), ()):
                    ties = set(_between(outer, inner))
                    common = ties if common is None else common & ties
        return tuple(sorted(common or ()))

    def _confined(self, pieces: Sequence[Piece], pair: Pair) -> list[Piece]:
        rows, seed = self._rows(pair), self.jacobian.axes(pair[0])
        return [part for piece in pieces for part in confined(self.b, piece, self.stored[pair], rows, seed)]

    def _rows(self, pair: Pair) -> Axes:
        return self.jacobian.axes(self.carries[pair[1]].read)

    def _filled(self, pair: Pair, parts: Sequence[Piece]) -> list[Piece]:
        """One piece for each stored pattern, zero where nothing arrives."""
        rows, seed = self._rows(pair), self.jacobian.axes(pair[0])
        made = {p.key: p for p in summed(self.b, [material(self.b, p, rows, seed) for p in parts])}
        held = {piece.key: piece for piece in self.held[pair]}
        return [made.get(key) or Piece(key, self.b.const(0.0, held[key].value)) for key in self.stored[pair]]

    # -- gradients ------------------------------------------------------------------------------------------------
    def _gradients(
        self,
        seeds: Sequence[tuple[int, int]],
        entered: Mapping[Pair, list[Piece]],
        left: Mapping[Pair, list[Piece]],
    ) -> tuple[tuple[str, int], ...]:
        """What losses read: paths inside a step, and traces weighted by the cotangents of states."""
        sweep = _Sweep(self.graph, self.b, self.values, self.routing, self.entering)
        sweep.run(seeds)
        for pair in sorted(self.stored):
            reads = [(sweep.entered.get(pair[1]), entered[pair])]
            if pair[1] in sweep.left:
                reads.append((sweep.left[pair[1]], left[pair]))
            for cotangent, pieces in reads:
                for piece in pieces if cotangent is not None else ():
                    assert cotangent is not None
                    sweep.give(pair[0], self._read(cotangent, piece, self._rows(pair), pair[0]))
        return sweep.parameters()

    def _read(self, cotangent: int, piece: Piece, rows: Axes, source: int) -> int:
        """The cotangent of a state times a piece, summed over steps and samples, with the parameter's axes."""
        b, seed = self.b, self.jacobian.axes(source)
        for tie in piece.key:
            cotangent = cut(b, cotangent, tie.axis, tie.row, tie.size)
        count, ties = len(rows), {tie.seed: tie for tie in piece.key}
        xl = tuple(range(count))
        yl = (*xl, *(count + k for k in free(piece.key, seed)))
        out = tuple(ties[k].axis if k in ties else count + k for k in range(len(seed)))
        total = b.op("contract", cotangent, piece.value, x=xl, y=yl, out=out)
        total = b.op("collect", total) if b.nodes[total].time else total
        for k, tie in sorted(ties.items()):
            if tie.size < seed[k].size:
                total = b.op("pad", total, at=k, start=tie.column, axis=seed[k])
        return fit(b, total, seed)


def _between(outer: Key, inner: Key) -> list[Tie]:
    """Ties of the value in the middle that two patterns with a common seed axis ask for."""
    mates = {tie.seed: tie for tie in inner}
    return [
        Tie(tie.axis, mates[tie.seed].axis, tie.row, mates[tie.seed].row, tie.size)
        for tie in outer
        if tie.seed in mates and (tie.column, tie.size) == (mates[tie.seed].column, mates[tie.seed].size)
    ]


def entry(graph: StepGraph, carry: Carry) -> int:
    """The node that a step reads a carried value from: the leaf, or behind it the choice that a reset makes."""
    for node in graph.nodes:
        if node.op == "where" and node.args[2] == carry.read and node.args[1] == carry.init:
            return node.id
    return carry.read


def _labels(graph: StepGraph, sources: set[int]) -> dict[int, str]:
    """A name for each effective parameter: of the parameters in it, with a number where two are alike."""
    found: dict[int, str] = {}
    inside = effective(graph)
    for source in sorted(sources):
        base = "_".join(sorted(inside[source]))
        taken = sum(label.partition("~")[0] == base for label in found.values())
        found[source] = base if not taken else f"{base}~{taken}"
    return found


class _Sweep:
    """Reverse mode inside one step, up to the states that enter it (and, read "post", those that it leaves)."""

    def __init__(
        self,
        graph: StepGraph,
        builder: TimelineBuilder,
        values: Sequence[int],
        routing: RoutingClass,
        entering: Mapping[str, int],
    ) -> None:
        self.graph, self.b, self.values, self.routing = graph, builder, values, routing
        self.parts: dict[int, list[int]] = {}
        self.entered: dict[str, int] = {}
        self.left: dict[str, int] = {}
        self.done = False
        self.stops = {node: name for name, node in entering.items()}
        self.leaving = self._leaving() if routing.tracing is not None and routing.tracing.read == "post" else {}

    def _leaving(self) -> dict[int, str]:
        """Nodes that hold a state as the step leaves it: what is carried on, and (before a mask) what made it."""
        found: dict[int, str] = {}
        for carry in states(self.graph):
            node = self.graph.nodes[carry.write]
            masked = node.op == "where" and node.args[2] in self.stops and self.stops[node.args[2]] == carry.name
            for made in (carry.write, node.args[1]) if masked else (carry.write,):
                if made not in self.stops:
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
        if self.b.nodes[cotangent].time and node not in self.graph.varying:
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
