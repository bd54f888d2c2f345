"""Random truncation (artbp): each draw against its definition, and the mean over all draws against full BPTT."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from program_runs import extent
from torch import Tensor

from recdsl import compile as compile_spec
from recdsl.backends.reference import Reference, Result
from recdsl.backends.torch.call import truncated
from recdsl.diagnostics import SpecError
from recdsl.driver import analyse
from recdsl.testing import Case, assert_close_gradients, assert_matches, check_rule, random_case, reference
from recdsl.training.chance import Cuts

RULES = (("default", "artbp(3)"),)
MIXED = (("p1", "artbp(2)"), ("default", "bptt"))


def weights(case: Case, mean: int, seed: int) -> Tensor:
    """What a call draws first after this seed."""
    steps, samples = extent(case)
    torch.manual_seed(seed)
    kept = torch.rand((steps, samples), dtype=torch.float64) >= 1 / mean
    drawn = kept.to(torch.float64) * (mean / (mean - 1))
    drawn[0] = 1.0
    return drawn


def under(case: Case, given: dict[int, Tensor]) -> Result:
    oracle = Reference(case.graph, case.plan, weights=given)
    return oracle.run(case.params, case.batch, case.mask, case.reset, case.state, case.cotangents)


def seeded(case: Case, seed: int) -> torch.nn.Module:
    module = compile_spec(case.text, dtype=torch.float64)
    torch.manual_seed(seed)
    return module


@pytest.mark.parametrize("seed", range(30))
def test_a_draw_equals_its_definition(seed: int) -> None:
    case = random_case(seed, RULES)
    given = {k: weights(case, c.thinning, seed) for k, c in enumerate(case.plan.classes)}
    if len(given) == 1:
        assert_close_gradients(lambda c: seeded(c, seed), case, expected=under(case, given))


@pytest.mark.parametrize("seed", range(30, 45))
def test_other_parameters_keep_their_rule(seed: int) -> None:
    case = random_case(seed, MIXED)
    if "p1" not in case.params:
        return
    given = {k: weights(case, 2, seed) for k, c in enumerate(case.plan.classes) if c.thinning}
    assert_close_gradients(lambda c: seeded(c, seed), case, expected=under(case, given))


def test_unbiased() -> None:
    """Every pattern of cuts of a short call, weighted by its chance: the mean is the gradient of full BPTT."""
    checked = 0
    for seed in range(200, 260):
        case = random_case(seed, RULES)
        steps, samples = extent(case)
        if steps > 5 or samples > 1 or case.cotangents:
            continue
        mean: dict[str, Tensor] = {}
        chance = 1 / case.plan.classes[0].thinning
        for pattern in product([True, False], repeat=steps - 1):
            kept = torch.tensor([True, *pattern])[:, None]
            given = torch.where(kept, 1 / (1 - chance), 0.0).to(torch.float64)
            given[0] = 1.0
            share = chance ** pattern.count(False) * (1 - chance) ** pattern.count(True)
            found = under(case, dict.fromkeys(range(len(case.plan.classes)), given)).gradients
            mean = {name: mean.get(name, 0.0) + share * value for name, value in found.items()}
        assert_matches(mean, reference(case, full=True).gradients, "mean of", 1e-10)
        checked += 1
    assert checked > 3


@pytest.mark.parametrize("alpha", [1.5, 4.0])
def test_the_decreasing_schedule_is_unbiased(alpha: float) -> None:
    """The chance of a cut depends on how long ago the last one was: every pattern with its own chance."""
    rules, checked = (("default", f"artbp(2, schedule=decreasing({alpha}))"),), 0
    for seed in range(200, 260):
        case = random_case(seed, rules)
        steps, samples = extent(case)
        if steps > 6 or samples > 1 or case.cotangents:
            continue
        mean: dict[str, Tensor] = {}
        whole = 0.0
        for pattern in product([True, False], repeat=steps - 1):
            given, share, since = torch.ones((steps, 1), dtype=torch.float64), 1.0, 1
            for t, kept in enumerate(pattern, 1):
                chance = alpha / ((alpha - 1) * 2 + since)
                given[t] = 1 / (1 - chance) if kept else 0.0
                share *= 1 - chance if kept else chance
                since = since + 1 if kept else 1
            whole += share
            found = under(case, dict.fromkeys(range(len(case.plan.classes)), given)).gradients
            mean = {name: mean.get(name, 0.0) + share * value for name, value in found.items()}
        assert abs(whole - 1) < 1e-12
        assert_matches(mean, reference(case, full=True).gradients, "mean of", 1e-9)
        checked += 1
    assert checked > 3


@pytest.mark.parametrize("seed", range(10))
def test_a_draw_of_the_decreasing_schedule_equals_its_definition(seed: int) -> None:
    check_rule(random_case(seed, (("default", "artbp(3, schedule=decreasing)"),)))


@pytest.mark.parametrize("tail", [0.0, 2.0, 4.0])
def test_both_draws_of_truncations_are_the_same(tail: float) -> None:
    uniform = torch.rand((40, 3), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    mine = torch.stack([Cuts(5, tail).weights(column.tolist()) for column in uniform.T], 1)
    assert torch.equal(truncated(uniform, 5, tail), mine)


def test_runs_are_about_as_long_as_asked_for() -> None:
    uniform = torch.rand((4000, 20), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for tail in (0.0, 4.0):
        share = float((truncated(uniform, 10, tail) == 0).double().mean())
        assert abs(1 / share - 10) < 1.0


@pytest.mark.parametrize("schedule", ["decreasing(1)", "decreasing(2, 3)", "rising", "3"])
def test_schedules_that_do_not_exist(schedule: str) -> None:
    with pytest.raises(SpecError) as caught:
        assert random_case(1, (("default", f"artbp(3, schedule={schedule})"),)).plan
    assert [problem.code for problem in caught.value.problems] == ["RD0503"]


def test_verdicts() -> None:
    for seed in range(40):
        for row in random_case(seed, RULES).plan.rows:
            assert row.verdict in ("exact", "unbiased", "frozen")
            assert ("random-truncation" in row.qualifiers) == (row.verdict == "unbiased")


START = """recdsl: 1
name: start
sizes: {a: 2}
inputs: {x: "float[a]"}
targets: {y: "float[a]"}
params: {s: "float[a] ~ normal(0, 1)", W: "float[a, a] ~ normal(0, 1)"}
states: {h: "float[a] = s"}
step: |
  h = tanh(W @ x)
  out = h[t-1]
loss: mse(out, y)
credit: RULE
"""


@pytest.mark.parametrize("rule", ["artbp(mean=2)", "rule(weights=truncation(2))"])
def test_masked_steps_carry_starts_over_places_that_may_be_cut(rule: str) -> None:
    """So the claim that a start's gradient is exact, as none crosses a step, rests on there being no such steps."""
    text = START.replace("RULE", rule)
    rows = {row.parameter: row for row in analyse(text).plan.rows}
    assert (rows["s"].verdict, rows["s"].qualifiers) == ("exact", ("unmasked",))
    assert (rows["W"].verdict, rows["W"].qualifiers) == ("unbiased", ("random-truncation",))
    torch.manual_seed(0)
    batch = {name: torch.randn(8, 1, 2, dtype=torch.float64) for name in "xy"}
    found: list[bool] = []
    for masked in (0, 4):
        module: Any = compile_spec(text, dtype=torch.float64)
        torch.manual_seed(1)
        module(batch, mask=torch.arange(8)[:, None] >= masked).loss.backward()
        found.append(bool(module.recdsl_tensor("s").grad.any()))
    assert found == [True, False]
