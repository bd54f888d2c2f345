"""The gradient taken apart by lag: what comes from losses L steps after the use of a parameter.

For a loss at step t alone, the gradient of a call that begins at step s, with the state there as a constant, holds the
uses at s .. t; the call that begins at s + 1 holds one use less. Their difference is the part of the use at s, at lag
t - s. A forward rule that meets a state without traces starts them at zero, which is the same. Windows are anchored on
the beginning of a call, so the parts of a windowed rule are those of its cuts alone where the window reaches, else 0.
The error of a temporal difference belongs to the step before: where all losses are such, lags count from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from recdsl.backends import find
from recdsl.credit.plan import CreditPlan, RoutingClass, Window
from recdsl.driver import Compilation
from recdsl.graph.step import Loss, StepGraph

Tensors = Mapping[str, Tensor]
Parts = list[dict[str, Tensor]]
"""By lag, then by parameter."""


def by_lag(compilation: Compilation, params: Tensors, batch: Tensors, seeds: Sequence[int]) -> Parts:
    """Parts of the gradient at lags 0 .. min(seeds), each the sum over the losses at the steps `seeds`.

    params: as the module's state dict has them, float64. batch: [T, B, *axes].
    """
    assert not any(routing.spared for routing in compilation.plan.classes), "cuts at steps of the call cannot be moved"
    steps = len(next(iter(batch.values())))
    early = 1 if all(loss.td is not None for loss in compilation.graph.losses) else 0
    lags = range(min(seeds) + 1 - early)
    found: Parts = [{} for _ in lags]
    states: list[Any] = []
    for t in seeds:
        module = single(compilation, t, steps)
        module.load_state_dict({**module.state_dict(), **params})
        states = states or entered(module, batch, max(seeds))
        after: dict[str, Tensor] = {}
        for s in range(t - early, t - early - len(lags), -1):
            now = gradients(module, {name: value[s : t + 1] for name, value in batch.items()}, states[s])
            for name, value in now.items():
                part = value - after[name] if name in after else value
                kept = within(compilation.plan, name, s, t - early)
                part = part if kept else torch.zeros_like(part)
                lag = t - early - s
                found[lag][name] = found[lag][name] + part if name in found[lag] else part
            after = now
    return found


def due(loss: Loss, t: int, steps: int) -> bool:
    """Whether a loss counts at step t of a call of so many."""
    if loss.at == "all":
        return True
    return t == steps - 1 if loss.at == "last" else (t + 1) % int(loss.at[1]) == 0


def seeds(graph: StepGraph, steps: int, most: int) -> list[int]:
    """Steps with a loss to look at: at most so many, spread over the second half of the call."""
    found = [t for t in range(steps) if any(due(loss, t, steps) for loss in graph.losses)]
    late = [t for t in found if t >= steps // 2] or found[-1:]
    stride = -(-len(late) // most) if late else 1
    return sorted(late[::-1][::stride])


def single(compilation: Compilation, t: int, steps: int) -> Any:
    """The float64 module whose only losses are those due at t, at the last step of its call, without windows."""
    graph, plan = compilation.graph, compilation.plan
    losses = tuple(
        replace(loss, at="last", weight=loss.weight if due(loss, t, steps) else 0.0) for loss in graph.losses
    )
    made = Compilation(compilation.spec, replace(graph, losses=losses), unwindowed(plan, t))
    return find("torch").module(made, torch.float64)


def unwindowed(plan: CreditPlan, t: int) -> CreditPlan:
    """Reverse classes look back over the whole call, and what is cut at random is taken by its mean.

    A forward class has the window that the loss at t has, counted back from that loss, so that it does not matter where
    the call begins.
    """
    return replace(plan, classes=tuple(_whole(routing, t) for routing in plan.classes), shared=())


def _whole(routing: RoutingClass, t: int) -> RoutingClass:
    if routing.tracing is not None and not routing.tracing.random:
        size, every = routing.window.size, routing.window.every
        assert size is not None
        back = t + 1 - max(0, (t // every + 1) * every - size)
        read = "pre" if routing.tracing.read == "window" and back == 1 else routing.tracing.read
        return replace(routing, window=Window(back, 1), tracing=replace(routing.tracing, read=read))
    return replace(routing, window=Window(None, 1), tracing=None, scopes=(), thinning=0, head=None)


def within(plan: CreditPlan, parameter: str, s: int, t: int) -> bool:
    """Whether the window of a parameter's rule lets the loss at t see the use at s."""
    routing = next((c for c in plan.classes if parameter in c.parameters), None)
    if routing is None or routing.tracing is not None or routing.window.size is None:
        return True
    boundary = (t // routing.window.every + 1) * routing.window.every - routing.window.size
    return s >= boundary


def entered(module: Any, batch: Tensors, last: int) -> list[Any]:
    """The states that steps 0 .. last enter with; None is the initial one."""
    states: list[Any] = [None]
    with torch.no_grad():
        for t in range(last):
            states.append(module({name: value[t : t + 1] for name, value in batch.items()}, state=states[-1]).state)
    return states


def gradients(module: Any, batch: Tensors, state: Tensors | None = None) -> dict[str, Tensor]:
    """Of every parameter, zeros where it has none."""
    module.zero_grad()
    loss = module(dict(batch), state=state).loss
    if loss.requires_grad:
        loss.backward()
    named = module.named_parameters()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in named}
