"""A memory without bound that is given the same item at every step: one row stands for all of its slots."""

from __future__ import annotations

import pytest

from recdsl.testing.properties import Checked, Example

SPEC = """recdsl: 1
name: constants
sizes: {a: 2, b: 3}
inputs: {x: "float[a]"}
targets: {z: "float[b]"}
params: {p: "float[a] ~ normal(0, 0.7)", W: "float[b, a] ~ normal(0, 0.7)", Q: "float[a, a] ~ normal(0, 0.7)"}
states: {h: "float[a] = 0.0"}
memory:
  past:
    slots: unbounded
    write: {value: h, when: "x[a=0] > 0", every: EVERY}
    read: {query: "Q @ x + h[t-1]", score: SCORE, select: topk(2), normalise: shifted_relu}
step: |
  h = tanh(p)
  y = W @ (past.read + h)
loss: mse(y, z)
credit: RULE
"""


@pytest.mark.parametrize("rule", ["bptt", "tbptt(window=2)", "sab(truncate=2)"])
@pytest.mark.parametrize(("score", "every"), [("separable", "1"), ("dot", "2"), ("cosine(sharpness=2)", "1")])
def test_gradients_are_those_of_the_definition(rule: str, score: str, every: str) -> None:
    text = SPEC.replace("RULE", rule).replace("SCORE", score).replace("EVERY", every)
    checked = Checked(text, (), 1e-10)
    for mask, reset in (("none", False), ("any", True)):
        checked.check(Example(7, 3, 0.2, mask, reset, state=False, outputs=True, seed=1))
