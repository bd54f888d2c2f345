"""`recdsl.testing.properties`: specs that hold, in one line each, and what it finds in ones that do not."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings

from recdsl import SpecError
from recdsl.testing import properties
from recdsl.testing.properties import Checked, Example
from recdsl.training.gradcheck import TooCostly

SPECS = Path(__file__).parent.parent.parent / "specs"
COPY = str(SPECS / "copy_lstm.yaml")
SMALL = {"examples": 8, "steps": 5, "samples": 2}
TEXT = """\
recdsl: 1
name: pair
sizes: {n: 2}
inputs: {x: "float[n]"}
targets: {y: "float[n]"}
params: {U: "float[n, n] ~ orthogonal", k: "float[n] = 0.5", D: "float[n, n] ~ normal(0, 1) frozen"}
states: {h: "float[n] = k"}
step: h = tanh(U @ h[t-1] + D @ x)
loss: mse(h, y)
"""

test_a_shipped_spec = properties(str(SPECS / "adding_gru.yaml"), "sizes.hidden=3", **SMALL)
test_a_forward_rule = properties(COPY, "sizes.hidden=2", "credit=snap(1)", **SMALL)
test_columns = properties(TEXT, "credit=columns", **SMALL)
test_a_window = properties(TEXT, "credit=tbptt(window=3, every=2)", **SMALL)
test_random_truncation = properties(TEXT, "credit=artbp(mean=2)", **SMALL)
CALL = Example(steps=5, samples=2, spread=0.1, mask="none", reset=False, state=False, outputs=False, seed=1)


class Wrong(Checked):
    """A module whose gradients are a little off, or a plan that claims too much."""

    def __init__(self, spec: str, factor: float, verdict: str) -> None:
        super().__init__(spec, ("credit=tbptt(window=2)",), 1e-9)
        self.factor, self.verdict = factor, verdict

    @cached_property
    def compilation(self) -> Any:
        made = Checked(self.spec, self.overrides, self.tolerance).compilation
        rows = tuple(replace(row, verdict=self.verdict) for row in made.plan.rows if row.verdict != "frozen")
        return replace(made, plan=replace(made.plan, rows=rows))

    @cached_property
    def module(self) -> Any:
        made = Checked(self.spec, self.overrides, self.tolerance).module
        for parameter in made.parameters():
            parameter.register_hook(lambda gradient: gradient * self.factor)
        return made


def test_what_holds() -> None:
    Wrong(TEXT, 1.0, "biased").check(CALL)


def test_a_wrong_gradient_is_found() -> None:
    with pytest.raises(AssertionError, match=r"gradient of [kU]: off by"):
        Wrong(TEXT, 1.0 + 1e-6, "biased").check(CALL)


def test_a_false_claim_is_found() -> None:
    with pytest.raises(AssertionError, match="said to be exact, gradient of"):
        Wrong(TEXT, 1.0, "exact").check(CALL)


@pytest.mark.parametrize("mask", ["none", "lengths", "any"])
@pytest.mark.parametrize("flags", [(False, False), (True, False), (False, True), (True, True)])
def test_every_kind_of_call(mask: str, flags: tuple[bool, bool]) -> None:
    call = replace(CALL, mask=mask, reset=flags[0], state=flags[1], outputs=flags[0])
    checked = Checked(TEXT, ("credit=rtrl",), 1e-9)
    case = checked.case(call)
    assert (case.mask is None, case.reset is None, case.state is None) == (mask == "none", not flags[0], not flags[1])
    assert torch.equal(case.params["D"], checked.module.recdsl_tensor("D"))
    checked.check(call)


def test_errors_are_the_specs_own() -> None:
    """The spec is read when the test runs, so that one that is wrong does not stop the collection of others."""
    wrong = properties("missing.yaml")
    with pytest.raises(SpecError, match=r"missing\.yaml") as caught:
        wrong()
    assert getattr(caught.value, "__notes__", []) == []  # those of Hypothesis: a call that was drawn has no part in it
    assert len(caught.traceback) <= 3


def test_large_specs_are_refused() -> None:
    with pytest.raises(TooCostly, match="smaller sizes"):
        Checked(COPY, ("credit=rtrl",), 1e-9).check(replace(CALL, steps=12))


def test_it_is_a_hypothesis_test() -> None:
    assert hasattr(test_columns, "hypothesis")
    assert callable(given)
    assert callable(settings)
