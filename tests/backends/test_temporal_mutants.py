"""Faults planted in temporal differences: comparison with the definition must reject each, forwards and in reverse."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import pytest
from program_runs import assembled, run

import recdsl.program.assemble as assemble_stage
import recdsl.program.temporal as temporal_stage
from recdsl.backends.reference import Result
from recdsl.credit.plan import CreditPlan, RoutingClass
from recdsl.diagnostics import SpecError
from recdsl.graph.step import TD, Loss, StepGraph
from recdsl.program.sweep import Traced
from recdsl.program.temporal import Eligibility
from recdsl.program.timeline import TimelineBuilder, TNode
from recdsl.testing import Case, assert_matches, random_case, reference

RULES = {"forward": ("columns", "rtrl", "snap(1)"), "reverse": ("bptt", "tbptt(window=3, every=2)")}
SEEDS = range(200, 230)


@dataclass(frozen=True)
class Known(Case):
    """A case with what is not under test: its plan and the oracle's answer."""

    made: CreditPlan
    expected: Result

    @property
    def plan(self) -> CreditPlan:
        return self.made


@cache
def known(direction: str) -> tuple[Known, ...]:
    """Cases with resets, made before anything is patched."""
    found: list[Known] = []
    for seed in SEEDS:
        for rule in RULES[direction]:
            case = random_case(seed, (("default", rule),), td=True)
            if case.reset is None or len(case.reset) < 4:
                continue
            try:
                plan = case.plan
            except SpecError:
                continue
            parts = {field.name: getattr(case, field.name) for field in fields(Case)}
            found.append(Known(**parts, made=plan, expected=reference(case)))
    return tuple(found)


def rejected(case: Case, expected: Result) -> bool:
    try:
        result = run(case, assembled(case))
        assert_matches(result.gradients, expected.gradients, "gradient of")
        assert_matches(result.losses, expected.losses, "loss")
    except (AssertionError, RuntimeError, ValueError, KeyError, IndexError):
        return True
    return False


# ---- faults of the step


def _resets(case: Known, part: str, resets: bool) -> Case:
    """What is remembered under a name restarts with a reset, or does not."""
    graph = case.graph
    carries = tuple(
        replace(carry, resets=resets) if carry.name.startswith("td.") and f".{part}" in carry.name else carry
        for carry in graph.carries
    )
    return replace(case, model=replace(case.model, graph=replace(graph, carries=carries)))


STEP = {
    "the discount goes on over a reset": ("same", False),
    "a reset replaces the last prediction": ("v", True),
    "a reset forgets that there was a step": ("seen", True),
}


# ---- faults of credit


def _read_late(self: Eligibility, name: str, gradient: int, seed: Any, number: int) -> int:
    """The error weighs what its own step has left, not the one before."""
    found = KEEP(self, name, gradient, seed, number)
    old = self.traces[-1].node
    return _total(self, self.b.nodes[old].args[0], seed, number) if found >= 0 else found


def _cleared(self: Eligibility, name: str, gradient: int, seed: Any, number: int) -> int:
    """A step that begins a sequence finds nothing of the last one."""
    b = self.b
    KEEP(self, name, gradient, seed, number)
    old = self.traces[-1].node
    rate = self.entry_of(self.values[self.td.factor], number)
    begins = b.op("eq", rate, b.const(0.0, rate))
    empty = b.op("where", self.wide(begins, b.type(old)), b.const(0.0, old), old)
    return _total(self, empty, seed, number)


def _decayed_early(self: Eligibility, name: str, gradient: int, seed: Any, number: int) -> int:
    """What is read has decayed by the discount of the step that reads it."""
    b = self.b
    found = KEEP(self, name, gradient, seed, number)
    if self.decay is None:
        return found
    old = self.traces[-1].node
    return _total(self, b.op("mul", old, self.wide(self.entry_of(self.decay, number), b.type(old))), seed, number)


def _both_predictions(
    graph: StepGraph,
    nodes: Sequence[TNode],
    values: Sequence[int],
    routing: RoutingClass,
    seeds: Sequence[tuple[int, int]],
    delayed: Sequence[tuple[Loss, int]],
) -> Traced:
    """Credit goes through v of the same step too."""
    b, own = TimelineBuilder(nodes), list(seeds)
    for loss, cotangent in delayed:
        assert loss.td is not None
        error = temporal_stage.error_weight(b, loss.td, values, cotangent)
        own.append((loss.root, b.op("neg", temporal_stage.times(b, values[loss.td.factor], error))))
    return TIMELINE(graph, tuple(b.nodes), values, routing, own, delayed)


