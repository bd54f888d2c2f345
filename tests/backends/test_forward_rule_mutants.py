"""Faults planted in forward rules, one decision at a time: comparison with the definition must reject each of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from typing import Any

import pytest
from backend_support import corpus
from program_runs import assembled, run

import recdsl.jacobian.rules as rules_stage
import recdsl.program.assemble as assemble_stage
import recdsl.program.traces as traces_stage
from recdsl.backends.reference import Result
from recdsl.credit.plan import CreditPlan, RoutingClass, Scope
from recdsl.diagnostics import SpecError
from recdsl.jacobian.rules import Site
from recdsl.program.sweep import Sweep, Traced
from recdsl.testing import Case, assert_matches, random_case, reference

RULES = ("rtrl", "columns", "snap(1)", "snap(2)", "rflo")
SEEDS = range(8)
# with a mask, resets and an incoming state: fused gates, learned initial states, layers
SPECS = ("slices", "learned_start", "stacked")
TRACING = vars(traces_stage)["_Tracing"]
Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Known(Case):
    """A case with what is not under test: its plan and the oracle's answer."""

    made: CreditPlan
    expected: Result

    @property
    def plan(self) -> CreditPlan:
        return self.made


@cache
def known() -> tuple[Known, ...]:
    """Made before anything is patched; without those that their rule does not fit."""
    found: list[Known | None] = []
    for key in (*SPECS, *SEEDS):
        for rule in RULES:
            try:
                found.append(
                    known_case(corpus(key, 1, rule) if isinstance(key, str) else random_case(key, (("default", rule),)))
                )
            except SpecError:
                continue
    return tuple(case for case in found if case is not None)


def known_case(case: Case) -> Known | None:
    """None where the rule does not fit the model."""
    try:
        plan = case.plan
    except SpecError:
        return None
    parts = {field.name: getattr(case, field.name) for field in fields(Case)}
    return Known(**parts, made=plan, expected=reference(case))


@pytest.fixture(scope="module", autouse=True)
def make_cases() -> None:
    known()


def rejected(case: Known) -> bool:
    """Whether the compiler, as it is now, differs from the oracle; a program that cannot be made or run does."""
    try:
        assert_matches(run(case, assembled(case)).gradients, case.expected.gradients, "gradient of")
    except (AssertionError, RuntimeError, ValueError, KeyError, IndexError):
        return True
    return False


# ---- faults of scopes


