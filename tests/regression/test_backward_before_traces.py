"""Cotangents that are swept backwards, of a step whose Jacobian is as wide as a trace, are ready before traces move."""

from __future__ import annotations

import pytest
import torch

from recdsl.testing.properties import Checked, Example

torch.set_num_threads(1)
TEXT = """
recdsl: 1
sizes: {n: 2}
targets: {y: "float[n]"}
params: {s: "float[n] ~ normal(0, 0.7)"}
states: {h: "float[n] = s"}
step: h = tanh(softmax(h[t-1] + LAG))
loss: mse(h, y)
credit: snap(1)
"""


@pytest.mark.parametrize("lag", ["k[t-3]", "h[t-4]"])
def test_a_delayed_softmax_of_a_learned_start(lag: str) -> None:
    text = TEXT.replace("LAG", lag).replace("step: h", "step: |\n  k = h[t-1]\n  h")
    checked = Checked(text, (), 1e-10)
    for mask, reset in (("none", False), ("any", True)):
        checked.check(Example(7, 2, 0.1, mask, reset, state=False, outputs=True, seed=1))
