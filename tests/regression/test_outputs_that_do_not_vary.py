"""A loss of the user's own on an output that is the same at all steps: it counts once for each step, not more."""

from __future__ import annotations

import pytest
import torch

from recdsl.backends.reference import Reference
from recdsl.backends.torch import execute
from recdsl.backends.torch.module import generate
from recdsl.driver import analyse

SPEC = """recdsl: 1
name: fixed
sizes: {a: 2}
inputs: {x: "float[a]"}
targets: {y: "float[a]"}
params: {p, q: "float[a] ~ normal(0, 1)"}
step: |
  h = tanh(p)
  g = tanh(max(q, x) + (h[t-2] + h))
  v = g * x
loss: mse(v, y)
credit: RULE
"""


@pytest.mark.parametrize("rule", ["bptt", "tbptt(window=2)", "rtrl", "snap(1)", "columns", "rtrl(drift=decay(0.5))"])
def test_gradients_are_those_of_the_definition(rule: str) -> None:
    made = analyse(SPEC.replace("RULE", f'"{rule}"'))
    draws = torch.Generator().manual_seed(0)
    batch = {name: torch.randn(5, 3, 2, generator=draws, dtype=torch.float64) for name in "xy"}
    cotangents = {name: torch.randn(5, 3, 2, generator=draws, dtype=torch.float64) for name in "hg"}
    module = execute(generate(made.graph, made.plan, "")).Model(0, torch.float64)
    params = {name: p.detach().clone() for name, p in module.named_parameters()}
    expected = Reference(made.graph, made.plan).run(params, batch, cotangents=cotangents).gradients
    result = module(batch)
    (result.loss + sum((result.outputs[n] * v).sum() for n, v in cotangents.items())).backward()
    for name, p in module.named_parameters():
        assert p.grad is not None
        assert torch.allclose(p.grad, expected[name], rtol=1e-10, atol=1e-12), name
