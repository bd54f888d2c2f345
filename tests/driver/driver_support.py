"""Models of the Python face, and their equations in plain autograd."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

import recdsl as package

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
