"""Proof 7: exact reinstatement in two passes, from a store that outlives the call."""

from __future__ import annotations

import pytest
import torch
from program_support import TOLERANCE, leaves, machine, mutant, program, randn, worst
from torch import Tensor

from recdsl.program.interpreter import Machine
from recdsl.program.ir import Program

B, LENGTH, SLOTS = 2, 5, 6
VALUES = {"We": randn(1, 3, 5), "Wd": randn(2, 5, 3, scale=0.7)}
LABELS = torch.tensor([[0, 1], [2, 0], [3, 1], [1, 1], [2, 3]])


def data(call: int) -> dict[str, Tensor]:
    return {"x": randn(3 + call, LENGTH, B, 5), "y": LABELS.roll(call, 0)}


def guess(q: Tensor, keys: Tensor, labels: list[int], y: int) -> Tensor:
    cosine = keys @ q / (keys.norm(dim=1).clamp_min(1e-8) * q.norm().clamp_min(1e-8))
    weights = torch.softmax(10 * cosine, 0)
    p = weights @ torch.nn.functional.one_hot(torch.tensor(labels), 4).to(weights.dtype)
    return -torch.log(p[y].clamp_min(1e-6))


def script(calls: int) -> dict[str, Tensor]:
    """One pass of autograd through the reinstated codes; the gradient of the last of several calls."""
    store: list[tuple[Tensor, int]] = []
    p = leaves(VALUES)
    for call in range(calls):
        p, given = leaves(VALUES), data(call)
        total = torch.zeros((), dtype=torch.float64)
        for t in range(LENGTH):
            fresh: list[tuple[Tensor, int]] = []
            for b in range(B):
                code = torch.tanh(p["We"] @ given["x"][t, b]).detach()
                rebuilt = p["Wd"] @ code
                total = total + ((rebuilt - given["x"][t, b]) ** 2).mean() / (LENGTH * B)
                y = int(given["y"][t, b])
                if store:
                    back = torch.stack([p["Wd"].detach() @ held for held, _ in store])
                    keys = torch.tanh(back @ p["We"].T)
                    total = total + guess(code, keys, [label for _, label in store], y) / (LENGTH * B)
                fresh.append((code, y))
            store = [*store, *fresh][-SLOTS:]
        total.backward()
    return {f"g{name}": value.grad for name, value in p.items() if value.grad is not None}


def run(what: Program, calls: int) -> dict[str, Tensor]:
    """Call after call on one store: gradients of the last."""
    kept: Machine | None = None
    m = machine(what, {**VALUES, **data(0)}, T=LENGTH, B=B)
    for call in range(calls):
        m = machine(what, {**VALUES, **data(call)}, T=LENGTH, B=B)
        if kept is not None:
            m.slots = kept.slots
        m.run("forward")
        kept = m
    return {f"g{name}": m.get(f"g{name}") for name in VALUES}


@pytest.mark.parametrize("calls", [1, 3])
def test_equals_autograd(calls: int) -> None:
    assert worst(run(program("reinstate"), calls), script(calls)) < TOLERANCE


@pytest.mark.parametrize("chunk", [1, 2, 6])
def test_the_size_of_chunks_changes_nothing(chunk: int) -> None:
    source = (
        ("0..6 by 3", f"0..6 by {chunk}"),
        ("held[c..c + 3] : float[slot=3", f"held[c..c + {chunk}] : float[slot={chunk}"),
        ("anew[c..c + 3]", f"anew[c..c + {chunk}]"),
        ("0..6 by 3", f"0..6 by {chunk}"),
        ("held[c..c + 3] : float[slot=3", f"held[c..c + {chunk}] : float[slot={chunk}"),
        ("danew[c..c + 3] : float[slot=3", f"danew[c..c + {chunk}] : float[slot={chunk}"),
    )
    assert worst(run(mutant("reinstate", *source), 2), script(2)) < TOLERANCE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("d_chunk = load danew[c..c + 3]", "d_chunk = load danew[0..3]"),  # a chunk credited with another's cotangent
        ("vjp enc(x_back, We, d_chunk)", "vjp enc(x_back, We, chunk)"),
        ("fresh = view(e_all)", "fresh = view(keys)"),  # reads what is stored, credits what is not read
        ("do append episodic(e, y_t)", ""),  # nothing is written
    ],
)
def test_mutants_differ(old: str, new: str) -> None:
    assert worst(run(mutant("reinstate", (old, new)), 3), script(3)) > 1e-3
