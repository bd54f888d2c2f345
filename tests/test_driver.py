"""The Python face, and what the design fixes about losses, windows, resets and names, taken literally."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import recdsl as package
from recdsl.driver import analyse

torch.set_num_threads(1)
recdsl: Any = package  # its names are looked up when they are asked for


def randn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(text: str, **options: Any) -> torch.nn.Module:
    return recdsl.compile("recdsl: 1\n" + text, **{"dtype": torch.float64, **options})


def call(model: torch.nn.Module, batch: Mapping[str, Tensor], **given: Any) -> Any:
    return model(dict(batch), **given)


def grads(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-10) -> bool:
    return found.shape == expected.shape and bool(torch.allclose(found, expected, atol=tolerance, rtol=tolerance))


ELMAN = """
sizes: {inp: 3, hid: 4}
inputs: {x: "float[inp]"}
targets: {z: "float[hid]"}
params:
  W: float[hid, inp] ~ normal(0.0, 0.5)
  U: float[hid, hid] ~ normal(0.0, 0.5)
  s: float[hid] ~ normal(0.0, 0.5)
states: {h: "float[hid] = s"}
step: |
  h = tanh(W @ x + U @ h[t-1])
"""
MSE = ELMAN + "loss: mse(h, z)\n"


def elman_batch(steps: int = 7, size: int = 3) -> dict[str, Tensor]:
    return {"x": randn(1, steps, size, 3), "z": randn(2, steps, size, 4)}


def elman(
    model: torch.nn.Module,
    x: Tensor,
    start: Tensor | None = None,
    cuts: tuple[int, ...] = (),
    reset: Tensor | None = None,
) -> Tensor:
    """The equations in plain autograd; gradient is cut on entering the steps in `cuts`."""
    w, u, s = (model.get_parameter(name) for name in "WUs")
    h = (s if start is None else start).expand(x.shape[1], 4)
    states: list[Tensor] = []
    for t in range(x.shape[0]):
        if t in cuts:
            h = h.detach()
        if reset is not None:
            h = torch.where(reset[t][:, None], s, h)
        h = torch.tanh(x[t] @ w.T + h @ u.T)
        states.append(h)
    return torch.stack(states)


def by_autograd(model: torch.nn.Module, loss: Tensor) -> dict[str, Tensor]:
    names = dict(model.named_parameters())
    parts = torch.autograd.grad(loss, list(names.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(names, parts, strict=True))


def assert_gradients(model: torch.nn.Module, loss: Tensor) -> None:
    expected = by_autograd(model, loss)
    found = grads(model)
    for name, value in expected.items():
        assert close(found.get(name, torch.zeros_like(value)), value), name


# ---- losses


def test_loss_is_the_mean_over_valid_steps_and_samples():
    model, batch = made(MSE), elman_batch()
    mask = torch.ones(7, 3, dtype=torch.bool)
    mask[5:, 1], mask[2:, 2] = False, False
    result = call(model, batch, mask=mask)
    each = ((elman(model, batch["x"]) - batch["z"]) ** 2).mean(-1)
    assert close(result.loss, (each * mask).sum() / 14)
    assert close(call(model, batch).loss, each.mean())
    result.loss.backward()
    assert_gradients(model, (each * mask).sum() / 14)


def test_loss_without_valid_steps_is_zero():
    model, batch = made(MSE), elman_batch()
    result = call(model, batch, mask=torch.zeros(7, 3, dtype=torch.bool))
    assert result.loss.item() == 0.0
    result.loss.backward()
    assert all(float(value.abs().max()) == 0.0 for value in grads(model).values())


def test_schedules_weights_and_reduction():
    text = ELMAN + """loss:
  a: {value: "mse(h, z)", weight: 0.5, at: last}
  b: {value: "mae(h, z)", weight: 2, at: every(3)}
