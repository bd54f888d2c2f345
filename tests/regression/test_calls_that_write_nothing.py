"""Calls that write no item to a store: its credit has nothing to answer for, and goes on with the next call."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import recdsl

SPEC = """recdsl: 1
name: gated
sizes: {n: 2}
inputs: {x: "float[n]"}
targets: {y: "float[n]"}
params: {W: "float[n, n] ~ normal(0, 0.5)", Q: "float[n, n] ~ normal(0, 0.5)"}
memory:
  past:
    slots: 4
    write: {key: q, value: y, when: "sum(x, axis=n) > 0"}
    read: {query: q, score: dot, SELECT}
step: |
  q = tanh(Q @ x)
  h = W @ past.read
loss: mse(h, y)
credit: {past: "CREDIT", default: bptt}
"""
CREDITS = (
    "stop",
    "param(lr=0.1)",
    "through",
    "synthetic(hidden=2)",
    "synthetic(hidden=0, condition=x)",
    "reinstate(exact, encode=q, decode=stored)",
    "reinstate(approximate, encode=q, decode=stored, every=2)",
    "synthetic(hidden=2, then=reinstate(approximate, encode=q, decode=stored))",
)


@pytest.mark.parametrize("select", ["select: all", "select: topk(2)"])
@pytest.mark.parametrize("credit", CREDITS)
def test_nothing_is_written(credit: str, select: str) -> None:
    torch.manual_seed(0)
    text = SPEC.replace("CREDIT", credit).replace("SELECT", select)
    model: Any = recdsl.compile(text, dtype=torch.float64)
    for sign in (-1.0, 1.0, -1.0, -1.0):
        x, y = sign * torch.rand(3, 2, 2, dtype=torch.float64), torch.randn(3, 2, 2, dtype=torch.float64)
        model.zero_grad()
        model({"x": x, "y": y}).loss.backward()
    assert int((model.past.serial > 0).sum()) == 4
    assert float(model.W.grad.abs().sum()) > 0
