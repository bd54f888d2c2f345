"""What `explain` prints for forward rules is what a call holds: the traces in its state, byte by byte."""

from __future__ import annotations

import pytest
import torch
from backend_support import corpus
from torch import Tensor

from recdsl import compile as compile_spec
from recdsl import explain
from recdsl.backends.torch import execute
from recdsl.backends.torch.module import generate
from recdsl.testing import Case

RULES = ("rtrl", "columns", "snap(1)", "snap(2)", "rflo", "eprop", "uoro")
MODELS = (
    "attention_over_heads",  # parameters of several axes
    "cell_as_option",  # a layer that rflo gives nothing, and yet holds traces of
    "chain_of_delays",  # delay lines
    "columnar",
    "initialisers",  # learned initial values
    "lstm_cell",
    "masks",  # effective parameters
    "mgu_indrnn_leaky",  # stacked layers
)
UNFIT = {("attention_over_heads", rule) for rule in ("columns", "rflo", "eprop")}
"""States with several axes, of which these rules ask for one."""
FITTING = [(model, rule) for model in MODELS for rule in RULES if (model, rule) not in UNFIT]


def held(state: dict[str, Tensor]) -> float:
    """Bytes of all traces for one sample, in single precision."""
    return sum(4 * v.numel() / v.shape[0] for name, v in state.items() if name.startswith("credit."))


def called(case: Case) -> dict[str, Tensor]:
    """The state that one call leaves."""
    module = execute(generate(case.graph, case.plan, "")).Model(0, torch.float64)
    return module(case.batch).state


@pytest.mark.parametrize(("model", "rule"), FITTING)
def test_printed_bytes_are_those_of_the_traces(model: str, rule: str) -> None:
    case = corpus(model, 0, rule)
    printed = sum(row.bytes for row in case.plan.rows)
    assert printed == held(called(case))


COLUMNAR = """
recdsl: 1
sizes: {obs: 3, column: SIZE}
inputs: {x: "float[obs]"}
targets: {y: float}
params:
  Wi, Wf, Wg: float[column, obs] ~ normal(0, 0.5)
  ui, uf, ug, w: float[column] ~ normal(0, 0.5)
step: |
  i = sigmoid(Wi @ x + ui * h[t-1])
  f = sigmoid(Wf @ x + uf * h[t-1])
  c = f * c[t-1] + i * tanh(Wg @ x + ug * h[t-1])
  h = tanh(c)
loss: mse(w @ h, y)
credit: RULE
"""


@pytest.mark.parametrize("rule", RULES)
def test_memory_and_work_are_linear_in_columns(rule: str) -> None:
    """Also for full influence: where columns do not meet, nothing of other columns is stored."""
    costs: list[tuple[float, int, int]] = []
    for size in (5, 10, 20):
        text = COLUMNAR.replace("SIZE", str(size)).replace("RULE", rule)
        rows = explain(text).rows
        x, y = torch.randn(3, 2, 3), torch.randn(3, 2)
        state = compile_spec(text)({"x": x, "y": y}).state
        costs.append((held(state), sum(row.bytes for row in rows), sum(row.flops for row in rows)))
    for first, second, third in zip(*costs, strict=True):
        assert third - second == 2 * (second - first) > 0
        assert abs(second - 2 * first) <= 0.05 * second


def test_dense_influence_grows_with_the_cube() -> None:
    """What is refused above a budget: every recurrent weight's influence on every unit."""
    text = 'recdsl: 1\nsizes: {n: SIZE}\ninputs: {x: "float[n]"}\ntargets: {y: "float[n]"}\n'
    text += "step: h = elman(x, size=n)\nloss: mse(h, y)\ncredit: rtrl\n"
    small, large = (sum(row.bytes for row in explain(text.replace("SIZE", n)).rows) for n in ("8", "16"))
    assert large == pytest.approx(8 * small, rel=0.1)
