"""Adding two numbers that lie far apart with credit that crosses five steps: the shipped spec, at a short length."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import recdsl
from recdsl.training.catalogue import beside
from recdsl.training.loop import evaluate
from recdsl.training.online import trainer
from recdsl.training.pipeline import COMPILER
from recdsl.training.run import seed_all, setup

SPEC = str(Path(recdsl.__file__).parent / "specs" / "sab_adding.yaml")
UPDATES = 300
CHANCE = 1 / 6
"""The variance of a sum of two numbers drawn from 0..1."""


@pytest.mark.compiler
def test_the_marked_numbers_are_found_in_the_past() -> None:
    seed_all(1)
    torch.set_num_threads(1)
    changes = ("data.length=30", "train.optimizer=adam(lr=1e-2)", "train.schedule=constant", "train.backend=native")
    compiled = COMPILER.build(SPEC, changes)
    made = setup(compiled, beside(compiled.spec))
    worker = trainer(compiled, made.source, made.binding, made.settings)
    errors: list[float] = []
    for step in range(UPDATES + 1):
        if step in (1, UPDATES):
            errors.append(evaluate(worker.module, made.source, made.binding, made.settings, "test", 4)["mse"])
        worker.update()
    assert errors[0] > 0.9 * CHANCE
    assert errors[1] < CHANCE / 3
