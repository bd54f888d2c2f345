"""Unbiased online recurrent optimisation: the whole influence as one product of two vectors, right on average.

For each sample the influence J = d s / d theta is estimated by s~ theta~^T, with new random signs nu at each step:
s~ <- r0 D s~ + r1 nu, theta~ <- theta~ / r0 + nu^T I / r1, where r0 and r1 > 0 balance the norms and do not depend on
the sign of nu (Tallec and Ollivier 2018; semantics 4.7). It takes one product of the step's Jacobian from either side.

Jointly, the samples are one system: s~ has a part for each of them, theta~ is one for all, nu^T I is summed over
samples, and norms and q s~ are those of all parts together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import sqrt

from recdsl.credit.influence import effective, states
from recdsl.credit.plan import RoutingClass
from recdsl.graph.step import Carry, StepGraph
from recdsl.graph.types import FLOAT, Type
from recdsl.jacobian.pieces import fit, lane
from recdsl.ops import primitive
from recdsl.ops.base import add_all
from recdsl.program.sweep import Sweep, Trace, Traced, decay_factor, entry, flag_of
from recdsl.program.timeline import TimelineBuilder, TNode

SMALL = 1e-7
"""Added to norms, so that a vector that is zero is scaled by a finite number."""


def rank_one_timeline(
    graph: StepGraph,
    nodes: Sequence[TNode],
    values: Sequence[int],
    routing: RoutingClass,
    seeds: Sequence[tuple[int, int]],
    index: int,
) -> Traced:
    """Vectors and gradients of one class. Arguments as for `traced_timeline`; index: the class's place in the plan."""
    return _RankOne(graph, nodes, values, routing, index).run(seeds)


def sign_name(index: int, carry: str) -> str:
    """The input that holds the random signs for a carried value."""
    return f".sign{index}_{''.join(c if c.isalnum() else '_' for c in carry)}"


