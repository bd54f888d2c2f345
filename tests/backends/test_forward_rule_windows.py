"""Forward rules with a window: programs and modules against the definition, and claims against full BPTT."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from program_runs import assembled, run
from test_forward_rules import COLUMNS, drawn, fitting, gradients
from torch import Tensor

import recdsl.backends.reference.traced as definition
from recdsl import compile as compile_spec
from recdsl import explain
from recdsl.backends.reference.result import Call
from recdsl.credit.influence import effective
from recdsl.driver import analyse
from recdsl.program.checker import verify
from recdsl.testing import Case, assert_close_gradients, assert_matches, reference

RULES = (
    "columns(window=3)",
    "columns(window=4, every=2)",
    "columns(window=5, every=1)",
    "columns(window=12)",
    "snap(2, window=4, every=3)",
    "snap(9, window=3)",
)
MIXTURES = (
    (("p1", "columns(window=3)"), ("p2", "tbptt(window=3)"), ("default", "columns")),
    (("p1", "columns(window=4, every=2)"), ("p2", "snap(2, window=3)"), ("default", "bptt")),
    (("p1", "rtrl"), ("default", "columns(window=2)")),
)


@pytest.mark.parametrize("rule", RULES)
def test_interpreted_programs_equal_the_definition(rule: str) -> None:
    for case in fitting(300, ("default", rule)):
        made = assembled(case)
        verify(made.program)
        assert_matches(run(case, made).gradients, reference(case).gradients, f"{rule}: gradient of")


@pytest.mark.parametrize("rule", RULES)
def test_generated_modules_equal_the_definition(rule: str) -> None:
    for case in fitting(340, ("default", rule)):
        assert_close_gradients(lambda c: compile_spec(c.text, dtype=torch.float64), case)


@pytest.mark.parametrize("rules", MIXTURES)
def test_mixtures_equal_the_definition(rules: tuple[tuple[str, str], ...]) -> None:
    found = fitting(0, *rules)
    assert found
    for case in found:
        made = assembled(case)
        verify(made.program)
        assert_matches(run(case, made).gradients, reference(case).gradients, "gradient of")
        assert_close_gradients(lambda c: compile_spec(c.text, dtype=torch.float64), case)


@pytest.mark.parametrize("rule", RULES)
def test_exact_is_exact(rule: str) -> None:
    claims = 0
    for case in fitting(400, ("default", rule)) + fitting(420, ("default", rule)):
        bare = Case(case.model, case.params, case.batch, case.mask, case.reset, case.state, {}, case.gaps)
        own, full = reference(bare).gradients, reference(bare, full=True).gradients
        for row in bare.plan.rows:
            if row.verdict == "exact" and not (case.gaps and "unmasked" in row.qualifiers):
                claims += 1
                assert_matches({"": own[row.parameter]}, {"": full[row.parameter]}, f"{rule}: {row.parameter}")
    assert claims


@pytest.mark.parametrize("rule", ["columns(window=9)", "columns(window=12)", "snap(1, window=10)"])
def test_a_window_over_the_call_is_bptt(rule: str) -> None:
    """Random calls have at most nine steps. An incoming state is a constant without traces in both."""
    for case in fitting(440, ("default", rule)):
        assert_matches(reference(case).gradients, reference(case, full=True).gradients, rule)


def test_a_window_of_one_step_is_no_window() -> None:
    one, none = (analyse(LAYERS.replace("RULE", rule)).plan for rule in ("columns(window=1)", "columns"))
    assert one.classes == none.classes


@pytest.mark.parametrize("rule", ["columns(window=3)", "columns(window=5, every=2)", "columns(window=40)"])
def test_columns_in_windows_equal_bptt_over_many_calls(rule: str) -> None:
    """Exact, so three calls in a row give the gradient of one long one: traces cross from call to call."""
    model = compile_spec(COLUMNS.replace("RULE", rule), dtype=torch.float64)
    whole = compile_spec(COLUMNS.replace("RULE", "bptt"), dtype=torch.float64)
    whole.load_state_dict(model.state_dict())
    batch = numbers(20, 3, 4)
    loss, state = torch.zeros((), dtype=torch.float64), None
    for part in (slice(0, 7), slice(7, 8), slice(8, 20)):
        made = model({name: value[part] for name, value in batch.items()}, state=state)
        loss, state = loss + made.loss, made.state
    loss.backward()
    whole(batch).loss.backward()
    assert_matches(gradients(model), gradients(whole), "gradient of", 1e-12)


@pytest.mark.parametrize("rule", ["columns(window=2)", "columns(window=4, every=3)"])
def test_calls_in_a_row_equal_the_definition(rule: str) -> None:
    """Where the rule is biased: boundaries before the call confine too, and windows count from its step 0."""
    text = LAYERS.replace("RULE", rule)
    model = compile_spec(text, dtype=torch.float64)
    batch, first = numbers(13, 2, 3), 5
    state = model({name: value[:first] for name, value in batch.items()}).state
    model({name: value[first:] for name, value in batch.items()}, state=state).loss.backward()
    params = {name: p.detach() for name, p in model.named_parameters()}
    assert_matches(gradients(model), later(text, params, batch, first), "gradient of")
    assert {row.verdict for row in explain(text).rows} == {"exact", "biased"}


def later(text: str, params: Mapping[str, Tensor], batch: Mapping[str, Tensor], first: int) -> dict[str, Tensor]:
    """The definition of the call that begins at step `first`: one call over all, whose earlier losses do not count."""
    made = analyse(text)
    graph, (routing,) = made.graph, made.plan.classes
    steps, samples = batch["y"].shape
    valid = torch.ones((steps, samples), dtype=torch.bool)
    call = Call(dict(batch), valid, ~valid, 0, None, {})
    assert routing.window.size is not None
    found: dict[str, Tensor] = {}
    for source in sorted(effective(graph)):
        shifted = vars(definition)["_Shifted"](graph, routing, params, call, source, torch.float64)
        total = torch.zeros(shifted.count, dtype=torch.float64)
        for begin in range(0, steps - first, routing.window.every):
            end = min(begin + routing.window.every, steps - first)
            shifted.boundary = first + max(0, begin + routing.window.every - routing.window.size)
            total = total + shifted._of(range(first + begin, first + end), [valid], [1.0], {})
        node = graph.nodes[source]
        found[node.name] = total.reshape(node.type.shape)
    return found


def numbers(steps: int, samples: int, size: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(steps, samples, size, generator=generator, dtype=torch.float64)
    return {"x": x, "y": torch.randn(steps, samples, generator=generator, dtype=torch.float64)}


LAYERS = """
recdsl: 1
name: two-layers
sizes: {obs: 3, column: 4}
inputs: {x: "float[obs]"}
targets: {y: float}
params:
  W: float[column, obs] ~ uniform(-0.9, 0.9)
  U: float[column, column] ~ uniform(-0.9, 0.9)
  u, a, w, s: float[column] ~ uniform(-0.9, 0.9)
