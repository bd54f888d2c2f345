"""Random truncation (artbp): each draw against its definition, and the mean over all draws against full BPTT."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from program_runs import extent
from torch import Tensor

from recdsl import compile as compile_spec
from recdsl.backends.reference import Reference, Result
from recdsl.testing import Case, assert_close_gradients, assert_matches, random_case, reference

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


def test_verdicts() -> None:
    for seed in range(40):
        for row in random_case(seed, RULES).plan.rows:
            assert row.verdict in ("exact", "unbiased", "frozen")
            assert ("random-truncation" in row.qualifiers) == (row.verdict == "unbiased")
