"""Traces that go from window to window: the gradients of the definition, the traces of the step-by-step form."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import pytest
import torch
from backend_support import corpus, generated
from native_support import native
from program_runs import assembled, played
from test_forward_rules import drawn
from torch import Tensor

from recdsl import compile as compile_spec
from recdsl import explain
from recdsl.credit.deferral import deferred, least
from recdsl.credit.plan import CreditPlan
from recdsl.driver import analyse
from recdsl.program.assemble import assemble
from recdsl.program.checker import verify
from recdsl.program.cost import entry_flops, storage_bytes
from recdsl.program.rows import ROW
from recdsl.testing import Case, assert_close_gradients, assert_matches, reference

# layers, a learned start, skip paths and delay lines, effective parameters, states of several axes
SPECS = ("stacked", "learned_start", "skip_paths", "masks", "attention_over_heads")
BLOCK = 3
"""Random cases a test."""


@dataclass(frozen=True)
class Planned(Case):
    """A case under a plan of its own."""

    own: CreditPlan

    @property
    def plan(self) -> CreditPlan:
        return self.own


def planned(case: Case) -> Planned | None:
    """The case as its long calls are run; None where they are run like short ones."""
    long = deferred(case.plan)
    return None if long is None else Planned(**{f.name: getattr(case, f.name) for f in fields(Case)}, own=long)


def long_cases(first: int, count: int = BLOCK, rules: tuple[tuple[str, str], ...] = ()) -> list[Planned]:
    """Random models, with windows shorter than their calls."""
    found: list[Planned | None] = []
    for seed in range(first, first + count):
        case = drawn(seed, *(rules or (("default", f"rtrl(window={2 + seed % 4})"),)))
        found.append(None if case is None else planned(case))
    return [case for case in found if case is not None]


@pytest.mark.parametrize(("first", "optimise"), [(0, True), (3, False), (6, True), (9, False), (12, True)])
def test_interpreted_programs_equal_the_definition(first: int, optimise: bool) -> None:
    """With masks, resets, incoming states, learned starts, delay lines, and cotangents that arrive at outputs."""
    cases = long_cases(first)
    assert cases
    for case in cases:
        made = assembled(case, optimise=optimise)
        verify(made.program)
        assert any(label == ROW for storage in made.program.storages for label, _ in storage.type.lead)
        assert_matches(played(case, made)[0].gradients, reference(case).gradients, "gradient of")


@pytest.mark.parametrize("first", range(30, 42, BLOCK))
def test_the_call_leaves_the_traces_of_the_step_by_step_form(first: int) -> None:
    """So later calls may have any number of steps."""
    for case in long_cases(first):
        short = drawn(case_seed(case, first), ("default", "rtrl(window=1)"))
        assert short is not None
        expected = played(short, assembled(short))
        found = played(case, assembled(case))
        assert found[1].keys() == expected[1].keys()
        assert_matches(found[1], expected[1], "trace", 1e-10)
        assert_matches(found[0].gradients, expected[0].gradients, "gradient of", 1e-10)


def case_seed(case: Case, first: int) -> int:
    """The seed that a random case was drawn with."""
    for seed in range(first, first + BLOCK):
        other = drawn(seed, ("default", f"rtrl(window={2 + seed % 4})"))
        if other is not None and other.text == case.text:
            return seed
    raise AssertionError("no such case")


@pytest.mark.parametrize("name", SPECS)
def test_specs_equal_the_definition(name: str) -> None:
    case = planned(corpus(name, 0, "rtrl(window=3)"))
    assert case is not None
    made = assembled(case)
    verify(made.program)
    assert_matches(played(case, made)[0].gradients, reference(case).gradients, f"{name}: gradient of")
    assert_close_gradients(generated, corpus(name, 1, "rtrl(window=3)"))


@pytest.mark.parametrize("first", range(60, 75, BLOCK))
def test_generated_modules_equal_the_definition(first: int) -> None:
    for seed in range(first, first + BLOCK):
        case = drawn(seed, ("default", f"rtrl(window={2 + seed % 4})"))
        if case is not None:
            assert_close_gradients(lambda c: compile_spec(c.text, dtype=torch.float64), case)


@pytest.mark.compiler
@pytest.mark.parametrize("first", range(80, 95, BLOCK))
def test_compiled_modules_equal_the_definition(first: int) -> None:
    """Of two random cases or more in three, calls are long enough."""
    long = 0
    for seed in range(first, first + BLOCK):
        case = drawn(seed, ("default", f"rtrl(window={2 + seed % 4})"))
        if case is not None:
            assert_close_gradients(native, case)
            size = least(case.plan)
            long += size is not None and len(next(iter(case.batch.values()))) >= size
    assert long


MIXTURES = (
    (("p1", "rtrl(window=3)"), ("p2", "tbptt(window=4, every=2)"), ("default", "bptt")),
    (("p1", "rtrl(window=2)"), ("p2", "columns"), ("default", "rtrl(window=3)")),
    (("p1", "columns(window=4, every=2)"), ("default", "rtrl(window=4)")),
)


@pytest.mark.parametrize("rules", MIXTURES)
def test_mixtures_equal_the_definition(rules: tuple[tuple[str, str], ...]) -> None:
    cases = long_cases(0, 6, rules)
    assert cases
    for case in cases[:3]:
        made = assembled(case)
        verify(made.program)
        assert_matches(played(case, made)[0].gradients, reference(case).gradients, "gradient of")
    for seed in (0, 1):
        case = drawn(seed, *rules)
        if case is not None:
            assert_close_gradients(lambda c: compile_spec(c.text, dtype=torch.float64), case)


MODEL = """
recdsl: 1
name: dense
sizes: {obs: 3, hid: SIZE}
inputs: {x: "float[obs]"}
targets: {y: float}
params: {w: "float[hid] ~ normal(0, 0.5)", s: "float[hid] ~ normal(0, 0.5)"}
states: {h: "float[hid] = s"}
step: STEP
loss: {value: "mse(w @ h, y)", reduce: sum}
credit: RULE
"""
GRU = "h = gru(x, size=hid)"


def text(rule: str, size: int = 16, step: str = GRU) -> str:
    return MODEL.replace("SIZE", str(size)).replace("STEP", step).replace("RULE", rule)


def batch(steps: int, samples: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(steps)
    x = torch.randn(steps, samples, 3, generator=generator, dtype=torch.float64)
    return {"x": x, "y": torch.randn(steps, samples, generator=generator, dtype=torch.float64)}


def compiled(spec: str) -> Any:
    return compile_spec(spec, dtype=torch.float64)


def pair(rule: str = "rtrl") -> tuple[Any, Any]:
    """A model whose long calls defer, and the same model step by step."""
    one, other = (compiled(text(word)) for word in (rule, "rtrl(window=1)"))
    assert one.recdsl_about["deferred"] is not None
    assert other.recdsl_about["deferred"] is None
    other.load_state_dict(one.state_dict())
    return one, other


def stream(model: Any, lengths: tuple[int, ...], *, outputs: bool = False, ragged: bool = False) -> dict[str, Tensor]:
    """Calls in a row: gradients of each, and what the last one leaves."""
    found: dict[str, Tensor] = {}
    state = None
    for k, steps in enumerate(lengths):
        generator = torch.Generator().manual_seed(k)
        flags = {
            "mask": torch.rand(steps, 2, generator=generator) < 0.8,
            "reset": torch.rand(steps, 2, generator=generator) < 0.1,
        }
        model.zero_grad()
        made = model(batch(steps), state=state, **(flags if ragged else {}))
        loss = made.loss + made.outputs["h"].sin().sum() if outputs else made.loss
        loss.backward()
        found |= {f"{k} {name}": p.grad.clone() for name, p in model.named_parameters()}
        state = made.state
    assert state is not None
    return found | {name: value for name, value in state.items() if name != "t"}


@pytest.mark.parametrize("rule", ["rtrl", "rtrl(window=5)"])
@pytest.mark.parametrize("lengths", [(1, 2, 1), (40, 1, 7), (3, 33, 2), (300, 5)])
def test_calls_in_a_row_are_those_of_the_step_by_step_form(rule: str, lengths: tuple[int, ...]) -> None:
    """Of any length, also such that are run in pieces; with gradients that arrive at outputs, masks and resets."""
    one, other = pair(rule)
    for outputs in (False, True):
        for ragged in (False, True):
            found, expected = (stream(m, lengths, outputs=outputs, ragged=ragged) for m in (one, other))
            assert found.keys() == expected.keys()
            assert_matches(found, expected, "stream", 1e-9)


@pytest.mark.parametrize("chunk", [1, 7, 20])
def test_pieces_end_where_windows_do(chunk: int) -> None:
    one, other = pair("rtrl(window=4)")
    one.recdsl_chunk = chunk
    assert_matches(stream(one, (30, 9)), stream(other, (30, 9)), "stream", 1e-9)


def test_short_calls_run_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a step of online learning costs what it did."""
    one, _ = pair()
    ran: list[str] = []
    table = dict(one.recdsl_functions)

    def noted(name: str) -> Any:
        function, *rest = table[name]
        return (lambda *args: ran.append(name) or function(*args)), *rest

    monkeypatch.setattr(type(one), "recdsl_functions", {name: noted(name) for name in table})
    one(batch(1))
    assert "plain.traces" in ran
    assert not any("deferred" in name for name in ran)
    ran.clear()
    one(batch(2))
    assert "plain_deferred.traces" in ran
    assert "plain.traces" not in ran


