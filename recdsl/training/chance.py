"""Rules that draw random numbers: one draw given to the definition too, and many draws against a claim of no bias."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import inf, sqrt
from statistics import NormalDist
from typing import Any

import torch
from torch import Tensor

from recdsl.credit.influence import states
from recdsl.credit.kronecker import blocks, draws
from recdsl.credit.plan import CreditPlan, RoutingClass
from recdsl.graph.step import StepGraph

DRAWS, FEWEST = 400, 50
LONGEST = 20.0
"""Seconds after which no more is drawn, if there are `FEWEST` draws."""
FALSE_ALARMS = 1e-6
"""How often a claim that is true is contradicted, over all parameters, if means of draws are normally distributed."""

Gradients = Mapping[str, Tensor]


@dataclass(frozen=True)
class Drawn:
    """What a call draws, by class: the weights of random truncation, [T, B], and the signs of rank-one estimates."""

    weights: dict[int, Tensor]
    signs: dict[int, dict[str, Tensor]]

    @property
    def any(self) -> bool:
        return bool(self.weights or self.signs)


@dataclass(frozen=True)
class Cuts:
    """Random truncation (semantics 4.9). mean: steps between two of them. tail: 0, or alpha of the schedule."""

    mean: int
    tail: float = 0.0

    def chance(self, since: int) -> float:
        """Of a cut, `since` steps behind the last one or behind the call's beginning."""
        return self.tail / ((self.tail - 1) * self.mean + since) if self.tail else 1 / self.mean

    def weights(self, uniform: Sequence[float]) -> Tensor:
        """[T]: what credit is multiplied by on its way into each step: 0 where there is a cut."""
        found, since = [1.0], 1
        for number in uniform[1:]:
            chance = self.chance(since)
            found.append(0.0 if number < chance else 1 / (1 - chance))
            since = 1 if number < chance else since + 1
        return torch.tensor(found, dtype=torch.float64)


def drawn(graph: StepGraph, plan: CreditPlan, model: Any, steps: int, batch: int) -> Drawn:
    """What the next call of a float64 module of these steps and samples will take from torch's generator."""
    about = model.recdsl_about
    weights: dict[int, Tensor] = {}
    for place, _, mean, tail in about["thinned"]["plain"].values():
        if place not in weights:
            cuts = Cuts(mean, tail)
            uniform = torch.rand((steps, batch), dtype=torch.float64)
            weights[place] = torch.stack([cuts.weights(column.tolist()) for column in uniform.T], 1)
    signs: dict[int, dict[str, Tensor]] = {}
    places = [(k, label) for k, routing in enumerate(plan.classes) for label in labels(graph, routing)]
    for (k, name), shape in zip(places, about["signs"]["plain"].values(), strict=True):
        made = 2 * torch.randint(2, (steps, batch, *shape)) - 1
        signs.setdefault(k, {})[name] = made.to(torch.float64)
    return Drawn(weights, signs)


def labels(graph: StepGraph, routing: RoutingClass) -> list[str]:
    """What the random signs of a class are called: a carry, or a use of a matrix."""
    scope = routing.tracing.scope if routing.tracing is not None else ""
    if scope == "kronecker":
        return draws(blocks(graph, routing.parameters))
    return sorted(carry.name for carry in states(graph)) if scope == "rank" else []


@dataclass(frozen=True)
class Mean:
    """Of so many draws of a gradient: its part along the whole gradient, 1 if there is no bias, with standard error.

    sigmas: the largest distance from the whole gradient, along it or along a random direction, in standard errors.
    """

    share: float
    error: float
    sigmas: float
    count: int
    allowed: float

    @property
    def contradicted(self) -> bool:
        return self.sigmas > self.allowed

    def __str__(self) -> str:
        return f"mean of {self.count} draws: {self.share:.3f} +- {self.error:.3f} of the whole gradient"


def means(draw: Callable[[], Gradients], whole: Gradients, names: Collection[str], seed: int) -> dict[str, Mean]:
    """Draw again and again, and compare the means of the named gradients with the whole ones."""
    directions = {name: _directions(whole[name], seed) for name in names}
    seen: dict[str, list[Tensor]] = {name: [] for name in names}
    began, count = time.perf_counter(), 0
    while count < DRAWS and (count < FEWEST or time.perf_counter() - began < LONGEST):
        torch.manual_seed(seed + 1 + count)
        found = draw()
        for name in names:
            seen[name].append(directions[name] @ (found[name] - whole[name]).reshape(-1))
        count += 1
    allowed = NormalDist().inv_cdf(1 - FALSE_ALARMS / (4 * max(1, len(names))))
    return {name: _mean(torch.stack(values), whole[name], allowed) for name, values in seen.items()}


def _directions(whole: Tensor, seed: int) -> Tensor:
    """[2, entries]: the unit vector along the gradient, and one at random."""
    flat = whole.reshape(-1)
    other = torch.randn(flat.shape, generator=torch.Generator().manual_seed(seed), dtype=flat.dtype)
    return torch.stack([flat / flat.norm().clamp_min(1e-300), other / other.norm()])


def _mean(apart: Tensor, whole: Tensor, allowed: float) -> Mean:
    """apart: [draws, 2], how far each draw is from the whole gradient along both directions."""
    count, norm = len(apart), max(float(whole.norm()), 1e-300)
    mean, error = apart.mean(0), apart.std(0) / sqrt(count)
    sigmas = max(_sigmas(float(m), float(e), 1e-10 * norm) for m, e in zip(mean, error, strict=True))
    return Mean(1 + float(mean[0]) / norm, float(error[0]) / norm, sigmas, count, allowed)


def _sigmas(mean: float, error: float, rounding: float) -> float:
    """How many standard errors a mean is from 0; where nothing varies, any difference is one too many."""
    if error > rounding:
        return abs(mean) / error
    return inf if abs(mean) > rounding else 0.0
