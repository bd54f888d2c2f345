"""What callers do wrong with a compiled module: one clear error, and never other numbers without a word."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import recdsl

pytestmark = pytest.mark.compiler
SPEC = """
recdsl: 1
sizes: {n: 3, v: 2}
inputs: {x: "float[n]"}
targets: {y: "class[v]"}
params: {W: "float[v, n] ~ normal(0, 0.5)", u: "float[v] ~ normal(0, 0.5)"}
step: |
  h = tanh(W @ x + u * h[t-1])
loss: {task: {value: "cross_entropy(h, y)", at: AT}}
credit: bptt
"""
Batch = dict[str, Tensor]


@pytest.fixture(params=["torch", "native"])
def model(request: pytest.FixtureRequest) -> Any:
    return recdsl.compile(SPEC.replace("AT", "all"), request.param)


def batch() -> Batch:
    draws = torch.Generator().manual_seed(0)
    return {"x": torch.randn(5, 2, 3, generator=draws), "y": torch.randint(2, (5, 2), generator=draws)}


def gradient(model: Any, given: Batch, **more: Any) -> Tensor:
    model.zero_grad()
    model(given, **more).loss.backward()
    return model.W.grad.clone()


WRONG: dict[str, tuple[Callable[[Batch], Any], str]] = {
    "a list": (lambda b: {**b, "x": b["x"].tolist()}, "'x' is a list; expected a tensor [time, batch, 3]"),
    "an array": (lambda b: {**b, "x": b["x"].numpy()}, "'x' is a ndarray; expected a tensor [time, batch, 3]"),
    "nothing": (lambda b: {**b, "x": None}, "'x' is None; expected a tensor [time, batch, 3]"),
    "a tensor alone": (lambda b: b["x"], "the batch is a Tensor; expected a mapping from names to tensors: x, y"),
    "complex numbers": (lambda b: {**b, "x": b["x"] + 0j}, "'x' is torch.complex64; expected dense numbers"),
    "sparse": (lambda b: {**b, "x": b["x"].to_sparse()}, "'x' is sparse_coo; expected dense numbers [time, batch, 3]"),
    "no class": (lambda b: {**b, "y": b["y"] - 100}, "where the loss is due; it is class[2]: 0 to 1; leave such steps"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_batch_that_cannot_be_is_refused(model: Any, name: str) -> None:
    change, said = WRONG[name]
    with pytest.raises((TypeError, ValueError), match=re.escape(said)):
        model(change(batch()))


@pytest.mark.parametrize("name", ["mask", "reset", "counted"])
def test_flags_are_tensors(model: Any, name: str) -> None:
    with pytest.raises(TypeError, match=rf"{name} is a list; expected a tensor of torch.bool \[5, 2\]"):
        model(batch(), **{name: [[True, True]] * 5})


def test_a_target_of_no_class_may_stand_where_no_loss_is_due(model: Any) -> None:
    given = batch()
    due = torch.ones(5, 2, dtype=torch.bool)
    due[1] = False
    expected = gradient(model, given, counted=due)
    given["y"][1] = -100
    assert torch.equal(gradient(model, given, counted=due), expected)
    assert torch.isfinite(model(given, mask=due).loss)
    late = recdsl.compile(SPEC.replace("AT", "last"))
    assert torch.isfinite(late(given).loss)
    given["y"][4, 1] = -1
    with pytest.raises(ValueError, match=r"'y' holds -1 where the loss is due"):
        late(given)


def test_learning_goes_on_after_a_call_in_inference_mode(model: Any) -> None:
    expected = gradient(model, batch())
    with torch.inference_mode():
        shown = model(batch())
    assert not shown.loss.requires_grad
    assert torch.equal(gradient(model, batch()), expected)
    assert torch.isfinite(gradient(model, batch(), state=shown.state)).all()
    with torch.inference_mode():
        given = batch()
    assert torch.equal(gradient(model, given), expected)


@pytest.mark.parametrize("name", ["x", "y", "mask", "h"])
def test_what_a_call_was_given_stays_as_it_is_until_backward(model: Any, name: str) -> None:
    given, mask, state = batch(), torch.ones(5, 2, dtype=torch.bool), dict(model(batch()).state)
    result = model({**given}, mask=mask if name == "mask" else None, state=state)
    ({**given, **state, "mask": mask})[name].zero_()
    with pytest.raises(RuntimeError, match="an input, mask or state was changed in place between the call and back"):
        result.loss.backward()


def test_a_second_derivative_is_an_error_and_no_zero(model: Any) -> None:
    expected = gradient(model, batch())
    (found,) = torch.autograd.grad(model(batch()).loss, [model.W], create_graph=True)
    assert torch.equal(found.detach(), expected)
    with pytest.raises(RuntimeError, match="gradients of a compiled model cannot be differentiated"):
        (model(batch()).loss + found.square().sum()).backward()
