"""Proof 1: tbptt(window=5, every=2)."""

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
    "b": randn(3, 4, scale=0.3),
    "V": randn(4, 2, 4),
}


def data(length: int) -> dict[str, Tensor]:
    return {"x": randn(5, length, B, 3), "y": randn(6, length, B, 2), "start": randn(7, B, 4)}


def script(length: int) -> tuple[float, dict[str, Tensor]]:
    """Autograd on the edge-pruned unroll of each window."""
    p, given = leaves(VALUES), data(length)
    total = 0.0
    for s in range(0, length, 2):
        h, window = given["start"], torch.zeros((), dtype=torch.float64)
        for t in range(min(length, s + 2)):
            h = h.detach() if t == max(0, s - 3) else h
            h = torch.tanh(given["x"][t] @ p["W"].T + h @ p["U"].T + p["b"])
            if t >= s:
                window = window + ((h @ p["V"].T - given["y"][t]) ** 2).mean(1).sum() / (length * B)
            if t < max(0, s - 3):
                h = h.detach()
        window.backward()
        total += float(window.detach())
    return total, {f"g{name}": value.grad for name, value in p.items() if value.grad is not None}


def run(what: Program, length: int) -> tuple[float, dict[str, Tensor]]:
    m = machine(what, {**VALUES, **data(length)}, T=length, B=B)
    m.run("forward")
    m.run("backward")
    return float(m.get("loss")), {f"g{name}": m.get(f"g{name}") for name in VALUES}


@pytest.mark.parametrize("length", [1, 2, 5, 6, 11])
def test_equals_autograd(length: int) -> None:
    loss, grads = run(program("tbptt"), length)
    expected_loss, expected = script(length)
    assert abs(loss - expected_loss) < TOLERANCE
    assert worst(grads, expected) < TOLERANCE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("max(0, s - 3)", "max(0, s - 2)"),  # shifted window
        ("in 0..T by -2", "in 1..T by -2"),  # losses left out
        ("store dh d_in", "store dh d"),  # a cotangent that skips the cell
    ],
)
def test_mutants_differ(old: str, new: str) -> None:
    _, expected = script(11)
    _, grads = run(mutant("tbptt", (old, new)), 11)
    assert worst(grads, expected) > 1e-3