"""
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


def test_nll_takes_probabilities():
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


def test_a_call_without_targets_has_no_loss():
    result = call(made(MSE), {"x": elman_batch()["x"]})
    assert result.loss is None
    assert result.losses == {}
    assert result.outputs["h"].shape == (7, 3, 4)


def test_outputs_are_differentiable():
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
def test_tbptt_cuts_on_entering_multiples(window: int):
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
def test_overlapping_windows(window: int, every: int):
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


def test_delay_lines_are_cut_whole():
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


def test_incoming_state_is_a_constant():
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


def test_reset_acts_before_the_mask():
    model, batch = made(MSE), elman_batch()
    mask = torch.ones(7, 3, dtype=torch.bool)
    reset = torch.zeros(7, 3, dtype=torch.bool)
    mask[6], reset[6, 0], reset[3] = False, True, True
    result = call(model, batch, mask=mask, reset=reset)
    h = elman(model, batch["x"], reset=reset)
    assert close(result.outputs["h"][:6], h[:6])
    assert close(result.state["h"][0], model.get_parameter("s"))
    assert close(result.state["h"][1:], h[5, 1:])


def test_delayed_inputs_are_zero_before_the_first_step():
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


# ---- names and library blocks


def block(text: str, hid: int = 4) -> torch.nn.Module:
    head = f'sizes: {{inp: 3, hid: {hid}}}\ninputs: {{x: "float[inp]"}}\ntargets: {{z: "float[hid]"}}\n'
    model = made(f"{head}step: |\n  {text}\nloss: mse(h, z)\n")
    with torch.no_grad():
        for k, p in enumerate(model.parameters()):
            p.copy_(0.5 * randn(10 + k, *p.shape))
    return model


def test_gru_follows_its_equations():
    model, batch = block("h = gru(x, size=hid)"), elman_batch()
    p = {name: model.get_parameter(f"h.{name}") for name in ("Wz", "Wr", "Wn", "Uz", "Ur", "Un", "bz", "br", "bn")}
    assert {name for name, _ in model.named_parameters()} == {f"h.{name}" for name in p}
    h, states = torch.zeros(3, 4, dtype=torch.float64), list[Tensor]()
    for x in batch["x"]:
        z = torch.sigmoid(x @ p["Wz"].T + h @ p["Uz"].T + p["bz"])
        r = torch.sigmoid(x @ p["Wr"].T + h @ p["Ur"].T + p["br"])
        n = torch.tanh(x @ p["Wn"].T + (r * h) @ p["Un"].T + p["bn"])
        h = (1 - z) * n + z * h
        states.append(h)
    result = call(model, batch)
    assert close(result.outputs["h"], torch.stack(states))
    result.loss.backward()
    assert_gradients(model, ((torch.stack(states) - batch["z"]) ** 2).mean())


def library(kind: type[torch.nn.GRU | torch.nn.LSTM], layers: int = 1) -> Any:
    return kind(3, 4, layers).to(torch.float64)


def copy_gates(model: torch.nn.Module, own: Any, gates: str, name: str, layer: int) -> dict[str, tuple[str, int]]:
    """Gives torch.nn's layer the block's weights; where each parameter of the block is in it: (tensor, gate)."""
    with torch.no_grad():
        own.get_parameter(f"bias_hh_l{layer}").zero_()
        for k, gate in enumerate(gates):
            rows = slice(4 * k, 4 * k + 4)
            own.get_parameter(f"weight_ih_l{layer}")[rows] = model.get_parameter(f"{name}.W{gate}")
            own.get_parameter(f"weight_hh_l{layer}")[rows] = model.get_parameter(f"{name}.U{gate}")
            own.get_parameter(f"bias_ih_l{layer}")[rows] = model.get_parameter(f"{name}.b{gate}")
    kinds = {"W": "weight_ih", "U": "weight_hh", "b": "bias_ih"}
    return {f"{name}.{m}{g}": (f"{t}_l{layer}", k) for m, t in kinds.items() for k, g in enumerate(gates)}


def assert_same_layer(model: torch.nn.Module, own: Any, places: Mapping[str, tuple[str, int]]) -> None:
    batch = elman_batch()
    result, expected = call(model, batch), own(batch["x"])[0]
    assert close(result.outputs["h"], expected)
    result.loss.backward()
    ((expected - batch["z"]) ** 2).mean().backward()
    found = grads(model)
    assert found.keys() == places.keys()
    for name, (tensor, gate) in places.items():
        assert close(found[name], own.get_parameter(tensor).grad[4 * gate : 4 * gate + 4]), name


def test_gru_reset_after_is_torch_nn_gru():
    model, own = block("h = gru_reset_after(x, size=hid)"), library(torch.nn.GRU)
    places = copy_gates(model, own, "rzn", "h", 0)
    with torch.no_grad():
        own.get_parameter("bias_hh_l0")[8:] = model.get_parameter("h.cn")
    assert_same_layer(model, own, {**places, "h.cn": ("bias_hh_l0", 2)})


def test_lstm_is_torch_nn_lstm():
    model, own = block("h = lstm(x, size=hid)"), library(torch.nn.LSTM)
    assert_same_layer(model, own, copy_gates(model, own, "ifgo", "h", 0))


def test_stacked_layers_are_those_of_torch_nn():
    model, own = block("g = lstm(x, size=hid)\n  h = lstm(g, size=hid)"), library(torch.nn.LSTM, 2)
    places = copy_gates(model, own, "ifgo", "g", 0) | copy_gates(model, own, "ifgo", "h", 1)
    assert_same_layer(model, own, places)


# ---- an ordinary module


def test_state_dict_and_deep_copy():
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


def test_frozen_parameters_are_buffers():
    text = MSE.replace("U: float[hid, hid] ~ normal(0.0, 0.5)", "U: float[hid, hid] ~ normal(0.0, 0.5) frozen")
    model = made(text)
    assert {name for name, _ in model.named_parameters()} == {"W", "s"}
    assert {name for name, _ in model.named_buffers() if name in model.state_dict()} == {"U"}


def test_dtypes():
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


def test_without_gradient():
    model, batch = made(MSE), elman_batch()
    with torch.no_grad():
        result = call(model, batch)
    assert not result.loss.requires_grad
    assert close(result.loss, call(model, batch).loss.detach())
    model.requires_grad_(False)
    assert not call(model, batch).loss.requires_grad


def test_two_calls_before_one_backward():
    model, batch = made(MSE), elman_batch()
    first = call(model, batch)
    other = {"x": batch["x"] * 0.5 + 1, "z": batch["z"]}
    second = call(model, other)
    (first.loss + second.loss).backward()
    losses = [((elman(model, b["x"]) - b["z"]) ** 2).mean() for b in (batch, other)]
    assert_gradients(model, losses[0] + losses[1])
    assert close(first.outputs["h"], elman(model, batch["x"]))


def test_outputs_outlive_later_calls():
    model, batch = made(MSE), elman_batch()
    first = call(model, batch)
    kept = {"h": first.outputs["h"].clone(), "state": first.state["h"].clone()}
    for k in range(3):
        call(model, {name: value + k + 1 for name, value in batch.items()}).loss.backward()
    assert torch.equal(first.outputs["h"], kept["h"])
    assert torch.equal(first.state["h"], kept["state"])


def test_backward_twice():
    model, batch = made(MSE), elman_batch()
    result = call(model, batch)
    result.loss.backward()
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        result.loss.backward()


def test_retain_graph():
    model, batch = made(MSE), elman_batch()
    result = call(model, batch)
    result.loss.backward(retain_graph=True)
    once = grads(model)
    result.loss.backward()
    assert all(close(value, 2 * once[name]) for name, value in grads(model).items())


def test_a_parameter_changed_before_backward():
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
def test_bad_batches(name: str):
    changes, expected = BAD_BATCHES[name]
    with pytest.raises(ValueError, match=expected):
        call(made(MSE), {**elman_batch(), **changes})


def test_bad_masks_states_and_classes():
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


def test_unknown_backend():
    with pytest.raises(ValueError, match="torch"):
        made(MSE, backend="torhc")


# ---- the driver


def test_text_path_and_overrides(tmp_path: Path):
    path = tmp_path / "spec.yaml"
    path.write_text("recdsl: 1\n" + MSE)
    assert recdsl.compile(str(path)).get_parameter("U").shape == (4, 4)
    assert recdsl.compile(str(path), overrides=["sizes.hid=6"]).get_parameter("U").shape == (6, 6)
    assert recdsl.compile(str(path), dtype=torch.float64).get_parameter("U").dtype == torch.float64


def test_explain():
    report = recdsl.explain("recdsl: 1\n" + MSE + "credit: tbptt(3)\n")
    rows = {row["parameter"]: row for row in report.to_dict()["rows"]}
    assert set(rows) == {"W", "U", "s"}
    assert rows["U"]["verdict"] == "biased"
    assert "tbptt" in str(report)


def test_equal_specs_give_equal_models():
    one, two = made(MSE), made(MSE)
    assert all(torch.equal(value, two.state_dict()[name]) for name, value in one.state_dict().items())
    text = "recdsl: 1\n" + MSE
    assert analyse(text).source == analyse(text).source


ALONE = """
import sys

