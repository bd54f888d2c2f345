"""Kronecker-factored real-time recurrent learning: for each matrix the influence as one product, right on average.

The influence of W on the states s is estimated by A (x) B, with A like the inputs of W and B like d s / d y for
y = W z. With independent random signs c at each step and for each use m of W (Mujika et al. 2018; semantics 4.8):
A <- c0 p0 A + sum_m c_m p_m z_m, B <- (c0 / p0) D B + sum_m (c_m / p_m) d s / d y_m, where the p > 0 balance norms and
do not depend on the signs. A masked step changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from recdsl.credit.influence import states
from recdsl.credit.kronecker import Block, Site, blocks
from recdsl.credit.plan import RoutingClass
from recdsl.graph.step import StepGraph
from recdsl.graph.types import FLOAT, Type
from recdsl.jacobian.compose import composed, confined
from recdsl.jacobian.pieces import Axes, Piece, chosen, fit, lane_axes
from recdsl.jacobian.step import StepJacobian
from recdsl.ops.base import add_all
from recdsl.program.rank_one import SMALL, sign_name
from recdsl.program.sweep import Sweep, Trace, Traced, decay_factor, entry, flag_of
from recdsl.program.timeline import TimelineBuilder, TNode

DENSE = ((),)
"""The pattern of a block without structure."""


def kronecker_timeline(
    graph: StepGraph,
    nodes: Sequence[TNode],
    values: Sequence[int],
    routing: RoutingClass,
    seeds: Sequence[tuple[int, int]],
    index: int,
) -> Traced:
    """Factors and gradients of one class. Arguments as for `rank_one_timeline`."""
    return _Kronecker(graph, nodes, values, routing, index).run(seeds)


@dataclass
class _Held:
    """The factors of one block as a step finds them. rows: by carry."""

    block: Block
    input: int
    rows: dict[str, int] = field(default_factory=dict[str, int])
    entered: dict[str, int] = field(default_factory=dict[str, int])


class _Kronecker:
    def __init__(
        self, graph: StepGraph, nodes: Sequence[TNode], values: Sequence[int], routing: RoutingClass, index: int
    ) -> None:
        self.graph, self.values, self.routing, self.index = graph, values, routing, index
        self.b = TimelineBuilder(nodes)
        self.carries = {carry.name: carry for carry in sorted(states(graph), key=lambda carry: carry.name)}
        self.entering = {name: entry(graph, carry) for name, carry in self.carries.items()}
        self.jacobian = StepJacobian(graph, self.b, values, routing.cuts, self.entering.values(), hoisted=True)
        self.starts: list[Trace] = []

    def run(self, seeds: Sequence[tuple[int, int]]) -> Traced:
        held = [self._open(n, block) for n, block in enumerate(blocks(self.graph, self.routing.parameters))]
        writes = {carry.write: () for carry in self.carries.values()}
        step = {name: self.jacobian.pieces(self.entering[name], writes) for name in self.carries} if held else {}
        for number, item in enumerate(held):
            self._update(number, item, step)
        gradients = self._gradients(seeds, held)
        return Traced(tuple(self.b.nodes), gradients, tuple(self.starts))

    # -- factors --------------------------------------------------------------------------------------------------
    def _axes(self, name: str) -> Axes:
        return self.graph.nodes[self.carries[name].read].type.axes

    def _kept(self, block: Block) -> Axes:
        """The parameter's axes that its products have."""
        axes = self.graph.nodes[block.source].type.axes
        return tuple(axes[k] for k in block.kept)

    def _summed(self, block: Block) -> Axes:
        """Those that its products sum over."""
        axes = self.graph.nodes[block.source].type.axes
        return tuple(axes[k] for k in block.summed)

    def _open(self, number: int, block: Block) -> _Held:
        first = self.routing.parameters[0]
        found = _Held(block, self._trace(f"credit.{first}.{number}", lane_axes((), self._summed(block))))
        for name in self.carries:
            rows = (*self._axes(name), *lane_axes((), self._kept(block)))
            found.rows[name] = self._trace(f"credit.{first}.{number}.{name}", rows)
            found.entered[name] = self._entered(name, found.rows[name], block)
        return found

    def _trace(self, name: str, axes: Axes) -> int:
        zero = self.b.constant(0.0, Type("float", axes))
        node = self.b.move("trace", [-1, zero], 1, Type("float", axes), name)
        self.starts.append(Trace(name, node, zero))
        return node

    def _entered(self, name: str, node: int, block: Block) -> int:
        """A reset forgets what led to the state."""
        flag = flag_of(self.graph, self.carries[name], self.entering[name])
        if flag is None:
            return node
        rows, seed = self._axes(name), self._kept(block)
        return chosen(self.b, Piece((), node), self.values[flag], rows, seed, then=False).value

    def _update(self, number: int, item: _Held, step: Mapping[str, Mapping[int, list[Piece]]]) -> None:
        """Both factors as the step leaves them."""
        b, moved = self.b, self._moved(item, step)
        ratio = b.op("sqrt", b.op("div", self._norm(list(moved.values())), self._norm([item.input])))
        sign = self._sign(number, 0)
        inputs = [self._scaled(item.input, b.op("mul", sign, ratio))]
        rows = {name: [self._scaled(value, b.op("div", sign, ratio))] for name, value in moved.items()}
        for place, site in enumerate(item.block.sites, 1):
            sign, value, local = self._sign(number, place), self._input(item.block, site), self._local(item.block, site)
            ratio = b.op("sqrt", b.op("div", self._norm(list(local.values())), self._norm([value])))
            inputs.append(self._scaled(value, b.op("mul", sign, ratio)))
            for name, made in local.items():
                rows.setdefault(name, []).append(self._scaled(made, b.op("div", sign, ratio)))
        b.aim(item.input, self._held(item.input, add_all(b, inputs)))
        for name, node in item.rows.items():
            total = add_all(b, rows.get(name, []))
            b.aim(node, self._decayed(name, self._held(item.entered[name], total)))

    def _moved(self, item: _Held, step: Mapping[str, Mapping[int, list[Piece]]]) -> dict[str, int]:
        """D B"""
        seed, parts = self._kept(item.block), dict[str, list[int]]()
        for name, node in item.entered.items():
            for target, carry in self.carries.items():
                rows = self._axes(target)
                for outer in step[name].get(carry.write, []):
                    made = composed(self.b, outer, Piece((), node), rows, self._axes(name), seed)
                    dense = confined(self.b, made, DENSE, rows, seed) if made is not None else []
                    parts.setdefault(target, []).extend(piece.value for piece in dense)
        return {name: total for name, found in parts.items() if (total := add_all(self.b, found)) is not None}

    def _local(self, block: Block, site: Site) -> dict[str, int]:
        """d state / d y of one use, by carry."""
        own = self.graph.nodes[site.node].type.axes
        made = self.jacobian.pieces(site.node, {carry.write: () for carry in self.carries.values()})
        found: dict[str, int] = {}
        for name, carry in self.carries.items():
            rows = self._axes(name)
            parts = [q.value for p in made.get(carry.write, []) for q in confined(self.b, p, DENSE, rows, own)]
            total = add_all(self.b, parts)
            if total is not None:
                found[name] = fit(self.b, total, (*rows, *lane_axes((), self._kept(block))))
        return found

    def _input(self, block: Block, site: Site) -> int:
        """z, with its axes as the parameter has them."""
        if site.other is None:
            return self.b.constant(site.sign, FLOAT)
        value = self.values[site.other]
        if site.order != tuple(range(len(site.order))):
            value = self.b.op("transpose", value, order=site.order)
        return fit(self.b, value, lane_axes((), self._summed(block)))

    def _held(self, before: int, after: int | None) -> int:
        """What a masked step leaves is what it found."""
        b = self.b
        made = b.const(0.0, before) if after is None else after
        mask = self.graph.leaf.get("input:mask")
        if mask is None:
            return made
        axes, flag = b.type(before).axes, self.values[mask]
        return b.op("where", b.op("broadcast", flag, axes=axes, at=()) if axes else flag, made, before)

    def _decayed(self, name: str, value: int) -> int:
        rho = self.routing.tracing.decay if self.routing.tracing is not None else 1.0
        if rho == 1.0:
            return value
        factor, axes = decay_factor(self.b, self.graph, self.carries[name], self.values, rho), self.b.type(value).axes
        at = tuple(range(len(self._axes(name))))
        return self.b.op(
            "mul", value, self.b.op("broadcast", factor, axes=axes, at=at) if len(at) < len(axes) else factor
        )

    # -- numbers --------------------------------------------------------------------------------------------------
    def _sign(self, number: int, place: int) -> int:
        return self.b.leaf("input", sign_name(self.index, f"{number}.{place}"), FLOAT, time=True)

    def _norm(self, parts: Sequence[int]) -> int:
        """The length of several values as one vector, for each sample."""
        b = self.b
        squares = [b.op("mul", part, part) for part in parts]
        total = add_all(b, [b.op("sum", s, over=tuple(range(len(b.type(s).axes)))) for s in squares])
        small = b.constant(SMALL, FLOAT)
        return small if total is None else b.op("add", b.op("sqrt", total), small)

    def _scaled(self, value: int, number: int) -> int:
        axes = self.b.type(value).axes
        return self.b.op("mul", value, self.b.op("broadcast", number, axes=axes, at=()) if axes else number)

    # -- gradients ------------------------------------------------------------------------------------------------
    def _gradients(self, seeds: Sequence[tuple[int, int]], held: Sequence[_Held]) -> tuple[tuple[str, int], ...]:
        """Paths inside a step, and (q B) A of the states that enter it."""
        b = self.b
        sweep = Sweep(self.graph, b, self.values, self.routing, self.entering)
        sweep.run(seeds)
        for item in held:
            block, parts = item.block, list[int]()
            for name, cotangent in sorted(sweep.entered.items()):
                count = len(self._axes(name))
                over, kept = tuple(range(count)), tuple(range(count, count + len(block.kept)))
                parts.append(b.op("contract", cotangent, item.entered[name], x=over, y=(*over, *kept), out=kept))
            total = add_all(b, parts)
            if total is not None:
                out = tuple(range(len(block.kept) + len(block.summed)))
                product = b.op("contract", total, item.input, x=block.kept, y=block.summed, out=out)
                sweep.give(block.source, fit(b, b.op("collect", product), self.graph.nodes[block.source].type.axes))
        return sweep.parameters()
