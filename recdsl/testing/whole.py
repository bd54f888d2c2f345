"""Whole gradients for claims to be measured against, from nothing that a rule has had a hand in.

They are those of plain backpropagation through the unrolled network (`backends/reference`), under a plan that no
`credit:` was read for. Where the model is smooth, central differences of its loss say the same, without derivatives.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recdsl.backends.reference import Reference
from recdsl.credit.build import plan
from recdsl.credit.classes import admitted
from recdsl.credit.plan import CreditPlan
from recdsl.graph.step import LEAVES, StepGraph
from recdsl.ops import primitive
from recdsl.testing.cases import Case

STEP, TOLERANCE = 1e-5, 1e-6
"""Of differences: how far apart, and how well they agree relative to the largest entry."""
MOST = 6
"""Entries of a parameter that are compared, at most."""


def whole_gradients(case: Case) -> dict[str, Tensor]:
    """Of every parameter that is trained, whatever the case's own plan is."""
    oracle = Reference(case.graph, plan(case.graph))
    return oracle.run(case.params, case.batch, case.mask, case.reset, case.state).gradients


def differentiable(graph: StepGraph) -> bool:
    """Whether differences measure the gradient: no op has a kink or declares a derivative, no loss is a temporal
    difference, which holds one of its two predictions still."""
    plain = all(node.op in LEAVES or primitive(node.op).smooth for node in graph.nodes)
    return plain and all(loss.td is None for loss in graph.losses)


def assert_differences(case: Case, whole: Mapping[str, Tensor]) -> int:
    """Compare entries with central differences of the losses that may train them: all of small parameters, some of
    larger ones. How many there are."""
    count = 0
    for name, gradient in whole.items():
        size = case.params[name].numel()
        for k in range(0, size, 1 + size // MOST):
            found = (_moved(case, name, k, STEP) - _moved(case, name, k, -STEP)) / (2 * STEP)
            expected = float(gradient.reshape(-1)[k])
            apart = abs(found - expected)
            assert apart <= TOLERANCE * (1 + float(gradient.abs().max())), f"{name}[{k}]: off by {apart:.3e}"
            count += 1
    return count


def _moved(case: Case, name: str, place: int, by: float) -> float:
    """What trains a parameter, with one of its entries moved."""
    value = case.params[name].clone(memory_format=torch.contiguous_format)
    value.view(-1)[place] += by
    oracle = Reference(case.graph, CreditPlan((), ()))
    found = oracle.run({**case.params, name: value}, case.batch, case.mask, case.reset, case.state).losses
    losses = [case.graph.losses[k] for k in admitted(case.graph, name)]
    return sum(loss.weight * float(found[loss.name]) for loss in losses)
