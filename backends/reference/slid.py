"""Credit with a budget of steps (semantics 4.11, sliding), one step of the network at a time.

Every step is differentiated on its own. Cotangents of what a step leaves are kept apart by how many steps of recurrence
they have crossed since the loss or the memory that they come from: one that crosses more than the budget is dropped,
one that a memory sends back begins anew. Memories are the carries that the rule spares, and the slots of tapes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from recdsl.backends.reference.result import Call
from recdsl.backends.reference.unroll import Unroll, Values
from recdsl.credit.plan import RoutingClass
from recdsl.graph.step import StepGraph

Tensors = Mapping[str, Tensor]
Due = Callable[[Mapping[int, Values], int], Tensor]
"""From the values of a step and its number: its part of the loss."""


@dataclass
class Owed:
    """Cotangents that later steps have sent: of carries as a step leaves them, by crossed steps, and of slots."""

    carried: dict[int, dict[str, Tensor]] = field(default_factory=dict[int, dict[str, Tensor]])
    slots: dict[tuple[str, int], Tensor] = field(default_factory=dict[tuple[str, int], Tensor])

    def add(self, crossed: int, name: str, value: Tensor) -> None:
        own = self.carried.setdefault(crossed, {})
        own[name] = own[name] + value if name in own else value

    def slot(self, name: str, place: int, value: Tensor) -> None:
        key = (name, place)
        self.slots[key] = self.slots[key] + value if key in self.slots else value


class Stepwise(Unroll):
    """The network, to be entered at any step."""

    def entries(self, steps: int) -> list[dict[str, Tensor]]:
        """What enters each step."""
        found = [self._start()]
        with torch.no_grad():
            for t in range(steps - 1):
                found.append(self._step(t, found[-1])[1])
        return found

    def step(self, t: int, carried: Tensors) -> tuple[Values, dict[str, Tensor]]:
        return self._step(t, carried)


def slid_gradients(
    graph: StepGraph, routing: RoutingClass, params: Tensors, call: Call, due: Due, dtype: torch.dtype
) -> dict[str, Tensor]:
    """The gradient of one class."""
    leaves = {name: params[name].clone().requires_grad_() for name in routing.parameters}
    network = Stepwise(graph, {**params, **leaves}, call, routing.cuts, dtype, routing)
    entries = network.entries(call.steps)
    found = {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    owed = Owed()
    tapes = {carry.name for carry in graph.carries if carry.taped}
    for t in reversed(range(call.steps)):
        entering = entries[t] if t == 0 else {n: _leaf(value) for n, value in entries[t].items()}
        values, leaving = network.step(t, entering)
        made = {name: value[:, -1] if name in tapes else value for name, value in leaving.items()}
        before, owed.carried = owed.carried, {}
        for crossed in range(routing.budget + 1):
            sent = [(made[name], value) for name, value in before.get(crossed, {}).items()]
            if crossed == 0:
                sent += [(due({t: values}, t), torch.ones((), dtype=dtype))]
                sent += [(made[name], owed.slots[name, t]) for name in tapes if (name, t) in owed.slots]
            back = _differentiated(sent, {f"parameter {n}": leaf for n, leaf in leaves.items()} | entering)
            for name, leaf in leaves.items():
                found[name] = found[name] + back.get(f"parameter {name}", torch.zeros_like(leaf))
            for name in entering if t else ():
                if name not in back:
                    continue
                if name in tapes:
                    for place in range(t):
                        owed.slot(name, place, back[name][:, place])
                elif name in routing.spared:
                    owed.add(0, name, back[name])
                elif crossed < routing.budget:
                    owed.add(crossed + 1, name, back[name])
    return found


def _leaf(value: Tensor) -> Tensor:
    return value.detach().clone().requires_grad_() if value.is_floating_point() else value


def _differentiated(sent: list[tuple[Tensor, Tensor]], leaves: Tensors) -> dict[str, Tensor]:
    """The cotangents of leaves, from pairs (value, its cotangent)."""
    pairs = [(value, cotangent.expand(value.shape)) for value, cotangent in sent if value.requires_grad]
    wanted = {name: leaf for name, leaf in leaves.items() if leaf.requires_grad}
    if not pairs or not wanted:
        return {}
    values, cotangents = zip(*pairs, strict=True)
    ends = list(wanted.values())
    parts = torch.autograd.grad(values, ends, cotangents, retain_graph=True, allow_unused=True, materialize_grads=True)
    return dict(zip(wanted, parts, strict=True))
