"""Forward rules: programs and generated modules against the definition, and claims of exactness against full BPTT."""

from __future__ import annotations

import pytest
import torch
from program_runs import assembled, run
from torch import Tensor

from recdsl import compile as compile_spec
from recdsl import explain
from recdsl.diagnostics import SpecError
from recdsl.program.checker import verify
from recdsl.testing import Case, assert_close_gradients, assert_matches, random_case, reference

RULES = ("rtrl", "columns", "snap(1)", "snap(2)", "snap(3)", "rflo")
MIXTURES = (("p1", "columns"), ("p2", "tbptt(window=2)"), ("default", "snap(1)")), (("p1", "rtrl"), ("default", "bptt"))
BLOCK = 10


def drawn(seed: int, *rules: tuple[str, str]) -> Case | None:
    """A random case under the given rules; None where a rule does not fit the model."""
    case = random_case(seed, rules)
    try:
        assert case.plan
    except SpecError:
        return None
    return case


def fitting(first: int, *rules: tuple[str, str]) -> list[Case]:
    cases = [drawn(seed, *rules) for seed in range(first, first + BLOCK)]
    return [case for case in cases if case is not None]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("first", range(0, 20, BLOCK))
def test_interpreted_programs_equal_the_definition(first: int, rule: str) -> None:
    for case in fitting(first, ("default", rule)):
        made = assembled(case)
        verify(made.program)
        assert_matches(run(case, made).gradients, reference(case).gradients, f"{rule}: gradient of")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("first", range(40, 60, BLOCK))
def test_generated_modules_equal_the_definition(first: int, rule: str) -> None:
    for case in fitting(first, ("default", rule)):
        assert_close_gradients(lambda c: compile_spec(c.text, dtype=torch.float64), case)


@pytest.mark.parametrize("rules", MIXTURES)
@pytest.mark.parametrize("first", range(0, 20, BLOCK))
def test_mixtures_equal_the_definition(first: int, rules: tuple[tuple[str, str], ...]) -> None:
    found = fitting(first, *rules)
    assert found
    for case in found:
        assert_close_gradients(lambda c: compile_spec(c.text, dtype=torch.float64), case)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("first", range(100, 130, BLOCK))
def test_exact_is_exact(first: int, rule: str) -> None:
    """What is claimed is about the loss, so outputs get no cotangents here."""
    for case in fitting(first, ("default", rule)):
        bare = Case(case.model, case.params, case.batch, case.mask, case.reset, case.state, {}, case.gaps)
        own, full = reference(bare).gradients, reference(bare, full=True).gradients
        for row in bare.plan.rows:
            if row.verdict == "exact":
                assert_matches({"": own[row.parameter]}, {"": full[row.parameter]}, f"{rule}: {row.parameter}")


@pytest.mark.parametrize("rule", ["rtrl", "columns"])
def test_real_time_rules_are_exact_over_calls(rule: str) -> None:
    """Traces in the state: two calls give the gradient of one long one, which two calls of bptt do not."""
    text = COLUMNS.replace("RULE", rule)
    model = compile_spec(text, dtype=torch.float64)
    whole = compile_spec(text.replace(f"credit: {rule}", "credit: bptt"), dtype=torch.float64)
    whole.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(1)
    batch = {
        "x": torch.randn(20, 3, 4, generator=generator, dtype=torch.float64),
        "y": torch.randn(20, 3, generator=generator, dtype=torch.float64),
    }
    first = model({name: value[:9] for name, value in batch.items()})
    second = model({name: value[9:] for name, value in batch.items()}, state=first.state)
    (first.loss + second.loss).backward()
    whole(batch).loss.backward()
    assert_matches(gradients(model), gradients(whole), "gradient of", 1e-12)


@pytest.mark.parametrize("rule", ["columns", "rtrl", "snap(2)"])
def test_columnar_traces_equal_bptt_over_a_thousand_steps(rule: str) -> None:
    text = COLUMNS.replace("RULE", rule)
    model = compile_spec(text, dtype=torch.float64)
    whole = compile_spec(text.replace(f"credit: {rule}", "credit: bptt"), dtype=torch.float64)
    whole.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(2)
    batch = {
        "x": torch.randn(1000, 1, 4, generator=generator, dtype=torch.float64),
        "y": torch.randn(1000, 1, generator=generator, dtype=torch.float64),
    }
    model(batch).loss.backward()
    whole(batch).loss.backward()
    assert_matches(gradients(model), gradients(whole), "gradient of", 1e-12)


