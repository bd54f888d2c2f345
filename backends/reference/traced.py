"""Forward rules taken literally: each scalar of an effective parameter is shifted on its own, in its own network.

For each window of losses the network is run anew. On entering every step up to the one that the window begins with, a
state keeps its dependence on the shift only on the entries in the scalar's scope; elsewhere the value goes on and the
dependence does not. Inside the window nothing is confined (semantics 2.1 and 8, O4). No Jacobian and no trace is ever
formed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from recdsl.backends.reference.masked import Dependence
from recdsl.backends.reference.result import Call
from recdsl.backends.reference.unroll import Unroll, Values
from recdsl.credit.influence import effective
from recdsl.credit.plan import RoutingClass
from recdsl.graph.step import Node, StepGraph
from recdsl.jacobian.pieces import Key


def traced_gradients(
    graph: StepGraph,
    routing: RoutingClass,
    params: Mapping[str, Tensor],
    call: Call,
    chosen: Sequence[Tensor],
    divided: Sequence[float],
    shares: Mapping[int, Tensor],
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """The gradient of a forward class. chosen: bool [T, B] for each loss, the pairs it counts; divided: its divisor.

    shares: of each `td` loss, what the gradient of its prediction counts at each step, [T, B, *axes].
    """
    leaves = {name: params[name].clone().requires_grad_() for name in routing.parameters}
    with torch.enable_grad():
        total = torch.zeros((), dtype=dtype, requires_grad=True).sum()
        used = Unroll(graph, {**params, **leaves}, call, routing.cuts, dtype).invariant()
        for source, names in sorted(effective(graph).items()):
            if names.isdisjoint(routing.parameters):
                continue
            shift = _Shifted(graph, routing, params, call, source, dtype).gradient(chosen, divided, shares)
            total = total + (shift.reshape(used[source].shape) * used[source]).sum()
        parts = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, parts, strict=True))


class _Shifted(Unroll):
    """The network once for each scalar of one effective parameter, side by side as samples."""

    def __init__(
        self,
        graph: StepGraph,
        routing: RoutingClass,
        params: Mapping[str, Tensor],
        call: Call,
        source: int,
        dtype: torch.dtype,
    ) -> None:
        self.source, self.count = source, max(1, graph.nodes[source].type.numel)
        super().__init__(graph, params, _repeated(call, self.count), routing.cuts, dtype, routing)
        self.routing, self.own = routing, call.samples
        self.shift = torch.zeros(self.count, dtype=dtype, requires_grad=True)
        self.boundary = 0
        self.reach = self._reach(params)
        self.scopes = {
            carry.name: self._scope(carry.name, graph.nodes[carry.read].type.shape) for carry in graph.carries
        }

    def _reach(self, params: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Under `snap(n)`: bool [scalars, *axes] by carried value, what masks of weights let each scalar reach."""
        tracing, graph = self.routing.tracing, self.graph
        masks = {p.name: params[p.name] for p in graph.parameters if p.init[0] == "mask"}
        if tracing is None or tracing.scope != "support" or not masks:
            return {}
        return Dependence(graph, masks).reach(self.source, tracing.depth)

    def _scope(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """bool [scalars * samples, *shape]: the entries of a state on which each scalar's influence is kept."""
        seed = self.graph.nodes[self.source].type.shape
        keys = [k for s in self.routing.scopes if (s.source, s.carry) == (self.source, name) for k in s.allowed]
        found = torch.zeros((*shape, *seed), dtype=torch.bool)
        for key in keys:
            found |= _pattern(key, shape, seed)
        lanes = found.reshape(*shape, self.count).movedim(-1, 0)
        lanes = lanes & self.reach[name] if name in self.reach else lanes
        return lanes.repeat_interleave(self.own, 0)

    def gradient(self, chosen: Sequence[Tensor], divided: Sequence[float], shares: Mapping[int, Tensor]) -> Tensor:
        """[scalars]: the derivative of the class's losses, window by window."""
        found, (size, every) = torch.zeros(self.count, dtype=self.dtype), self._window()
        for first in range(0, self.call.steps, every):
            self.boundary = max(0, first + every - size)
            window = range(first, min(first + every, self.call.steps))
            found = found + self._of(window, chosen, divided, shares)
        return found

    def _window(self) -> tuple[int, int]:
        window = self.routing.window
        return (self.call.steps, self.call.steps) if window.size is None else (window.size, window.every)

    def _of(
        self, window: range, chosen: Sequence[Tensor], divided: Sequence[float], shares: Mapping[int, Tensor]
    ) -> Tensor:
        """[scalars]: the derivative of the losses of these steps."""
        steps, _ = self.run(window.stop, 0)
        total = torch.zeros((), dtype=self.dtype)
        for k in self.routing.losses:
            loss, pairs = self.graph.losses[k], chosen[k].repeat(1, self.count)
            for t in window if loss.td is not None else ():
                wide = shares[k][t].repeat(self.count, *(1,) * (shares[k].dim() - 2))
                total = total + (wide * self.initial(loss.root, steps[t])).sum()
            for t in window if loss.td is None else ():
                part = self.initial(loss.node, steps[t]).expand(pairs.shape[1])[pairs[t]].sum()
                total = total + loss.weight / divided[k] * part
        for name, node in self.graph.outputs:
            if name in self.call.cotangents:
                for t in window:
                    total = total + (self.call.cotangents[name][t] * self.initial(node, steps[t])).sum()
        if not total.requires_grad:
            return torch.zeros(self.count, dtype=self.dtype)
        (found,) = torch.autograd.grad(total, [self.shift], allow_unused=True, materialize_grads=True)
        return found

    # -- the shift ------------------------------------------------------------------------------------------------
    def _shifted(self, value: Tensor) -> Tensor:
        """[scalars * samples, *shape]: sample j * B + b has scalar j shifted."""
        eye = torch.eye(self.count, dtype=self.dtype) * self.shift[:, None]
        wide = value + eye.reshape(self.count, *value.shape)
        return wide.repeat_interleave(self.own, 0)

    def initial(self, node: int, values: Values) -> Tensor:
        bare = node == self.source and values[node].dim() == len(self.graph.nodes[node].type.axes)
        return self._shifted(values[node]) if bare else values[node]

    def operand(self, arg: int, node: Node, values: Values) -> Tensor:
        if arg == self.source and node.id in self.graph.varying and (arg, node.id) not in self.cuts:
            return self.initial(arg, values)
        return super().operand(arg, node, values)

    def entered(self, name: str, value: Tensor, t: int) -> Tensor:
        """What crosses a step boundary: inside a window, all of it."""
        return self._kept(name, value) if t <= self.boundary else value

    def leaves(self, value: Tensor) -> Tensor:
        """The dependence on the shift, decayed."""
        rho = 1.0 if self.routing.tracing is None else self.routing.tracing.decay
        if rho == 1.0 or not value.is_floating_point():
            return value
        return value.detach() + rho * (value - value.detach())

    def _kept(self, name: str, value: Tensor) -> Tensor:
        return torch.where(self.scopes[name], value, value.detach())

    def read(self, values: Values, t: int) -> Values:
        """What losses and outputs read. "post": of the states that the step leaves, only the entries in the scope."""
        if self.routing.tracing is None or self.routing.tracing.read != "post":
            return values
        leaves = {carry.read for carry in self.graph.carries}
        pinned: Values = {}
        for carry in self.graph.carries:
            if carry.credited and carry.write not in leaves and carry.write not in pinned:
                wide = self._wide(self.initial(carry.write, values), carry)
                pinned[carry.write] = self._kept(carry.name, wide)
        seen: Values = {k: v for k, v in values.items() if k not in self.graph.varying or k in leaves}
        for node in self.graph.nodes:
            if node.id in pinned:
                seen[node.id] = pinned[node.id]
            elif node.id not in seen:
                seen[node.id] = self._node(node, seen, t)
        return seen


def _repeated(call: Call, count: int) -> Call:
    """Every sample `count` times, the samples of one copy side by side."""
    return replace(
        call,
        batch={name: _tiled(value, count) for name, value in call.batch.items()},
        valid=_tiled(call.valid, count),
        reset=_tiled(call.reset, count),
        state=None if call.state is None else {k: v if k == "t" else _rows(v, count) for k, v in call.state.items()},
        cotangents={name: _tiled(value, count) for name, value in call.cotangents.items()},
    )


def _tiled(value: Tensor, count: int) -> Tensor:
    return value.repeat(1, count, *(1,) * (value.dim() - 2))


def _rows(value: Tensor, count: int) -> Tensor:
    return value.repeat(count, *(1,) * (value.dim() - 1))


def _pattern(key: Key, shape: tuple[int, ...], seed: tuple[int, ...]) -> Tensor:
    """bool [*shape, *seed]: the pairs of entries that a pattern holds."""
    if not (*shape, *seed):
        return torch.ones((), dtype=torch.bool)
    grids = torch.meshgrid(*[torch.arange(n) for n in (*shape, *seed)], indexing="ij")
    found = torch.ones((*shape, *seed), dtype=torch.bool)
    for tie in key:
        row, column = grids[tie.axis], grids[len(shape) + tie.seed]
        found &= (row >= tie.row) & (row < tie.row + tie.size) & (column - tie.column == row - tie.row)
    return found
