"""Lambda-returns of synthetic gradients taken literally: the mean of those over one window, two, and so on."""

from __future__ import annotations

import torch
from torch import Tensor

from recdsl.backends.reference.answered import Objective, Tensors, Window, answer, column, flat, followed, read, split
from recdsl.backends.reference.result import Call
from recdsl.backends.reference.unroll import Values
from recdsl.credit.plan import RoutingClass
from recdsl.graph.step import StepGraph


class _Return(Window):
    """The network from a boundary on, where credit is scaled on its way over those behind it."""

    def _step(self, t: int, carried: Tensors) -> tuple[Values, dict[str, Tensor]]:
        assert self.routing.head is not None
        if t > self.first and t % self.routing.window.every == 0:
            scale, floats = self.routing.head.asked.scale, {n: v for n, v in carried.items() if v.is_floating_point()}
            carried = {**carried, **{n: v.detach() + scale * (v - v.detach()) for n, v in floats.items()}}
        return super()._step(t, carried)


def lambda_return(
    graph: StepGraph,
    routing: RoutingClass,
    params: Tensors,
    call: Call,
    objective: Objective,
    divisor: float,
    dtype: torch.dtype,
    first: int,
) -> Tensor:
    """[B, entries]: the lambda-return at the boundary before step `first` (Pemberton and Costa 2024).

    The mean of n-window returns with weights (1 - lambda) lambda^(n - 1), and what is left of them at the end of the
    call. An n-window return is the derivative with respect to what is carried there of the losses of n windows and of
    <answer, what is carried> behind the last of them; the scale of answers counts at every boundary on the way.
    """
    head, every = routing.head, routing.window.every
    assert head is not None
    share = head.asked.mixing or 0.0
    ends = [*range(first + every, call.steps, every), call.steps]
    found = torch.zeros((), dtype=dtype)
    for n, end in enumerate(ends, 1):
        unroll = _Return(graph, params, call, routing, dtype, first)
        steps, leaving = unroll.run(end, 0)
        total = objective(steps[:end], range(first, min(first + every, end)))
        for place in range(first + every, end, every):
            total = total + objective(steps, range(place, min(place + every, end)))
        goes_on = followed(call, end, head.beyond)
        answers = answer(graph, head, params, read(graph, head, leaving, call, end)).detach()
        for name, part in split(graph, head, answers).items():
            kept = torch.where(column(goes_on, part), part, torch.zeros_like(part))
            total = total + (head.asked.scale / divisor * kept * leaving[name]).sum()
        states = [unroll.entering[name] for name in head.carries]
        parts = torch.autograd.grad(total, states, allow_unused=True, materialize_grads=True)
        weight = share ** (n - 1) * (1.0 if end == call.steps else 1 - share)
        found = found + weight * torch.cat([flat(part) for part in parts], 1)
    return found