def test_what_is_read_behind_windows_is_loaded_before_them() -> None:
    """A frozen matrix that a window's pass and the sum of all windows multiply."""
    case = random_case(9056, (("default", "tbptt(window=2)"),))
    assert_close_gradients(lambda c: compile_spec(c.text, dtype=torch.float64), case)


def test_a_state_belongs_to_the_caller() -> None:
    """What a call leaves, traces too, is not touched by the next one, whatever room it was made in."""
    text = """
recdsl: 1
sizes: {n: 3}
inputs: {x: "float[n]"}
targets: {y: "float[n]"}
params: {b: "float[n] = 0.5", w: "float[n] = 1"}
step: |
  h = tanh(x + b)
  v = w * h[t-1]
loss: mse(v, y)
credit: rtrl
"""
    model = compile_spec(text, dtype=torch.float64)
    generator = torch.Generator().manual_seed(4)
    first, second = (
        {name: torch.randn(5, 2, 3, generator=generator, dtype=torch.float64) for name in "xy"} for _ in range(2)
    )
    model(first)
    state = model(first).state
    kept = {name: value.clone() for name, value in state.items()}
    assert any(name.startswith("credit.") for name in kept)
    model(second).loss.backward()
    model(second, state=state).loss.backward()
    assert all(torch.equal(state[name], value) for name, value in kept.items())


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


COLUMNS = """
recdsl: 1
name: columnar-lstm
sizes: {obs: 4, column: 5}
inputs: {x: "float[obs]"}
targets: {y: float}
params:
  Wi, Wf, Wo, Wg: float[column, obs] ~ uniform(-0.6, 0.6)
  ui, uf, uo, ug: float[column] ~ uniform(-0.6, 0.6)
  bi, bf, bo, bg: float[column] ~ uniform(-0.6, 0.6)
  w: float[column] ~ uniform(-0.6, 0.6)
step: |
  i = sigmoid(Wi @ x + ui * h[t-1] + bi)
  f = sigmoid(Wf @ x + uf * h[t-1] + bf)
  o = sigmoid(Wo @ x + uo * h[t-1] + bo)
  g = tanh(Wg @ x + ug * h[t-1] + bg)
  c = f * c[t-1] + i * g
  h = o * tanh(c)
  v = w @ h
loss: {value: "mse(v, y)", reduce: sum}
credit: RULE
"""


def test_one_step_patterns_miss_the_output_gate_of_a_column() -> None:
    """The output gate touches only h in its own step, so snap(1) has no trace on c; columns has one."""
    verdicts = {row.parameter: row.verdict for row in explain(COLUMNS.replace("RULE", "snap(1)")).rows}
    assert {name for name, verdict in verdicts.items() if verdict == "biased"} == {"Wo", "uo", "bo"}
    assert {row.verdict for row in explain(COLUMNS.replace("RULE", "columns")).rows} == {"exact"}


@pytest.mark.parametrize("rule", ["columns", "columns(window=3)"])
def test_one_column_is_all_columns(rule: str) -> None:
    """With a column axis of one entry nothing is lateral, whatever is multiplied by matrices of columns."""
    text = """
recdsl: 1
sizes: {obs: 3, column: 1, part: 2}
inputs: {x: "float[obs]"}
targets: {y: float}
params:
  W: float[column, obs] ~ normal(0, 0.7)
  U, V: float[column, column] ~ normal(0, 0.7)
  K: float[column, part] ~ normal(0, 0.7)
  w: float[column] ~ normal(0, 0.7)
step: |
  h = tanh(W @ x + U @ h[t-1] + sum(M[t-1], axis=part))
  M = tanh(K * h + M[t-1] + V @ h[t-2])
  v = w @ h
loss: {value: "mse(v, y)", reduce: sum}
credit: RULE
"""
    assert {row.verdict for row in explain(text.replace("RULE", rule)).rows} == {"exact"}
    model = compile_spec(text.replace("RULE", rule), dtype=torch.float64)
    whole = compile_spec(text.replace("RULE", "bptt"), dtype=torch.float64)
    whole.load_state_dict(model.state_dict())
    generator = torch.Generator().manual_seed(5)
    batch = {
        "x": torch.randn(11, 2, 3, generator=generator, dtype=torch.float64),
        "y": torch.randn(11, 2, generator=generator, dtype=torch.float64),
    }
    model(batch).loss.backward()
    whole(batch).loss.backward()
    assert_matches(gradients(model), gradients(whole), "gradient of", 1e-12)