def _total(self: Eligibility, value: int, seed: Any, number: int) -> int:
    b = self.b
    places = tuple(range(len(b.type(value).axes)))
    weight = self.entry_of(self.weight, number)
    total = b.op("contract", weight, value, x=(), y=places, out=places)
    total = b.op("collect", total)
    return total if b.type(total).axes == seed else b.op("rename", total, axes=seed)


def _not_decayed(self: Eligibility, *given: Any) -> None:
    INIT(self, *given)
    self.decay = None if self.decay is not None else self.b.const(0.5, self.weight)


def _every_step_is_valid(graph: StepGraph, values: Sequence[int]) -> None:
    return None


def _undiscounted(b: TimelineBuilder, td: TD, values: Sequence[int]) -> int:
    """The trace decays by the discount as written, resets or not."""
    return b.op("mul", values[td.discount], b.const(td.trace, values[td.discount]))


def _not_an_average(b: TimelineBuilder, td: TD, values: Sequence[int], cotangent: int) -> int:
    made = WEIGHT(b, td, values, cotangent)
    return b.op("mul", made, b.const(float(2 * max(1, b.type(made).numel - 1)), made))


def _whole_gradient(b: TimelineBuilder, graph: StepGraph, td: TD, values: Sequence[int], cotangent: int) -> int:
    """Through v of the same step too."""
    made, error = EMITTED(b, graph, td, values, cotangent), temporal_stage.error_weight(b, td, values, cotangent)
    own = temporal_stage.times(b, values[td.factor], error)
    return b.op("sub", made, own)


def _own_step(b: TimelineBuilder, graph: StepGraph, td: TD, values: Sequence[int], cotangent: int) -> int:
    """The error of a step changes the prediction of that step."""
    return temporal_stage.error_weight(b, td, values, cotangent)


def _decay_later(b: TimelineBuilder, td: TD, values: Sequence[int]) -> int:
    """By the discount of the next step."""
    made = DECAY(b, td, values)
    return b.move("next", [made], 1, b.type(made), "")


TIMELINE = assemble_stage.traced_timeline
KEEP, INIT = Eligibility.keep, Eligibility.__init__
WEIGHT, EMITTED, DECAY = temporal_stage.error_weight, temporal_stage.emitted, temporal_stage.decay
Plant = Callable[[pytest.MonkeyPatch], None]


def planted(owner: Any, name: str, fault: Any) -> Plant:
    return lambda patch: patch.setattr(owner, name, fault)


FORWARD: dict[str, Plant] = {
    "an error weighs what its own step has left": planted(Eligibility, "keep", _read_late),
    "traces are cleared before they are read": planted(Eligibility, "keep", _cleared),
    "traces decay before they are read": planted(Eligibility, "keep", _decayed_early),
    "the prediction of the same step learns too": planted(assemble_stage, "traced_timeline", _both_predictions),
    "traces decay at another rate": planted(Eligibility, "__init__", _not_decayed),
    "masked steps shift traces": planted(temporal_stage, "mask_of", _every_step_is_valid),
    "traces live on over resets": planted(temporal_stage, "decay", _undiscounted),
    "predictions are not averaged": planted(temporal_stage, "error_weight", _not_an_average),
}
REVERSE: dict[str, Plant] = {
    "the prediction of the same step learns too": planted(assemble_stage, "emitted", _whole_gradient),
    "the prediction of the same step learns instead": planted(assemble_stage, "emitted", _own_step),
    "masked steps shift credit": planted(temporal_stage, "mask_of", _every_step_is_valid),
    "credit lives on over resets": planted(temporal_stage, "decay", _undiscounted),
    "credit decays by the discount of the next step": planted(temporal_stage, "decay", _decay_later),
}


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_without_a_fault(direction: str) -> None:
    cases = known(direction)
    assert len(cases) > 5
    assert not any(rejected(case, case.expected) for case in cases)


@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("fault", STEP)
def test_faults_of_the_step(fault: str, direction: str) -> None:
    part, resets = STEP[fault]
    assert any(rejected(_resets(case, part, resets), case.expected) for case in known(direction))


@pytest.mark.parametrize("fault", FORWARD)
def test_faults_of_forward_rules(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = known("forward")
    FORWARD[fault](monkeypatch)
    assert any(rejected(case, case.expected) for case in cases)


@pytest.mark.parametrize("fault", REVERSE)
def test_faults_of_reverse_rules(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = known("reverse")
    REVERSE[fault](monkeypatch)
    assert any(rejected(case, case.expected) for case in cases)
