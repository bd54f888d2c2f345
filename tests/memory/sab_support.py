"""Sparse attentive backtracking: the model of the tests, and the same in plain torch with the faults of the list of
pitfalls.

`hook` adds nothing to the state of each step: its gradient is that of the state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

import recdsl
from recdsl.backends.native import native_module
from recdsl.driver import analyse

STEPS, SAMPLES, INP, HID, TOP, EVERY = 12, 2, 3, 4, 2, 2
SPEC = f"""
recdsl: 1
sizes: {{inp: {INP}, hidden: {HID}, steps: {STEPS * SAMPLES}}}
inputs: {{x: "float[inp]", at: "onehot[steps]"}}
targets: {{y: "float[hidden]"}}
params: {{hook: "float[steps, hidden] = 0"}}
memory:
  past:
    slots: unbounded
    write: {{value: h, every: {EVERY}}}
    read: {{query: proposal, score: mlp(5), select: topk({TOP}), normalise: shifted_relu, tau: TAU}}
step: |
  proposal, c = lstm_cell(x, h[t-1], c[t-1], size=hidden)
  h = proposal + past.read + hook.T @ at
  out = linear([h; past.read], size=hidden)
loss: {{task: {{value: "mse(out, y)", at: LOSS}}}}
credit: CREDIT
"""
GATES = "ifgo"


def model(credit: str, loss: str = "last", tau: str = "through", change: Callable[[str], str] = str) -> Any:
    return built(change(SPEC.replace("CREDIT", credit).replace("LOSS", loss).replace("TAU", tau)))


class Chosen:
    """The backend of the test that runs; the fixture `each_backend` sets it."""

    backend = "torch"


def built(text: str) -> Any:
    return compiled(text, Chosen.backend)


@cache
def compiled(text: str, backend: str) -> Any:
    """On `native` without optimisation: C is compiled faster, and does the same."""
    if backend == "native":
        found = analyse(text)
        made: Any = native_module(found.graph, found.plan, found.source, flags=("-O0",)).Model(0, torch.float64)
        assert made.recdsl_runs == "native"
    else:
        made = recdsl.compile(text, dtype=torch.float64)
    draws = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if name != "hook":
                parameter.copy_(torch.randn(parameter.shape, generator=draws, dtype=torch.float64) * 0.7)
    return made


def batch(seed: int = 1) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn((STEPS, SAMPLES, INP), generator=draws, dtype=torch.float64)
    y = torch.randn((STEPS, SAMPLES, HID), generator=draws, dtype=torch.float64)
    at = torch.arange(STEPS * SAMPLES).reshape(SAMPLES, STEPS).T.contiguous()
    return {"x": x, "y": y, "at": at}


def learnt(made: Any, data: dict[str, Tensor] | None = None, **given: Any) -> dict[str, Tensor]:
    made.zero_grad()
    made(data or batch(), **given).loss.backward()
    return {name: p.grad.clone() for name, p in made.named_parameters()}


def hooks(grads: dict[str, Tensor]) -> Tensor:
    """Gradients of states, [sample, step, hidden]."""
    return grads["hook"].reshape(SAMPLES, STEPS, HID)


@dataclass(frozen=True)
class Plain:
    """The model in plain torch. `grid`: steps between detached entries (0: none); the rest are the faults of the list.

    seen: by step and sample, the slots selected and the one behind them, as steps.
    """

    grid: int = 0
    frozen: tuple[tuple[Tensor, Tensor], ...] | None = None
    stored_detached: bool = False
    stored_alias: bool = False
    only_h: bool = False
    top: int = TOP
    itself: bool = False
    across: bool = False
    kth: bool = False
    tau: bool = True
    block: bool = False
    behind: bool = False

    def run(self, p: dict[str, Tensor], data: dict[str, Tensor], last: bool) -> tuple[Tensor, Any, Any]:
        x, y = data["x"], data["y"]
        hook = p["hook"].reshape(SAMPLES, STEPS, HID)
        h = c = x.new_zeros((SAMPLES, HID))
        slots: list[tuple[int, Tensor]] = []
        seen, entered, outs = list[Any](), list[tuple[Tensor, Tensor]](), list[Tensor]()
        for t in range(STEPS):
            entered.append((h.detach(), c.detach()))
            if self.grid and t % self.grid == 0:
                h, c = self.frozen[t] if self.frozen else (h.detach(), c if self.only_h else c.detach())
                if self.stored_alias and slots and slots[-1][0] == t - 1:
                    slots[-1] = (t - 1, h)
            pre = {g: x[t] @ p[f"proposal.W{g}"].T + h @ p[f"proposal.U{g}"].T + p[f"proposal.b{g}"] for g in GATES}
            c = torch.sigmoid(pre["f"]) * c + torch.sigmoid(pre["i"]) * torch.tanh(pre["g"])
            proposal = torch.sigmoid(pre["o"]) * torch.tanh(c)
            shown = [*slots, (t, proposal)] if self.itself else slots
            read, best = self.read(p, proposal, shown)
            seen.append(best)
            h = proposal + read + hook[:, t]
            if self.behind and (t + 1) % self.grid == 0:
                h, c = h.detach(), c.detach()
            outs.append(torch.cat((h, read), 1) @ p["out.W"].T + p["out.b"])
            if (t + 1) % EVERY == 0:
                slots.append((t, h.detach() if self.stored_detached else h))
        losses = torch.stack([((out - y[t]) ** 2).mean(1).sum() for t, out in enumerate(outs)])
        return (losses[-1] if last else losses.sum() / STEPS) / SAMPLES, seen, entered

    def read(self, p: dict[str, Tensor], query: Tensor, slots: list[tuple[int, Tensor]]) -> tuple[Tensor, Any]:
        if not slots:
            return torch.zeros_like(query), [[] for _ in range(SAMPLES)]
        steps, rows = [t for t, _ in slots], torch.stack([value for _, value in slots], 1)
        keys, asked = (rows.detach(), query.detach()) if self.block else (rows, query)
        mixed = torch.tanh(keys @ p["past.score.Wk"].T + (asked @ p["past.score.Wq"].T)[:, None])
        scores = mixed @ p["past.score.w"]
        order = scores.argsort(1, descending=True)
        ranked = scores.gather(1, order)
        place = self.top - 1 if self.kth else self.top
        full = len(steps) > self.top
        tau = ranked[:, place] if full else ranked[:, -1] - 1
        tau = tau.roll(1) if self.across else tau
        tau = tau if self.tau else tau.detach()
        weights = torch.relu(scores - tau[:, None])
        kept = torch.zeros_like(weights).scatter(1, order[:, : self.top], 1.0)
        weights = weights * kept
        weights = weights / weights.sum(1, keepdim=True).clamp_min(1e-7)
        return torch.einsum("bs,bsh->bh", weights, rows), [[steps[k] for k in row[: self.top + 1]] for row in order]


def plain(which: Plain, made: Any, last: bool = True) -> tuple[dict[str, Tensor], Any, Any]:
    p = {name: value.detach().clone().requires_grad_() for name, value in made.named_parameters()}
    loss, seen, entered = which.run(p, batch(), last)
    loss.backward()
    return {n: torch.zeros_like(v) if v.grad is None else v.grad for n, v in p.items()}, seen, entered


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.allclose(one[name], other[name], rtol=1e-10, atol=1e-12) for name in one)


def slopes(made: Any, which: Plain, found: dict[str, Tensor]) -> float:
    """The largest difference between derivatives along random directions and central differences."""
    draws, worst = torch.Generator().manual_seed(2), 0.0
    params = {name: value.detach() for name, value in made.named_parameters()}
    for name, value in params.items():
        way = torch.randn(value.shape, generator=draws, dtype=torch.float64)
        ends = [which.run({**params, name: value + sign * 1e-6 * way}, batch(), False)[0] for sign in (1, -1)]
        worst = max(worst, float(abs((ends[0] - ends[1]) / 2e-6 - (found[name] * way).sum())))
    return worst
