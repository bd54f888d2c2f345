"""Which routing classes share a reverse pass: windows that end together and see the same losses (semantics, theorem 0).

The pass has the longest of their windows, and it does not matter what else a rule does: traces are read where its own
window begins. Its cotangents are those of every shorter one at each step that this one
holds, since no path from such a step to a loss leaves it; what a class's parameters get of earlier steps is left out.
"""

from __future__ import annotations

from collections.abc import Sequence

from recdsl.credit.classes import barred
from recdsl.credit.plan import RoutingClass
from recdsl.graph.step import StepGraph


def joined(graph: StepGraph, classes: Sequence[RoutingClass], stages: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    """Places of classes by pass, the longest window first; passes of one class are left out. stages: by class, when
    it is trained."""
    groups: list[list[int]] = []
    order = [k for k, made in enumerate(classes) if _nests(made)]
    refused = {k: barred(graph, classes[k].parameters) for k in order} if len(order) > 1 else {}
    for k in sorted(order, key=lambda k: (-(classes[k].window.size or 0), classes[k].tracing is None)):
        for group in groups if refused else ():
            losses = {loss for one in (*group, k) for loss in classes[one].losses}
            same = _way(classes[k], stages[k]) == _way(classes[group[0]], stages[group[0]])
            if same and all(losses.isdisjoint(refused[one]) for one in (*group, k)):
                group.append(k)
                break
        else:
            groups.append([k])
    return tuple(tuple(group) for group in groups if len(group) > 1)


def _nests(made: RoutingClass) -> bool:
    """A reverse pass whose windows begin at their boundary for all that is carried, and that nothing answers for."""
    traced = made.tracing is not None and made.tracing.random
    plain = (
        not traced
        and made.head is None
        and not made.thinning
        and not made.spared
        and not made.budget
        and made.deferral is None
    )
    return plain and made.window.size is not None and made.window.size > 1


def _way(made: RoutingClass, stage: int) -> tuple[object, ...]:
    """What classes of one pass have in common."""
    return made.window.every, made.cuts, made.scales, made.feedback, made.outputs, stage
