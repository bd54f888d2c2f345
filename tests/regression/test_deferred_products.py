"""Products of a matrix that every step makes anew with a state, when traces go from window to window."""

from __future__ import annotations

import pytest
import torch

from recdsl.driver import analyse
from recdsl.testing.properties import Checked, Example

torch.set_num_threads(1)
TEXT = """
recdsl: 1
sizes: {k: 2, n: 3}
inputs: {x: "float[n]"}
targets: {y: "float[n]"}
params: {w: "float[k] ~ normal(0, 1)", V: "float[n, k] ~ normal(0, 1)"}
step: |
  M = w * x
  h = tanh(V @ READ + x)
loss: mse(h, y)
credit: rtrl(window=2)
"""


@pytest.mark.parametrize("read", ["(M @ h[t-1])", "softmax(M @ h[t-1])", "(M @ (h[t-1] * (w @ M)))"])
@pytest.mark.parametrize("mask", ["none", "any"])
def test_matrices_of_a_step_meet_rows(read: str, mask: str) -> None:
    text = TEXT.replace("READ", read)
    assert analyse(text).plan.classes[0].deferral is not None
    for outputs in (False, True):
        Checked(text, (), 1e-10).check(Example(5, 2, 0.1, mask, mask == "any", state=True, outputs=outputs, seed=2))
