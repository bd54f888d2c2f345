"""What a model costs a step and sample, all rules together: each op once, however many parameters share it.

The rows of `explain` say what each parameter would cost by itself, so they do not add up. Here a reverse pass is the
union of the paths of its parameters (semantics 4.1 and 6.5), an op's way back is counted as the op writes it, and
traces are counted by class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil

from recdsl.credit.flow import NO_CUTS, Edge
from recdsl.credit.heads import flops as answered
from recdsl.credit.influence import effective, states
from recdsl.credit.masked import narrowed
from recdsl.credit.operations import Costs, flops, leaves
from recdsl.credit.plan import CreditPlan, RoutingClass, StoreCredit
from recdsl.credit.tracing import Tracer, eligible
from recdsl.graph.emit import Emitter
from recdsl.graph.step import StepGraph
from recdsl.jacobian.step import StepJacobian

KEPT, MET = 5, 4
"""Operations for each entry of an estimate's vectors: it is scaled, its norm is taken and it is read; where a step does
something to it, that is scaled, its norm is taken and it is added."""


@dataclass(frozen=True)
class Total:
    """Floating point operations of a whole model a step and sample, in a long call: of the step, of the reverse passes,
    and of carrying influence along and reading it. item: of what a store that lasts as long as the model does for each
    item that gets a gradient, beside that."""

    forward: int
    backward: int
    traces: int
    item: int = 0

    @property
    def flops(self) -> int:
        return self.forward + self.backward + self.traces


def total(graph: StepGraph, plan: CreditPlan) -> Total:
    """Of the whole model, under all its rules."""
    costs = Costs(graph)
    back = sum((_pass(costs, plan, k) for k in range(len(plan.classes)) if plan.sharing(k)[0] == k), Fraction())
    forward = [made for made in plan.classes if made.tracing is not None]
    tracer = Tracer(graph) if forward else None
    traces = sum(_traces(costs, tracer, made) for made in forward if tracer)
    return Total(costs.forward(), ceil(back), traces, sum(_item(costs, store) for store in plan.stores))


# -- reverse passes ---------------------------------------------------------------------------------------------------
def _pass(costs: Costs, plan: CreditPlan, index: int) -> Fraction:
    """Of a reverse pass, of all classes that share it."""
    members = [plan.classes[k] for k in plan.sharing(index)]
    first, ends = members[0], {costs.graph.losses[k].root for made in members for k in made.losses}
    starts, traced = _starts(costs.graph, members), _read(costs.graph, members)
    if first.window.size == 1 and not first.grid:
        walls = _walls(costs, first)
        return Fraction(costs.back(starts | traced, ends, first.cuts | walls, across=False))
    found = Fraction(costs.back(starts | traced, ends, first.cuts, across=True))
    if first.budget:
        return found * (first.budget + 1)
    again = Fraction(1) if first.window.size is None else Fraction(first.window.size, first.window.every)
    return found * again + _answers(costs, first)


def _starts(graph: StepGraph, members: Sequence[RoutingClass]) -> set[int]:
    """Parameters."""
    return leaves(graph, (name for made in members for name in made.parameters))


def _read(graph: StepGraph, members: Sequence[RoutingClass]) -> set[int]:
    """States whose influence is read: as they enter a step, and where it is so, as they leave it."""
    found = set[int]()
    for made in members:
        names = {scope.carry for scope in made.scopes if scope.stored}
        own = [c for c in states(graph) if made.tracing is not None and (made.tracing.random or c.name in names)]
        found |= {c.read for c in own} | ({c.write for c in own} if made.late else set[int]())
    return found


def _walls(costs: Costs, made: RoutingClass) -> frozenset[Edge]:
    """What leads to the states that a step leaves, where a loss reads influence on these."""
    if not made.late:
        return NO_CUTS
    names = {scope.carry for scope in made.scopes if scope.stored}
    writes = {c.write for c in states(costs.graph) if c.name in names}
    return frozenset((arg, k) for k in writes for arg in costs.graph.nodes[k].args)


def _answers(costs: Costs, made: RoutingClass) -> Fraction:
    """Of the net that answers for what is behind windows; a lambda-return takes one more pass, over the states."""
    if made.head is None:
        return Fraction()
    ends, carried = {costs.graph.losses[k].root for k in made.losses}, {c.read for c in states(costs.graph)}
    more = made.head.asked.mixing is not None
    again = costs.back(carried, ends, made.cuts, across=True) if more else 0
    return Fraction(answered(made.head), made.window.every) + again


# -- traces -----------------------------------------------------------------------------------------------------------
def _traces(costs: Costs, tracer: Tracer, made: RoutingClass) -> int:
    """Of carrying influence along and reading it."""
    entries, products = tracer.work(made)
    if made.deferral is not None:
        return made.deferral.flops
    if made.tracing is not None and made.tracing.scope == "rank":
        return _estimate(costs, made)
    read = 2 * ceil(Fraction(entries + sum(eligible(costs.graph, made).values()), made.window.every))
    update = entries if _telescopes(costs.graph, made) else 2 * products
    return update + entries + read + _jacobians(costs, made)


def _estimate(costs: Costs, made: RoutingClass) -> int:
    """Of one product of two vectors: those of a step's Jacobian with one vector from either side, and its upkeep."""
    graph, (reads, writes) = costs.graph, _ends(costs.graph, None)
    own = {k for k, names in effective(graph).items() if not names.isdisjoint(made.parameters)}
    within = costs.flow.backward(writes, made.cuts, across=False)
    held, acting = (
        sum(graph.nodes[k].type.numel for k in found) for found in ({*own, *reads}, {*own & within, *reads})
    )
    either = costs.along(reads, writes, made.cuts) + costs.back(own, writes, made.cuts, across=False)
    return KEPT * held + MET * acting + either


