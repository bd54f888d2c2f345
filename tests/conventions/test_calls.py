"""What a call gives back belongs to the caller, and nothing of a call outlives its results."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from conventions_support import compiled, draw

SPEC = """
recdsl: 1
inputs: {x: "float[3]"}
params: {k: "float[3] = 0.5"}
step: |
  h = tanh(k * h[t-1] + x)
  copy = x
  delayed = x[t-1]
  fixed = k
loss: mse(h, 0)
"""


@pytest.fixture
def model() -> Any:
    return compiled(SPEC)


def test_an_output_that_is_an_input_leaves_the_input_as_it_was(model: Any) -> None:
    batch = draw(model)
    before = batch["x"].clone()
    result = model(batch)
    result.outputs["copy"].detach().add_(1)
    result.outputs["delayed"].detach().add_(1)
    assert not batch["x"].requires_grad
    torch.testing.assert_close(batch["x"], before)
    model(batch)


@pytest.mark.parametrize("backward", [False, True])
def test_results_are_freed_with_their_last_user(model: Any, backward: bool) -> None:
    result = model(draw(model))
    alive = weakref.ref(result.outputs["h"].grad_fn)
    if backward:
        result.loss.backward()
    del result
    gc.collect()
    assert alive() is None


def test_later_calls_leave_earlier_results_alone(model: Any) -> None:
    result = model(draw(model))
    result.loss.backward()
    kept = {name: value.detach() for name, value in (result.outputs | result.state).items()}
    copies = {name: value.clone() for name, value in kept.items()}
    del result
    for seed in range(3):
        model(draw(model, seed=seed)).loss.backward()
    for name, value in kept.items():
        assert torch.equal(value, copies[name])


def test_an_output_changed_in_place_spoils_no_gradient_in_silence(model: Any) -> None:
    result = model(draw(model))
    with torch.no_grad():
        result.outputs["h"].zero_()
    with pytest.raises(RuntimeError, match="changed in place"):
        result.loss.backward()
