"""Keys are encoded again, and values are made of what was read by them: credit for the keys alone is not all of it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recdsl import compile as compile_spec
from recdsl import explain
from recdsl.driver import analyse
from recdsl.testing.lasting import followed

torch.set_num_threads(1)
TEXT = """
recdsl: 1
sizes: {n: 2}
inputs: {x: "float[n]"}
targets: {y: "float[n]"}
params: {K: "float[n, n] ~ normal(0, 1)"}
memory:
  past:
    slots: 4
    write: {key: code, value: VALUE}
    read: {query: x, select: all, score: dot, normalise: softmax}
step: |
  code = tanh(K @ x)
  h = x + past.read
loss: mse(h, y)
credit: {past: "reinstate(exact, encode=code, decode=stored)"}
"""


def farthest(text: str) -> float:
    """How far the gradient of K is from the whole one, in the worst of some calls."""
    model: Any = compile_spec(text, dtype=torch.float64)
    found = [(whole["K"] - model.K.grad).abs().max() for _, _, whole in followed(analyse(text), model, 3)]
    return float(torch.stack(found).max())


@pytest.mark.parametrize(("value", "verdict"), [("h", "biased"), ("x", "exact")])
def test_the_verdict_follows_items_through_later_calls(value: str, verdict: str) -> None:
    text = TEXT.replace("VALUE", value)
    (row,) = explain(text).rows
    assert row.verdict == verdict
    assert (farthest(text) < 1e-10) == (verdict == "exact")
    assert [item.edge for item in row.dropped] == (["past.write.value -> past.value"] if value == "h" else [])
