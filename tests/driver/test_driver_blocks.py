"""Library blocks follow their equations, and are those of torch.nn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from driver_support import assert_gradients, call, close, elman_batch, grads, made, randn
from torch import Tensor


def block(text: str, hid: int = 4) -> torch.nn.Module:
    head = f'sizes: {{inp: 3, hid: {hid}}}\ninputs: {{x: "float[inp]"}}\ntargets: {{z: "float[hid]"}}\n'
    model = made(f"{head}step: |\n  {text}\nloss: mse(h, z)\n")
    with torch.no_grad():
        for k, p in enumerate(model.parameters()):
            p.copy_(0.5 * randn(10 + k, *p.shape))
    return model


def test_gru_follows_its_equations() -> None:
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


def test_gru_reset_after_is_torch_nn_gru() -> None:
    model, own = block("h = gru_reset_after(x, size=hid)"), library(torch.nn.GRU)
    places = copy_gates(model, own, "rzn", "h", 0)
    with torch.no_grad():
        own.get_parameter("bias_hh_l0")[8:] = model.get_parameter("h.cn")
    assert_same_layer(model, own, {**places, "h.cn": ("bias_hh_l0", 2)})


def test_lstm_is_torch_nn_lstm() -> None:
    model, own = block("h = lstm(x, size=hid)"), library(torch.nn.LSTM)
    assert_same_layer(model, own, copy_gates(model, own, "ifgo", "h", 0))


def test_stacked_layers_are_those_of_torch_nn() -> None:
    model, own = block("g = lstm(x, size=hid)\n  h = lstm(g, size=hid)"), library(torch.nn.LSTM, 2)
    places = copy_gates(model, own, "ifgo", "g", 0) | copy_gates(model, own, "ifgo", "h", 1)
    assert_same_layer(model, own, places)
