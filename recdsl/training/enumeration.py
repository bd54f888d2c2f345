"""Rules that draw random numbers, in calls so short that every draw can be made: their mean without any statistics."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import torch
from torch import Tensor

from recdsl.backends.reference import Reference
from recdsl.credit.plan import CreditPlan, RoutingClass
from recdsl.graph.step import StepGraph
from recdsl.training.chance import Cuts, Drawn, labels

MOST = 8
"""Binary choices that are all made: 256 draws."""
LONGEST, SHORTEST = 8, 3
"""Steps of a call: with fewer no draw would act on what another one has left."""
TOLERANCE = 1e-8

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Expectation:
    """The mean of a gradient over all draws of a short call. distance: from the whole gradient, relative."""

    distance: float
    count: int
    steps: int

    @property
    def contradicted(self) -> bool:
        return not self.distance <= TOLERANCE

    def __str__(self) -> str:
        return f"mean of all {self.count} draws in {self.steps} steps: {self.distance:.1e} from the whole gradient"


def extent(graph: StepGraph, plan: CreditPlan) -> tuple[int, int] | None:
    """(steps, samples) of the longest call whose draws can all be made; None if it is too short to tell anything."""
    samples = 2 if any(c.tracing is not None and c.tracing.batch == "joint" for c in plan.classes) else 1
    signs = samples * sum(prod(shape) for c in plan.classes for shape in _shapes(graph, c).values())
    each = signs + sum(1 for c in plan.classes if c.thinning)
    steps = min(LONGEST, 1 + MOST // each) if each else 0
    return (steps, samples) if steps >= SHORTEST else None


def expectations(
    graph: StepGraph, plan: CreditPlan, params: Tensors, data: Tensors, names: Sequence[str]
) -> dict[str, Expectation]:
    """Of the named parameters, by the rule's definition. data: of the call that `extent` gives."""
    first = next(iter(data.values()))
    steps, samples = first.shape[0], first.shape[1]
    mean: dict[str, Tensor] = {}
    count = 0
    for chance, draw in draws(graph, plan, steps, samples):
        found = Reference(graph, plan, weights=draw.weights, signs=draw.signs).run(params, data).gradients
        mean = {name: mean.get(name, 0.0) + chance * found[name] for name in names}
        count += 1
    full = Reference(graph, plan).full(params, data).gradients
    scale = max((float(value.norm()) for value in full.values()), default=0.0)
    least = max(1e-6 * scale, 1e-30)
    apart = {name: float((mean[name] - full[name]).norm()) / max(float(full[name].norm()), least) for name in names}
    return {name: Expectation(apart[name], count, steps) for name in names}


def draws(graph: StepGraph, plan: CreditPlan, steps: int, samples: int) -> Iterator[tuple[float, Drawn]]:
    """Every draw of a call with its chance. Signs of the last step reach no loss, and are left at 1."""
    kinds = [(k, c) for k, c in enumerate(plan.classes) if c.thinning or _shapes(graph, c)]
    for choice in product(*(_draws(graph, c, steps, samples) for _, c in kinds)):
        chance, weights, signs = 1.0, dict[int, Tensor](), dict[int, dict[str, Tensor]]()
        for (k, _), (share, cuts, own) in zip(kinds, choice, strict=True):
            chance *= share
            if cuts is not None:
                weights[k] = cuts
            else:
                signs[k] = own
        yield chance, Drawn(weights, signs)


def _draws(
    graph: StepGraph, routing: RoutingClass, steps: int, samples: int
) -> list[tuple[float, Tensor | None, dict[str, Tensor]]]:
    """Of one class: chances with the weights of cuts, or with signs."""
    if routing.thinning:
        cuts, patterns = Cuts(routing.thinning, routing.tail), product((False, True), repeat=steps - 1)
        found = [cut(cuts, pattern) for pattern in patterns]
        return [(chance, weights[:, None].expand(steps, samples), {}) for chance, weights in found]
    shapes = _shapes(graph, routing)
    sizes = [samples * prod(shape) for shape in shapes.values()]
    made: list[tuple[float, Tensor | None, dict[str, Tensor]]] = []
    count = sum(sizes) * (steps - 1)
    for pattern in product((1.0, -1.0), repeat=count):
        rows = torch.tensor([*pattern, *[1.0] * sum(sizes)], dtype=torch.float64).reshape(steps, -1).split(sizes, 1)
        own = {n: row.reshape(steps, samples, *s) for (n, s), row in zip(shapes.items(), rows, strict=True)}
        made.append((0.5**count, None, own))
    return made


def cut(cuts: Cuts, pattern: Sequence[bool]) -> tuple[float, Tensor]:
    """The chance of cuts at these boundaries, and what credit over each step is multiplied by."""
    chance, since, weights = 1.0, 1, [1.0]
    for is_cut in pattern:
        here = cuts.chance(since)
        chance *= here if is_cut else 1 - here
        weights.append(0.0 if is_cut else 1 / (1 - here))
        since = 1 if is_cut else since + 1
    return chance, torch.tensor(weights, dtype=torch.float64)


def _shapes(graph: StepGraph, routing: RoutingClass) -> dict[str, tuple[int, ...]]:
    """Of the signs of one step and sample."""
    kinds = {carry.name: graph.nodes[carry.read].type.shape for carry in graph.carries}
    return {name: kinds.get(name, ()) for name in labels(graph, routing)}
