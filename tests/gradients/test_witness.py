"""The oracle against forward mode (the ops' own jvp, no autograd), and mutants that the comparison must reject."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from oracle_support import run, witness_error
from torch import Tensor

from recdsl.backends.reference.unroll import Unroll, Values
from recdsl.credit.build import plan
from recdsl.credit.plan import RoutingClass, Window
from recdsl.testing import Case, cases, random_case

SEEDS, MUTATED = 40, 30


@cache
def seeded(seed: int) -> Case:
    return random_case(seed)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_reverse_equals_forward_mode(seed: int):
    assert witness_error(seeded(seed), run(seeded(seed))) < 1e-12


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    derandomize=True,
)
@given(cases())
def test_reverse_equals_forward_mode_on_any_case(case: Case):
    assert witness_error(case, run(case)) < 1e-12


# mutants of the plan


def dropped_edge(case: Case, routing: RoutingClass) -> RoutingClass:
    edges = [(carry.read, node.id) for carry in case.graph.carries for node in case.graph.nodes
             if carry.read in node.args and carry.kind != "input"]  # fmt: skip
    return replace(routing, cuts=routing.cuts | set(edges[:1]))


def doubled_loss(case: Case, routing: RoutingClass) -> RoutingClass:
    return replace(routing, losses=(*routing.losses, *routing.losses[:1]))


def longer_window(case: Case, routing: RoutingClass) -> RoutingClass:
    size = routing.window.size
    return routing if size is None else replace(routing, window=Window(size + 1, routing.window.every))


def other_grid(case: Case, routing: RoutingClass) -> RoutingClass:
    size = routing.window.size
    return routing if size is None else replace(routing, window=Window(size, 1 if routing.window.every > 1 else size))


def no_cuts(case: Case, routing: RoutingClass) -> RoutingClass:
    return replace(routing, cuts=frozenset())


PLANS = [dropped_edge, doubled_loss, longer_window, other_grid, no_cuts]


def caught(found: list[float]) -> int:
    """How many cases give a mutant away."""
    return sum(error > 1e-9 for error in found)


@pytest.mark.parametrize("mutant", PLANS)
def test_mutants_of_the_plan_are_rejected(mutant: Callable[[Case, RoutingClass], RoutingClass]):
    errors: list[float] = []
    for seed in range(SEEDS):
        case = seeded(seed)
        made = plan(case.graph, case.model.credit)
        changed = replace(made, classes=tuple(mutant(case, routing) for routing in made.classes))
        errors.append(witness_error(case, run(case, changed), made) if changed != made else 0.0)
    assert caught(errors) >= 2


# mutants of the oracle

Run = Callable[[Unroll, int, int], tuple[list[Values], dict[str, Tensor]]]
RUN, START = Unroll.run, Unroll._start  # pyright: ignore[reportPrivateUsage]


def late_boundary(self: Unroll, stop: int, boundary: int) -> tuple[list[Values], dict[str, Tensor]]:
    return RUN(self, stop, boundary + 1 if boundary else 0)


def stale_boundary(self: Unroll, stop: int, boundary: int) -> tuple[list[Values], dict[str, Tensor]]:
    return RUN(self, stop, 0)


def without_reset(self: Unroll, stop: int, boundary: int) -> tuple[list[Values], dict[str, Tensor]]:
    self.call = replace(self.call, reset=self.call.reset & False)
    return RUN(self, stop, boundary)


def without_mask(self: Unroll, stop: int, boundary: int) -> tuple[list[Values], dict[str, Tensor]]:
    self.call = replace(self.call, valid=self.call.valid | True)
    return RUN(self, stop, boundary)


@pytest.mark.parametrize("mutant", [late_boundary, stale_boundary, without_reset, without_mask])
def test_mutants_of_the_unroll_are_rejected(mutant: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Unroll, "run", mutant)
    assert caught([witness_error(seeded(seed), run(seeded(seed))) for seed in range(MUTATED)]) >= 1


def test_a_cut_learned_start_is_rejected(monkeypatch: pytest.MonkeyPatch):
    def constant(self: Unroll) -> dict[str, Tensor]:
        return {name: value.detach() for name, value in START(self).items()}

    monkeypatch.setattr(Unroll, "_start", constant)
    assert caught([witness_error(seeded(seed), run(seeded(seed))) for seed in range(MUTATED)]) >= 1


def test_padding_is_never_read():
    """Numbers at masked steps change nothing."""
    tried = 0
    for seed in range(SEEDS):
        case = seeded(seed)
        if case.mask is None:
            continue
        other = {k: v.nan_to_num(3.0) if v.is_floating_point() else v.clamp(max=0) for k, v in case.batch.items()}
        other = {k: v.where(case.mask.reshape(*case.mask.shape, *(1,) * (v.dim() - 2)), other[k])
                 for k, v in case.batch.items()}  # fmt: skip
        first, second = run(case), run(replace(case, batch=other))
        assert first.loss == second.loss
        assert all(bool((first.gradients[k] == second.gradients[k]).all()) for k in first.gradients)
        tried += 1
    assert tried > 5


def test_a_call_can_be_split():
    """State handed on: the second half of a sequence continues the first."""
    for seed in range(20):
        case = seeded(seed)
        whole = run(replace(case, mask=None, reset=None, batch=_clean(case), cotangents={}))
        half = whole.outputs[next(iter(whole.outputs))].shape[0] // 2
        if not half:
            continue
        parts = [{k: v[:half] for k, v in _clean(case).items()}, {k: v[half:] for k, v in _clean(case).items()}]
        first = run(replace(case, mask=None, reset=None, batch=parts[0], cotangents={}))
        second = run(replace(case, mask=None, reset=None, batch=parts[1], cotangents={}, state=first.state))
        assert second.state.keys() == whole.state.keys()
        assert all(bool((second.state[k] - whole.state[k]).abs().max() <= 1e-12) for k in whole.state)


def _clean(case: Case) -> dict[str, Tensor]:
    return {k: v.nan_to_num(0.5) if v.is_floating_point() else v.clamp(max=0) for k, v in case.batch.items()}
