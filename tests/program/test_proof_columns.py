"""Proof 2: columns(window=3) on the encoder, under a head with tbptt(window=3)."""

from __future__ import annotations

import pytest
import torch
from program_support import TOLERANCE, leaves, machine, mutant, program, randn, worst
from torch import Tensor

from recdsl.program.ir import Program

B = 2
VALUES = {
    "w": randn(1, 4, scale=0.7),
    "W": randn(2, 4, 3, scale=0.6),
    "A": randn(3, 3, 4, scale=0.6),
    "R": randn(4, 3, 3, scale=0.6),
    "v": randn(5, 3),
}


def data(length: int) -> dict[str, Tensor]:
    return {"x": randn(6, length, B, 3), "y": randn(7, length, B)}


def script(length: int) -> dict[str, Tensor]:
    """Paths of a column's parameters may cross a boundary at the column's own state, at nothing else.

    Columns do not mix, so that is autograd with the head's state cut at every boundary.
    """
    p, given = leaves(VALUES), data(length)
    s, r = torch.zeros(B, 4, dtype=torch.float64), torch.zeros(B, 3, dtype=torch.float64)
    total = torch.zeros((), dtype=torch.float64)
    for t in range(length):
        r = r.detach() if t % 3 == 0 else r
        s = torch.tanh(p["w"] * s + given["x"][t] @ p["W"].T)
        r = torch.tanh(s @ p["A"].T + r @ p["R"].T)
        total = total + ((r @ p["v"] - given["y"][t]) ** 2).sum() / (2 * length * B)
    total.backward()
    return {f"g{name}": value.grad for name, value in p.items() if value.grad is not None}


def run(what: Program, length: int) -> dict[str, Tensor]:
    m = machine(what, {**VALUES, **data(length)}, T=length, B=B)
    m.run("forward")
    return {f"g{name}": m.get(f"g{name}") for name in VALUES}


@pytest.mark.parametrize("length", [1, 3, 4, 10])
def test_equals_autograd(length: int) -> None:
    assert worst(run(program("columns"), length), script(length)) < TOLERANCE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("next_w = add(kept_w, i_w)", "next_w = add(now_w, i_w)"),  # a trace that forgets the state's decay
        ("store trace_W next_W", "store trace_W now_W"),  # a stale trace
        ("add gw far_w tag", "add gw lambda tag"),  # the trace left out of the contraction
        ("store dr d_r_in", "store dr d_r"),  # the wrong cotangent crosses the carry
        ("for k in 0..T by 3", "for k in 0..T by 2"),  # windows that overlap
    ],
)
def test_mutants_differ(old: str, new: str) -> None:
    assert worst(run(mutant("columns", (old, new)), 10), script(10)) > 1e-3
