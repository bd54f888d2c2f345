"""Faults planted in forward rules with a window: comparison with the definition must reject each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from backend_support import corpus
from test_forward_rule_mutants import TRACING, Known, first_rejected, known_case, method, no_reset, no_start, rejected

import recdsl.program.assemble as assemble_stage
import recdsl.program.learning as learning_stage
import recdsl.program.nest as nest_stage
from recdsl.credit.plan import RoutingClass, Window
from recdsl.ops import primitive
from recdsl.program.adjoint import Adjoint, Credit
from recdsl.program.ir import Affine, Bound, Op
from recdsl.program.lower import Domain, Emitter
from recdsl.program.timeline import TNode
from recdsl.testing import random_case

RULES = ("columns(window=3)", "columns(window=4, every=2)", "snap(2, window=4, every=3)")
SEEDS = range(8)
SPECS = ("slices", "learned_start", "skip_paths")
Plant = Callable[[pytest.MonkeyPatch], None]


@cache
def known() -> tuple[Known, ...]:
    """Made before anything is patched. Specs have a mask, resets and an incoming state, or nothing."""
    cases = [corpus(name, seed, rule) for name in SPECS for seed in (0, 1) for rule in RULES[:2]]
    cases += [random_case(seed, (("default", rule),)) for seed in SEEDS for rule in RULES]
    return tuple(made for made in map(known_case, cases) if made is not None)


@pytest.fixture(scope="module", autouse=True)
def make_cases() -> None:
    known()


def moved(part: Bound, by: int) -> Bound:
    """The window's own part of a bound, some steps later."""
    first, *rest = part.parts
    return Bound(part.kind, (first, *(Affine(p.const + by, p.terms) for p in rest)))


def anchored_on_end(patch: pytest.MonkeyPatch) -> None:
    """Windows are counted back from the last step, so the first losses and not the last have a short one."""
    domain, between = vars(assemble_stage)["domain"], vars(nest_stage)["between"]

    def late(made: Domain, window: Window) -> Domain:
        lo = made.lo.parts[-1]
        back = Affine(lo.const, (("T", 1), *lo.terms, ("windows0", -window.every)))
        return replace(made, lo=Bound("max", (made.lo.parts[0], back)))

    patch.setattr(assemble_stage, "domain", lambda routing: late(domain(routing), routing.window))
    patch.setattr(nest_stage, "between", lambda window: late(between(window), window))


def passes_begin(by: int) -> Plant:
    """Reverse passes end some steps behind or before the boundary at which traces are read."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        domain = vars(assemble_stage)["domain"]

        def faulty(routing: RoutingClass) -> Domain:
            made = domain(routing)
            return replace(made, lo=moved(made.lo, by))

        patch.setattr(assemble_stage, "domain", faulty)

    return plant


def traces_read(by: Callable[[Window], int]) -> Plant:
    """Traces have gone on some steps further when they are read."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        between = vars(nest_stage)["between"]

        def faulty(window: Window) -> Domain:
            made = between(window)
            return replace(made, lo=moved(made.lo, by(window)), hi=moved(made.hi, by(window)))

        patch.setattr(nest_stage, "between", faulty)

    return plant


def other_credit(change: Callable[[Credit], Credit]) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        make = vars(assemble_stage)["reverse_timeline"]
        patch.setattr(
            assemble_stage, "reverse_timeline", lambda nodes, credit, budget: make(nodes, change(credit), budget)
        )

    return plant


def mask_lets_go(patch: pytest.MonkeyPatch) -> None:
    """A masked row does not hand on the cotangent of the state that it holds."""
    kind = type(primitive("where"))
    vjp = kind.vjp

    def faulty(self: Any, b: Any, args: Sequence[int], out: int, cotangent: int, attrs: Any) -> Any:
        first, then, _ = vjp(self, b, args, out, cotangent, attrs)
        held = isinstance(getattr(b, "nodes", [None])[0], TNode) and b.nodes[args[0]].op in ("input", "broadcast")
        return (first, then, None) if held else vjp(self, b, args, out, cotangent, attrs)

    patch.setattr(kind, "vjp", faulty)


def not_older(older: Any) -> Any:
    """What is older than the window is left out."""
    return lambda self, edges: older(self, {})


def not_inside(patch: pytest.MonkeyPatch) -> None:
    """What is inside of the window is left out, what is older counts twice."""
    patch.setattr(learning_stage, "Op", lambda results, op, args, *rest: Op(results, op, (args[1], args[1]), *rest))


def first_edge_lost(patch: pytest.MonkeyPatch) -> None:
    """One state's cotangent is not handed on to its traces."""
    run = vars(assemble_stage)["reverse_timeline"]

    def faulty(nodes: tuple[TNode, ...], credit: Credit, budget: int) -> Adjoint:
        made = run(nodes, credit, budget)
        return replace(made, entering=made.entering[1:])

    patch.setattr(assemble_stage, "reverse_timeline", faulty)


def losses_of_whole_window(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(assemble_stage, "mask_seeds", lambda *_: None)


def last_loop_value(patch: pytest.MonkeyPatch) -> None:
    """What no loop carries is kept of step 0 in every window."""
    leave = vars(assemble_stage)["leave"]

    def faulty(emitter: Emitter, k: int, storage: str, short: int) -> None:
        domain = emitter.domain
        emitter.domain = replace(domain, lo=Bound("max", (Affine(), Affine())))
        leave(emitter, k, storage, short)
        emitter.domain = domain

    patch.setattr(assemble_stage, "leave", faulty)


MUTANTS: dict[str, Plant] = {
    "anchored on the end": anchored_on_end,
    "passes begin a step late": passes_begin(1),
    "passes begin a step early": passes_begin(-1),
    "traces read a step late": traces_read(lambda window: 1),
    "traces read a step early": traces_read(lambda window: -1),
    "traces read behind the window": traces_read(lambda window: window.size or 0),
    "initial values in the window and in traces": other_credit(lambda c: replace(c, behind={})),
    "delay lines skip their links": other_credit(
        lambda c: replace(c, behind={k: min(c.behind.values()) for k in c.behind} if len(c.behind) > 1 else c.behind)
    ),
    "a mask lets go": mask_lets_go,
    "no reset of traces": method(TRACING, "_entered", no_reset),
    "initial values have no influence": method(TRACING, "_start", no_start),
    "nothing older": method(TRACING, "_older", not_older),
    "nothing inside": not_inside,
    "one state's cotangent lost": first_edge_lost,
    "losses of the whole window": losses_of_whole_window,
    "the first step's cotangent": last_loop_value,
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_rejected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        MUTANTS[name](patch)
        found = first_rejected(known())
    assert found is not None
    assert not rejected(found)


def test_without_a_mutant_none_is_rejected() -> None:
    assert len(known()) > 20
    assert first_rejected(known()) is None
