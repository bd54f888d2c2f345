"""Synthetic gradients window by window, as they are defined (semantics 4.10).

To the losses of a window <stop(answer), what is carried out of it> is added, autograd differentiates the sum with
respect to the parameters and to what the window began with, and the latter is what the net learns to answer there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from recdsl.backends.reference.result import Call
from recdsl.backends.reference.unroll import Unroll, Values
from recdsl.credit.plan import Head, RoutingClass
from recdsl.graph.step import StepGraph

Tensors = Mapping[str, Tensor]
Objective = Callable[[list[Values], range], Tensor]
"""The losses of some steps of an unrolled network, with their divisors and weights."""


@dataclass(frozen=True)
class Lesson:
    """A boundary: what the net has read there, what it should have answered, and for which samples: [B, ...]."""

    read: Tensor
    target: Tensor
    counts: Tensor


class Window(Unroll):
    """The network up to a window, where what is carried into step `first` is a leaf."""

    def __init__(
        self, graph: StepGraph, params: Tensors, call: Call, routing: RoutingClass, dtype: torch.dtype, first: int
    ) -> None:
        super().__init__(graph, params, call, routing.cuts, dtype, routing)
        self.routing, self.first, self.entering = routing, first, dict[str, Tensor]()

    def _step(self, t: int, carried: Tensors) -> tuple[Values, dict[str, Tensor]]:
        if t == self.first and (t > 0 or self.call.state is not None):
            self.entering = {n: v.detach().requires_grad_(v.is_floating_point()) for n, v in carried.items()}
            carried = self.entering
        return super()._step(t, carried)


def answered_gradients(
    graph: StepGraph,
    routing: RoutingClass,
    params: Tensors,
    call: Call,
    objective: Objective,
    divisor: float,
    dtype: torch.dtype,
    returned: Callable[[int], Tensor] | None = None,
) -> dict[str, Tensor]:
    """The gradients of a class and of its net. divisor: what the class's loss is divided by. returned: what the net
    learns at the boundary before a step, instead of what arrives there."""
    assert routing.head is not None
    head, size = routing.head, routing.window.every
    found = {name: torch.zeros_like(params[name]) for name in routing.parameters}
    lessons: list[Lesson] = []
    for first in range(0, call.steps, size):
        leaves = {name: params[name].clone().requires_grad_() for name in routing.parameters}
        unroll = Window(graph, {**params, **leaves}, call, routing, dtype, first)
        window = range(first, min(first + size, call.steps))
        steps, leaving = unroll.run(window.stop, 0)
        total = objective(steps, window)
        answers = answer(graph, head, params, read(graph, head, leaving, call, window.stop))
        goes_on = followed(call, window.stop, head.beyond)
        for name, part in split(graph, head, answers.detach()).items():
            kept = torch.where(column(goes_on, part), part, torch.zeros_like(part))
            total = total + (head.asked.scale / divisor * kept * leaving[name]).sum()
        if not total.requires_grad:
            total = total + torch.zeros((), dtype=dtype, requires_grad=True)
        states = [unroll.entering[name] for name in head.carries] if unroll.entering else []
        wanted = [*leaves.values(), *states]
        parts = torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True) if wanted else ()
        for name, part in zip(leaves, parts, strict=False):
            found[name] = found[name] + part
        if states and (first > 0 or (head.beyond and not head.asked.condition)):
            arrived = torch.cat([flat(part) for part in parts[len(leaves) :]], 1)
            if returned is not None:
                arrived = returned(first)
            seen = read(graph, head, unroll.entering, call, first)
            lessons.append(Lesson(seen, divisor * arrived, followed(call, first, head.beyond)))
    return found | _learned(graph, head, params, lessons)


def _learned(graph: StepGraph, head: Head, params: Tensors, lessons: list[Lesson]) -> dict[str, Tensor]:
    """The gradient of the net: of the squared length of what it was off by, on average over boundaries and samples."""
    own = {item.name: params[item.name].detach().clone().requires_grad_() for item in head.parameters}
    total, count = torch.zeros(()), 0
    for lesson in lessons:
        wrong = (answer(graph, head, own, lesson.read.detach()) - lesson.target.detach()) ** 2
        total = total + wrong[lesson.counts].sum()
        count += int(lesson.counts.sum())
    if not count:
        return {name: torch.zeros_like(value) for name, value in own.items()}
    parts = torch.autograd.grad(total / count, list(own.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(own, parts, strict=True))


def answer(graph: StepGraph, head: Head, params: Tensors, z: Tensor) -> Tensor:
    """[B, answers]"""
    if not head.asked.hidden:
        return z @ params[f"{head.name}.W"].T + params[f"{head.name}.b"]
    hidden = torch.relu(z @ params[f"{head.name}.W1"].T + params[f"{head.name}.b1"])
    return hidden @ params[f"{head.name}.W2"].T + params[f"{head.name}.b2"]


def read(graph: StepGraph, head: Head, carried: Tensors, call: Call, step: int) -> Tensor:
    """[B, entries]: what the net reads before step `step`: the carried values, and the condition one step earlier."""
    parts = [flat(carried[name].detach()) for name in head.carries]
    name = head.asked.condition
    if name:
        item = next(item for item in graph.inputs if item.name == name)
        value = call.batch[name][max(step - 1, 0)]
        if item.kind in ("onehot", "class", "token"):
            value = (value[:, None] == torch.arange(item.size)).to(parts[0].dtype)
        valid = call.valid[max(step - 1, 0)]
        parts.append(flat(torch.where(column(valid, value), value, torch.zeros_like(value))))
    return torch.cat(parts, 1)


def split(graph: StepGraph, head: Head, answers: Tensor) -> dict[str, Tensor]:
    """By carried value: [B, *axes]"""
    shapes = {carry.name: graph.nodes[carry.read].type.shape for carry in graph.carries}
    parts = answers.split([prod(shapes[name]) for name in head.carries], 1)
    return {name: p.reshape(-1, *shapes[name]) for name, p in zip(head.carries, parts, strict=True)}


def followed(call: Call, step: int, beyond: bool) -> Tensor:
    """bool [B]: whether the sequence that a sample is in before step `step` has a valid step there or later."""
    return torch.tensor([_followed(call, step, sample, beyond) for sample in range(call.samples)])


def _followed(call: Call, step: int, sample: int, beyond: bool) -> bool:
    for t in range(step, call.steps):
        if call.reset[t, sample]:
            return False
        if call.valid[t, sample]:
            return True
    return beyond


def column(flags: Tensor, like: Tensor) -> Tensor:
    return flags.reshape(-1, *(1,) * (like.dim() - 1))


def flat(value: Tensor) -> Tensor:
    """[B, entries]"""
    return value.reshape(value.shape[0], -1)
