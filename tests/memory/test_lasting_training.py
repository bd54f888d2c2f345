"""Training with stores that last as long as the model: checkpoints, evaluation, groups of the optimizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from recdsl.training.catalogue import beside
from recdsl.training.checkpoint import load, save
from recdsl.training.loop import Trainer
from recdsl.training.online import trainer
from recdsl.training.pipeline import COMPILER
from recdsl.training.run import seed_all, setup

SPEC = """
recdsl: 1
sizes: {columns: 8, code: 6, classes: 10}
inputs: {x: "float[columns]"}
targets: {y: "class[classes]"}
memory:
  past:
    slots: 40
    write: {key: e, value: onehot(y)}
    read: {query: stop(e), score: cosine(sharpness=5), normalise: softmax}
step: |
  e = mlp(x, sizes=[9, code])
  guess = past.read
  rebuilt = mlp(stop(e), sizes=[9, columns])
loss:
  classify: {value: "nll(guess, y)", trains: [e.*, past]}
  rebuild: {value: "mse(rebuilt, stop(x))", trains: rebuilt.*}
credit:
  past: CREDIT
data: sequential_digits(as=rows)
train: {batch: 4, steps: 20, optimizer: adam(lr=1e-2), seed: 1, threads: 1}
"""
CREDITS = {
    "exact": "reinstate(exact, encode=e, decode=rebuilt)",
    "stored": "reinstate(approximate, encode=e, decode=stored, chunk=7)",
    "synthetic": "synthetic(hidden=5, condition=y, lr=5e-3)",
    "param": "param(lr=0.1)",
}


def made(credit: str) -> Trainer:
    seed_all(1)
    compiled = COMPILER.build(SPEC.replace("CREDIT", credit), ())
    ready = setup(compiled, beside(compiled.spec))
    return trainer(compiled, ready.source, ready.binding, ready.settings)


@pytest.mark.parametrize("name", CREDITS)
def test_a_resumed_run_is_the_same_run(name: str, tmp_path: Path) -> None:
    """Rows, serials, observations and what the net has gathered are in checkpoints: bitwise the same."""
    one = made(CREDITS[name])
    for _ in range(6):
        one.update()
    tensors, state = one.snapshot()
    path = save(tmp_path, 6, tensors, state)
    two = made(CREDITS[name])
    two.restore(load(path))
    for worker in (one, two):
        for _ in range(4):
            worker.update()
    found, wanted = two.module.state_dict(), one.module.state_dict()
    assert all(torch.equal(found[key], value) for key, value in wanted.items())


def test_evaluation_leaves_the_store_alone() -> None:
    worker: Any = made(CREDITS["exact"])
    for _ in range(3):
        worker.update()
    before = {key: value.clone() for key, value in worker.module.state_dict().items()}
    worker.evaluate("valid", 3)
    assert all(torch.equal(before[key], value) for key, value in worker.module.state_dict().items())


def test_the_net_has_a_group_of_its_own() -> None:
    worker: Any = made(CREDITS["synthetic"])
    groups = [[name for name, _ in group.named] for group in worker.groups]
    assert groups[1] == [f"credit.past.{name}" for name in ("W1", "b1", "W2", "b2")]
    assert [group.rate for group in worker.groups] == [1e-2, 5e-3]
    before = worker.module.credit.past.W1.clone()
    for _ in range(6):
        worker.update()
    assert not torch.equal(worker.module.credit.past.W1, before)
