"""Traces whose entries have factors of their own need no loop: the definition's numbers in any pieces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from backend_support import corpus
from program_runs import assembled

from recdsl.backends.reference import Result
from recdsl.backends.torch import execute
from recdsl.backends.torch.module import generate
from recdsl.credit.plan import CreditPlan
from recdsl.diagnostics import SpecError
from recdsl.driver import analyse
from recdsl.program.assemble import assemble
from recdsl.program.ir import For, Program
from recdsl.program.telescope import Telescope
from recdsl.testing import Case, assert_close_gradients, random_case, reference

MODEL = """
recdsl: 1
sizes: {d: 5, n: 8}
inputs: {x: "float[d]"}
targets: {y: "float[n]"}
step: |
  LEFT = CELL(x, size=n)
LOSS
credit: RULE
"""
MSE, TD = "loss: mse(h, y)", "  v = sum(h, axis=n)\nloss: td(v, 1.0, discount=0.9)"
SPECS = {
    "columns": ("columnar", "lstm_two_results", "learned_start"),
    "snap(1)": ("lstm_two_results", "peephole", "kept_states"),
    "rflo": ("learned_start",),
    "columns(drift=decay(0.8))": ("columnar", "lstm_two_results"),
}
SEEDS = range(4)


def program(cell: str, rule: str, loss: str = MSE) -> Program:
    left = "h, c" if cell == "lstm" else "h"
    words = {"LEFT": left, "CELL": cell, "RULE": rule, "LOSS": loss}
    text = MODEL
    for word, meant in words.items():
        text = text.replace(word, meant)
    made = analyse(text)
    return assemble(made.graph, made.plan).program


def loops(made: Program) -> list[int]:
    """The directions of the loops that carry or replace traces."""
    return [s.step for s in dict(made.entries)["traces"] if isinstance(s, For)]


@pytest.mark.parametrize(
    ("cell", "rule"), [("gru", "columns"), ("lstm", "columns"), ("lstm", "snap(1)"), ("gru_reset_after", "snap(1)")]
)
def test_entries_with_factors_of_their_own_have_no_loop_of_traces(cell: str, rule: str) -> None:
    assert set(loops(program(cell, rule))) == {-1}


@pytest.mark.parametrize(
    ("cell", "rule", "loss", "forward"),
    [("elman", "rtrl", MSE, 1), ("gru", "snap(1)", MSE, 1), ("gru", "columns", TD, 1), ("gru", "columns", MSE, 0)],
)
def test_other_traces_have_one(cell: str, rule: str, loss: str, forward: int) -> None:
    """Dense influence, and losses whose weights come a step late."""
    assert loops(program(cell, rule, loss)).count(1) == forward


# ---- the same numbers as the definition


@dataclass(frozen=True)
class Known:
    """A case with its plan and the oracle's answer, made before anything is patched."""

    case: Case
    plan: CreditPlan
    expected: Result


def _cases() -> Iterator[Case]:
    for rule, names in SPECS.items():
        yield from (corpus(name, 1, rule) for name in names)
        yield from (random_case(seed, (("default", rule),)) for seed in SEEDS)


@cache
def known() -> tuple[Known, ...]:
    """Cases of which some traces telescope."""
    found: list[Known] = []
    cases = _cases()
    while True:
        try:
            case = next(cases)
        except StopIteration:
            return tuple(found)
        except SpecError:
            continue
        item = _known(case)
        if item is not None:
            found.append(item)


def _known(case: Case) -> Known | None:
    try:
        plan, made = case.plan, assembled(case).program
    except SpecError:
        return None
    return Known(case, plan, reference(case)) if -1 in loops(made) else None


def rejected(item: Known, chunk: int = 3) -> bool:
    """Whether the compiler, as it is now, differs from the oracle in calls that go some steps at a time."""
    module: Any = execute(generate(item.case.graph, item.plan, "")).Model(0, torch.float64)
    module.recdsl_chunk = chunk
    try:
        assert_close_gradients(lambda _: module, item.case, expected=item.expected)
    except (AssertionError, RuntimeError):
        return True
    return False


def test_traces_that_telescope_equal_the_definition() -> None:
    assert len(known()) > 9
    for item in known():
        assert not rejected(item)


# ---- planted faults


Plant = Callable[[Any], Any]


def nothing_older(_: Any) -> Any:
    """What the call was handed is not read."""
    return lambda self, back, held: None


def nothing_kept(last: Any) -> Any:
    """What the call was handed has no part in what it leaves."""

    def faulty(self: Any, name: str, factors: Any, held: Any) -> int:
        return last(self, name, factors, {carry: self.b.const(0.0, node) for carry, node in held.items()})

    return faulty


def resets_ignored(_: Any) -> Any:
    return lambda self, name, seen: seen


def decay_ignored(_: Any) -> Any:
    return lambda self, move, name: move


def own_state_only(factors: Any) -> Any:
    """Influence through other states of an entry is lost."""
    return lambda self, name: {k: v for k, v in factors(self, name).items() if k == name}


def first_use_only(injected: Any) -> Any:
    """Learned initial values have no influence behind a reset."""
    return lambda self, *given: [item for item in injected(self, *given) if item.behind]


def before_the_step(injected: Any) -> Any:
    """What a step adds is taken to stand in front of it."""
    return lambda self, *given: [replace(item, behind=False) for item in injected(self, *given)]


def last_of_each(weighed: Any) -> Any:
    """Of several states that a parameter acts on, one counts."""
    return lambda self, member, back: weighed(self, member, back)[-1:]


def no_beginning(back: Any) -> Any:
    """What a recurrence ends with is zero: nothing is left for the next call."""
    return lambda self, factors, entered, left, end: back(self, factors, entered, left, None)


FAULTS: dict[str, tuple[str, Plant]] = {
    "older traces unread": ("_older", nothing_older),
    "older traces forgotten": ("_last", nothing_kept),
    "resets ignored": ("_handed", resets_ignored),
    "decay ignored": ("_decayed", decay_ignored),
    "own state only": ("_factors", own_state_only),
    "no initial values": ("_injected", first_use_only),
    "in front of the step": ("_injected", before_the_step),
    "one state only": ("_weighed", last_of_each),
    "nothing left": ("_back", no_beginning),
}


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_rejected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = known()
    method, make = FAULTS[name]
    with monkeypatch.context() as patch:
        patch.setattr(Telescope, method, make(vars(Telescope)[method]))
        found = next((item for item in cases if rejected(item)), None)
    assert found is not None
    assert not rejected(found)
