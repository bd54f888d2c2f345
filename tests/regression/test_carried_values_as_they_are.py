"""An equation that is a carried value and nothing else uses it: what is cut or scaled there is so for outputs too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recdsl import compile as compile_spec
from recdsl import explain
from recdsl.testing import assert_close_gradients, random_case

TEXT = """
recdsl: 1
sizes: {n: 3}
inputs: {x: "float[n]", c: float}
params: {W: "float[n, n] ~ normal(0, 0.7)", w: "float[n] ~ normal(0, 0.7)"}
step: |
  h = tanh(W @ x + h[t-2])
  k = w @ h
  g = ONE h[t-2]
  v = ONE k[t-1]
loss: td(v, c, discount=0.9)
credit: CREDIT
"""
CREDITS = (
    "bptt",
    '{"h[t-2]": cut, default: bptt}',
    '{"h[t-2]": scale(0.5), "k[t-1]": scale(-2), default: tbptt(3)}',
    '{"k[t-1]": cut, default: rtrl}',
    '{"h[t-2]": scale(2), "k[t-1]": cut, default: snap(1)}',
)


def gradients(one: str, credit: str, *, ragged: bool) -> dict[str, Tensor]:
    model: Any = compile_spec(TEXT.replace("ONE ", one).replace("CREDIT", credit), dtype=torch.float64)
    draws = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=draws, dtype=torch.float64))
    batch = {"x": torch.randn(6, 2, 3, generator=draws, dtype=torch.float64)}
    batch["c"] = torch.randn(6, 2, generator=draws, dtype=torch.float64)
    weights = torch.randn(6, 2, 3, generator=draws, dtype=torch.float64)
    result = model(batch, mask=torch.ones(6, 2, dtype=torch.bool) if ragged else None)
    (result.loss + (weights * result.outputs["g"]).sum()).backward()
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("credit", CREDITS)
@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "ragged"])
def test_it_makes_no_difference_to_multiply_by_one(credit: str, ragged: bool) -> None:
    bare, plain = gradients("", credit, ragged=ragged), gradients("1 * ", credit, ragged=ragged)
    assert bare.keys() == plain.keys()
    for name, gradient in bare.items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("credit", CREDITS)
def test_nor_to_verdicts(credit: str) -> None:
    bare, plain = (explain(TEXT.replace("ONE ", one).replace("CREDIT", credit)).rows for one in ("", "1 * "))
    assert [(r.parameter, r.verdict, r.first_dropped_lag) for r in bare] == [
        (r.parameter, r.verdict, r.first_dropped_lag) for r in plain
    ]


def test_a_state_that_takes_over_what_is_cut() -> None:
    """`h = h[t-2]` with that use cut, a mask, and a user's own loss on h."""
    assert_close_gradients(lambda c: compile_spec(c.text, dtype=torch.float64), random_case(2395))