states: {h: "float[column] = s"}
step: |
  h = tanh(W @ x + u * h[t-1])
  g = tanh(U @ h + a * g[t-1] + 0.5 * h[t-3])
  v = w @ g
loss: {value: "mse(v, y)", reduce: sum}
credit: RULE
"""


@pytest.mark.parametrize(
    ("rule", "first", "verdict"),
    [
        ("columns", 1, "biased"),
        ("columns(window=4)", 1, "biased"),
        ("columns(window=4, every=1)", 4, "biased"),
        ("columns(window=6, every=3)", 4, "biased"),
        ("snap(9, window=3)", None, "exact"),
    ],
)
def test_lags_that_a_window_drops(rule: str, first: int | None, verdict: str) -> None:
    """What leaves a column of the first layer is dropped from window - every + 1 steps on."""
    rows = {row.parameter: row for row in explain(LAYERS.replace("RULE", rule)).rows}
    assert (rows["W"].first_dropped_lag, rows["W"].verdict) == (first, verdict)
    assert rows["W"].longest_kept_lag is None
    assert rows["U"].verdict == "exact"


FINITE = """
recdsl: 1
sizes: {obs: 3, column: 4}
inputs: {x: "float[obs]"}
targets: {y: float}
params:
  W: float[column, obs] ~ uniform(-0.9, 0.9)
  U: float[column, column] ~ uniform(-0.9, 0.9)
  w: float[column] ~ uniform(-0.9, 0.9)
step: |
  h = tanh(W @ x)
  g = tanh(U @ h[t-1])
  v = w @ g[t-1]
loss: mse(v, y)
credit: RULE
"""


@pytest.mark.parametrize(
    ("rule", "verdict", "words", "kept"),
    [
        ("columns", "biased", (), None),
        ("columns(window=2, every=1)", "exact", ("unmasked",), 2),
        ("columns(window=2)", "biased", (), 2),
        ("columns(window=4, every=2)", "exact", ("unmasked",), 2),
    ],
)
def test_short_dependencies_are_exact_within_a_window(
    rule: str, verdict: str, words: tuple[str, ...], kept: int | None
) -> None:
    """W reaches the loss after exactly two steps, by way of another layer's state."""
    row = next(row for row in explain(FINITE.replace("RULE", rule)).rows if row.parameter == "W")
    assert (row.verdict, row.longest_kept_lag) == (verdict, kept)
    assert set(words) <= set(row.qualifiers)


@pytest.mark.parametrize("seed", [504, 508])
def test_the_native_backend_leaves_windows_to_torch(seed: int) -> None:
    case = drawn(seed, ("default", "columns(window=3)"))
    assert case is not None
    assert_close_gradients(lambda c: compile_spec(c.text, backend="native", dtype=torch.float64), case)
