"""Forward rules on models written for one difficulty each: program and module against the definition, exact claims."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from backend_support import call_of
from program_runs import assembled, run

from recdsl.backends.torch import execute
from recdsl.backends.torch.module import generate
from recdsl.diagnostics import SpecError
from recdsl.driver import Compilation, analyse
from recdsl.testing import assert_close_gradients, assert_matches, reference

RULES = ("rtrl", "columns", "snap(1)", "snap(2)", "rflo")
HEAD = """recdsl: 1
name: difficulty
sizes: {i: 3, n: 4, m: 2, gates: 12}
inputs: {x: "float[i]"}
targets: {y: float}
params:
"""
LOSS = """
loss: {value: "mse(v, y)", reduce: sum}
credit: """

MODELS = {
    "a choice of one's own between the initial value and the past": """  W: float[n, i] ~ normal(0, 0.7)
  u, s, w: float[n] ~ normal(0, 0.7)
states: {h: "float[n] = s"}
step: |
  z = where(W @ x > 0, s, h[t-1])
  h = tanh(W @ x + u * z + 0.5 * h[t-1] + 0.1 * h[t-2])
  v = w @ h""",
    "a choice of one's own between a new value and the past": """  W: float[n, i] ~ normal(0, 0.7)
  u, w: float[n] ~ normal(0, 0.7)
states: {h: "float[n] = 0"}
step: |
  f = tanh(W @ x + u * h[t-1])
  h = where(W @ x > 0, f, h[t-1])
  v = w @ (h + f)""",
    "a value that two states take over": """  W: float[n, i] ~ normal(0, 0.7)
  u, q, s, w: float[n] ~ normal(0, 0.7)
states: {h: "float[n] = s"}
step: |
  h = tanh(W @ x + u * h[t-1] + g[t-1])
  g = h
  v = w @ g[t-1] + q @ h[t-1]""",
    "a state that never changes, with its delays": """  W: float[n, i] ~ normal(0, 0.7)
  U: float[n, n] ~ normal(0, 0.7)
  s, w: float[n] ~ normal(0, 0.7)
states: {g: "float[n] = s"}
step: |
  h = tanh(W @ x + U @ h[t-1] + g[t-2])
  g = g[t-1]
  v = w @ h + w @ g[t-1]""",
    "a parameter used as it is and in expressions": """  W, A: float[n, i] ~ normal(0, 0.7)
  u, w: float[n] ~ normal(0, 0.7)
step: |
  M = W * A
  h = tanh(W @ x + u * h[t-1] + (A * W * W) @ x + M @ x)
  v = w @ h""",
    "a matrix used twice, once the other way": """  W: float[n, i] ~ normal(0, 0.7)
  U: float[n, n] ~ normal(0, 0.7)
  w: float[n] ~ normal(0, 0.7)
step: |
  h = tanh(W @ x + U @ g[t-1])
  g = tanh(h[t-1] @ U)
  v = w @ h""",
    "a matrix state": """  K: float[m, i] ~ normal(0, 0.7)
  V: float[n, i] ~ normal(0, 0.7)
  b: float[i] ~ normal(0, 0.7)
  D: float[n, m] ~ normal(0, 0.7)
  w: float[n] ~ normal(0, 0.7)
states: {M: "float[n, m]"}
step: |
  key = tanh(K @ x)
  M = M[t-1] + sigmoid(b @ x) * (V @ x - M[t-1] @ key) * key + D
  v = w @ (M @ key)""",
    "masked matrices": """  W: float[n, i] ~ normal(0, 0.7)
  U: float[n, n] ~ normal(0, 0.7) blocks(2)
  S: float[n, n] ~ normal(0, 0.7) sparse(0.5)
  w: float[n] ~ normal(0, 0.7)
step: |
  h = tanh(W @ x + U @ h[t-1] + S @ g[t-1])
  g = tanh(h + 0.5 * g[t-1])
  v = w @ g""",
    "skip paths in time": """  W: float[n, i] ~ normal(0, 0.7)
  U: float[n, n] ~ normal(0, 0.7)
  u, s, w: float[n] ~ normal(0, 0.7)
states: {h: "float[n] = s"}
step: |
  h = tanh(W @ x + u * h[t-1] + U @ h[t-2])
  v = w @ h[t-3]""",
    "numbers": """  a, b, c, s: float ~ normal(0, 0.7)
states: {h: "float = s"}
step: |
  h = tanh(a * h[t-1] + b * sum(x, axis=i))
  v = c * h""",
    "no state": """  a, b: float ~ normal(0, 0.7)
step: |
  v = a * sum(x, axis=i) + b""",
    "a state that nobody reads": """  a, b, c: float ~ normal(0, 0.7)
step: |
  h = tanh(a + b * h[t-1])
  v = c * sum(x, axis=i) + b * a""",
    "a diagonal complex recurrence": """  w: float[i] ~ normal(0, 0.7)
step: |
  a = lru(x, size=n)
  v = w @ tanh(a)""",
    "fused gates": """  W: float[gates, i] ~ normal(0, 0.7)
  U: float[gates, n] ~ normal(0, 0.7)
  b: float[gates] ~ normal(0, 0.7)
  w: float[n] ~ normal(0, 0.7)
step: |
  all = W @ x + U @ h[t-1] + b
  z = slice(all, axis=gates, start=0, size=n)
  r = slice(all, axis=gates, start=n, size=n)
  c = slice(all, axis=gates, start=8, size=n)
  h = sigmoid(z) * tanh(c) + (1 - sigmoid(z)) * sigmoid(r) * h[t-1]
  v = w @ h""",
}


@cache
def stages(name: str, rule: str) -> Compilation | None:
    """None where the rule does not fit."""
    try:
        return analyse(HEAD + MODELS[name] + LOSS + rule + "\n")
    except SpecError as error:
        if "RD0510" in str(error):
            return None
        raise


@pytest.mark.parametrize("name", MODELS)
def test_models_equal_the_definition(name: str) -> None:
    """Seed 0: a plain call. Seed 1: with mask, resets and a state."""
    fitting = [made for made in (stages(name, rule) for rule in RULES) if made is not None]
    assert fitting
    for made in fitting:
        for seed in (0, 1):
            case = call_of(made, seed)
            expected, full = reference(case), reference(case, full=True).gradients
            assert_matches(run(case, assembled(case)).gradients, expected.gradients, "gradient of")
            for row in made.plan.rows:
                if row.verdict == "exact":
                    own = expected.gradients[row.parameter]
                    assert_matches({"": own}, {"": full[row.parameter]}, f"{row.rule}: {row.parameter}")
            if made is fitting[-1]:
                module = execute(generate(case.graph, case.plan, "")).Model(0, torch.float64)
                assert_close_gradients(lambda _, module=module: module, case, expected=expected)


def test_diagonal_linear_recurrences_keep_two_traces_a_weight() -> None:
    made = stages("a diagonal complex recurrence", "columns")
    assert made is not None
    assert {row.verdict for row in made.plan.rows} == {"exact"}
    rows = {row.parameter: row.bytes // 4 for row in made.plan.rows}
    assert rows["a.Br"] == rows["a.Bi"] == 2 * 4 * 3


def test_rules_that_do_not_fit_are_refused() -> None:
    refused = {(name, rule) for name in MODELS for rule in RULES if stages(name, rule) is None}
    twice, matrix = "a matrix used twice, once the other way", "a matrix state"
    assert refused == {(name, rule) for name in (twice, matrix) for rule in ("columns", "rflo")}