def other_class(change: Callable[[RoutingClass], RoutingClass]) -> Plant:
    """Traces are made for another class than the plan's."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        make = traces_stage.traced_timeline

        def faulty(graph: Any, nodes: Any, values: Any, routing: RoutingClass, *given: Any) -> Traced:
            return make(graph, nodes, values, change(routing), *given)

        patch.setattr(assemble_stage, "traced_timeline", faulty)

    return plant


def each_scope(change: Callable[[int, Scope], Scope]) -> Plant:
    return other_class(lambda c: replace(c, scopes=tuple(change(k, s) for k, s in enumerate(c.scopes))))


def entry_missing(k: int, scope: Scope) -> Scope:
    """The first scope lacks what it stores."""
    return scope if k else replace(scope, stored=())


def unconfined(_: int, scope: Scope) -> Scope:
    """Whatever is stored is stored whole: the influence is carried along without restriction."""
    return replace(scope, stored=((),) if scope.stored else ())


# ---- faults of traces


def method(owner: Any, name: str, make: Callable[[Any], Any]) -> Plant:
    return lambda patch: patch.setattr(owner, name, make(getattr(owner, name)))


def no_reset(_: Any) -> Any:
    return lambda self, stack, name: self.held[stack.number, name]


def read_late(gradients: Any) -> Any:
    """Losses read traces that their own step has already updated."""
    return lambda self, seeds, delayed, entered, left: gradients(self, seeds, delayed, left, left)


def read_early(gradients: Any) -> Any:
    """What should be read of the states that a step leaves is read of those that enter it."""
    return lambda self, seeds, delayed, entered, left: gradients(self, seeds, delayed, entered, entered)


def no_start(_: Any) -> Any:
    return lambda self, stack, name: []


def one_use_missing(immediate: Any) -> Any:
    """A parameter with several uses acts in all but the first."""

    def faulty(self: Any, source: int) -> Any:
        users = self.jacobian.users
        varying = [k for k in users[source] if k in self.graph.varying]
        kept = users[source]
        users[source] = kept[1:] if len(varying) > 1 else kept
        try:
            return immediate(self, source)
        finally:
            users[source] = kept

    return faulty


def carried_twice(carried: Any) -> Any:
    def faulty(self: Any, name: str, fed: Any, entered: Any, parts: Any) -> None:
        carried(self, name, fed, entered, parts)
        carried(self, name, fed, entered, parts)

    return faulty


def not_carried(_: Any) -> Any:
    return lambda self, name, fed, entered, parts: None


def first_member(patch: pytest.MonkeyPatch) -> None:
    """Gradients are cut out of a stack from the wrong place."""
    apart = traces_stage.taken_apart

    def faulty(b: Any, total: int, member: Any, seed: Any, stack: Any) -> int:
        return apart(b, total, replace(member, start=0), seed, stack)

    patch.setattr(traces_stage, "taken_apart", faulty)


# ---- faults of the sweep inside a step


def in_step_twice(run: Any) -> Any:
    """Paths inside a step count twice."""

    def faulty(self: Any, seeds: Any) -> None:
        run(self, seeds)
        for node, parts in self.parts.items():
            if node not in self.graph.varying:
                self.parts[node] = [*parts, *parts]

    return faulty


def not_in_step(run: Any) -> Any:
    """Paths inside a step are lost."""

    def faulty(self: Any, seeds: Any) -> None:
        run(self, seeds)
        self.parts.clear()

    return faulty


def nothing_leaves(_: Any) -> Any:
    """States that a step leaves are read like those that enter it."""
    return lambda self: {}


def only_masked(leaving: Any) -> Any:
    """What made a state, before a mask holds it, is not known as that state."""

    def faulty(self: Any) -> Mapping[int, str]:
        writes = {carry.write for carry in self.graph.carries}
        return {k: name for k, name in leaving(self).items() if k in writes}

    return faulty


# ---- faults of Jacobians


def mask_lets_go(patch: pytest.MonkeyPatch) -> None:
    """A masked step forgets the influence that it should hold."""
    where = rules_stage.RULES["where"]

    def faulty(site: Site, piece: Any) -> Any:
        return None if site.place == 2 else where(site, piece)

    patch.setitem(rules_stage.RULES, "where", faulty)


def one_piece_lost(patch: pytest.MonkeyPatch) -> None:
    """A Jacobian of several pieces loses its last one."""
    pieces = traces_stage.StepJacobian.pieces

    def faulty(self: Any, seed: int, targets: Any) -> Any:
        return {k: found[:-1] if len(found) > 1 else found for k, found in pieces(self, seed, targets).items()}

    patch.setattr(traces_stage.StepJacobian, "pieces", faulty)


MUTANTS: dict[str, Plant] = {
    "a scope lacks an entry": each_scope(entry_missing),
    "no restriction": each_scope(unconfined),
    "cuts ignored": other_class(lambda c: replace(c, cuts=frozenset())),
    "no reset": method(TRACING, "_entered", no_reset),
    "read late": method(TRACING, "_gradients", read_late),
    "read early": method(TRACING, "_gradients", read_early),
    "initial values have no influence": method(TRACING, "_start", no_start),
    "one use missing": method(TRACING, "_immediate", one_use_missing),
    "carried twice": method(TRACING, "_carried", carried_twice),
    "not carried": method(TRACING, "_carried", not_carried),
    "first member of a stack": first_member,
    "in-step paths twice": method(Sweep, "run", in_step_twice),
    "in-step paths lost": method(Sweep, "run", not_in_step),
    "nothing leaves a step": method(Sweep, "_leaving", nothing_leaves),
    "masks hide states": method(Sweep, "_leaving", only_masked),
    "a mask lets go": mask_lets_go,
    "a piece is lost": one_piece_lost,
}


def first_rejected(cases: Sequence[Known]) -> Known | None:
    return next((case for case in cases if rejected(case)), None)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_rejected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        MUTANTS[name](patch)
        found = first_rejected(known())
    assert found is not None
    assert not rejected(found)


def test_without_a_mutant_none_is_rejected() -> None:
    assert len(known()) > 40
    assert first_rejected(known()) is None
