"""e-prop on adaptive spiking neurons, against the eligibility traces of the paper written out."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recdsl import compile as compile_spec
from recdsl import explain
from recdsl.diagnostics import SpecError
from recdsl.testing import assert_close_gradients, assert_matches, random_case

ALPHA, RHO, BETA, THRESHOLD = 0.9, 0.95, 0.2, 0.6
SPEC = f"""
recdsl: 1
name: alif
sizes: {{inp: 3, hid: 4}}
inputs: {{x: "float[inp]"}}
targets: {{y: float}}
params:
  W: float[hid, inp] ~ normal(0, 1)
  U: float[hid, hid] ~ normal(0, 1)
  w: float[hid] ~ normal(0, 1)
step: |
  v = {ALPHA} * v[t-1] + W @ x + U @ z[t-1] - {THRESHOLD} * z[t-1]
  a = {RHO} * a[t-1] + z[t-1]
  z = spike(v - {THRESHOLD} - {BETA} * a, surrogate=triangle)
loss: {{value: "mse(w @ z, y)", reduce: sum}}
credit: eprop
"""


def by_hand(params: dict[str, Tensor], x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Bellec et al. 2020, equations 22 to 25, for v and a updated before z; one sample."""
    size = params["w"].shape[0]
    v, a, z = (torch.zeros(size, dtype=x.dtype) for _ in range(3))
    traces = {name: (torch.zeros_like(params[name]), torch.zeros_like(params[name])) for name in ("W", "U")}
    slope = torch.zeros(size, dtype=x.dtype)
    grads = {name: torch.zeros_like(value) for name, value in params.items()}
    for t in range(len(x)):
        old, before = z, slope
        v = ALPHA * v + params["W"] @ x[t] + params["U"] @ old - THRESHOLD * old
        a = RHO * a + old
        drive = v - THRESHOLD - BETA * a
        z = (drive > 0).to(x.dtype)
        slope = torch.clamp(1 - drive.abs(), min=0)
        error = 2 * (params["w"] @ z - y[t])
        for name, given in (("W", x[t]), ("U", old)):
            membrane, adaptation = traces[name]
            adaptation = RHO * adaptation + before[:, None] * (membrane - BETA * adaptation)
            membrane = ALPHA * membrane + given[None, :]
            traces[name] = membrane, adaptation
            eligibility = slope[:, None] * (membrane - BETA * adaptation)
            grads[name] += (error * params["w"])[:, None] * eligibility
        grads["w"] += error * z
    return grads


def test_eligibility_traces() -> None:
    model: Any = compile_spec(SPEC, dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(40, 1, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(40, 1, generator=generator, dtype=torch.float64)
    model({"x": x, "y": y}).loss.backward()
    params = {name: value.detach() for name, value in model.named_parameters()}
    found = {name: value.grad for name, value in model.named_parameters()}
    expected = by_hand(params, x[:, 0], y[:, 0])
    assert all(float(value.abs().max()) > 1e-3 for value in expected.values())
    assert_matches(found, expected, "gradient of", 1e-10)


def test_the_adaptation_keeps_its_influence() -> None:
    rows = {row.parameter: row for row in explain(SPEC).rows}
    assert {name: row.verdict for name, row in rows.items()} == {"W": "biased", "U": "biased", "w": "exact"}
    edges = {item.edge for item in rows["W"].dropped}
    assert any(edge.startswith("z[t-1] -> v") for edge in edges)
    assert not any(edge.startswith("z[t-1] -> a") for edge in edges)


def test_random_models() -> None:
    checked = 0
    for seed in range(15):
        case = random_case(seed, (("default", "eprop"),))
        try:
            assert case.plan
        except SpecError:
            continue
        assert_close_gradients(lambda c: compile_spec(c.text, dtype=torch.float64), case)
        checked += 1
    assert checked > 8
