"""Comparisons of the oracle with the forward-mode witness, and mutants that it must tell apart."""

from __future__ import annotations

import torch

from recdsl.backends.reference import Reference, Result
from recdsl.credit.build import plan
from recdsl.credit.plan import CreditPlan
from recdsl.testing import Case
from recdsl.testing.dual import directional

torch.set_num_threads(1)


def run(case: Case, made: CreditPlan | None = None) -> Result:
    made = made or plan(case.graph, case.model.credit)
    oracle = Reference(case.graph, made)
    return oracle.run(case.params, case.batch, case.mask, case.reset, case.state, case.cotangents)


def witness_error(case: Case, result: Result, made: CreditPlan | None = None) -> float:
    """Largest difference between the result's and the witness's directional derivatives, over 1 + the latter."""
    made = made or plan(case.graph, case.model.credit)
    generator = torch.Generator().manual_seed(7)
    directions = {n: torch.randn(v.shape, generator=generator, dtype=v.dtype) for n, v in case.params.items()}
    worst = 0.0
    for routing, expected in zip(made.classes, directional(case, made, directions), strict=True):
        found = torch.zeros((), dtype=torch.float64)
        for name in routing.parameters:
            found = found + (result.gradients[name] * directions[name]).sum()
        worst = max(worst, float((found - expected).abs() / (1 + expected.abs())))
    return worst
