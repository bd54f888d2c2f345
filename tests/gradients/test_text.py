"""A model built by hand and the same model compiled from its text are one network; the helpers tell others apart."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from recdsl.backends.reference import Reference, Result
from recdsl.credit.build import plan
from recdsl.graph.build import build
from recdsl.syntax.spec import read_spec
from recdsl.testing import Case, assert_close_gradients, assert_matches, cases, random_case, reference

torch.set_num_threads(1)


def check(case: Case) -> None:
    """Outputs, losses, state, gradients and verdicts of the compiled text are those of the graph made by hand."""
    spec = read_spec(case.text)
    graph = build(spec, {})
    made = plan(graph, spec.credit, spec.require)
    oracle = Reference(graph, made)
    found = oracle.run(case.params, case.batch, case.mask, case.reset, case.state, case.cotangents)
    expected = reference(case)
    for key in ("outputs", "losses", "state", "gradients"):
        assert_matches(getattr(found, key), getattr(expected, key), key, 1e-12)
    facts = ("parameter", "rule", "verdict", "qualifiers", "first_dropped_lag", "longest_kept_lag")
    rows = {row.parameter: row for row in made.rows}
    for row in case.plan.rows:
        assert [getattr(rows[row.parameter], key) for key in facts] == [getattr(row, key) for key in facts]


@pytest.mark.parametrize("seed", range(40))
def test_text_and_graph_agree(seed: int):
    check(random_case(seed))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(cases())
def test_text_and_graph_agree_on_any_case(case: Case):
    check(case)


@dataclass
class Output:
    outputs: dict[str, Tensor]
    loss: Tensor
    losses: dict[str, Tensor]
    state: dict[str, Tensor]


class Fake(torch.nn.Module):
    """Answers a case with given results; its backward pass gives the gradients of a possibly different one."""

    def __init__(self, case: Case, told: Result, gradients: dict[str, Tensor]) -> None:
        super().__init__()
        self.told, self.gradients = told, gradients
        for name in gradients:
            self.register_parameter(name, torch.nn.Parameter(case.params[name].clone()))

    def forward(self, batch: Any, mask: Any = None, reset: Any = None, state: Any = None) -> Output:
        slope = torch.zeros((), dtype=torch.float64)
        for name, gradient in self.gradients.items():
            slope = slope + (self.get_parameter(name) * gradient).sum()
        told = self.told
        return Output(told.outputs, told.loss + slope - slope.detach(), told.losses, told.state)


def test_the_helper_accepts_what_is_right_and_nothing_else():
    tried = 0
    for seed in range(40):
        case = replace(random_case(seed), cotangents={})
        told = reference(case)
        assert_close_gradients(lambda c, told=told: Fake(c, told, told.gradients), case)
        for name, gradient in told.gradients.items():
            if not gradient.abs().max():
                continue
            wrong = told.gradients | {name: gradient * (1 + 1e-6)}
            with pytest.raises(AssertionError, match="gradient of"):
                assert_close_gradients(lambda c, told=told, wrong=wrong: Fake(c, told, wrong), case, tolerance=1e-10)
            tried += 1
            break
    assert tried > 20
