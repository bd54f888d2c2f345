"""Credit of temporal difference losses, as nodes of the timeline.

The loss of step t has its credit at v of the last valid step before, with cotangent -delta[t] (semantics: it is a loss
of that step). A reverse pass needs these cotangents as a sequence over the steps where v was made; with eligibility
traces, the sequence is the forward view: what v[s] gets is the sum over t > s of -delta[t] times the decays between.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from recdsl.graph.step import TD, Loss, StepGraph
from recdsl.graph.types import BOOL, Type
from recdsl.jacobian.pieces import Axes, fit
from recdsl.program.sweep import Trace
from recdsl.program.timeline import TimelineBuilder


def error_weight(b: TimelineBuilder, td: TD, values: Sequence[int], cotangent: int) -> int:
    """-delta times the cotangent of the loss, with the axes of v: what v of the step before gets. [T, B]."""
    error = values[td.error]
    axes = b.type(error).axes
    share = b.op("mul", cotangent, b.constant(-1.0 / max(1, b.type(error).numel), Type("float")))
    wide = b.op("broadcast", share, axes=axes, at=()) if axes else share
    return b.op("mul", error, wide)


def decay(b: TimelineBuilder, td: TD, values: Sequence[int]) -> int:
    """What a trace is multiplied by in a step: g * lambda, along the axes of the discount."""
    discount = values[td.factor]
    return b.op("mul", discount, b.const(td.trace, discount))


def mask_of(graph: StepGraph, values: Sequence[int]) -> int | None:
    """The input that says whether a step is valid, in a graph that has it."""
    leaf = graph.leaf.get("input:mask")
    return None if leaf is None or graph.nodes[leaf].type != BOOL else values[leaf]


def emitted(b: TimelineBuilder, graph: StepGraph, td: TD, values: Sequence[int], cotangent: int) -> int:
    """The cotangent of v at every step: U[t] = -delta[t] + decay[t] * U[t+1], of which v[s] gets U[s+1].

    A masked step hands on what comes from later ones, and its v gets nothing.
    """
    now, mask = error_weight(b, td, values, cotangent), mask_of(graph, values)
    type = b.type(now)
    if mask is None and td.trace == 0:
        return b.move("next", [now], 1, type, "")
    later = b.move("next", [-1], 1, type, "")
    shrunk = times(b, decay(b, td, values), later) if td.trace else b.const(0.0, later)
    if mask is None:
        b.aim(later, b.op("add", now, shrunk))
        return later
    valid = b.op("broadcast", mask, axes=type.axes, at=()) if type.axes else mask
    b.aim(later, b.op("where", valid, b.op("add", now, shrunk), later))
    return b.op("where", valid, later, b.const(0.0, later))


class Eligibility:
    """The gradients of one `td` loss's prediction, kept for each sample until the error of the next valid step.

    E <- decay * E + grad v, and the loss of a step has the gradient -delta E of what the step before has left. A reset
    acts through the discount: a step that begins a sequence still reads E, and then leaves nothing of it.
    """

    def __init__(self, graph: StepGraph, b: TimelineBuilder, values: Sequence[int], loss: Loss, cotangent: int) -> None:
        assert loss.td is not None
        self.b, self.td, self.values = b, loss.td, values
        self.type = graph.nodes[loss.td.value].type
        self.weight = error_weight(b, loss.td, values, cotangent)
        self.mask = mask_of(graph, values)
        self.decay = decay(b, loss.td, values) if loss.td.trace else None
        self.several = self.type.numel > 1
        self.traces: list[Trace] = []

    def entries(self) -> Iterator[int]:
        """A cotangent of the prediction for each entry: 1 there, 0 elsewhere."""
        for number in range(self.type.numel):
            yield self._one(self.type, number)

    def keep(self, name: str, gradient: int, seed: Axes, number: int) -> int:
        """The loss's gradient by what has the axes `seed`, summed over steps and samples, through entry `number`.

        gradient: of that entry of the prediction, for each step and sample.
        """
        b = self.b
        type = b.type(gradient)
        zero = b.constant(0.0, type)
        old = b.move("trace", [-1, zero], 1, type, name)
        new = gradient
        if self.decay is not None:
            new = b.op("add", b.op("mul", old, self.wide(self.entry_of(self.decay, number), type)), gradient)
        if self.mask is not None:
            new = b.op("where", self.wide(self.mask, type), new, old)
        b.aim(old, new)
        self.traces.append(Trace(name, old, zero))
        places = tuple(range(len(type.axes)))
        total = b.op("contract", self.entry_of(self.weight, number), old, x=(), y=places, out=places)
        return fit(b, b.op("collect", total), seed)

    def entry_of(self, value: int, number: int) -> int:
        """What a value along some of the prediction's axes is for one entry of the prediction."""
        own = self.b.type(value).axes
        if not own:
            return value
        places = unravel(number, self.type.shape)
        rest = [places[self.type.axes.index(axis)] for axis in own] if own != self.type.axes else list(places)
        labels = tuple(range(len(own)))
        return self.b.op("contract", value, self._one(Type("float", own), ravel(rest, own)), x=labels, y=labels, out=())

    def _one(self, type: Type, number: int) -> int:
        """1 at one entry, in the order of the axes, 0 elsewhere."""
        if not type.axes:
            return self.b.constant(1.0, type)
        flat: list[Any] = [float(k == number) for k in range(type.numel)]
        for axis in reversed(type.axes[1:]):
            flat = [tuple(flat[k : k + axis.size]) for k in range(0, len(flat), axis.size)]
        return self.b.constant(tuple(flat), type)

    def wide(self, value: int, type: Type) -> int:
        return self.b.op("broadcast", value, axes=type.axes, at=()) if type.axes else value


def unravel(number: int, shape: Sequence[int]) -> tuple[int, ...]:
    """The place of an entry, counted with the last axis fastest."""
    found: list[int] = []
    for size in reversed(shape):
        number, place = divmod(number, size)
        found.append(place)
    return tuple(reversed(found))


def ravel(places: Sequence[int], axes: Axes) -> int:
    number = 0
    for place, axis in zip(places, axes, strict=True):
        number = number * axis.size + place
    return number


def times(b: TimelineBuilder, factor: int, value: int) -> int:
    """A factor along some of the value's axes times the value."""
    own, axes = b.type(factor).axes, b.type(value).axes
    if own != axes:
        order = tuple(sorted(range(len(own)), key=lambda k: axes.index(own[k])))
        factor = b.op("transpose", factor, order=order)
        factor = b.op("broadcast", factor, axes=axes, at=tuple(k for k, axis in enumerate(axes) if axis in own))
    return b.op("mul", factor, value)
