"""What all reads have in common, whichever way their slots are found: scores, weights, the sum of what is stored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from recdsl.graph.emit import Emitter
from recdsl.graph.expressions import Evaluator
from recdsl.graph.memory.scores import Compared, scored
from recdsl.graph.memory.store import Read
from recdsl.graph.memory.weights import Weighing, weighed
from recdsl.graph.step import Recall
from recdsl.graph.types import FLOAT, Type

Taking = tuple[int, Callable[[], int]]
"""Which slots hold an item, bool [slot], and their order from the oldest item to the newest."""


@dataclass(frozen=True)
class Attended:
    """One read of a store. rows: what is stored, [slot, ...]; keys: what the query is compared with, [slot, ...]."""

    store: str
    read: Read
    rows: int
    keys: int
    query: int


def attended(ev: Evaluator, made: Attended, taking: Callable[[], Taking]) -> tuple[int, int]:
    """What is read and the weights of the slots, [slot]; notes the edges of the read. `taking` comes after scores."""
    b, read = ev.b, made.read
    first = len(b.nodes)
    scores = scored(Compared(ev.ctx, read, made.store, made.keys, made.query))
    last = len(b.nodes)
    weights = _due(ev, read.every, weighed(Weighing(b, read, scores, *taking())))
    start, rest = len(b.nodes), tuple(range(1, len(b.type(made.rows).axes)))
    item = b.op("contract", weights, made.rows, x=(0,), y=(0, *rest), out=rest)
    found = Recall(
        read.name,
        values=_uses(ev, made.rows, start, len(b.nodes)),
        keys=_uses(ev, made.keys, first, last),
        queries=_uses(ev, made.query, first, last),
        selective=read.selective,
        score=read.score.kind,
    )
    ev.ctx.recalls.setdefault(made.store, []).append(found)
    return item, weights


def fetched(b: Emitter, place: int) -> Taking:
    """Of rows that a search has found, the best first: a place below 0 holds nothing."""
    number = b.op("to_float", place)
    held = b.op("ge", number, b.const(0.0, number))
    (axis,) = b.type(place).axes
    order = b.constant(tuple(float(k) for k in range(axis.size)), Type("float", (axis,)))
    return held, lambda: order


def at_steps(ev: Evaluator, every: int) -> int:
    """bool: whether the step is one of every - 1, 2 every - 1, ..."""
    b = ev.b
    t = b.leaf("step_number", "t", FLOAT)
    passed = b.op("mod", b.op("add", t, b.const(1.0, t)), b.const(every, t))
    return b.op("eq", passed, b.const(0.0, passed))


def _due(ev: Evaluator, every: int, weights: int) -> int:
    """The weights at the steps of a read, 0 at the others."""
    if every == 1:
        return weights
    wide = ev.b.op("broadcast", at_steps(ev, every), axes=ev.b.type(weights).axes, at=())
    return ev.b.op("where", wide, weights, ev.b.const(0.0, weights))


def _uses(ev: Evaluator, source: int, first: int, last: int) -> tuple[tuple[int, int], ...]:
    """The edges from a value into a run of nodes."""
    return tuple((source, node.id) for node in ev.b.nodes[first:last] if source in node.args)