def _ends(graph: StepGraph, made: RoutingClass | None) -> tuple[list[int], list[int]]:
    """What states are as they enter a step and as they leave it; of those with traces, if a class is given."""
    names = None if made is None else {scope.carry for scope in made.scopes if scope.stored}
    own = [carry for carry in states(graph) if names is None or carry.name in names]
    return [carry.read for carry in own], [carry.write for carry in own]


def _tied(graph: StepGraph, made: RoutingClass) -> bool:
    """Whether each entry of a state carries its traces by itself."""
    rows = {carry.name: graph.nodes[carry.read].type.axes for carry in states(graph)}
    stored = [(key, rows[scope.carry]) for scope in made.scopes for key in scope.stored]
    return all({tie.axis for tie in key} == set(range(len(axes))) for key, axes in stored)


def _telescopes(graph: StepGraph, made: RoutingClass) -> bool:
    """Whether a sum over steps stands for the loop: traces are asked for when the call ends, and that of each entry
    goes on by itself. It then takes one product, in place of those of `D J`."""
    assert made.tracing is not None
    apart = made.tracing.read == "window" or made.tracing.random or narrowed(graph, made)
    return not apart and _tied(graph, made) and all(graph.losses[k].td is None for k in made.losses)


def _jacobians(costs: Costs, made: RoutingClass) -> int:
    """Of what a step does to traces: of diagonals about as much as one tangent, else what the matrices are made of."""
    graph, (reads, writes) = costs.graph, _ends(costs.graph, made)
    if _tied(graph, made):
        return costs.along(reads, writes, made.cuts)
    emitter, given = Emitter(list(graph.nodes)), len(graph.nodes)
    step = StepJacobian(graph, emitter, range(given), made.cuts, hoisted=True)
    found = [step.pieces(read, dict.fromkeys(writes, ())) for read in reads]
    stack = [piece.value for pieces in found for own in pieces.values() for piece in own]
    written = set[int]()
    while stack:
        place = stack.pop()
        if place >= given and place not in written:
            written.add(place)
            stack.extend(emitter.nodes[place].args)
    return sum(flops(emitter.nodes, emitter.nodes[place]) for place in written)


# -- stores -----------------------------------------------------------------------------------------------------------
def _item(costs: Costs, store: StoreCredit) -> int:
    """Of the gradient of one stored item: its encoder forward and back, or back alone where its graph is kept."""
    net = 3 * sum(2 * item.type.numel for item in store.parameters)
    if store.kind in ("stop", "param"):
        return 0
    if store.replay is None:
        rows = {made.item for memory in costs.graph.memories for made in memory.rows if memory.name == store.memory}
        return net + costs.back(_trained(costs.graph), rows, NO_CUTS, across=True)
    encoder, decoder = Costs(store.replay.encoder), store.replay.decoder
    ends = [node for _, node in encoder.graph.outputs]
    again = encoder.forward() + encoder.back(_trained(encoder.graph), ends, NO_CUTS, across=False)
    return net + again + (0 if decoder is None else Costs(decoder).forward())


def _trained(graph: StepGraph) -> set[int]:
    return leaves(graph, (item.name for item in graph.parameters if not item.frozen))
