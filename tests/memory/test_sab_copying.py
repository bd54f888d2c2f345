"""Copying over thirty steps with credit that crosses five: through a memory it is learnt, without it is not."""

from __future__ import annotations

from pathlib import Path

import torch

import recdsl
from recdsl.training.catalogue import beside
from recdsl.training.loop import evaluate
from recdsl.training.online import trainer
from recdsl.training.pipeline import COMPILER
from recdsl.training.run import seed_all, setup

SPEC = Path(recdsl.__file__).parent / "specs" / "sab_copy.yaml"
CHANGES = ("data.delay=30", "train.backend=torch")
SYMBOLS, UPDATES = 8, 450


def text(credit: str, *, memory: bool) -> str:
    found = SPEC.read_text(encoding="utf-8").replace("credit: sab(truncate=5)", f"credit: {credit}")
    if memory:
        return found
    head, rest = found.split("memory:\n")
    head = "".join(line for line in head.splitlines(keepends=True) if not line.startswith("  Q:"))
    return head + rest[rest.index("step:") :].replace("  r = past.read\n", "").replace("[h; r]", "h")


def accuracy(credit: str, *, memory: bool) -> float:
    """The share of symbols of test sequences that are repeated without an error."""
    seed_all(1)
    torch.set_num_threads(1)
    compiled = COMPILER.build(text(credit, memory=memory), CHANGES)
    made = setup(compiled, beside(compiled.spec))
    worker = trainer(compiled, made.source, made.binding, made.settings)
    for _ in range(UPDATES):
        worker.update()
    found = evaluate(worker.module, made.source, made.binding, made.settings, "test", 4)
    return found["accuracy_last10"]


def test_credit_through_a_memory_crosses_a_delay_that_windows_do_not() -> None:
    assert accuracy("sab(truncate=5)", memory=True) > 0.9
    assert accuracy("tbptt(window=5)", memory=True) < 0.6


def test_without_a_memory_windows_of_five_steps_stay_near_chance() -> None:
    assert accuracy("tbptt(window=5)", memory=False) < 1.5 / SYMBOLS
