"""Temporal differences taken literally: errors one sample and one step at a time, and how v's gradient counts for each.

The gradient that a `td` loss has under a rule is the sum over steps s of <share[s], the rule's gradient of v[s]>, where
share[s] gathers -delta[t] of the later steps t whose error v[s] is part of: the next valid step, and, with eligibility
traces, those after it, shrunk by g * lambda at every valid step between.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recdsl.backends.reference.result import Call
from recdsl.backends.reference.unroll import Values
from recdsl.graph.step import TD, StepGraph


@dataclass(frozen=True)
class Differences:
    """errors and discounts: [T, B, *axes of v], zero where there is none."""

    errors: Tensor
    discounts: Tensor

    def losses(self) -> Tensor:
        """[T, B]"""
        return (self.errors**2 / 2).reshape(*self.errors.shape[:2], -1).mean(-1)


def differences(graph: StepGraph, td: TD, steps: list[Values], call: Call, dtype: torch.dtype) -> Differences:
    """Every error of the call."""
    shape = graph.nodes[td.value].type.shape
    errors = torch.zeros(call.steps, call.samples, *shape, dtype=dtype)
    discounts = torch.zeros_like(errors)
    for b in range(call.samples):
        state = call.state
        before = None if state is None or not bool(state[td.seen][b]) else state[td.held][b].to(dtype)
        begins = state is None or not bool(state[td.same][b])
        for t in range(call.steps):
            begins = begins or bool(call.reset[t, b])
            if not call.valid[t, b]:
                continue
            value, target, rate = (_at(graph, k, steps[t], b, td) for k in (td.value, td.cumulant, td.discount))
            discounts[t, b] = 0 if begins else rate
            if before is not None:
                errors[t, b] = target + discounts[t, b] * value - before
            before, begins = value, False
    return Differences(errors, discounts)


def shared(found: Differences, td: TD, weights: Tensor, valid: Tensor) -> Tensor:
    """[T, B, *axes]: what the gradient of v at each step is multiplied by. weights: [T, B], 0 where no loss counts."""
    made = torch.zeros_like(found.errors)
    size = max(1, found.errors[0, 0].numel())
    steps, samples = weights.shape
    for b in range(samples):
        for s in range(steps):
            kept = torch.ones_like(found.errors[0, 0])
            for t in range(s + 1, steps):
                if not (valid[s, b] and valid[t, b]):
                    continue
                made[s, b] -= weights[t, b] * found.errors[t, b] / size * kept
                kept = kept * found.discounts[t, b] * td.trace
    return made


def _at(graph: StepGraph, node: int, values: Values, sample: int, td: TD) -> Tensor:
    """One sample's value with the axes of v, of which a discount may lack some."""
    own, axes = graph.nodes[node].type.axes, graph.nodes[td.value].type.axes
    value = values[node].detach()
    row = value[sample] if value.dim() > len(own) else value
    if own == axes:
        return row
    row = row.permute([own.index(axis) for axis in axes if axis in own])
    return row.reshape([axis.size if axis in own else 1 for axis in axes])
