"""Room of a generated module has the sizes of what is written to it: torch warns where it has not."""

from __future__ import annotations

import pytest
import torch

from recdsl.testing.properties import Checked, Example

torch.set_num_threads(1)
LOOPLESS = """
recdsl: 1
sizes: {n: 3}
inputs: {x: "float[n]"}
targets: {y: "class[n]"}
params: {p: "float[n] ~ normal(0, 0.7)", q: "float[n] ~ normal(0, 0.7)", W: "float[n, n] ~ normal(0, 0.7)"}
states: {h: "float[n] = 0.5"}
step: |
  h = tanh(h[t-1] + x)
  v = W @ tanh(q) + p
loss: cross_entropy(v, y)
credit: {q: "FIRST", default: "tbptt(window=4, every=2)"}
"""
FED_BACK = """
recdsl: 1
sizes: {a: 9}
inputs: {x: "float[a]"}
targets: {z1: "class[a]"}
params:
  p1: float ~ normal(0.0, 0.7)
  p2: float[a] ~ normal(0.0, 0.7)
  p3: float[a, a] ~ normal(0.0, 0.7) sparse(0.7)
  m19: float[a, a] ~ normal(0.0, 0.7) sparse(0.4)
  m20: float[a, a] ~ normal(0.0, 0.7)
  m28: float[a, a] ~ normal(0.0, 0.7) sparse(0.4)
  m30: float[a, a] ~ normal(0.0, 0.7) sparse(0.4)
states: {h1: float = 0.0}
memory:
  past:
    slots: 1
    life: sequence
    evict: least_used(decay=0.5)
    write: {value: y1, key: "m19 @ y1", every: 2}
    read: {query: "m20 @ x", score: separable, select: topk(3), normalise: softmax}
step: |
  h1 = tanh((abs(p1) * h1[t-1]))
  y1 = ((p2 * h1) + (p3 @ x[t-1])) + m28 @ past.read + m30 @ cell
  cell = gru(x, size=a)
loss: cross_entropy(y1, z1)
credit: {past: stop, "cell.Ur": columns(drift=reset), default: snap(1)}
"""


def check(text: str) -> None:
    checked = Checked(text, (), 1e-10)
    for mask, reset in (("none", False), ("any", True)):
        checked.check(Example(7, 2, 0.1, mask, reset, state=False, outputs=True, seed=1))


@pytest.mark.parametrize("first", ["tbptt(window=2)", "synthetic(window=2, hidden=3)"])
def test_windows_that_share_a_pass_without_a_loop(first: str) -> None:
    """The steps of the pass are those of the longest window."""
    check(LOOPLESS.replace("FIRST", first))


def test_vectors_that_go_back_begin_for_each_sample() -> None:
    check(FED_BACK)
