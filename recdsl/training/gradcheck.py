"""Gradients measured: a compiled model against the definition of its rule, and against the whole gradient.

The definition is `recdsl.backends.reference`: the unrolled network, cut as the rule says, differentiated by autograd
in float64. It shares nothing with the generated code but the equations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recdsl.backends import find
from recdsl.backends.reference import Reference
from recdsl.credit.plan import CreditPlan
from recdsl.graph.step import Input, StepGraph

if TYPE_CHECKING:
    from recdsl.driver import Compilation

TOLERANCE = 1e-8
STEPS = 12
LARGEST_WORK = 5_000_000
LARGEST_BYTES = 8 * 2**30


@dataclass(frozen=True)
class Measured:
    """One parameter: its verdict, and how its gradient compares.

    definition: relative difference from the rule's own definition. full: the same from the whole gradient.
    cosine, ratio (of norms) and signs (share of entries that agree) are relative to the whole gradient. problem: what
    contradicts the claim, or "".
    """

    parameter: str
    verdict: str
    definition: float
    full: float
    cosine: float
    ratio: float
    signs: float
    problem: str


@dataclass(frozen=True)
class Check:
    """What `gradcheck` found, for a random batch of this many steps and samples."""

    name: str
    steps: int
    batch: int
    rows: tuple[Measured, ...]

    @property
    def holds(self) -> bool:
        return not any(row.problem for row in self.rows)


class TooCostly(Exception):
    """The definition would take too long or too much memory; the text says how much."""


def gradcheck(compilation: Compilation, steps: int | None = None, batch: int = 2, seed: int = 0) -> Check:
    """Measure all trained parameters on random data. steps None: enough to see past the windows. Raises TooCostly."""
    graph, plan = compilation.graph, compilation.plan
    length = steps or enough(plan)
    bounded(graph, plan, length, batch)
    generator = torch.Generator().manual_seed(seed)
    model: Any = find("torch").module(compilation, torch.float64)
    stir(model, generator)
    data = {item.name: random(item, length, batch, generator) for item in graph.inputs}
    params = {item.name: model.recdsl_tensor(item.name).detach().clone() for item in graph.parameters}
    oracle = Reference(graph, plan)
    own, full = oracle.run(params, data).gradients, oracle.full(params, data).gradients
    found = gradients(model, data)
    rows = [measured(row.parameter, row.verdict, found, own, full) for row in plan.rows if row.parameter in own]
    return Check(graph.name, length, batch, tuple(rows))


def enough(plan: CreditPlan) -> int:
    """Steps that show what the longest window drops: a quarter more than it, at least a dozen, at most 160."""
    longest = max((routing.window.size or 0 for routing in plan.classes), default=0)
    return min(160, max(STEPS, longest + longest // 4 + 1 if longest else 0))


def bounded(graph: StepGraph, plan: CreditPlan, steps: int, batch: int) -> None:
    """Refuse what would take minutes or the machine's memory. Raises TooCostly."""
    windows = 1 + sum(1 + -(-steps // max(1, routing.window.every)) for routing in plan.classes)
    work = windows * steps * len(graph.nodes)
    size = 16 * steps * batch * sum(node.type.numel for node in graph.nodes if node.id in graph.varying)
    if work > LARGEST_WORK:
        raise TooCostly(f"{steps} steps are {work:,} operations, more than {LARGEST_WORK:,}; use fewer (--steps)")
    if size > LARGEST_BYTES:
        raise TooCostly(f"it needs about {size / 2**30:,.1f} GiB; use fewer --steps or smaller sizes (sizes.NAME=...)")


def stir(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Move parameters whose entries are all equal: at such a point (all zero, say) gradients vanish by symmetry."""
    with torch.no_grad():
        for value in model.parameters():
            if value.numel() and bool((value == value.reshape(-1)[0]).all()):
                value.add_(0.1 * torch.randn(value.shape, generator=generator, dtype=value.dtype))


def random(declared: Input, steps: int, batch: int, generator: torch.Generator) -> Tensor:
    """Values of an input. Numbers of a target lie between 0 and 1, since some losses take probabilities."""
    if declared.kind in ("class", "token", "onehot"):
        return torch.randint(declared.size, (steps, batch), generator=generator)
    if declared.kind == "bool":
        return torch.rand((steps, batch, *declared.type.shape), generator=generator) < 0.5
    draw = torch.rand if declared.target else torch.randn
    return draw((steps, batch, *declared.type.shape), generator=generator, dtype=torch.float64)


def gradients(model: torch.nn.Module, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The compiled model's gradients by the spec's names."""
    model.zero_grad()
    loss: Tensor = model(dict(data)).loss
    if loss.requires_grad:
        loss.backward()
    named = model.named_parameters()
    return {name: torch.zeros_like(value) if value.grad is None else value.grad for name, value in named}


def measured(
    name: str, verdict: str, found: Mapping[str, Tensor], own: Mapping[str, Tensor], full: Mapping[str, Tensor]
) -> Measured:
    """Compare one parameter's gradient."""
    got, definition, whole = (each[name].reshape(-1) for each in (found, own, full))
    scale = float(max(each.norm() for each in full.values()))
    first, second = apart(got, definition, scale), apart(got, whole, scale)
    problem = ""
    if not first <= TOLERANCE:
        problem = "differs from the rule's definition" if isfinite(first) else "is not a number"
    elif verdict == "exact" and not second <= TOLERANCE:
        problem = "said to be exact, but differs from the whole gradient"
    return Measured(name, verdict, first, second, *alike(got, whole), problem)


def apart(got: Tensor, expected: Tensor, scale: float) -> float:
    """|got - expected| / |expected|; a gradient that is nothing but rounding is measured against the largest one."""
    if not expected.numel():
        return 0.0
    return float((got - expected).norm() / max(float(expected.norm()), 1e-6 * scale, 1e-30))


def alike(got: Tensor, whole: Tensor) -> tuple[float, float, float]:
    """Cosine, ratio of norms, and share of agreeing signs; 1 where both are zero."""
    one, two = float(got.norm()), float(whole.norm())
    signs = float((got.sign() == whole.sign()).double().mean()) if got.numel() else 1.0
    if one == 0.0 or two == 0.0:
        same = 1.0 if one == two else 0.0
        return same, same, signs
    return float(got @ whole) / (one * two), one / two, signs
