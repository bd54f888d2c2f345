"""A rule as a Hypothesis test, in one line: `test_my_rule = rule_conforms("my_rule(rho=0.9)")`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from hypothesis import HealthCheck, assume, given, settings
from torch import Tensor

from recdsl.backends import find
from recdsl.backends.reference import Reference
from recdsl.diagnostics import SpecError
from recdsl.testing.cases import Case, cases
from recdsl.testing.compare import assert_close_gradients, assert_matches
from recdsl.training.chance import drawn
from recdsl.training.gradcheck import analysed

SEED = 1


def rule_conforms(rule: str, examples: int = 40, tolerance: float = 1e-9) -> Callable[[], None]:
    """A Hypothesis test of a rule, as one writes it in `credit:`, on random models and calls.

    Outputs, loss, state and gradients of the compiled module equal the rule's definition (`backends/reference`,
    float64), under the same draws where it draws; a gradient said to be exact is that of full BPTT; and in a call
    with fewer steps than a parameter's first dropped lag nothing is dropped. A rule of another package is found by its
    entry point. tolerance: relative.
    """

    @settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(case=cases(rules=(("default", rule),)))
    def holds(case: Case) -> None:
        assume(_fits(case))
        check_rule(case, tolerance)

    return holds


def check_rule(case: Case, tolerance: float = 1e-9) -> None:
    """One case of `rule_conforms`; the rule is the case's own and fits its model."""
    module = find("torch").module(analysed(case.text), torch.float64)
    steps, samples = next(iter(case.batch.values())).shape[:2]
    torch.manual_seed(SEED)
    chance = drawn(case.graph, case.plan, module, steps, samples)
    oracle = Reference(case.graph, case.plan, weights=chance.weights, signs=chance.signs)
    expected = oracle.run(case.params, case.batch, case.mask, case.reset, case.state, case.cotangents)
    torch.manual_seed(SEED)
    assert_close_gradients(lambda _: module, case, tolerance, expected)
    _check_lags(case, steps, tolerance)


def _fits(case: Case) -> bool:
    """Whether the rule has a meaning on the model."""
    try:
        return bool(case.plan.rows)
    except SpecError:
        return False


def _check_lags(case: Case, steps: int, tolerance: float) -> None:
    """Nothing is missing below the first dropped lag. Verdicts are about the loss, and a mask may stretch lags."""
    exact = [row.parameter for row in case.plan.rows if row.verdict == "exact"]
    short = {row.parameter: row.first_dropped_lag or 0 for row in case.plan.rows if row.verdict == "biased"}
    for length in sorted({steps, *(lag for lag in short.values() if 0 < lag <= steps)}):
        names = [*exact, *(name for name, lag in short.items() if lag >= length)]
        own, full = _gradients(case, length, full=False), _gradients(case, length, full=True)
        for name in names:
            assert_matches({name: own[name]}, {name: full[name]}, f"{length} steps: gradient of", tolerance)


def _gradients(case: Case, length: int, *, full: bool) -> dict[str, Tensor]:
    """The definition's gradients of the first steps of a call, without mask and reset."""
    clean = {name: torch.where(_sound(v), v, torch.zeros_like(v))[:length] for name, v in case.batch.items()}
    bare = replace(case, batch=clean, mask=None, reset=None, cotangents={})
    oracle = Reference(bare.graph, bare.plan)
    return (oracle.full if full else oracle.run)(bare.params, bare.batch, state=bare.state).gradients


def _sound(value: Tensor) -> Tensor:
    """Where a masked step holds no nonsense."""
    return value.isfinite() if value.is_floating_point() else value < 10_000