# ---- the decision


@pytest.mark.parametrize(
    ("rule", "step"),
    [
        ("rtrl(window=1)", GRU),
        ("rule(scope=all, window=1)", GRU),
        ("rtrl(drift=decay(0.9))", GRU),
        ("rtrl(window=4, every=2)", GRU),
        ("rtrl", "h = tanh(sum(x, axis=obs) * w + s * h[t-1])"),  # every unit for itself
    ],
)
def test_what_goes_step_by_step(rule: str, step: str) -> None:
    assert deferred(analyse(text(rule, 16, step)).plan) is None


def test_a_prediction_whose_error_comes_later_goes_step_by_step() -> None:
    """Its eligibility is kept from step to step."""
    spec = text("rtrl").replace('{value: "mse(w @ h, y)", reduce: sum}', "td(w @ h, y, discount=0.9)")
    assert deferred(analyse(spec).plan) is None


@pytest.mark.parametrize("rule", ["rtrl", "rule(scope=all)", "rtrl(drift=reset)"])
def test_dense_influence_is_deferred(rule: str) -> None:
    plan = analyse(text(rule)).plan
    long = deferred(plan)
    assert long is not None
    (routing,), (made,) = plan.classes, long.classes
    assert routing.deferral is not None
    assert routing.window.size == 1
    assert made.deferred
    assert made.window.size == made.window.every == routing.deferral.size == 16


