"""Proof 5: UORO with one joint pair of vectors for the batch, by exact enumeration of the signs."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from program_support import TOLERANCE, leaves, machine, mutant, program, randn, worst
from torch import Tensor

from recdsl.program.ir import Program

VALUES = {"W": randn(1, 2, 2, scale=0.8), "U": randn(2, 2, 2, scale=0.9), "V": randn(3, 2)}


def data(length: int, batch: int) -> dict[str, Tensor]:
    return {"x": randn(4, length, batch, 2), "y": randn(5, length, batch)}


def script(length: int, batch: int) -> dict[str, Tensor]:
    """Full backpropagation: the expectation that the rule promises."""
    p, given = leaves(VALUES), data(length, batch)
    h, total = torch.zeros(batch, 2, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for t in range(length):
        h = torch.tanh(given["x"][t] @ p["W"].T + h @ p["U"].T)
        total = total + ((h @ p["V"] - given["y"][t]) ** 2).sum() / (2 * length * batch)
    total.backward()
    return {f"g{name}": value.grad for name, value in p.items() if value.grad is not None}


def expectation(what: Program, length: int, batch: int) -> dict[str, Tensor]:
    """The mean over every pattern of signs."""
    zero = dict.fromkeys(("h", "s", "th_W", "th_U"), 0.0)
    found = {f"g{name}": torch.zeros_like(value) for name, value in VALUES.items()}
    size = length * batch * 2
    for signs in product((-1.0, 1.0), repeat=size):
        noise = torch.tensor(signs, dtype=torch.float64).reshape(length, batch, 2)
        m = machine(what, {**VALUES, **zero, **data(length, batch), "nu": noise}, T=length, B=batch)
        m.run("forward")
        found = {name: total + m.get(name) / 2**size for name, total in found.items()}
    return found


@pytest.mark.parametrize(("length", "batch"), [(1, 2), (2, 2), (3, 1)])
def test_expectation_is_the_gradient(length: int, batch: int) -> None:
    assert worst(expectation(program("uoro"), length, batch), script(length, batch)) < TOLERANCE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("load nu[t]", "load nu[0]"),  # signs used again
        ("size_n2 = contract(n, n) {x=(0,), y=(0,), out=()}", "size_n2 = `sum`(n) {over=(0,)}"),  # odd in the signs
        ("store th_W n_W", "store th_W o_W"),  # a stale vector
        ("k = contract(q, s_out)", "k = contract(q, s_in)"),  # read before the step
    ],
)
def test_mutants_are_biased(old: str, new: str) -> None:
    what = mutant("uoro", (old, new))
    if "`sum`" in new:
        what = mutant("uoro", (old, new), ("size_n = sqrt(size_n2)", "size_n = exp(size_n2)"))
    assert worst(expectation(what, 3, 1), script(3, 1)) > 1e-3


def test_noise_depends_on_its_key_only() -> None:
    """Draws are the same whatever the length, and differ between seeds, steps and samples."""
    from recdsl.program.interpreter import Machine

    what = program("uoro")
    long, short = Machine(what, torch, {"T": 6, "B": 3}, seed=5), Machine(what, torch, {"T": 2, "B": 3}, seed=5)
    other = Machine(what, torch, {"T": 6, "B": 3}, seed=6)
    assert torch.equal(long.get("nu")[:2], short.get("nu"))
    assert not torch.equal(long.get("nu"), other.get("nu"))
    assert set(long.get("nu").flatten().tolist()) == {-1.0, 1.0}
