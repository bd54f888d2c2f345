"""Classes that share a reverse pass: which of them has its place, and what each of them takes from it."""

from __future__ import annotations

from recdsl.credit.plan import CreditPlan, RoutingClass
from recdsl.program.adjoint import Adjoint, Share
from recdsl.program.phases import windowed


def together(plan: CreditPlan, index: int) -> list[RoutingClass]:
    """The classes that have the pass of this one."""
    return [plan.classes[k] for k in plan.sharing(index)]


def reverse(plan: CreditPlan) -> list[int]:
    """Passes that no trace waits for, by the class with the longest window."""
    return [k for k in _leading(plan) if all(made.tracing is None for made in together(plan, k))]


def hybrid(plan: CreditPlan) -> list[int]:
    """Passes that traces wait for."""
    return [k for k in _leading(plan) if any(made.tracing and windowed(made) for made in together(plan, k))]


def _leading(plan: CreditPlan) -> list[int]:
    return [k for k in range(len(plan.classes)) if plan.sharing(k)[0] == k]


def short(plan: CreditPlan, index: int, made: RoutingClass) -> int:
    """By how many steps the windows of a class are shorter than those of the pass that it has."""
    return (plan.classes[index].window.size or 0) - (made.window.size or 0)


def shares(plan: CreditPlan, index: int) -> tuple[Share, ...]:
    """What each class takes: from its own window's steps, and of initial values what no trace has."""
    found: dict[tuple[int, bool], frozenset[str]] = {}
    for made in together(plan, index):
        kind = short(plan, index, made), made.tracing is None
        found[kind] = found.get(kind, frozenset()) | frozenset(made.parameters)
    return tuple(Share(steps, names, starts) for (steps, starts), names in sorted(found.items()))


def entered(adjoint: Adjoint, made: RoutingClass) -> list[tuple[str, int]]:
    """The cotangents that meet a class's traces."""
    names = {scope.carry for scope in made.scopes if scope.stored}
    return [(name, node) for name, node in adjoint.entering if name in names]


def within(plan: CreditPlan, index: int, adjoint: Adjoint) -> set[int]:
    """Cotangents that traces meet inside the windows of the pass."""
    late = [made for made in together(plan, index) if short(plan, index, made)]
    return {k for made in late for _, k in entered(adjoint, made)}
