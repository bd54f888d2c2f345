"""Proofs 3 and 4: sparse attentive backtracking, with chunk replay and with the sliding window."""

from __future__ import annotations

import pytest
import torch
from program_support import TOLERANCE, leaves, machine, mutant, program, randn, worst
from torch import Tensor

from recdsl.program.ir import Program

B, TOP = 2, 3
VALUES = {
    "W": randn(1, 4, 3, scale=0.7),
    "U": randn(2, 4, 4, scale=0.6),
    "Wq": randn(3, 3, 4),
    "Wm": randn(4, 3, 4),
    "w": randn(5, 3),
    "V": randn(6, 2, 4),
    "Vr": randn(7, 2, 4),
}


def data(length: int) -> dict[str, Tensor]:
    return {"x": randn(8, length, B, 3), "y": randn(9, length, B, 2)}


def recall(p: dict[str, Tensor], q: Tensor, rows: list[Tensor]) -> Tensor:
    """The read of one sample: shifted relu over the best three, the threshold at the fourth."""
    if not rows:
        return torch.zeros_like(q)
    memory = torch.stack(rows)
    scores = torch.tanh(memory @ p["Wm"].T + p["Wq"] @ q) @ p["w"]
    known = scores.detach()
    order = sorted(range(len(rows)), key=lambda k: (-float(known[k]), k))
    tau = scores[order[TOP]] if len(rows) > TOP else scores[order[-1]] - 1
    best = order[:TOP]
    raw = torch.relu(scores[best] - tau)
    weights = raw / raw.sum() if float(raw.detach().sum()) >= 1e-7 else torch.full_like(raw, 1 / len(best))
    return weights @ memory[best]


def script_chunk(length: int, cut: int = 5) -> dict[str, Tensor]:
    p, given = leaves(VALUES), data(length)
    total = torch.zeros((), dtype=torch.float64)
    for b in range(B):
        h, rows = torch.zeros(4, dtype=torch.float64), list[Tensor]()
        for t in range(length):
            h = h.detach() if t % cut == 0 else h
            q = torch.tanh(p["W"] @ given["x"][t, b] + p["U"] @ h)
            mix = recall(p, q, rows)
            h = q + mix
            total = total + ((p["V"] @ h + p["Vr"] @ mix - given["y"][t, b]) ** 2).sum() / (length * B)
            if (t + 1) % 2 == 0:
                rows.append(h)
    total.backward()
    return {f"g{name}": value.grad for name, value in p.items() if value.grad is not None}


def script_sliding(length: int, budget: int = 3) -> dict[str, Tensor]:
    """The forward automaton: runs[j] is zero in value and carries the paths whose last j edges are carries."""
    p, given = leaves(VALUES), data(length)
    fixed = {name: value.detach() for name, value in p.items()}
    total = torch.zeros((), dtype=torch.float64)

    def step(q: dict[str, Tensor], x: Tensor, h: Tensor, rows: list[Tensor]) -> tuple[Tensor, Tensor]:
        proposal = torch.tanh(q["W"] @ x + q["U"] @ h)
        mix = recall(q, proposal, rows)
        return proposal + mix, mix

    for b in range(B):
        none = torch.zeros(4, dtype=torch.float64)
        runs, value, rows = [none] * (budget + 1), none, list[Tensor]()
        for t in range(length):
            x, still = given["x"][t, b], [row.detach() for row in rows]
            plain, plain_mix = step(fixed, x, value, still)
            fresh, fresh_mix = step(p, x, value, rows)
            moved = [step(fixed, x, value + run, still) for run in runs[:budget]]
            runs = [fresh - plain, *(out - plain for out, _ in moved)]
            mix = plain_mix + (fresh_mix - plain_mix) + sum(one - plain_mix for _, one in moved)
            value = plain
            h = plain + sum(runs)
            total = total + ((p["V"] @ h + p["Vr"] @ mix - given["y"][t, b]) ** 2).sum() / (length * B)
            if (t + 1) % 2 == 0:
                rows.append(h)
    total.backward()
    return {f"g{name}": value.grad for name, value in p.items() if value.grad is not None}


def run(what: Program, length: int) -> dict[str, Tensor]:
    m = machine(what, {**VALUES, **data(length)}, T=length, B=B)
    m.run("forward")
    m.run("backward")
    return {f"g{name}": m.get(f"g{name}") for name in VALUES}


@pytest.mark.parametrize("length", [1, 5, 17])
def test_chunk_replay_equals_autograd(length: int) -> None:
    assert worst(run(program("sab_chunk"), length), script_chunk(length)) < TOLERANCE


@pytest.mark.parametrize("length", [1, 4, 14])
def test_sliding_equals_the_automaton(length: int) -> None:
    assert worst(run(program("sab_sliding"), length), script_sliding(length)) < TOLERANCE


def test_the_two_variants_are_different_rules() -> None:
    assert worst(run(program("sab_chunk"), 14), script_sliding(14)) > 1e-3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("add dh d_slot tag", "add dh zero tag"),  # slots never answer
        ("best = load picked[t] :", "best = load picked[s] :"),  # a replay that reads other rows
        ("d_mix = add(d_h, e_mix)", "d_mix = add(e_mix, e_mix)"),  # a dropped and a doubled path
        ("for s in 0..T by -5", "for s in 0..T by 5"),  # chunks before their consumers
    ],
)
def test_chunk_mutants_differ(old: str, new: str) -> None:
    assert worst(run(mutant("sab_chunk", (old, new)), 17), script_chunk(17)) > 1e-3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("add dh[3] d_slot", "add dh[2] d_slot"),  # a read that does not refill all of the budget
        ("start=1, axis=[lane=3]", "start=0, axis=[lane=3]"),  # carries for nothing
        ("add dmix[3] e_mix", "add dmix[3] e_h"),
    ],
)
def test_sliding_mutants_differ(old: str, new: str) -> None:
    assert worst(run(mutant("sab_sliding", (old, new)), 14), script_sliding(14)) > 1e-3
