"""Copying over thirty steps with credit that crosses five: through a memory it is learnt, without it is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import recdsl

SPEC = Path(recdsl.__file__).parent / "specs" / "sab_copy.yaml"
DELAY, LENGTH, SYMBOLS, BATCH, UPDATES = 30, 5, 8, 32, 200
RATE, HIDDEN, LAST = 5e-3, 64, 20


def text(credit: str, *, memory: bool) -> str:
    found = SPEC.read_text().split("data:")[0].replace("hidden: 128", f"hidden: {HIDDEN}")
    found = found.replace("credit: sab(truncate=5)", f"credit: {credit}")
    if memory:
        return found
    head, rest = found.split("memory:\n")
    rest = rest[rest.index("step:") :]
    return head + rest.replace(" + past.read", "").replace("[h; past.read]", "h")


def accuracy(credit: str, *, memory: bool) -> float:
    """The share of symbols that are repeated without an error, over the last updates."""
    torch.set_num_threads(1)
    model: Any = recdsl.compile(text(credit, memory=memory), dtype=torch.float32)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    draws, found = torch.Generator().manual_seed(0), list[float]()
    for _ in range(UPDATES):
        symbols = torch.randint(1, SYMBOLS + 1, (LENGTH, BATCH), generator=draws)
        x = torch.zeros((2 * LENGTH + DELAY, BATCH), dtype=torch.long)
        x[:LENGTH], x[LENGTH + DELAY - 1] = symbols, SYMBOLS + 1
        y = torch.zeros_like(x)
        y[LENGTH + DELAY :] = symbols
        made = model({"x": x, "y": y})
        optimizer.zero_grad()
        made.loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        found.append(float((made.outputs["logits"][-LENGTH:].argmax(2) == symbols).float().mean()))
    return sum(found[-LAST:]) / LAST


def test_credit_through_a_memory_crosses_a_delay_that_windows_do_not() -> None:
    found = accuracy("sab(truncate=5)", memory=True)
    assert found > 2 / SYMBOLS
    assert found > 2 * accuracy("tbptt(window=5)", memory=True)


def test_without_a_memory_windows_of_five_steps_stay_near_chance() -> None:
    assert accuracy("tbptt(window=5)", memory=False) < 1.5 / SYMBOLS
