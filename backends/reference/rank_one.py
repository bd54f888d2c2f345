"""Unbiased online recurrent optimisation, step by step as it is defined, for given random signs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import sqrt

import torch
from torch import Tensor

from recdsl.backends.reference.result import Call
from recdsl.backends.reference.unroll import Unroll, Values
from recdsl.credit.influence import effective, states
from recdsl.credit.plan import RoutingClass
from recdsl.graph.step import Node, StepGraph

SMALL = 1e-7
Tensors = Mapping[str, Tensor]


def rank_one_gradients(
    graph: StepGraph,
    routing: RoutingClass,
    params: Tensors,
    call: Call,
    chosen: Sequence[Tensor],
    divided: Sequence[float],
    signs: Tensors,
    dtype: torch.dtype,
    kind: type[Steps] | None = None,
) -> dict[str, Tensor]:
    """The gradient of one class; kind: another estimate than rank one.

    signs: by carry (or use), [T, B, *axes] of +1 and -1; otherwise as `traced_gradients`.
    """
    leaves = {name: params[name].clone().requires_grad_() for name in routing.parameters}
    with torch.enable_grad():
        made = kind or Steps
        found = made(graph, routing, params, call, dtype).gradients(chosen, divided, signs)
        used = Unroll(graph, {**params, **leaves}, call, routing.cuts, dtype).invariant()
        total = torch.zeros((), dtype=dtype, requires_grad=True).sum()
        for source, value in found.items():
            total = total + (value * used[source]).sum()
        parts = torch.autograd.grad(total, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(leaves, parts, strict=True))


class Steps(Unroll):
    """Single steps: what enters one, and each parameter for each sample, are leaves."""

    def __init__(
        self, graph: StepGraph, routing: RoutingClass, params: Tensors, call: Call, dtype: torch.dtype
    ) -> None:
        super().__init__(graph, params, call, routing.cuts, dtype, routing)
        inside = effective(graph)
        self.routing = routing
        self.sources = [k for k, names in sorted(inside.items()) if not names.isdisjoint(routing.parameters)]
        self.names = [carry.name for carry in states(graph)]
        self.kept = {carry.name for carry in states(graph) if not carry.resets}
        self.own: dict[int, Tensor] = {}
        self.met: dict[str, Tensor] = {}

    def initial(self, node: int, values: Values) -> Tensor:
        return self.own.get(node, values[node])

    def operand(self, arg: int, node: Node, values: Values) -> Tensor:
        mine = arg in self.own and node.id in self.graph.varying and (arg, node.id) not in self.cuts
        return self.own[arg] if mine else super().operand(arg, node, values)

    def entered(self, name: str, value: Tensor, t: int) -> Tensor:
        self.met[name] = value.detach().requires_grad_(value.is_floating_point())
        return self.met[name]

    def _forgotten(self, state: Tensor, t: int) -> Tensor:
        """What a reset leaves of an estimate."""
        return torch.where(_wide(self.call.reset[t], state), torch.zeros_like(state), state)

    def _faded(self, state: Tensor, t: int) -> Tensor:
        """What a step leaves of an estimate that decays; a masked step takes nothing."""
        assert self.routing.tracing is not None
        return torch.where(_wide(self.call.valid[t], state), self.routing.tracing.decay * state, state)

    def gradients(self, chosen: Sequence[Tensor], divided: Sequence[float], signs: Tensors) -> dict[int, Tensor]:
        """By effective parameter."""
        fixed = self.invariant()
        samples = self.call.samples
        carried = {name: value.detach() for name, value in self._start().items()}
        state = {name: torch.zeros_like(carried[name]) for name in self.names}
        shapes = {k: (samples, *fixed[k].shape) for k in self.sources}
        weight = {k: torch.zeros(shape, dtype=self.dtype) for k, shape in shapes.items()}
        found = {k: torch.zeros(shape[1:], dtype=self.dtype) for k, shape in shapes.items()}
        for t in range(self.call.steps):
            self.own = {k: fixed[k].detach().expand(shapes[k]).clone().requires_grad_() for k in self.sources}
            values, leaving = self._step(t, carried)
            state = {n: s if n in self.kept else self._forgotten(s, t) for n, s in state.items()}
            total = self._total(values, t, chosen, divided)
            direct = gradients_of(total, [*self.met.values(), *self.own.values()])
            asked = dict(zip([*self.met, *self.own], direct, strict=True))
            estimate = sum(
                ((asked[n] * state[n]).reshape(samples, -1).sum(1) for n in self.names), torch.zeros(samples)
            )
            for k in self.sources:
                found[k] = found[k] + asked[k].sum(0) + (_like(estimate, weight[k]) * weight[k]).sum(0)
            state, weight = self._next(state, weight, {n: leaving[n] for n in self.names}, signs, t)
            state = {name: self._faded(value, t) for name, value in state.items()}
            carried = {name: value.detach() for name, value in leaving.items()}
        return found

    def _total(self, values: Values, t: int, chosen: Sequence[Tensor], divided: Sequence[float]) -> Tensor:
        """The class's losses, and <cotangents, outputs>, at one step."""
        total = torch.zeros((), dtype=self.dtype)
        for k in self.routing.losses:
            loss, pairs = self.graph.losses[k], chosen[k][t]
            value = self.initial(loss.node, values).expand(pairs.shape[0])
            total = total + loss.weight / divided[k] * value[pairs].sum()
        for name, node in self.graph.outputs:
            if name in self.call.cotangents:
                total = total + (self.call.cotangents[name][t] * self.initial(node, values)).sum()
        return total

    def _next(
        self, state: Tensors, weight: dict[int, Tensor], leaving: Tensors, signs: Tensors, t: int
    ) -> tuple[dict[str, Tensor], dict[int, Tensor]]:
        """s~ <- r0 D s~ + r1 nu; theta~ <- theta~ / r0 + nu^T I / r1."""
        samples = self.call.samples
        moved = self._moved(state, leaving)
        pushed = sum(((leaving[n] * signs[n][t]).sum() for n in self.names), torch.zeros((), dtype=self.dtype))
        local = dict(zip(self.own, gradients_of(pushed, list(self.own.values())), strict=True))
        old = (_norm(weight.values(), samples) / _norm(moved.values(), samples)).sqrt()
        count = sum(value[0].numel() for value in state.values())
        new = (_norm(local.values(), samples) / sqrt(max(count, 1))).sqrt()
        made = {n: _like(old, moved[n]) * moved[n] + _like(new, moved[n]) * signs[n][t] for n in self.names}
        shrunk = {k: w / _like(old, w) + local[k] / _like(new, w) for k, w in weight.items()}
        return made, shrunk

    def _moved(self, state: Tensors, leaving: Tensors) -> dict[str, Tensor]:
        """D s~, by differentiating the (linear) product from the left."""
        left = {n: torch.zeros_like(leaving[n]).requires_grad_() for n in self.names}
        paired = sum(((leaving[n] * left[n]).sum() for n in self.names), torch.zeros((), dtype=self.dtype))
        given = gradients_of(paired, [self.met[n] for n in self.names], graph=True)
        total = sum(((g * state[n]).sum() for g, n in zip(given, self.names, strict=True)), torch.zeros(()))
        return dict(zip(self.names, gradients_of(total, list(left.values())), strict=True))


def gradients_of(total: Tensor, leaves: Sequence[Tensor], *, graph: bool = False) -> list[Tensor]:
    """Gradients, zero where there is no path."""
    floating = [leaf for leaf in leaves if leaf.requires_grad]
    if not total.requires_grad or not floating:
        return [torch.zeros_like(leaf) for leaf in leaves]
    parts = torch.autograd.grad(
        total, floating, retain_graph=True, create_graph=graph, allow_unused=True, materialize_grads=True
    )
    table = dict(zip(map(id, floating), parts, strict=True))
    return [table.get(id(leaf), torch.zeros_like(leaf)) for leaf in leaves]


def _norm(parts: Iterable[Tensor], samples: int) -> Tensor:
    """[B]: the length of several values as one vector, for each sample."""
    flat = [part.reshape(samples, -1) for part in parts]
    return torch.cat(flat, 1).pow(2).sum(1).sqrt() + SMALL if flat else torch.full((samples,), SMALL)


def _like(number: Tensor, value: Tensor) -> Tensor:
    return number.reshape(-1, *(1,) * (value.dim() - 1))


def _wide(flags: Tensor, value: Tensor) -> Tensor:
    return flags.reshape(-1, *(1,) * (value.dim() - 1))