class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("recdsl", "networkx", "lark", "yaml", "rich", "typer"):
            raise ImportError(name)

sys.meta_path.insert(0, Nothing())
import torch
import model
found = model.Model(0, torch.float64)
x, z = torch.linspace(-1, 1, 42, dtype=torch.float64).reshape(7, 2, 3), torch.zeros(7, 2, 4, dtype=torch.float64)
result = found({"x": x, "z": z}, mask=torch.ones(7, 2, dtype=torch.bool))
result.loss.backward()
print(repr(result.loss.item()), repr(float(found.get_parameter("U").grad.sum())))
"""


def test_the_source_runs_without_recdsl(tmp_path: Path):
    (tmp_path / "model.py").write_text(analyse("recdsl: 1\n" + MSE).source)
    (tmp_path / "alone.py").write_text(ALONE)
    command = [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); import alone"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    model = made(MSE)
    x = torch.linspace(-1, 1, 42, dtype=torch.float64).reshape(7, 2, 3)
    result = call(model, {"x": x, "z": torch.zeros(7, 2, 4, dtype=torch.float64)})
    result.loss.backward()
    loss, slope = map(float, done.stdout.split())
    assert loss == pytest.approx(result.loss.item(), abs=1e-12)
    assert slope == pytest.approx(float(grads(model)["U"].sum()), abs=1e-12)
