"""Parameters that change between calls: the gradient by one shift that all calls have in common (semantics 5.1 and O6).

Traces that go on from call to call give exactly this, whatever the jumps, where what is traced are the parameters
themselves. (The traces of what is computed from parameters alone are chained with that computation's last derivative.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from recdsl.backends.reference.result import Call
from recdsl.backends.reference.schedule import counted, divisors
from recdsl.backends.reference.unroll import Unroll
from recdsl.credit.select import matches
from recdsl.graph.step import Carry, Loss, StepGraph

Tensors = Mapping[str, Tensor]


class _Going(Unroll):
    """A call whose incoming state keeps what it depends on."""

    def _given(self, value: Tensor, carry: Carry) -> Tensor:
        return value


def common_shift(
    graph: StepGraph, parameters: Sequence[Tensors], calls: Sequence[Call], dtype: torch.dtype = torch.float64
) -> list[dict[str, Tensor]]:
    """For each call, the derivative of its loss by what is added to the parameters of this and all earlier calls.

    parameters: of each call, all of them. calls: one after the other, each with as many samples; `state` and `start`
    of all but the first are ignored. Raises ValueError for `td` losses, whose gradient is no derivative of the loss.
    """
    if any(loss.td is not None for loss in graph.losses):
        raise ValueError("the gradient of a temporal difference is not the derivative of its loss by a common shift")
    trained = [p.name for p in graph.parameters if not p.frozen]
    shift = {name: torch.zeros_like(parameters[0][name], dtype=dtype, requires_grad=True) for name in trained}
    found: list[dict[str, Tensor]] = []
    state, start = calls[0].state, calls[0].start
    for given, call in zip(parameters, calls, strict=True):
        moved = {name: value.to(dtype) for name, value in given.items()}
        moved |= {name: moved[name] + shift[name] for name in trained}
        unroll = _Going(graph, moved, replace(call, state=state, start=start), frozenset(), dtype)
        steps, state = unroll.run(call.steps, 0)
        start += call.steps
        chosen = [counted(loss, call.valid) for loss in graph.losses]
        found.append({name: torch.zeros_like(value) for name, value in shift.items()})
        for loss, pairs, count in zip(graph.losses, chosen, divisors(graph, chosen), strict=True):
            total = torch.zeros((), dtype=dtype)
            for t in range(call.steps):
                value = steps[t][loss.node].expand(pairs.shape[1])
                total = total + loss.weight / count * value[pairs[t]].sum()
            for name, part in _gradients(total, {n: shift[n] for n in trained if _trains(loss, n)}).items():
                found[-1][name] = found[-1][name] + part
    return found


def _trains(loss: Loss, parameter: str) -> bool:
    """Whether the loss may train the parameter."""
    return not loss.trains or any(matches(pattern, parameter) for pattern in loss.trains)


def _gradients(total: Tensor, shift: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if not total.requires_grad:
        return {}
    parts = torch.autograd.grad(
        total, list(shift.values()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return dict(zip(shift, parts, strict=True))
