"""Theorem 1, tried: what is called exact is equal to full backpropagation, and the lags are those of real paths."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from recdsl.credit.build import plan
from recdsl.credit.flow import Edge, Flow
from recdsl.credit.plan import Window
from recdsl.credit.verdict import Judge
from recdsl.testing import Case, random_case, reference
from recdsl.testing.dual import by_lag

torch.set_num_threads(1)
SEEDS = 220


@cache
def seeded(seed: int) -> Case:
    """Kept, so that a mutant of the analysis does not change what is generated."""
    return random_case(seed)


@cache
def differences(seed: int) -> dict[str, float]:
    """Per parameter: how far the rule's gradient is from the full one, over 1 + the latter's largest entry."""
    case = replace(seeded(seed), cotangents={})
    found, full = reference(case).gradients, reference(case, full=True).gradients
    return {
        name: float((found[name] - g).abs().max() / (1 + g.abs().max())) if g.numel() else 0.0
        for name, g in full.items()
    }


def claims(seed: int) -> tuple[Case, list[tuple[str, bool]]]:
    """(parameter, claimed exact) where the claim covers the case's mask."""
    case = seeded(seed)
    rows = [row for row in plan(case.graph, case.model.credit).rows if row.verdict != "frozen"]
    return case, [
        (row.parameter, row.verdict == "exact") for row in rows if not (case.gaps and "unmasked" in row.qualifiers)
    ]


def false_claims(seeds: int) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for seed in range(seeds):
        off = differences(seed)
        found += [(seed, name) for name, exact in claims(seed)[1] if exact and off[name] > 1e-12]
    return found


def test_no_false_exact():
    assert false_claims(SEEDS) == []


def test_biased_gradients_differ_as_a_rule():
    """Not always: a call may be too short for the boundary to matter."""
    biased = [differences(seed)[name] > 1e-13 for seed in range(SEEDS) for name, exact in claims(seed)[1] if not exact]
    assert len(biased) > 60
    assert sum(biased) > 0.3 * len(biased)


# mutants of the analysis: each must be caught calling something exact that is not

LINK, OUTSIDE = Flow._link, Judge._outside  # pyright: ignore[reportPrivateUsage]


def no_initial_values(self: Flow, source: int, target: int, lag: int) -> None:
    if self.graph.nodes[target].op != "carry" or lag:
        LINK(self, source, target, lag)


def no_delay_lines(self: Flow, source: int, target: int, lag: int) -> None:
    if not lag or self.graph.nodes[source].op != "carry":
        LINK(self, source, target, lag)


def forgets_every(self: Judge, walk: Any, start: int, window: Window) -> int | None:
    return OUTSIDE(self, walk, start, window if window.size is None else Window(window.size, 1))


def one_lag_too_many(self: Judge, walk: Any, start: int, window: Window) -> int | None:
    return OUTSIDE(self, walk, start, window if window.size is None else Window(window.size + 1, window.every))


def no_cut(self: Flow, start: int, ends: frozenset[int], cuts: frozenset[Edge]) -> int | None:
    return None


@pytest.mark.parametrize(
    ("owner", "name", "mutant"),
    [
        (Flow, "_link", no_initial_values),
        (Flow, "_link", no_delay_lines),
        (Judge, "_outside", forgets_every),
        (Judge, "_outside", one_lag_too_many),
        (Flow, "shortest_cut", no_cut),
    ],
)
def test_mutants_make_false_claims(owner: type, name: str, mutant: Callable[..., Any], monkeypatch: pytest.MonkeyPatch):
    for seed in range(SEEDS):
        differences(seed)
    monkeypatch.setattr(owner, name, mutant)
    assert false_claims(SEEDS)


def simple(seed: int) -> Case:
    """A case of one sample, seven steps, and nothing but its inputs."""
    case = seeded(seed)
    g = torch.Generator().manual_seed(seed)
    batch = {
        i.name: torch.randint(i.size, (7, 1), generator=g)
        if i.kind == "class"
        else torch.randn((7, 1, *i.type.shape), generator=g, dtype=torch.float64)
        for i in case.graph.inputs
    }
    return replace(case, batch=batch, mask=None, reset=None, state=None, cotangents={}, gaps=False)


def test_lags_are_those_of_paths():
    """Below the first dropped lag nothing is missing, beyond the longest kept lag nothing is there; mostly tight."""
    tight, rows = 0, 0
    for seed in range(25):
        case = simple(seed)
        made = plan(case.graph, case.model.credit)
        lines = {row.parameter: row for row in made.rows}
        names = [(c, name) for c in made.classes for name in c.parameters][:2]
        for routing, name in names:
            row, directions = lines[name], {k: torch.zeros_like(v) for k, v in case.params.items()}
            g = torch.Generator().manual_seed(1)
            directions[name] = torch.randn(case.params[name].shape, generator=g, dtype=torch.float64)
            kept = by_lag(case, routing, directions)
            full = by_lag(case, replace(routing, window=Window(None, 1), cuts=frozenset()), directions)
            missing = [
                lag for lag in full if any(abs(a - b) > 1e-12 for a, b in zip(full[lag], kept[lag], strict=True))
            ]
            there = [lag for lag in kept if any(abs(a) > 1e-12 for a in kept[lag])]
            first = row.first_dropped_lag
            assert all(first is not None and lag >= first for lag in missing), (seed, name, row, missing)
            longest = row.longest_kept_lag
            assert longest is None or all(lag <= longest for lag in there), (seed, name, row, there)
            if row.verdict == "biased":
                rows += 1
                tight += min(missing, default=None) == first
    assert rows > 5
    assert tight > 0.4 * rows
