"""Parameters of which a narrow scope drops nothing go from window to window, the others of their rule as they did: the
gradients of the definition, and no class where that would not be so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from backend_support import call_of
from program_runs import assembled, played
from test_deferred_traces import batch, long_cases, planned, stream, text
from torch import Tensor

import recdsl.credit.deferral as deferral_stage
from recdsl import compile as compile_spec
from recdsl.credit.influence import Influence, effective
from recdsl.credit.plan import RoutingClass
from recdsl.credit.tracing import live
from recdsl.driver import analyse
from recdsl.program.checker import verify
from recdsl.testing import Case, assert_matches, reference

RESET = {"h.Wr", "h.Ur", "h.br"}
"""What reaches every unit of a GRU within a step."""


def classes(spec: str) -> tuple[RoutingClass, ...]:
    return analyse(spec).plan.classes


def apart(spec: str) -> set[str]:
    """Parameters of the classes that go from window to window."""
    return {name for made in classes(spec) if made.deferral is not None for name in made.parameters}


# ---- the decision


def test_the_reset_gate_of_a_gru_leaves_the_others() -> None:
    own, rest = classes(text("snap(1)"))
    assert set(own.parameters) == RESET
    assert own.deferral is not None
    assert own.deferral.size == 16
    assert rest.deferral is None
    assert {scope.source for scope in own.scopes}.isdisjoint(scope.source for scope in rest.scopes)


@pytest.mark.parametrize(
    ("rule", "step"),
    [
        ("columns", "h = gru(x, size=hid)"),  # the gate's influence on other units is dropped
        ("snap(1)", "h = gru_reset_after(x, size=hid)"),  # it has none
        ("snap(1)", "h = elman(x, size=hid)"),
        ("snap(1, window=1)", "h = gru(x, size=hid)"),  # asked for
        ("snap(1, drift=decay(0.9))", "h = gru(x, size=hid)"),
        ("snap(1, drift=rerun(3))", "h = gru(x, size=hid)"),
        ("rflo", "h = gru(x, size=hid)"),
    ],
)
def test_what_stays(rule: str, step: str) -> None:
    assert not apart(text(rule, 16, step))


def test_saturated_scopes_leave_as_a_whole() -> None:
    (made,) = classes(text("snap(2)"))
    assert made.deferral is not None


@pytest.mark.usefixtures("eager")
def test_masks_may_narrow_a_scope_when_a_model_is_made() -> None:
    spec = SPECS["masks"].replace("credit: snap(1)", "credit: snap(2)")
    assert apart(spec.replace("blocks(2)", ""))
    assert not apart(spec)


@pytest.mark.usefixtures("eager")
def test_what_acts_together_stays_together() -> None:
    """A acts in a product that reaches every unit, and by itself on its own unit alone: so it stays, and B with it."""
    (made,) = (c for c in classes(SPECS["product"]) if "A" in c.parameters)
    assert "B" in made.parameters
    assert made.deferral is None
    assert {"A", "B"} <= apart(SPECS["product"].replace(" + 0.3 * (A @ x)", ""))


# ---- what the programs compute

HEAD = """
recdsl: 1
name: partly
sizes: {obs: 2, hid: 4}
inputs: {x: "float[obs]"}
targets: {y: float}
params: {w: "float[hid] ~ normal(0, 0.5)", PARAMS}
step: |
  STEP
loss: {value: "mse(w @ h, y)", reduce: sum}
credit: snap(1)
"""


def spec(step: str, params: str = "") -> str:
    return HEAD.replace("STEP", step).replace("w: ", f"{params}, w: " if params else "w: ").replace(", PARAMS", "")


W, U = 'W: "float[hid, obs] ~ normal(0, 0.7)"', '"float[hid, hid] ~ normal(0, 0.7)"'
GATED = "h = 0.5 * tanh(C @ (sigmoid(B @ h[t-1]) * h[t-1]) + W @ x)"
SPECS = {
    "gru": spec("h = gru(x, size=hid)"),
    "masks": spec(GATED, f'{W}, B: {U}, C: "float[hid, hid] ~ normal(0, 0.7) blocks(2)"'),
    "product": spec(
        "r = sigmoid((A @ B) @ h[t-1])\n  h = tanh(0.5 * h[t-1] + C @ (r * h[t-1]) + 0.3 * (A @ x))",
        'A: "float[hid, obs] ~ normal(0, 0.7)", B: "float[obs, hid] ~ normal(0, 0.7)", ' + f"C: {U}",
    ),
    "delayed": spec("r = sigmoid(B @ h[t-2])\n  h = tanh(W @ x + C @ (r * h[t-1]))", f"{W}, B: {U}, C: {U}"),
    "td": spec("h = gru(x, size=hid)").replace(
        '{value: "mse(w @ h, y)", reduce: sum}', '{value: "td(w @ h, y, discount=0.9)", reduce: sum}'
    ),
}


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever can go from window to window does."""
    monkeypatch.setattr(deferral_stage, "GAIN", 0)


def call(name: str, seed: int, rule: str = "snap(1)") -> Case:
    return call_of(analyse(SPECS[name].replace("credit: snap(1)", f"credit: {rule}")), seed)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("rule", ["snap(1)", "snap(1, window=2)"])