class _RankOne:
    def __init__(
        self, graph: StepGraph, nodes: Sequence[TNode], values: Sequence[int], routing: RoutingClass, index: int
    ) -> None:
        self.graph, self.values, self.routing, self.index = graph, values, routing, index
        self.b = TimelineBuilder(nodes)
        self.carries = {carry.name: carry for carry in states(graph)}
        self.entering = {name: entry(graph, carry) for name, carry in self.carries.items()}
        inside = effective(graph)
        self.sources = [k for k, names in sorted(inside.items()) if not names.isdisjoint(routing.parameters)]
        self.starts: list[Trace] = []
        self.joint = routing.tracing is not None and routing.tracing.batch == "joint"

    def run(self, seeds: Sequence[tuple[int, int]]) -> Traced:
        b, first = self.b, self.routing.parameters[0]
        held = {n: self._open(f"credit.{first}.state.{n}", self._type(c)) for n, c in sorted(self.carries.items())}
        named = {k: f"credit.{first}.{n}" for n, k in enumerate(self.sources)}
        weights = {k: self._open(name, self._lanes(k), common=self.joint) for k, name in named.items()}
        entered = {name: self._entered(name, node) for name, node in held.items()}
        signs = {
            n: b.leaf("input", sign_name(self.index, n), self._type(c), time=True) for n, c in self.carries.items()
        }
        moved = self._moved(entered)
        local = self._local(signs)
        old, new = self._ratios(moved, weights, local, signs)
        for name, node in held.items():
            total = self._scaled(moved[name], old) if name in moved else None
            b.aim(node, self._decayed(name, add_all(b, [total, self._scaled(signs[name], new)]) or node))
        for k, node in weights.items():
            shrunk = b.op("div", node, self._wide(old, b.type(node)))
            added = None if k not in local else b.op("div", local[k], self._wide(new, b.type(node)))
            b.aim(node, add_all(b, [shrunk, added]) or node)
        gradients = self._gradients(seeds, entered, weights)
        return Traced(tuple(b.nodes), gradients, tuple(self.starts))

    # -- vectors --------------------------------------------------------------------------------------------------
    def _type(self, carry: Carry) -> Type:
        return Type("float", self.graph.nodes[carry.read].type.axes)

    def _lanes(self, source: int) -> Type:
        """A parameter's axes, marked as what is never kept over time."""
        axes = self.graph.nodes[source].type.axes
        return Type("float", tuple(lane(axes, k) for k in range(len(axes))))

    def _open(self, name: str, type: Type, *, common: bool = False) -> int:
        zero = self.b.constant(0.0, type)
        node = self.b.move("trace", [-1, zero], 1, type, name, common=common)
        self.starts.append(Trace(name, node, zero))
        return node

    def _entered(self, name: str, node: int) -> int:
        """A reset forgets what led to the state."""
        flag = flag_of(self.graph, self.carries[name], self.entering[name])
        return node if flag is None else self.b.op("where", self.values[flag], self.b.const(0.0, node), node)

    def _moved(self, entered: Mapping[str, int]) -> dict[str, int]:
        """D s~: forward mode through one step."""
        tangents: dict[int, int | None] = {self.entering[name]: node for name, node in entered.items()}
        for node in self.graph.nodes:
            if node.id in tangents or node.id not in self.graph.varying or not node.args:
                continue
            given = [None if (a, node.id) in self.routing.cuts else tangents.get(a) for a in node.args]
            if all(v is None for v in given) or primitive(node.op).structure == "zero":
                continue
            args = tuple(self.values[arg] for arg in node.args)
            tangents[node.id] = primitive(node.op).jvp(self.b, args, self.values[node.id], given, node.attrs)
        found = {name: tangents.get(carry.write) for name, carry in self.carries.items()}
        return {name: node for name, node in found.items() if node is not None}

    def _local(self, signs: Mapping[str, int]) -> dict[int, int]:
        """nu^T I: reverse mode through one step, for each sample by itself or (jointly) summed over samples."""
        sweep = Sweep(self.graph, self.b, self.values, self.routing, self.entering, apart=True)
        direct = [(c.write, signs[name]) for name, c in self.carries.items() if c.write not in self.entering.values()]
        sweep.run(direct)
        found: dict[int, int] = {}
        for k in self.sources:
            total = add_all(self.b, [self._pooled(part) for part in sweep.parts.get(k, [])])
            if total is not None:
                found[k] = fit(self.b, total, self._lanes(k).axes)
        return found

    def _pooled(self, value: int) -> int:
        """A value for each sample, summed over them where they have one estimate."""
        return self.b.pool(value) if self.joint and self.b.nodes[value].time else value

    def _ratios(
        self,
        moved: Mapping[str, int],
        weights: Mapping[int, int],
        local: Mapping[int, int],
        signs: Mapping[str, int],
    ) -> tuple[int, int]:
        """(r0, r1)"""
        b = self.b
        before = self._norm(list(moved.values()), each=True)
        held, fresh = self._norm(list(weights.values())), self._norm(list(local.values()))
        count = sum(self._type(carry).numel for carry in self.carries.values())
        share = b.op("mul", fresh, b.constant(1 / sqrt(max(count, 1)), FLOAT))
        if self.joint and count:  # signs of all samples: as many times more as there are samples
            share = b.op("div", fresh, b.op("sqrt", self._squares(list(signs.values()), each=True)))
        return b.op("sqrt", b.op("div", held, before)), b.op("sqrt", share)

    def _norm(self, parts: Sequence[int], *, each: bool = False) -> int:
        """The length of several values as one vector, for each sample or (jointly) all; each: they have samples."""
        zero = self.b.constant(SMALL, FLOAT)
        return self.b.op("add", self.b.op("sqrt", self._squares(parts, each=each)), zero) if parts else zero

    def _squares(self, parts: Sequence[int], *, each: bool) -> int:
        """The sum of the squares of all entries."""
        b = self.b
        squares = [b.op("mul", part, part) for part in parts]
        total = add_all(b, [b.op("sum", s, over=tuple(range(len(b.type(s).axes)))) for s in squares])
        assert total is not None
        return self._pooled(total) if each else total

    def _wide(self, number: int, type: Type) -> int:
        return self.b.op("broadcast", number, axes=type.axes, at=()) if type.axes else number

    def _scaled(self, value: int, number: int) -> int:
        return self.b.op("mul", value, self._wide(number, self.b.type(value)))

    def _decayed(self, name: str, value: int) -> int:
        rho = self.routing.tracing.decay if self.routing.tracing is not None else 1.0
        if rho == 1.0:
            return value
        factor = decay_factor(self.b, self.graph, self.carries[name], self.values, rho)
        return self.b.op("mul", value, factor)

    # -- gradients ------------------------------------------------------------------------------------------------
    def _gradients(
        self, seeds: Sequence[tuple[int, int]], entered: Mapping[str, int], weights: Mapping[int, int]
    ) -> tuple[tuple[str, int], ...]:
        """Paths inside a step, and (q s~) theta~."""
        b = self.b
        sweep = Sweep(self.graph, b, self.values, self.routing, self.entering)
        sweep.run(seeds)
        parts = [b.op("mul", cotangent, entered[name]) for name, cotangent in sorted(sweep.entered.items())]
        total = add_all(b, [b.op("sum", p, over=tuple(range(len(b.type(p).axes)))) for p in parts])
        total = None if total is None else self._pooled(total)
        for k, node in weights.items() if total is not None else ():
            assert total is not None
            product = b.op("collect", self._scaled(node, total))
            sweep.give(k, fit(b, product, self.graph.nodes[k].type.axes))
        return sweep.parameters()
