"""A use of the slots of a store without bound, scaled, under every kind of pass: these did not compile."""

from __future__ import annotations

import pytest
import torch

from recdsl.testing.properties import Checked, Example

torch.set_num_threads(1)
TEXT = """
recdsl: 1
sizes: {n: 2}
inputs: {x: "float[n]"}
targets: {y: "float[n]"}
params: {K: "float[n, n] ~ normal(0, 0.7)", s: "float[n] ~ normal(0, 0.7)"}
memory:
  past:
    slots: unbounded
    write: {value: x, key: K @ h}
    read: {query: x, select: topk(2), score: dot, normalise: softmax}
step: h = tanh(s * h[t-1] + past.read)
loss: mse(h, y)
credit: {"past.USE[t-1]": scale(0.5), HOW}
"""
CREDITS = (
    "default: none",
    "default: tbptt(window=3)",
    "past: through, default: none",
    "past: through, default: tbptt(window=3)",
    "past: through(key=stop), default: tbptt(window=3)",
    "past: stop(query=stop), default: artbp(mean=2)",
    "default: artbp(mean=2)",
    "default: rule(weights=truncation(2))",
    "default: sab(truncate=2)",
    'default: "sab(truncate=2, variant=sliding)"',
)


@pytest.mark.parametrize("use", ["key", "value"])
@pytest.mark.parametrize("credit", CREDITS)
def test_scaled_slots_have_the_gradient_of_the_definition(credit: str, use: str) -> None:
    text = TEXT.replace("USE", use).replace("HOW", credit)
    checked = Checked(text, (), 1e-10)
    for mask, reset in (("none", False), ("any", True)):
        checked.check(Example(6, 2, 0.1, mask, reset, state=False, outputs=True, seed=1))
