"""Block-deferred traces: when a rule that drops no influence carries it from window to window (semantics 4.3).

Step by step a trace costs `2 n^2 p` for n dense states and p parameters. From window to window it costs a reverse pass
of each of the n rows, `2 n F` a step, and one product with what the window before has left, `2 n^2 p` every k steps.
The gradient is the same. Which of the two a call runs is decided here, by these costs, and nowhere else.

A rule of a narrow scope may drop nothing of some parameters' influence: under `snap(1)` a GRU's reset gate reaches
every unit within a step. Where it pays, these leave the class of the others for one of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

from recdsl.credit.influence import Influence, beyond, effective, influence_of, states
from recdsl.credit.masked import narrowed
from recdsl.credit.plan import CreditPlan, Deferral, Remark, RoutingClass, Scope, Window
from recdsl.credit.tracing import Tracer, late, live
from recdsl.graph.step import Node, StepGraph
from recdsl.ops import primitive

GAIN = 2
"""How many times fewer operations there must be: reverse passes also read and write more."""
LONGEST = 256
"""Steps of a window, at most."""


def decided(graph: StepGraph, routing: RoutingClass, tracer: Tracer) -> tuple[RoutingClass, ...]:
    """A class with how its traces go; or two of it, where those of some parameters alone go from window to window."""
    if not _possible(graph, routing):
        return (routing,)
    kept = _kept(graph, routing)
    own, rest = (_only(graph, routing, kept, inside=inside) for inside in (True, False))
    alone = not any(scope.stored for scope in rest.scopes)
    made = deferral(graph, routing if alone else own, *tracer.work(routing if alone else own))
    if made is None:
        return (routing,)
    return (replace(routing, deferral=made),) if alone else (replace(own, deferral=made), rest)


def _kept(graph: StepGraph, routing: RoutingClass) -> set[str]:
    """Parameters of which the rule drops no influence, all of it dense; those with common traces stay together."""
    inside = {k: names & set(routing.parameters) for k, names in effective(graph).items()}
    scopes: dict[int, list[Scope]] = {}
    for scope in routing.scopes:
        if scope.stored:
            scopes.setdefault(scope.source, []).append(scope)
    found = set[str]().union(*(inside[k] for k in scopes))
    if routing.tracing is not None and routing.tracing.scope == "all":
        return found
    influence, seen = influence_of(graph, routing.cuts), live(graph, routing)
    torn = [inside[k] for k, own in scopes.items() if not _closed(influence, seen, k, own)]
    while torn:
        found.difference_update(*torn)
        torn = [inside[k] for k in scopes if inside[k] & found and not inside[k] <= found]
    return found


def _closed(influence: Influence, seen: set[str], source: int, scopes: Sequence[Scope]) -> bool:
    """Whether a scope holds all that ever reaches a state that losses see, and every entry of it."""
    reach = {name: keys for name, keys in influence.reach(source).items() if name in seen}
    dense = {scope.carry: scope.allowed for scope in scopes if scope.stored == ((),)}
    return len(dense) == len(scopes) and not beyond(reach, dense)


def _only(graph: StepGraph, routing: RoutingClass, names: set[str], *, inside: bool) -> RoutingClass:
    """The class with the parameters of the given names, or with the others."""
    parameters = tuple(name for name in routing.parameters if (name in names) == inside)
    sources = {k for k, own in effective(graph).items() if not own.isdisjoint(parameters)}
    made = replace(
        routing, parameters=parameters, scopes=tuple(scope for scope in routing.scopes if scope.source in sources)
    )
    return replace(made, late=late(graph, made))


def deferral(graph: StepGraph, routing: RoutingClass, entries: int, products: int) -> Deferral | None:
    """How a class's traces go from window to window; None where they go step by step, whatever the call.

    entries: of its traces; products: of D J, a step. A window that the rule asks for is taken (of a rule for all
    influence, whatever it costs); else its length is the power of two up to n for which the rows of a window take no
    more room than the traces.
    """
    if not entries:
        return None
    names = {scope.carry for scope in routing.scopes if scope.stored}
    rows = sum(graph.nodes[carry.read].type.numel for carry in states(graph) if carry.name in names)
    step, kept = _reverse(graph, routing, names)
    assert routing.tracing is not None
    given = routing.window.size if routing.tracing.read == "window" else None
    asked = given is not None and routing.tracing.scope == "all"
    size = given or _size(min(rows, LONGEST, entries // max(rows * kept, 1)))
    jump = 2 * rows * entries
    flops = rows * step + ceil((jump + entries) / size)
    slow = 2 * products + entries
    if not asked and GAIN * flops > slow:
        return None
    saved = slow - rows * step
    least = 2 if saved <= 0 else min(max(2, ceil((jump + entries) / saved)), max(2, size))
    traced = {name for scope in routing.scopes if scope.stored for name in effective(graph)[scope.source]}
    parameters = tuple(name for name in routing.parameters if name in traced)
    return Deferral(parameters, size, least, rows, slow, flops, 4 * rows * kept * size)


def _size(most: int) -> int:
    """A power of two."""
    return 1 << max(1, most).bit_length() - 1


def _possible(graph: StepGraph, routing: RoutingClass) -> bool:
    """Whether the gradient is the same wherever no influence is dropped: no step does more to it than its Jacobian."""
    tracing, window = routing.tracing, routing.window
    if tracing is None or tracing.random or tracing.stepwise:
        return False
    if tracing.cuts or tracing.decay != 1 or tracing.rerun or narrowed(graph, routing):
        return False
    if routing.altered or routing.thinning or window.size != window.every:
        return False
    return all(graph.losses[k].td is None for k in routing.losses)


def _reverse(graph: StepGraph, routing: RoutingClass, names: set[str]) -> tuple[int, int]:
    """(operations, values kept) of one row's way back through a step: those of each op again for each argument that
    credit goes to; what arrives where parameters are used is kept until the window has been passed."""
    carries = [carry for carry in states(graph) if carry.name in names]
    reads, sources = {carry.read for carry in carries}, effective(graph)
    own = {k for k, inside in sources.items() if not inside.isdisjoint(routing.parameters)}
    reached, live = {*reads, *own}, {carry.write for carry in carries}
    for node in graph.nodes:
        if node.id in graph.varying and not reached.isdisjoint(node.args):
            reached.add(node.id)
    for node in reversed(graph.nodes):
        if node.id in live and node.id not in reads:
            live.update(arg for arg in node.args if arg in graph.varying)
    path = [n for n in graph.nodes if n.id in reached & live and n.args and n.id in graph.varying]
    kinds = {n.id: [graph.nodes[a].type for a in n.args] for n in path}
    flops = sum(primitive(n.op).flops(kinds[n.id], n.type, n.attrs) * len(reached.intersection(n.args)) for n in path)
    met = {_sum(graph, path, n.id) for n in path if not own.isdisjoint(n.args)}
    return flops, sum(graph.nodes[k].type.numel for k in met)


def _sum(graph: StepGraph, path: Sequence[Node], k: int) -> int:
    """The sum that a value goes into and nowhere else: both have one cotangent."""
    while True:
        users = [n for n in path if k in n.args]
        if len(users) != 1 or users[0].op != "add" or users[0].type != graph.nodes[k].type:
            return k
        k = users[0].id


def deferred(plan: CreditPlan) -> CreditPlan | None:
    """The plan of long calls, where any of its classes defers; None where none does."""
    if least(plan) is None:
        return None
    return replace(plan, classes=tuple(_windowed(routing) for routing in plan.classes))


def least(plan: CreditPlan) -> int | None:
    """From how many steps on a call runs the plan of long calls."""
    found = [routing.deferral.least for routing in plan.classes if routing.deferral is not None]
    return max(found, default=None)


def _windowed(routing: RoutingClass) -> RoutingClass:
    made, tracing = routing.deferral, routing.tracing
    if made is None or tracing is None:
        return routing
    tracing = replace(tracing, read="window")
    return replace(routing, window=Window(made.size, made.size), tracing=tracing, late=False, deferred=True)


def remarks(classes: Sequence[RoutingClass]) -> tuple[Remark, ...]:
    """The decision, with the costs that it rests on."""
    found: list[Remark] = []
    for routing in classes:
        made = routing.deferral
        if made is not None:
            names = ", ".join(f"`{name}`" for name in made.parameters[:6])
            more = f" and {len(made.parameters) - 6} more" if len(made.parameters) > 6 else ""
            found.append(Remark(f"the traces of {names}{more} {_words(made)}", None))
    return tuple(found)


def _words(made: Deferral) -> str:
    return (
        f"go from window to window of {made.size} steps, by reverse passes of {made.rows} rows: {made.flops:,} FLOPs a "
        f"step and sample in place of {made.stepwise:,}, and {made.bytes:,} bytes more; calls of fewer than "
        f"{made.least} steps carry them step by step"
    )
