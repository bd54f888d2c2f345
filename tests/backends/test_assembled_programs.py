"""Programs as the compiler assembles them: valid, equal to the oracle when interpreted, and printable both ways."""

from __future__ import annotations

import pytest
import torch
from backend_support import seeded
from program_runs import assembled, run
from torch import Tensor

from recdsl.credit import plan as plan_stage
from recdsl.program.checker import verify
from recdsl.program.parse import parse
from recdsl.program.text import show
from recdsl.testing import Case, assert_matches, reference

CASES, CHECKED, PRINTED = 60, 40, 16


def valid(case: Case, output: Tensor) -> Tensor:
    """Zeros at masked steps, where outputs have no meaning."""
    if case.mask is None:
        return output
    keep = case.mask.reshape(*case.mask.shape, *(1,) * (output.dim() - 2))
    return torch.where(keep, output, torch.zeros_like(output))


def assert_equal(case: Case, optimise: bool) -> None:
    found, expected = run(case, assembled(case, optimise=optimise)), reference(case)
    outputs = {name: valid(case, value) for name, value in found.outputs.items()}
    assert_matches(outputs, {name: valid(case, value) for name, value in expected.outputs.items()}, "output")
    assert_matches({"loss": found.loss}, {"loss": expected.loss})
    assert_matches(found.losses, expected.losses, "loss")
    assert_matches(found.state, expected.state, "state")
    assert_matches(found.gradients, expected.gradients, "gradient of")


@pytest.mark.parametrize("optimise", [True, False])
@pytest.mark.parametrize("first", range(0, CASES, 10))
def test_interpreted_programs_equal_the_oracle(first: int, optimise: bool):
    for seed in range(first, first + 10):
        assert_equal(seeded(seed), optimise)


@pytest.mark.parametrize("first", range(0, CASES, 20))
def test_short_windows_may_have_a_pass_each(first: int, monkeypatch: pytest.MonkeyPatch):
    short = [case for case in map(seeded, range(first, first + 20)) if any(c.grid for c in case.plan.classes)]
    assert short
    monkeypatch.setattr(plan_stage, "SHORT", 0)
    for case in short:
        assert_equal(case, True)


@pytest.mark.parametrize("first", range(0, CHECKED, 5))
def test_programs_are_valid(first: int):
    for seed in range(first, first + 5):
        verify(assembled(seeded(seed)).program)


def test_round_trip():
    for seed in range(PRINTED):
        program = assembled(seeded(seed)).program
        text = show(program)
        assert show(parse(text)) == text
        assert parse(show(program, spans=False)) == parse(show(parse(text), spans=False))
