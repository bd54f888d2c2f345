"""Proof 6: synthetic credit at window ends, learned by its own Adam inside the loop."""

from __future__ import annotations

import pytest
import torch
from program_support import TOLERANCE, leaves, machine, mutant, program, randn, worst
from torch import Tensor

from recdsl.program.ir import Program

B = 2
VALUES = {
    "W": randn(1, 4, 3, scale=0.6),
    "U": randn(2, 4, 4, scale=0.6),
    "V": randn(3, 4),
    "P": randn(4, 3, 4),
    "Q": randn(5, 4, 3),
}
SLOTS = {"mP": 0.0, "vP": 0.0, "mQ": 0.0, "vQ": 0.0, "power1": 1.0, "power2": 1.0}


def data(length: int) -> dict[str, Tensor]:
    return {"x": randn(6, length, B, 3), "y": randn(7, length, B)}


def script(length: int) -> dict[str, Tensor]:
    p, given = leaves(VALUES), data(length)
    own = [p["P"], p["Q"]]
    adam = torch.optim.Adam(own, lr=0.01)
    main = [p["W"], p["U"], p["V"]]
    grads = [torch.zeros_like(value) for value in main]
    start = torch.zeros(B, 4, dtype=torch.float64)
    for s in range(0, length, 3):
        h = start = start.detach().requires_grad_()
        loss = torch.zeros((), dtype=torch.float64)
        for t in range(s, min(length, s + 3)):
            h = torch.tanh(given["x"][t] @ p["W"].T + h @ p["U"].T)
            loss = loss + ((h @ p["V"] - given["y"][t]) ** 2).sum() / (2 * length * B)
        if s + 3 < length:
            loss = loss + ((torch.tanh(h @ p["P"].T) @ p["Q"].T).detach() * h).sum()
        *found, arrived = torch.autograd.grad(loss, [*main, start])
        grads = [total + more for total, more in zip(grads, found, strict=True)]
        if s:
            adam.zero_grad()
            answer = torch.tanh(start.detach() @ p["P"].T) @ p["Q"].T
            ((answer - arrived) ** 2).sum().div(B).backward()
            adam.step()
        start = h
    return {**{f"g{n}": g for n, g in zip("WUV", grads, strict=True)}, "P": p["P"].detach(), "Q": p["Q"].detach()}


def run(what: Program, length: int) -> dict[str, Tensor]:
    m = machine(what, {**VALUES, **SLOTS, **data(length)}, T=length, B=B)
    assert m.run("forward")
    return {name: m.get(name) for name in ("gW", "gU", "gV", "P", "Q")}


@pytest.mark.parametrize("length", [2, 3, 4, 11])
def test_equals_autograd_and_adam(length: int) -> None:
    assert worst(run(program("synthetic"), length), script(length)) < TOLERANCE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("if s + 3 < T {", "if T < 0 {"),  # no credit from behind the window
        ("h_start = load h[s] :", "h_start = load h[s + 1] :"),  # the wrong boundary
        ("do update P(P_new)", "do update P(P)"),  # a stale head
        ("found = load dh :", "found = load h[s] :"),  # the wrong target
        ("store mQ m_Q_new", "store mQ m_Q"),  # a stale optimiser slot
    ],
)
def test_mutants_differ(old: str, new: str) -> None:
    assert worst(run(mutant("synthetic", (old, new)), 11), script(11)) > 1e-4


def test_a_guard_leaves_before_the_steps_effects() -> None:
    """A non-finite target stops the entry in its window; the heads keep what earlier windows made of them."""
    given = data(11)
    given["y"][7, 1] = float("nan")
    m = machine(program("synthetic"), {**VALUES, **SLOTS, **given}, T=11, B=B)
    assert not m.run("forward")
    assert m.stopped is not None
    assert m.stopped.resource == "loss"
    assert m.stopped.at == {"s": 6, "t": 7}
    short = machine(program("synthetic"), {**VALUES, **SLOTS, **data(11)}, T=11, B=B)
    short.run("forward")
    assert not torch.equal(m.get("P"), short.get("P"))
    assert not torch.equal(m.get("P"), VALUES["P"])
    assert not m.emitted
    assert [name for name, _ in short.emitted] == ["loss"]
