"""Losses, windows, resets, masks and delays as the design fixes them, taken literally."""

from __future__ import annotations

import pytest
import torch
from driver_support import (
    ELMAN,
    MSE,
    assert_gradients,
    by_autograd,
    call,
    close,
    elman,
    elman_batch,
    grads,
    made,
    randn,
)

# ---- losses


def test_loss_is_the_mean_over_valid_steps_and_samples() -> None:
    model, batch = made(MSE), elman_batch()
    mask = torch.ones(7, 3, dtype=torch.bool)
    mask[5:, 1], mask[2:, 2] = False, False
    result = call(model, batch, mask=mask)
    each = ((elman(model, batch["x"]) - batch["z"]) ** 2).mean(-1)
    assert close(result.loss, (each * mask).sum() / 14)
    assert close(call(model, batch).loss, each.mean())
    result.loss.backward()
    assert_gradients(model, (each * mask).sum() / 14)


def test_loss_without_valid_steps_is_zero() -> None:
    model, batch = made(MSE), elman_batch()
    result = call(model, batch, mask=torch.zeros(7, 3, dtype=torch.bool))
    assert result.loss.item() == 0.0
    result.loss.backward()
    assert all(float(value.abs().max()) == 0.0 for value in grads(model).values())


def test_schedules_weights_and_reduction() -> None:
    text = (
        ELMAN
        + """loss:
  a: {value: "mse(h, z)", weight: 0.5, at: last}
  b: {value: "mae(h, z)", weight: 2, at: every(3)}
"""
    )
    mask = torch.ones(7, 3, dtype=torch.bool)
    mask[4:, 1] = False
    batch = elman_batch()
    for reduce in ("mean", "sum"):
        model = made(text + f"  reduce: {reduce}\n")
        result = call(model, batch, mask=mask)
        h = elman(model, batch["x"])
        last = torch.stack([((h - batch["z"]) ** 2).mean(-1)[t, b] for t, b in ((6, 0), (3, 1), (6, 2))])
        due = mask & (torch.tensor([2, 5])[:, None] == torch.arange(7)).any(0)[:, None]
        every = (h - batch["z"]).abs().mean(-1)[due]
        a, b = (last.mean(), every.mean()) if reduce == "mean" else (last.sum(), every.sum())
        assert close(result.losses["a"], a)
        assert close(result.losses["b"], b)
        assert close(result.loss, 0.5 * a + 2 * b)
        assert not any(part.requires_grad for part in result.losses.values())
        result.loss.backward()
        assert_gradients(model, 0.5 * a + 2 * b)


def test_nll_takes_probabilities() -> None:
    text = """
sizes: {n: 3}
inputs: {x: "float[n]"}
targets: {y: "class[n]"}
params: {w: "float[n] = 1"}
step: |
  p = w * x
loss: nll(p, y)
"""
    x = torch.tensor([[[0.5, 0.0, 0.5]], [[1.0, 0.0, 0.0]]], dtype=torch.float64)
    result = call(made(text), {"x": x, "y": torch.tensor([[0], [2]])})
    assert close(result.loss, -(torch.tensor([0.5, 1e-6], dtype=torch.float64).log()).mean())


def test_a_call_without_targets_has_no_loss() -> None:
    result = call(made(MSE), {"x": elman_batch()["x"]})
    assert result.loss is None
    assert result.losses == {}
    assert result.outputs["h"].shape == (7, 3, 4)


def test_outputs_are_differentiable() -> None:
    """A user's own loss, alone and beside the spec's."""
    model, batch = made(MSE), elman_batch()
    for own in (True, False):
        model.zero_grad()
        result = call(model, batch)
        weight = randn(5, 7, 3, 4)
        h = elman(model, batch["x"])
        total = (result.outputs["h"] * weight).sum()
        expected = (h * weight).sum()
        if own:
            total, expected = total + result.loss, expected + ((h - batch["z"]) ** 2).mean()
        total.backward()
        assert_gradients(model, expected)


# ---- windows


def cut_at(steps: int, window: int) -> tuple[int, ...]:
    return tuple(range(window, steps, window))