@pytest.mark.parametrize("name", sorted(SPECS))
def test_specs_equal_the_definition(name: str, rule: str) -> None:
    """Gradients those of the definition, traces those of the step-by-step form."""
    for seed in (0, 1):
        case = call(name, seed, rule)
        made = planned(case)
        assert (made is None) == (name != "gru")
        found = assembled(made or case)
        verify(found.program)
        result, traces = played(made or case, found)
        assert_matches(result.gradients, reference(case).gradients, f"{name}: gradient of")
        assert_matches(traces, played(case, assembled(case))[1], f"{name}: trace")


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize(
    ("rule", "seeds"), [("snap(1)", (6, 29, 33)), ("snap(2)", (9, 27, 35)), ("columns", (2, 7, 23))]
)
def test_random_models_equal_the_definition(rule: str, seeds: tuple[int, ...]) -> None:
    for seed in seeds:
        (case,) = long_cases(seed, 1, (("default", rule),))
        made = assembled(case)
        verify(made.program)
        assert_matches(played(case, made)[0].gradients, reference(case).gradients, "gradient of")


@pytest.mark.parametrize("lengths", [(1, 2, 1), (40, 1, 7)])
@pytest.mark.parametrize("ragged", [False, True])
def test_calls_in_a_row_are_those_of_the_step_by_step_form(
    lengths: tuple[int, ...], ragged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: tuple[Any, ...] = tuple(compile_spec(text("snap(1)"), dtype=torch.float64) for _ in range(2))
    one, other = models
    other.load_state_dict(one.state_dict())
    assert one.recdsl_about["deferred"] is not None
    monkeypatch.setattr(type(other), "recdsl_about", {**other.recdsl_about, "deferred": None})
    for outputs in (False, True):
        found, expected = (stream(m, lengths, outputs=outputs, ragged=ragged) for m in (one, other))
        assert found.keys() == expected.keys()
        assert_matches(found, expected, "stream", 1e-9)


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_backends_agree(backend: str) -> None:
    one, other = (compile_spec(text(rule), backend=backend) for rule in ("snap(1)", "snap(1, window=1)"))
    other.load_state_dict(one.state_dict())
    small = {name: value.float() for name, value in batch(20).items()}
    for model in (one, other):
        model(small).loss.backward()
    for (name, mine), (_, theirs) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        if name in RESET:  # read before and behind a step is one where nothing is dropped
            torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-4, msg=name)


# ---- faults in the decision, each of which some model must reject


def every_scope_closed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(deferral_stage, "_closed", lambda *given: True)


def dense_is_enough(patch: pytest.MonkeyPatch) -> None:
    """What lies outside of a dense scope is not asked for."""
    patch.setattr(deferral_stage, "beyond", lambda reach, scope: set())


def nothing_is_seen(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(deferral_stage, "live", lambda *given: set())


def masks_are_dense(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(deferral_stage, "narrowed", lambda *given: False)


def torn_apart(patch: pytest.MonkeyPatch) -> None:
    """Each effective parameter is judged by itself, its parameters follow."""
    closed = vars(deferral_stage)["_closed"]

    def kept(graph: Any, routing: RoutingClass) -> set[str]:
        influence, seen = Influence(graph, routing.cuts), live(graph, routing)
        inside, found = effective(graph), set[str]()
        for source in sorted({s.source for s in routing.scopes if s.stored}):
            scopes = [s for s in routing.scopes if s.source == source and s.stored]
            if closed(influence, seen, source, scopes):
                found |= inside[source] & set(routing.parameters)
        return found

    patch.setattr(deferral_stage, "_kept", kept)


def scopes_of_all(patch: pytest.MonkeyPatch) -> None:
    """Both classes have the traces of all parameters."""
    only = vars(deferral_stage)["_only"]

    def faulty(graph: Any, routing: RoutingClass, names: set[str], *, inside: bool) -> RoutingClass:
        return replace(only(graph, routing, names, inside=inside), scopes=routing.scopes)

    patch.setattr(deferral_stage, "_only", faulty)


MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "every scope is closed": every_scope_closed,
    "influence beyond a dense scope": dense_is_enough,
    "no state is seen": nothing_is_seen,
    "masks taken as dense": masks_are_dense,
    "torn apart": torn_apart,
    "scopes of all parameters": scopes_of_all,
}


def rejected(name: str) -> bool:
    """Whether gradients or traces differ; a plan or program that cannot be made or run does."""
    case = call(name, 1)
    gradients, traces = expected(name)
    try:
        made = planned(case)
        result, left = played(made or case, assembled(made or case))
        assert left.keys() == traces.keys()
        assert_matches(result.gradients, gradients, "gradient of")
        assert_matches(left, traces, "trace")
    except (AssertionError, RuntimeError, ValueError, KeyError, IndexError):
        return True
    return False


@cache
def expected(name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients by the definition, traces step by step."""
    case = call(name, 1)
    return dict(reference(case).gradients), played(case, assembled(case))[1]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_rejected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for each in SPECS:
        expected(each)
    with monkeypatch.context() as patch:
        MUTANTS[name](patch)
        assert any(rejected(each) for each in SPECS)


@pytest.mark.usefixtures("eager")
def test_without_a_mutant_none_is_rejected() -> None:
    assert not any(rejected(each) for each in SPECS)
