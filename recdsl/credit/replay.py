"""When calls are run in pieces, and each piece again on the way back (semantics 4.11).

A reverse pass reads what the pass forward has made of every step, and credit may go back to any item of a store,
however old. So all of it is kept, or what it can be made of again: the states that pieces of some steps begin with,
what was written to stores, and which slots were read. A piece is then run again when credit comes to it, without a
search. That is one more pass forward: about a third of the time of a call of some hundred steps (measured), and less of
longer ones, where searches take most of the time. It is paid where it matters: where a call would keep `LEAST` bytes.
"""

from __future__ import annotations

from collections.abc import Sequence

from recdsl.credit.plan import CreditPlan, Remark, RoutingClass, StoreCredit
from recdsl.graph.step import StepGraph

LEAST = 2**28
"""Bytes."""
STEPS = 64
"""Of a piece. What it keeps while it runs is then less than what a call of some hundred steps keeps in any case."""


def hindrance(graph: StepGraph, classes: Sequence[RoutingClass], stores: Sequence[StoreCredit]) -> str:
    """Why calls cannot be run so; empty if they can."""
    for made in classes:
        if made.tracing is not None:
            return "a rule carries traces forward"
        if made.thinning or made.head is not None:
            return "a rule cuts at random, or has a net that answers"
        if made.window.size is not None and not made.grid and made.window.size > 1:
            return "a rule has windows with a pass each"
    if stores:
        return "a store lasts as long as the model"
    return "a loss is a temporal difference" if any(loss.td is not None for loss in graph.losses) else ""


def chosen(graph: StepGraph, plan: CreditPlan) -> str:
    """How the calls of a model are run: as its rules say, if all can."""
    words = {made.replay for made in plan.classes if made.spared or made.budget}
    words |= {made.replay for made in plan.classes} & {"always"}
    if not words - {"never"} or hindrance(graph, plan.classes, plan.stores):
        return "never"
    return next(word for word in ("never", "always", "auto") if word in words)


def replays(graph: StepGraph, plan: CreditPlan) -> bool:
    """Whether there are calls that are run so."""
    return chosen(graph, plan) != "never"


def least(graph: StepGraph, plan: CreditPlan) -> int:
    """The bytes that a call would keep, from which on it is run so."""
    return 0 if chosen(graph, plan) == "always" else LEAST


def remarks(graph: StepGraph, plan: CreditPlan) -> tuple[Remark, ...]:
    """What is kept, and what it costs; or why not."""
    word = chosen(graph, plan)
    if word == "never":
        asked = any(made.replay == "always" for made in plan.classes)
        why = hindrance(graph, plan.classes, plan.stores)
        return (Remark(f"`replay=always` is not possible here: {why}", None),) if asked and why else ()
    when = f"of more than {STEPS} steps" if word == "always" else f"that would keep {LEAST >> 20} MiB or more"
    carried = sum(graph.nodes[carry.read].type.numel for carry in graph.carries if not carry.taped)
    places = sum(node.type.numel for node in graph.nodes if node.op == "nearest")
    items = sum(memory.entries for memory in graph.memories if memory.slots == 0)
    searched = f", {items:,} a written item and {places:,} places a step" if places else ""
    return (
        Remark(
            f"calls {when} are run in pieces of {STEPS} steps, each again on the way back: they keep {carried:,}"
            f" numbers a piece and sample{searched} beside outputs, for one more pass forward"
            + (", without its searches" if places else ""),
            None,
        ),
    )
