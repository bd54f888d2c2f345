"""Kronecker-factored real-time recurrent learning, step by step as it is defined, for given random signs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from recdsl.backends.reference.rank_one import SMALL, Steps, gradients_of
from recdsl.backends.reference.result import Call
from recdsl.backends.reference.unroll import Values
from recdsl.credit.kronecker import Block, blocks
from recdsl.credit.plan import RoutingClass
from recdsl.graph.step import Node, StepGraph

Tensors = Mapping[str, Tensor]


class Uses(Steps):
    """Single steps: what enters one, each parameter, and (as a shift of its result) each use of one is a leaf."""

    def __init__(
        self, graph: StepGraph, routing: RoutingClass, params: Tensors, call: Call, dtype: torch.dtype
    ) -> None:
        super().__init__(graph, routing, params, call, dtype)
        self.blocks = blocks(graph, routing.parameters)
        self.places = {site.node for block in self.blocks for site in block.sites}
        self.shifts: dict[int, Tensor] = {}

    def _node(self, node: Node, values: Values, t: int) -> Tensor:
        made = super()._node(node, values, t)
        if node.id not in self.places:
            return made
        shape = (self.call.samples, *node.type.shape)
        self.shifts[node.id] = torch.zeros(shape, dtype=self.dtype, requires_grad=True)
        return made + self.shifts[node.id]

    def gradients(self, chosen: Sequence[Tensor], divided: Sequence[float], signs: Tensors) -> dict[int, Tensor]:
        """By effective parameter."""
        fixed, samples = self.invariant(), self.call.samples
        carried = {name: value.detach() for name, value in self._start().items()}
        size = sum(carried[name][0].numel() for name in self.names)
        shapes = {k: (samples, *fixed[k].shape) for k in self.sources}
        found = {k: torch.zeros(shape[1:], dtype=self.dtype) for k, shape in shapes.items()}
        inputs, rows = list[Tensor](), list[Tensor]()
        for block in self.blocks:
            shape = fixed[block.source].shape
            inputs.append(torch.zeros((samples, *(shape[k] for k in block.summed)), dtype=self.dtype))
            rows.append(torch.zeros((samples, size, *(shape[k] for k in block.kept)), dtype=self.dtype))
        for t in range(self.call.steps):
            self.own = {k: fixed[k].detach().expand(shapes[k]).clone().requires_grad_() for k in self.sources}
            values, leaving = self._step(t, carried)
            rows = [torch.where(_like(self.call.reset[t], b), torch.zeros_like(b), b) for b in rows]
            direct = gradients_of(self._total(values, t, chosen, divided), [*self.met.values(), *self.own.values()])
            asked = dict(zip([*self.met, *self.own], direct, strict=True))
            q = _flat([asked[name] for name in self.names], samples)
            for k in self.sources:
                found[k] = found[k] + asked[k].sum(0)
            for block, a, b in zip(self.blocks, inputs, rows, strict=True):
                found[block.source] = found[block.source] + _product(block, torch.einsum("bn,bn...->b...", q, b), a)
            moved = [
                self._factors(n, a, b, values, leaving, signs, t)
                for n, (a, b) in enumerate(zip(inputs, rows, strict=True))
            ]
            valid = self.call.valid[t]
            inputs = [torch.where(_like(valid, a), new, a) for (new, _), a in zip(moved, inputs, strict=True)]
            rows = [torch.where(_like(valid, b), new, b) for (_, new), b in zip(moved, rows, strict=True)]
            carried = {name: value.detach() for name, value in leaving.items()}
        return found

    def _factors(
        self, n: int, a: Tensor, b: Tensor, values: Values, leaving: Tensors, signs: Tensors, t: int
    ) -> tuple[Tensor, Tensor]:
        """A <- c0 p0 A + sum_m c_m p_m z_m; B <- (c0 / p0) D B + sum_m (c_m / p_m) S_m."""
        samples, block = self.call.samples, self.blocks[n]
        sites = [self.shifts[site.node] for site in block.sites]
        state = _flat([leaving[name] for name in self.names], samples)
        columns = [
            gradients_of(state[:, i].sum(), [*(self.met[m] for m in self.names), *sites]) for i in range(state.shape[1])
        ]
        d = torch.stack([_flat(column[: len(self.names)], samples) for column in columns], 1)
        moved = torch.einsum("bij,bj...->bi...", d, b)
        sign, ratio = signs[f"{n}.0"][t], (_norm(moved) / _norm(a)).sqrt()
        new_a, new_b = _like(sign * ratio, a) * a, _like(sign / ratio, b) * moved
        for m, site in enumerate(block.sites, 1):
            local = torch.stack([column[len(self.names) + m - 1] for column in columns], 1)
            z = torch.full((samples,), site.sign, dtype=self.dtype)
            if site.other is not None:
                own = values[site.other].detach()
                shape = (samples, *self.graph.nodes[site.other].type.shape)
                z = own.expand(shape).permute(0, *(1 + k for k in site.order))
            sign, ratio = signs[f"{n}.{m}"][t], (_norm(local) / _norm(z)).sqrt()
            new_a, new_b = new_a + _like(sign * ratio, z) * z, new_b + _like(sign / ratio, local) * local
        return new_a, new_b * (1.0 if self.routing.tracing is None else self.routing.tracing.decay)


def _product(block: Block, left: Tensor, right: Tensor) -> Tensor:
    """The sum over samples of the outer product, with the parameter's axes."""
    wide = left.reshape(*left.shape, *(1,) * (right.dim() - 1)) * right.reshape(
        right.shape[0], *(1,) * (left.dim() - 1), *right.shape[1:]
    )
    places = [*block.kept, *block.summed]
    return wide.sum(0).permute([places.index(k) for k in range(len(places))])


def _flat(parts: Sequence[Tensor], samples: int) -> Tensor:
    """[B, n]"""
    return torch.cat([part.reshape(samples, -1) for part in parts], 1)


def _norm(value: Tensor) -> Tensor:
    """[B]: the length of each sample's vector."""
    return value.reshape(value.shape[0], -1).pow(2).sum(1).sqrt() + SMALL


def _like(number: Tensor, value: Tensor) -> Tensor:
    return number.reshape(-1, *(1,) * (value.dim() - 1))