def test_what_the_rule_asks_for_is_taken() -> None:
    found = analyse(text("rtrl(window=5)", 4)).plan.classes[0].deferral
    assert found is not None
    assert found.size == 5


def test_explain_prints_the_decision_and_its_costs() -> None:
    report = explain(text("rtrl"))
    found = analyse(text("rtrl")).plan.classes[0].deferral
    assert found is not None
    (note,) = [item.text for item in report.remarks if "window to window" in item.text]
    for number in (found.size, found.rows, found.flops, found.stepwise, found.bytes, found.least):
        assert f"{number:,}" in note
    assert note in str(report)
    assert {row.verdict for row in report.rows} == {"exact"}


def test_rows_add_up_to_the_cost_of_long_calls() -> None:
    """What a parameter's traces cost, beside what losses cost in reverse mode."""
    short, long = (explain(text(rule)).rows for rule in ("rtrl(window=1)", "rtrl"))
    found = analyse(text("rtrl")).plan.classes[0].deferral
    assert found is not None
    saved = sum(a.flops - b.flops for a, b in zip(short, long, strict=True))
    assert saved == pytest.approx(found.stepwise - found.flops, rel=0.01)
    assert [row.bytes for row in short] == [row.bytes for row in long]


STEPS = {
    "elman": "h = elman(x, size=hid)",
    "gru": GRU,
    "lstm": "h = lstm(x, size=hid)",
    "layers": "|\n  g = elman(x, size=hid)\n  h = gru(g, size=hid)",
}


@pytest.mark.parametrize("size", [16, 24])
@pytest.mark.parametrize("name", STEPS)
def test_printed_costs_are_those_of_the_program(name: str, size: int) -> None:
    """Operations of the entry `traces`, step by step and deferred, and the room of the rows, within 1.5."""
    spec = text("rtrl", size, STEPS[name]).replace(', s: "float[hid] ~ normal(0, 0.5)"', "")
    made = analyse(spec.replace('states: {h: "float[hid] = s"}\n', ""))
    long, found = deferred(made.plan), made.plan.classes[0].deferral
    assert long is not None
    assert found is not None
    program = assemble(made.graph, long).program
    steps = 8 * found.size
    sizes = {"T": steps, "B": 1, "W": found.size, "windows0": 8}
    flops = entry_flops(program, "traces").at(sizes) / steps
    assert found.flops / 1.5 < flops < 1.5 * found.flops
    slow = entry_flops(assemble(made.graph, made.plan).program, "traces").at(sizes) / steps
    assert found.stepwise / 1.5 < slow < 1.5 * found.stepwise
    rows = {s.name for s in program.storages if any(label == ROW for label, _ in s.type.lead)}
    window = {"T": found.size, "B": 1, "W": found.size, "windows0": 1}
    room = sum(storage_bytes(program)[name].at(window) for name in rows if name.startswith("l"))
    assert found.bytes / 1.5 < room < 1.5 * found.bytes


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_backends_agree(backend: str) -> None:
    one, other = (compile_spec(text(rule), backend=backend) for rule in ("rtrl", "rtrl(window=1)"))
    other.load_state_dict(one.state_dict())
    small = {name: value.float() for name, value in batch(20).items()}
    for model in (one, other):
        model(small).loss.backward()
    for (name, mine), (_, theirs) in zip(one.named_parameters(), other.named_parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-4, atol=1e-4, msg=name)
    if backend == "native":
        assert str(one.recdsl_runs) == "native"