@pytest.mark.parametrize("window", [1, 2, 3, 5, 7, 20])
def test_tbptt_cuts_on_entering_multiples(window: int) -> None:
    """Cut on entering k, 2k, ...; a window as long as the call is full backpropagation; `s` is not cut."""
    model, batch = made(MSE + f"credit: tbptt({window})\n"), elman_batch()
    call(model, batch).loss.backward()
    h = elman(model, batch["x"], cuts=cut_at(7, window))
    assert_gradients(model, ((h - batch["z"]) ** 2).mean())
    if window >= 7:
        full = made(MSE)
        full.load_state_dict(model.state_dict())
        call(full, batch).loss.backward()
        assert all(close(value, grads(model)[name]) for name, value in grads(full).items())


@pytest.mark.parametrize(("window", "every"), [(5, 2), (3, 1), (4, 4), (6, 4)])
def test_overlapping_windows(window: int, every: int) -> None:
    """Losses of steps um .. (u+1)m - 1 see the state cut on entering max(0, (u+1)m - k)."""
    model, batch = made(MSE + f"credit: tbptt(window={window}, every={every})\n"), elman_batch()
    call(model, batch).loss.backward()
    expected = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for first in range(0, 7, every):
        cut = max(0, first + every - window)
        h = elman(model, batch["x"], cuts=(cut,) if cut else ())
        each = ((h - batch["z"]) ** 2).mean(-1)[first : first + every].sum() / 21
        for name, part in by_autograd(model, each).items():
            expected[name] += part
    assert all(close(grads(model)[name], value) for name, value in expected.items())


def test_delay_lines_are_cut_whole() -> None:
    """What step k - 3 made does not get credit from a read of [t-5] at step k + 2."""
    text = """
inputs: {x: float}
targets: {z: float}
params: {w: "float = 0.7", v: "float = 0.5"}
step: |
  h = w * x
  y = v * h[t-5]
loss: mse(y, z)
credit: tbptt(4)
"""
    model = made(text)
    x, z = randn(1, 9, 2), randn(2, 9, 2)
    call(model, {"x": x, "z": z}).loss.backward()
    assert float(model.get_parameter("w").grad or 0) == 0.0
    past = torch.cat([torch.zeros(5, 2, dtype=torch.float64), 0.7 * x[:4]])
    assert close(grads(model)["v"], (2 * (0.5 * past - z) * past).mean())


def test_incoming_state_is_a_constant() -> None:
    model, batch = made(MSE), elman_batch()
    start = randn(9, 3, 4)
    result = call(model, batch, state={"h": start, "t": torch.tensor(4)})
    h = elman(model, batch["x"], start)
    assert close(result.outputs["h"], h)
    assert int(result.state["t"]) == 11
    result.loss.backward()
    assert_gradients(model, ((h - batch["z"]) ** 2).mean())
    assert float(grads(model)["s"].abs().max()) == 0.0


# ---- reset, mask, delays


def test_reset_acts_before_the_mask() -> None:
    model, batch = made(MSE), elman_batch()
    mask = torch.ones(7, 3, dtype=torch.bool)
    reset = torch.zeros(7, 3, dtype=torch.bool)
    mask[6], reset[6, 0], reset[3] = False, True, True
    result = call(model, batch, mask=mask, reset=reset)
    h = elman(model, batch["x"], reset=reset)
    assert close(result.outputs["h"][:6], h[:6])
    assert close(result.state["h"][0], model.get_parameter("s"))
    assert close(result.state["h"][1:], h[5, 1:])


def test_delayed_inputs_are_zero_before_the_first_step() -> None:
    text = """
inputs: {x: float}
targets: {z: float}
params: {w: "float = 2"}
step: |
  y = w * x[t-2]
loss: mse(y, z)
"""
    x = randn(1, 5, 2)
    model = made(text)
    result = call(model, {"x": x, "z": x})
    assert close(result.outputs["y"], 2 * torch.cat([torch.zeros(2, 2, dtype=torch.float64), x[:3]]))
    again = call(model, {"x": x, "z": x}, state=result.state)
    assert close(again.outputs["y"][:2], 2 * x[3:])
