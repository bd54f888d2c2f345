"""A derivative that is one number for all entries stands in a product with traces: torch needs a tensor there.

Found by counting claims (`recdsl.testing.claims`): half of what is carried, under rules that keep columns apart.
"""

from __future__ import annotations

import pytest

from recdsl.testing.properties import Checked, Example

HALVES = """recdsl: 1
name: halves
sizes: {a: 3}
inputs: {x: "float[a]"}
targets: {z: "float[a]"}
params: {p: "float[a] ~ normal(0, 0.7)", q: "float[a, a] ~ normal(0, 0.7)"}
step: |
  h = tanh(sigmoid(softmax(g[t-1]) + x - g[t-1]))
  g = tanh(softmax(p + g[t-2]))
  y = q @ g + sin(h)
loss: mse(y, z)
credit: {"g[t-2]": scale(0.5), default: RULE}
"""


@pytest.mark.parametrize("rule", ["columns", "rflo(feedback=random)", "snap(1)", "rtrl", "rtrl(window=2)"])
@pytest.mark.parametrize("masked", ["none", "any"])
def test_a_scaled_delay_under_forward_rules(rule: str, masked: str) -> None:
    checked = Checked(HALVES.replace("RULE", rule), (), 1e-10)
    checked.check(Example(6, 2, 0.3, masked, masked == "any", state=False, outputs=True, seed=1))
