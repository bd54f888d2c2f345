"""What `compare` says a call takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recdsl.driver import compile as compile_spec
from recdsl.training.spending import growth, learn, peak

SPEC = """recdsl: 1
sizes: {i: 4, n: 8}
inputs: {x: "float[i]"}
targets: {y: float}
step: |
  h = gru(x, size=n)
  v = linear(h, size=1)
loss: mse(sum(v), y)
credit: RULE
"""
STEPS, SAMPLES = 64, 4


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    return {"x": torch.randn(STEPS, SAMPLES, 4), "y": torch.randn(STEPS, SAMPLES)}


@pytest.mark.parametrize("rule", ["bptt", "columns"])
def test_what_earlier_calls_have_left_is_counted(rule: str, batch: dict[str, torch.Tensor]) -> None:
    """A model keeps the memory of its calls for the next ones."""
    model: Any = compile_spec(SPEC.replace("RULE", rule))
    first = peak(model, batch)
    for _ in range(3):
        learn(model, batch)
    assert peak(model, batch) == pytest.approx(first, rel=0.1)


def test_what_steps_add_is_part_of_the_peak(batch: dict[str, torch.Tensor]) -> None:
    """Of reverse mode nearly all of it: at least h, its gates and their cotangents, in single precision."""
    model: Any = compile_spec(SPEC.replace("RULE", "bptt"))
    learn(model, batch)
    whole, step = peak(model, batch), growth(model, batch)
    assert step > 4 * SAMPLES * 8 * 5
    assert 0.7 * whole < STEPS * step < 1.1 * whole
