"""Rank-one estimates (uoro): each draw against its definition, and the mean over all signs against full BPTT."""

from __future__ import annotations

from itertools import product
from math import prod

import pytest
import torch
from program_runs import extent
from torch import Tensor

from recdsl import compile as compile_spec
from recdsl import explain
from recdsl.backends.reference import Reference, Result
from recdsl.credit.influence import states
from recdsl.diagnostics import SpecError
from recdsl.testing import Case, assert_close_gradients, assert_matches, random_case, reference

RULES = (("default", "uoro"),)


def fitting(seed: int) -> Case | None:
    """A model that learns no initial value."""
    case = random_case(seed, RULES)
    try:
        return case if len(case.plan.classes) == 1 else None
    except SpecError:
        return None


def shapes(case: Case) -> dict[str, tuple[int, ...]]:
    return {c.name: case.graph.nodes[c.read].type.shape for c in sorted(states(case.graph), key=lambda c: c.name)}


def drawn(case: Case, seed: int) -> dict[str, Tensor]:
    """What a call draws after this seed."""
    steps, samples = extent(case)
    torch.manual_seed(seed)
    return {
        name: (2 * torch.randint(2, (steps, samples, *shape)) - 1).to(torch.float64)
        for name, shape in shapes(case).items()
    }


def under(case: Case, signs: dict[str, Tensor]) -> Result:
    oracle = Reference(case.graph, case.plan, signs={0: signs})
    return oracle.run(case.params, case.batch, case.mask, case.reset, case.state, case.cotangents)


def seeded(case: Case, seed: int) -> torch.nn.Module:
    module = compile_spec(case.text, dtype=torch.float64)
    torch.manual_seed(seed)
    return module


@pytest.mark.parametrize("seed", range(40))
def test_a_draw_equals_its_definition(seed: int) -> None:
    case = fitting(seed)
    if case is not None:
        expected = under(case, drawn(case, seed))
        assert_close_gradients(lambda c: seeded(c, seed), case, expected=expected, tolerance=1e-9)


def test_unbiased() -> None:
    """Every pattern of signs of a short call: the mean is the gradient of full BPTT."""
    checked = 0
    for seed in range(400, 700):
        case = fitting(seed)
        if case is None or case.cotangents:
            continue
        (steps, samples), table = extent(case), shapes(case)
        count = sum(prod(shape) for shape in table.values())
        if not 1 < steps < 4 or samples > 1 or not 0 < count * (steps - 1) <= 8:
            continue
        mean: dict[str, Tensor] = {}
        for pattern in product([1.0, -1.0], repeat=count * (steps - 1)):
            flat = torch.tensor([*pattern, *[1.0] * count], dtype=torch.float64).reshape(steps, count)
            parts = flat.split([prod(shape) for shape in table.values()], 1)
            signs = {n: p.reshape(steps, 1, *s) for (n, s), p in zip(table.items(), parts, strict=True)}
            found = under(case, signs).gradients
            mean = {name: mean.get(name, 0.0) + value / 2 ** len(pattern) for name, value in found.items()}
        assert_matches(mean, reference(case, full=True).gradients, "mean of", 1e-9)
        checked += 1
        if checked == 6:
            return
    assert checked > 2


def test_verdicts() -> None:
    seen: set[str] = set()
    for seed in range(40):
        case = fitting(seed)
        for row in case.plan.rows if case is not None else ():
            seen.add(row.verdict)
            assert row.verdict in ("exact", "unbiased", "frozen")
            assert ("random-signs" in row.qualifiers) == (row.verdict == "unbiased")
    assert seen == {"exact", "unbiased", "frozen"}


def test_what_no_loss_sees_makes_noise_too() -> None:
    """One estimate is for all influence: with b's on k, which only an output reads a step later, come random signs."""
    text = """
recdsl: 1
sizes: {n: 2}
inputs: {x: "float[n]"}
targets: {y: float}
params:
  W: float[n, n] ~ normal(0, 1)
  b, w: float[n] ~ normal(0, 1)
step: |
  h = tanh(W @ x + h[t-1])
  k = tanh(b * x)
  g = 2 * k[t-1]
  v = w @ (h + k)
loss: mse(v, y)
credit: uoro
"""
    assert {row.parameter: row.verdict for row in explain(text).rows} == {
        "W": "unbiased",
        "b": "unbiased",
        "w": "exact",
    }
    model = compile_spec(text, dtype=torch.float64)
    batch = {"x": torch.randn(4, 1, 2, dtype=torch.float64), "y": torch.randn(4, 1, dtype=torch.float64)}
    found: list[Tensor] = []
    for seed in range(2, 5):
        torch.manual_seed(seed)
        found += torch.autograd.grad(model(batch).loss, [model.get_parameter("b")])
    assert not all(torch.allclose(found[0], other) for other in found[1:])
