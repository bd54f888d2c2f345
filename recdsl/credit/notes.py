"""What a reader of a plan should know beside its verdicts: remarks on a model's rules, and what qualifiers mean."""

from __future__ import annotations

from collections.abc import Mapping

from recdsl.credit.flow import flow_of
from recdsl.credit.influence import effective, states
from recdsl.credit.plan import CreditPlan, Head, Remark, RoutingClass, StoreCredit
from recdsl.credit.store_notes import memory_remarks
from recdsl.credit.tracing import BUDGET, entries, mebibytes
from recdsl.graph.step import Loss, StepGraph

FLOAT_BYTES = 4

QUALIFIERS: Mapping[str, str] = {
    "declared-jacobian": "relative to the derivatives that ops on the way declare (spike, straight_through, abs, ...)",
    "decay": "a path over k steps counts decay^k",
    "drift": "traces go on from call to call; if parameters change between calls: the gradient by one shift of all",
    "feedback": "errors come back through fixed random matrices in place of those of the model",
    "if-selected": "along the slots of a memory that a read selects; which ones these are has derivative 0",
    "late": "gradients of items wait, and are applied some passes back later, or when the item leaves",
    "learned": "a net that learns with the model answers for the losses behind each window, as well as it can",
    "no-credit": "every path from the parameter to a loss is dropped",
    "random-signs": "right on average over random signs, while the parameters stay as they are",
    "random-truncation": "right on average over random cuts, while the parameters stay as they are",
    "predicted": "a net predicts, when an item is written, the gradient that it will get from later calls",
    "re-encoded": "what is stored counts as what the encoder makes now of the observation that is given back",
    "rerun": "online, updates run the last steps again, with parameters as they are; before: as under drift",
    "reset-at-call": "traces begin anew at each call: nothing is learned of what happened in earlier ones",
    "scaled": "credit through a use of a state on the way is multiplied by a number",
    "unmasked": "holds where no masked step stands before a valid one of the same sequence",
}
"""A line for each word that a verdict can be qualified with."""


def remarks(
    graph: StepGraph, classes: tuple[RoutingClass, ...], stores: tuple[StoreCredit, ...] = ()
) -> tuple[Remark, ...]:
    """Losses that are due more rarely than their windows are long: what lies between gets no credit at all; errors
    whose credit an earlier call would have to take; and nets that a rule brings along."""
    found: dict[Remark, None] = {}
    for routing in classes:
        if routing.head is not None:
            found.setdefault(Remark(_net(routing.head), None))
        if routing.tracing is not None and routing.tracing.batch == "joint":
            found.setdefault(Remark(_joint(graph, routing), None))
        for text in filter(None, (_past(graph, routing), _wide(graph, routing))):
            found.setdefault(Remark(text, None))
        if routing.tracing is not None and routing.tracing.rerun:
            found.setdefault(Remark(_again(routing.tracing.rerun), None))
        for index in routing.losses:
            loss = graph.losses[index]
            for text in filter(None, (_rare(loss, routing), _delayed(loss, routing))):
                span = graph.losses[index].span
                found.setdefault(Remark(text, None if span is None else span.line))
    found.update(dict.fromkeys(memory_remarks(graph, stores)))
    return tuple(found)


def batch_remarks(graph: StepGraph, plan: CreditPlan, batch: int) -> tuple[Remark, ...]:
    """What the traces of a whole batch take, where that is more than those of one sample may (semantics 9)."""
    forward = [made for made in plan.classes if made.tracing is not None and not made.tracing.random]
    size = FLOAT_BYTES * batch * sum(entries(graph, made.scopes) for made in forward)
    return (Remark(f"traces of a batch of {batch} take {mebibytes(size)}", None),) if size > BUDGET else ()


def _delayed(loss: Loss, routing: RoutingClass) -> str:
    """What a call's first error would change was made in an earlier call."""
    if loss.td is None or routing.tracing is not None:
        return ""
    rest = ", and no eligibility trace goes on from call to call" if loss.td.trace else ""
    return (
        f"`{loss.name}` changes the prediction of the step before: the error of a call's first step changes none{rest}"
    )


def _joint(graph: StepGraph, routing: RoutingClass) -> str:
    """What of an estimate the samples of a batch share; costs are printed as of one sample."""
    inside = effective(graph).items()
    held = sum(graph.nodes[k].type.numel for k, names in inside if not names.isdisjoint(routing.parameters))
    return (
        f"all samples of a call have one estimate: its vector over the parameters ({held:,} numbers) takes "
        f"{FLOAT_BYTES * held:,} bytes for the whole batch, not for each sample"
    )


def _again(steps: int) -> str:
    """What a policy for parameters that change costs."""
    return f"online, each update runs the last {steps:,} steps again: a step is run {steps:,} / every times"


def _past(graph: StepGraph, routing: RoutingClass) -> str:
    """Losses that see states as they enter a step, under a rule that reads influence on those that it leaves."""
    if routing.tracing is None or routing.tracing.read != "post":
        return ""
    carries, flow = states(graph), flow_of(graph)
    names = {scope.carry for scope in routing.scopes if scope.stored}
    left = {c.write for c in carries} - {c.read for c in carries}
    walls = frozenset((k, target) for k in left for target, _ in flow.after[k])
    ends = {graph.losses[k].root for k in routing.losses}
    met = [c.name for c in carries if c.name in names and flow.forward([c.read], walls, across=False) & ends]
    if not met:
        return ""
    shown = ", ".join(f"`{name}`" for name in met)
    return f"a loss also sees {shown} as it enters a step: this way, influence is read as the step before has left it"


def _wide(graph: StepGraph, routing: RoutingClass) -> str:
    """Parameters that reach every entry of a state within the steps that a sparse rule looks at (semantics 4.4)."""
    if routing.tracing is None or routing.tracing.scope != "support":
        return ""
    inside, sizes = effective(graph), {c.name: graph.nodes[c.read].type.numel for c in states(graph)}
    wide = {s.source for s in routing.scopes if () in s.stored and min(sizes[s.carry], _size(graph, s.source)) > 1}
    names = [name for name in routing.parameters if any(name in inside[k] for k in wide)]
    if not names:
        return ""
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    steps = "a step" if routing.tracing.depth == 1 else f"{routing.tracing.depth} steps"
    shown = ", ".join(f"`{name}`" for name in names[:6])
    return f"within {steps} {shown}{more} reach every entry of a state: their traces are those of `rtrl`"


def _size(graph: StepGraph, node: int) -> int:
    return graph.nodes[node].type.numel


def _net(head: Head) -> str:
    """What it answers for, from what, and how large it is."""
    numbers = sum(item.type.numel for item in head.parameters)
    given = f" and `{head.asked.condition}`" if head.asked.condition else ""
    carried = ", ".join(f"`{name}`" for name in head.carries)
    return f"the net `{head.name}` ({numbers:,} numbers) answers at the ends of windows for {carried}, from that{given}"


def _rare(loss: Loss, routing: RoutingClass) -> str:
    size = routing.window.size
    if size is None or routing.tracing is not None or routing.spared or routing.head is not None:
        return ""
    steps = "step" if size == 1 else f"{size} steps"  # fewer, where the window's end is not the loss's step
    if loss.at == "last":
        return f"`{loss.name}` is due at the last step alone: at most the last {steps} of a call get credit"
    if isinstance(loss.at, tuple) and loss.at[1] > size:
        return f"`{loss.name}` is due every {loss.at[1]} steps: at most the last {steps} of them get credit"
    return ""
