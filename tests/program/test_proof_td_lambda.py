"""Proof 8: td_lambda online, column traces and Adam inside the time loop."""

from __future__ import annotations

import pytest
import torch
from program_support import TOLERANCE, machine, mutant, program, randn, worst
from torch import Tensor

from recdsl.program.ir import Program

B, LENGTH = 2, 9
GAMMA, LAMBDA = 0.9, 0.8
VALUES = {"w": randn(1, 4, scale=0.7), "W": randn(2, 4, 3, scale=0.6), "u": randn(3, 4)}
DATA = {"x": randn(4, LENGTH, B, 3), "cumulant": randn(5, LENGTH, B)}
RESET = torch.zeros(LENGTH, B, dtype=torch.bool)
RESET[4, 1] = True
TRACES = [f"{kind}_{name}" for name in VALUES for kind in ("credit", "elig", "m", "n")]
ZERO = ("s", "v_last", "g_last", "trace_w", "trace_W", *TRACES)


def values_of(history: list[dict[str, Tensor]], shift: dict[str, Tensor], b: int) -> Tensor:
    """The prediction of the last step, of stream b, were every step's parameters shifted alike."""
    s = v = torch.zeros(4, dtype=torch.float64)
    for t, past in enumerate(history):
        p = {name: value + shift[name] for name, value in past.items()}
        s = torch.where(RESET[t, b], torch.zeros_like(s), s)
        s = torch.tanh(p["w"] * s + p["W"] @ DATA["x"][t, b])
        v = p["u"] @ s
    return v


def script() -> dict[str, Tensor]:
    """The common-shift gradient by autograd through the whole past, at every step, and torch's own Adam."""
    p = {name: value.clone() for name, value in VALUES.items()}
    adam = torch.optim.Adam(list(p.values()), lr=0.01)
    history: list[dict[str, Tensor]] = []
    elig = [{name: torch.zeros_like(value) for name, value in p.items()} for _ in range(B)]
    credit: list[dict[str, Tensor]] = []
    v_last, g_last = [0.0] * B, [0.0] * B
    for t in range(LENGTH):
        history.append({name: value.clone() for name, value in p.items()})
        shift = {name: torch.zeros_like(value).requires_grad_() for name, value in p.items()}
        now = [values_of(history, shift, b) for b in range(B)]
        gamma = [0.0 if bool(RESET[t, b]) else GAMMA for b in range(B)]
        if t >= 1:
            step = {name: torch.zeros_like(value) for name, value in p.items()}
            for b in range(B):
                delta = float(DATA["cumulant"][t, b]) + gamma[b] * float(now[b].detach()) - v_last[b]
                for name in p:
                    elig[b][name] = g_last[b] * LAMBDA * elig[b][name] + credit[b][name]
                    step[name] -= delta * elig[b][name] / B
            for name, value in p.items():
                value.grad = step[name]
            adam.step()
        credit = [dict(zip(p, torch.autograd.grad(v, list(shift.values())), strict=True)) for v in now]
        v_last, g_last = [float(v.detach()) for v in now], gamma
    return p


def run(what: Program) -> dict[str, Tensor]:
    start = {**VALUES, **DATA, "reset": RESET, **dict.fromkeys(ZERO, 0.0), "power1": 1.0, "power2": 1.0}
    m = machine(what, start, T=LENGTH, B=B)
    assert m.run("online")
    return {name: m.get(name) for name in VALUES}


def test_equals_autograd_and_adam() -> None:
    assert worst(run(program("td_lambda")), script()) < TOLERANCE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("store trace_w now_w", "store trace_w in_w"),  # a stale trace
        ("g_w = load credit_w", "g_w = load trace_w"),  # credit without the head's weight
        ("store g_last g_t", "store g_last discount"),  # eligibility that outlives its episode
        ("do update W(W_new)", "do update W(W)"),  # an update that is lost
        ("kept_W = call scaled(own, in_W)", "kept_W = call scaled(own, old_W)"),  # a trace that survives the reset
    ],
)
def test_mutants_differ(old: str, new: str) -> None:
    assert worst(run(mutant("td_lambda", (old, new))), script()) > 1e-5
