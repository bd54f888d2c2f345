"""Stores without bound under rules that end credit: program and module against the oracle."""

from __future__ import annotations

import pytest
import torch
from backend_support import call_of
from program_runs import assembled, run

from recdsl.backends.torch import execute
from recdsl.backends.torch.module import generate
from recdsl.driver import analyse
from recdsl.program.checker import verify
from recdsl.testing import assert_close_gradients, assert_matches, reference

SAB = """recdsl: 1
name: sparse
sizes: {inp: 3, hidden: 4, attention: 3}
inputs: {x: "float[inp]"}
targets: {y: "float[hidden]"}
memory:
  past:
    slots: unbounded
    write: {value: h, every: 2}
    read: {query: proposal, score: mlp(attention), select: topk(2), normalise: shifted_relu}
step: |
  proposal, c = lstm_cell(x, h[t-1], c[t-1], size=hidden)
  h = proposal + past.read
  o = linear(h, size=hidden)
  out = o + past.read
loss: mse(out, y)
credit: bptt
"""
TWO_READS = """recdsl: 1
name: reads
sizes: {inp: 3, hidden: 4, k: 2}
inputs: {x: "float[inp]"}
targets: {y: "float[hidden]"}
params: {K: "float[k, inp] ~ normal(0, 1)", V: "float[hidden, inp] ~ normal(0, 1)"}
memory:
  past:
    slots: unbounded
    write: {key: K @ x, value: "tanh(V @ x) + h", when: "sum(x, axis=inp) > 0"}
    reads:
      one: {query: K @ x, score: cosine(sharpness=2), select: topk(3)}
      two: {query: K @ x, score: dot, select: topk(2), normalise: shifted_relu, every: 2}
step: |
  h = gru(x, size=hidden)
  out = past.one + past.two * 0.5 + h
loss: mse(out, y)
credit: bptt
"""
RULES = (
    "bptt",
    "sab(truncate=3)",
    "{past: stop, default: bptt}",
    "{past: through(query=stop), default: tbptt(2)}",
    "tbptt(window=2)",
    "tbptt(window=4, every=2)",
    "none",
    '{"h[t-1]": cut, default: bptt}',
    '{"past.READ.cache[t-1]": cut, default: bptt}',
)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("text", [SAB, TWO_READS], ids=["sab", "two reads"])
def test_windows_and_cuts_end_credit_to_slots_as_the_oracle_says(text: str, rule: str, seed: int) -> None:
    """Seed 1: with a mask, resets and an incoming state."""
    rule = rule.replace("READ", "one" if text == TWO_READS else "read")
    case = call_of(analyse(text.replace("credit: bptt", f"credit: {rule}")), seed)
    expected, made = reference(case), assembled(case)
    verify(made.program)
    if not made.interface.thinned:  # the runtime says where windows that spare memories cut
        assert_matches(run(case, made).gradients, expected.gradients, "gradient of")
    module = execute(generate(case.graph, case.plan, "")).Model(0, torch.float64)
    assert_close_gradients(lambda _: module, case, expected=expected)
