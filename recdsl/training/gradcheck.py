"""Gradients measured: a compiled model against the definition of its rule, and against the whole gradient.

The definition is `recdsl.backends.reference`: the unrolled network, cut as the rule says, differentiated by autograd
in float64. It shares nothing with the generated code but the equations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recdsl.backends.reference import Reference
from recdsl.credit.influence import effective
from recdsl.credit.plan import CreditPlan, RoutingClass, Row
from recdsl.graph.step import Input, StepGraph
from recdsl.training.backend import built, for_calls
from recdsl.training.chance import Mean, drawn, means
from recdsl.training.enumeration import Expectation, expectations, extent

if TYPE_CHECKING:
    from recdsl.driver import Compilation

TOLERANCE = 1e-8
STEPS = 12
LARGEST_WORK = 5_000_000
"""Operations of the definition: each takes some ten microseconds, so this is about a minute."""
ENTRIES = 100
"""Entries of values that take as long as one operation."""
LARGEST_BYTES = 8 * 2**30
HELD = 48
"""Bytes that autograd holds for an entry of a value: the value and the copies that a scope makes of it."""


@dataclass(frozen=True)
class Measured:
    """One parameter: its rule, its verdict, and how its gradient compares.

    definition: relative difference from the rule's own definition. full: the same from the whole gradient.
    cosine, ratio (of norms) and signs (share of entries that agree) are relative to the whole gradient. problem: what
    contradicts the claim, or "". note: what is worth knowing although it contradicts nothing, or "".
    """

    parameter: str
    rule: str
    verdict: str
    definition: float
    full: float
    cosine: float
    ratio: float
    signs: float
    problem: str
    note: str = ""


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


class CannotMeasure(Exception):
    """There is nothing to compare; the text says why."""


class TooCostly(CannotMeasure):
    """The definition would take too long or too much memory; the text says how much."""


def analysed(spec: str, overrides: Sequence[str] = ()) -> Compilation:
    """A spec that is a path or a text. Raises SpecError."""
    from recdsl.driver import analyse

    return analyse(spec, overrides)


def gradcheck(
    compilation: Compilation, steps: int | None = None, batch: int = 2, seed: int = 0, backend: str = "torch"
) -> Check:
    """Measure all trained parameters on random data. steps None: enough for what windows drop. Raises CannotMeasure,
    and ValueError for a backend that does not exist.
    """
    graph, plan = compilation.graph, compilation.plan
    measurable(graph)
    if any(store.kind not in ("stop", "param") for store in plan.stores):
        names = ", ".join(f"`{store.memory}`" for store in plan.stores)
        raise CannotMeasure(f"credit goes through {names} to earlier calls, and gradcheck measures a single one")
    length = steps or enough(plan)
    bounded(graph, plan, length, batch)
    generator = torch.Generator().manual_seed(seed)
    model: Any = built(compilation, torch.float64, for_calls(compilation, backend))
    stir(model, generator)
    fill(model, generator)
    data = {item.name: random(item, length, batch, generator) for item in graph.inputs}
    names = [item.name for item in (*graph.parameters, *plan.owned)]
    params = {name: model.recdsl_tensor(name).detach().clone() for name in names}
    torch.manual_seed(seed)
    chance = drawn(graph, plan, model, length, batch)
    oracle = Reference(graph, plan, weights=chance.weights, signs=chance.signs)
    own, full = oracle.run(params, data).gradients, oracle.full(params, data).gradients
    torch.manual_seed(seed)
    found = gradients(model, data)
    random_ = [row.parameter for row in plan.rows if row.verdict == "unbiased"]
    mean = averaged(compilation, model, params, data, full, random_, seed) if random_ else {}
    rows = [measured(row, found, own, full, mean.get(row.parameter)) for row in plan.rows if row.parameter in own]
    return Check(graph.name, length, batch, tuple(rows))


def averaged(
    compilation: Compilation,
    model: torch.nn.Module,
    params: Mapping[str, Tensor],
    data: Mapping[str, Tensor],
    full: Mapping[str, Tensor],
    names: Sequence[str],
    seed: int,
) -> Mapping[str, Mean | Expectation]:
    """What draws are on average: of all of them in a call that is short enough, else of many in the one at hand."""
    graph, plan = compilation.graph, compilation.plan
    short = extent(graph, plan)
    if short is not None:
        generator = torch.Generator().manual_seed(seed)
        small = {item.name: random(item, *short, generator) for item in graph.inputs}
        if any(bool(value.any()) for value in Reference(graph, plan).full(params, small).gradients.values()):
            return expectations(graph, plan, params, small, names)
    return means(lambda: gradients(model, data), full, names, seed)


def measurable(graph: StepGraph) -> None:
    """Refuse a model of which no call has a length. Raises CannotMeasure."""
    if not graph.inputs:
        raise CannotMeasure(f"{graph.name or 'the spec'} has neither inputs nor targets, so a call of it has no length")


def enough(plan: CreditPlan) -> int:
    """Steps that show what the longest window drops: a quarter more than it, at least a dozen, at most 160."""
    longest = max((routing.window.size or 0 for routing in plan.classes), default=0)
    return min(160, max(STEPS, longest + longest // 4 + 1 if longest else 0))


def bounded(graph: StepGraph, plan: CreditPlan, steps: int, batch: int) -> None:
    """Refuse what would take minutes or the machine's memory. Raises TooCostly."""
    entries = steps * batch * sum(node.type.numel for node in graph.nodes if node.id in graph.varying)
    whole = [(1, 1)] * (1 + len(plan.classes))
    runs = whole + [run for routing in plan.classes for run in definition_runs(graph, routing, steps)]
    work = sum(times * (steps * len(graph.nodes) + lanes * entries // ENTRIES) for times, lanes in runs)
    size = HELD * entries * max(lanes for _, lanes in runs) + 2 * batch * sum(row.bytes for row in plan.rows)
    if work > LARGEST_WORK:
        advice = (
            "use fewer (--steps)"
            if max(lanes for _, lanes in runs) == 1
            else "use fewer (--steps) or smaller sizes (sizes.NAME=...)"
        )
        raise TooCostly(f"{steps} steps are {work:,} operations, more than {LARGEST_WORK:,}; {advice}")
    if size > LARGEST_BYTES:
        raise TooCostly(f"it needs about {size / 2**30:,.1f} GiB; use fewer --steps or smaller sizes (sizes.NAME=...)")


def definition_runs(graph: StepGraph, routing: RoutingClass, steps: int) -> list[tuple[int, int]]:
    """(how often, how many copies side by side) the definition of a class unrolls the network.

    A reverse class: once a window. A forward class: once an effective parameter, with a copy for each of its scalars,
    and anew for each window; where losses read the states that a step leaves, the step is computed twice. A rank-one
    estimate: step by step.
    """
    if routing.tracing is None:
        return [(-(-steps // max(1, routing.window.every)) if routing.window.size else 1, 1)]
    if routing.tracing.random:
        entries = sum(graph.nodes[carry.read].type.numel for carry in graph.carries)
        return [(4 if routing.tracing.scope == "rank" else 2 + entries, 1)]
    again = {"post": 2, "window": -(-steps // routing.window.every)}.get(routing.tracing.read, 1)
    own = [k for k, names in effective(graph).items() if not names.isdisjoint(routing.parameters)]
    return [(again, max(1, graph.nodes[k].type.numel)) for k in own]


def stir(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Move parameters whose entries are all equal: at such a point (all zero, say) gradients vanish by symmetry."""
    with torch.no_grad():
        for value in model.parameters():
            if value.numel() and bool((value == value.reshape(-1)[0]).all()):
                value.add_(0.1 * torch.randn(value.shape, generator=generator, dtype=value.dtype))


def fill(model: Any, generator: torch.Generator) -> None:
    """Put random items into every slot of the stores that last as long as the model; nothing is written any more."""
    model.eval()
    for name, info in model.recdsl_about["stores"].items():
        for part in (*info["rows"], "count"):
            old = model.recdsl_tensor(f"{name}.{part}")
            new = torch.randn(old.shape, generator=generator, dtype=old.dtype)
            model.recdsl_replace(f"{name}.{part}", torch.full_like(old, info["slots"]) if part == "count" else new)
        model.recdsl_replace(f"{name}.serial", torch.arange(1, info["slots"] + 1))


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
    row: Row,
    found: Mapping[str, Tensor],
    own: Mapping[str, Tensor],
    full: Mapping[str, Tensor],
    mean: Mean | Expectation | None = None,
) -> Measured:
    """Compare one parameter's gradient. own: of the definition under the same draws; mean: of many draws."""
    got, definition, whole = (each[row.parameter].reshape(-1) for each in (found, own, full))
    scale = float(max(each.norm() for each in full.values()))
    first, second = apart(got, definition, scale), apart(got, whole, scale)
    problem = contradicted(row.verdict, first, second, mean)
    note = "" if problem else remark(row.verdict, second, mean, vanishes=not bool(got.any()))
    return Measured(row.parameter, row.rule, row.verdict, first, second, *alike(got, whole), problem, note)


def contradicted(verdict: str, definition: float, full: float, mean: Mean | Expectation | None) -> str:
    """What the differences say against a claim, or ""."""
    if not definition <= TOLERANCE:
        return "differs from the rule's definition" if isfinite(definition) else "is not a number"
    if verdict == "exact" and not full <= TOLERANCE:
        return "said to be exact, but differs from the whole gradient"
    if mean is not None and mean.contradicted:
        return f"said to be unbiased, but {mean}"
    return ""


def remark(verdict: str, full: float, mean: Mean | Expectation | None, *, vanishes: bool) -> str:
    """What is worth knowing of a claim that holds, or ""."""
    if mean is not None:
        return str(mean)
    if verdict == "biased" and full <= TOLERANCE:
        return "nothing is lost in this batch"
    return "gets no gradient at all" if verdict == "biased" and vanishes else ""


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
