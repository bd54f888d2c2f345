"""A compiled model is an ordinary module, and refuses batches that do not fit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from driver_support import MSE, assert_gradients, call, close, elman, elman_batch, grads, made, randn, recdsl

# ---- an ordinary module


def test_state_dict_and_deep_copy() -> None:
    model, batch = made(MSE), elman_batch()
    call(model, batch).loss.backward()
    other = copy.deepcopy(model)
    fresh = made(MSE + "train: {seed: 3}\n")
    assert not close(fresh.get_parameter("W"), model.get_parameter("W"))
    fresh.load_state_dict(model.state_dict())
    for twin in (other, fresh):
        assert list(twin.state_dict()) == list(model.state_dict()) == ["W", "U", "s"]
        assert torch.equal(call(twin, batch).loss, call(model, batch).loss)
    with torch.no_grad():
        other.get_parameter("W").mul_(2.0)
    assert not torch.equal(call(other, batch).loss, call(model, batch).loss)


def test_frozen_parameters_are_buffers() -> None:
    text = MSE.replace("U: float[hid, hid] ~ normal(0.0, 0.5)", "U: float[hid, hid] ~ normal(0.0, 0.5) frozen")
    model = made(text)
    assert {name for name, _ in model.named_parameters()} == {"W", "s"}
    assert {name for name, _ in model.named_buffers() if name in model.state_dict()} == {"U"}


def test_dtypes() -> None:
    model = recdsl.compile("recdsl: 1\n" + MSE)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    batch = elman_batch()
    assert call(model, batch).loss.dtype == torch.float32
    for wide in (copy.deepcopy(model).double(), copy.deepcopy(model).to(torch.float64)):
        result = call(wide, batch)
        assert result.loss.dtype == torch.float64
        assert close(result.outputs["h"], elman(wide, batch["x"]))
        result.loss.backward()
        assert_gradients(wide, ((elman(wide, batch["x"]) - batch["z"]) ** 2).mean())
    call(model, batch).loss.backward()
    assert {value.dtype for value in grads(model).values()} == {torch.float32}


def test_without_gradient() -> None:
    model, batch = made(MSE), elman_batch()
    with torch.no_grad():
        result = call(model, batch)
    assert not result.loss.requires_grad
    assert close(result.loss, call(model, batch).loss.detach())
    model.requires_grad_(False)
    assert not call(model, batch).loss.requires_grad


def test_two_calls_before_one_backward() -> None:
    model, batch = made(MSE), elman_batch()
    first = call(model, batch)
    other = {"x": batch["x"] * 0.5 + 1, "z": batch["z"]}
    second = call(model, other)
    (first.loss + second.loss).backward()
    losses = [((elman(model, b["x"]) - b["z"]) ** 2).mean() for b in (batch, other)]
    assert_gradients(model, losses[0] + losses[1])
    assert close(first.outputs["h"], elman(model, batch["x"]))


def test_outputs_outlive_later_calls() -> None:
    model, batch = made(MSE), elman_batch()
    first = call(model, batch)
    kept = {"h": first.outputs["h"].clone(), "state": first.state["h"].clone()}
    for k in range(3):
        call(model, {name: value + k + 1 for name, value in batch.items()}).loss.backward()
    assert torch.equal(first.outputs["h"], kept["h"])
    assert torch.equal(first.state["h"], kept["state"])


def test_backward_twice() -> None:
    model, batch = made(MSE), elman_batch()
    result = call(model, batch)
    result.loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        result.loss.backward()


def test_retain_graph() -> None:
    model, batch = made(MSE), elman_batch()
    result = call(model, batch)
    result.loss.backward(retain_graph=True)
    once = grads(model)
    result.loss.backward()
    assert all(close(value, 2 * once[name]) for name, value in grads(model).items())


def test_a_parameter_changed_before_backward() -> None:
    model, batch = made(MSE), elman_batch()
    result = call(model, batch)
    with torch.no_grad():
        model.get_parameter("U").add_(1.0)
    with pytest.raises(RuntimeError, match="in place"):
        result.loss.backward()


# ---- bad batches


BAD_BATCHES: dict[str, tuple[dict[str, Any], str]] = {
    "unknown name": ({"y": randn(1, 7, 3)}, "'y'"),
    "wrong axis": ({"x": randn(1, 7, 3, 5)}, "'x'"),
    "missing axis": ({"x": randn(1, 7, 3)}, "'x'"),
    "other length": ({"z": randn(1, 6, 3, 4)}, "'z'|'x'"),
    "other batch": ({"z": randn(1, 7, 2, 4)}, "'z'|'x'"),
    "no steps": ({"x": randn(1, 0, 3, 3), "z": randn(1, 0, 3, 4)}, "step"),
    "gradient": ({"x": randn(1, 7, 3, 3).requires_grad_()}, "'x'"),
}


@pytest.mark.parametrize("name", BAD_BATCHES)
def test_bad_batches(name: str) -> None:
    changes, expected = BAD_BATCHES[name]
    with pytest.raises(ValueError, match=expected):
        call(made(MSE), {**elman_batch(), **changes})


def test_bad_masks_states_and_classes() -> None:
    model, batch = made(MSE), elman_batch()
    with pytest.raises(ValueError, match="'x'"):
        call(model, {"z": batch["z"]})
    with pytest.raises(ValueError, match="mask"):
        call(model, batch, mask=torch.ones(7, 3))
    with pytest.raises(ValueError, match="reset"):
        call(model, batch, reset=torch.ones(3, 7, dtype=torch.bool))
    with pytest.raises(ValueError, match="state"):
        call(model, batch, state={"h": randn(1, 2, 4)})
    with pytest.raises(ValueError, match="'h'"):
        call(model, batch, state={})
    tokens = made("""
sizes: {n: 3}
inputs: {x: "onehot[n]"}
targets: {y: "class[n]"}
params: {W: "float[n, n] ~ normal(0, 1)"}
step: |
  p = W @ x
loss: cross_entropy(p, y)
""")
    good = torch.zeros(4, 2, dtype=torch.long)
    for wrong in ({"x": good + 3}, {"x": good - 1}, {"y": good + 5}, {"x": good.double()}, {"x": good[..., None]}):
        with pytest.raises(ValueError, match=f"'{next(iter(wrong))}'"):
            call(tokens, {"x": good, "y": good, **wrong})


def test_unknown_backend() -> None:
    with pytest.raises(ValueError, match="torch"):
        made(MSE, backend="torhc")
