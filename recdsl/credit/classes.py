"""Parameters in as few passes as possible."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from recdsl.credit.flow import Edge, flow_of
from recdsl.credit.plan import Answering, RoutingClass, Tracing, Window
from recdsl.credit.select import matches
from recdsl.graph.step import StepGraph


@dataclass(frozen=True)
class Way:
    """How a parameter gets its gradient: parameters with different ways never share a pass.

    stage: parameters that are trained at other times have passes of their own, so that their traces keep their names
    and layouts while others come and go.
    """

    window: Window
    cuts: frozenset[Edge]
    tracing: Tracing | None = None
    thinning: int = 0
    tail: float = 0.0
    spared: frozenset[str] = frozenset()
    stage: int = 0
    answering: Answering | None = None
    budget: int = 0
    replay: str = "never"


@dataclass
class _Group:
    """A class in the making. needed: losses it must carry; barred: losses that must not reach its parameters."""

    way: Way
    needed: frozenset[int]
    barred: frozenset[int]
    parameters: list[str]


def admitted(graph: StepGraph, parameter: str) -> tuple[int, ...]:
    """Indices of the losses whose owner set holds the parameter."""
    return tuple(
        k
        for k, loss in enumerate(graph.losses)
        if not loss.trains or any(matches(pattern, parameter) for pattern in loss.trains)
    )


def routing(graph: StepGraph, ways: dict[str, Way]) -> tuple[RoutingClass, ...]:
    """The passes. `ways`: trained parameters with what their rules say, in the graph's order.

    A loss that cannot reach a parameter, cuts aside, does not tell it from others. First fit, the parameters that
    need most losses first; ties in the graph's order, so that the result does not depend on hash seeds.
    """
    reach = _reach(graph)
    groups: list[_Group] = []
    asked = [(name, *_wishes(graph, name, reach)) for name in ways]
    for name, needed, barred in sorted(asked, key=lambda item: -len(item[1])):
        for group in groups:
            if group.way == ways[name] and not (needed & group.barred or barred & group.needed):
                group.needed, group.barred = group.needed | needed, group.barred | barred
                group.parameters.append(name)
                break
        else:
            groups.append(_Group(ways[name], needed, barred, [name]))
    order = {name: k for k, name in enumerate(ways)}
    made = [
        RoutingClass(
            g.way.window,
            g.way.cuts,
            tuple(sorted(g.needed)),
            True,
            tuple(sorted(g.parameters, key=order.__getitem__)),
            g.way.tracing,
            thinning=g.way.thinning,
            tail=g.way.tail,
            spared=g.way.spared,
            budget=g.way.budget,
            replay=g.way.replay,
            apart=any(carry.taped for carry in graph.carries),
        )
        for g in groups
    ]
    return tuple(sorted(made, key=lambda c: order[c.parameters[0]]))


def barred(graph: StepGraph, names: Iterable[str]) -> frozenset[int]:
    """Losses that reach one of the parameters and must not."""
    reach = _reach(graph)
    return frozenset(k for name in names for k in _wishes(graph, name, reach)[1])


def _reach(graph: StepGraph) -> list[set[int]]:
    """Per loss: the nodes that it reaches against the edges."""
    flow = flow_of(graph)
    return [flow.backward([loss.root]) for loss in graph.losses]


def _wishes(graph: StepGraph, name: str, reach: list[set[int]]) -> tuple[frozenset[int], frozenset[int]]:
    """(losses that a parameter needs, losses that must not reach it); the others do not matter."""
    leaf = graph.leaf.get(f"parameter:{name}", -1)
    near = frozenset(k for k, nodes in enumerate(reach) if leaf in nodes)
    own = frozenset(admitted(graph, name))
    return near & own, near - own
