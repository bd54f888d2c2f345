"""Functions that sum, average or choose along axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from recdsl.errors.axes import AxisNeeded
from recdsl.errors.names import BadCall
from recdsl.graph import align
from recdsl.graph.calls import Builtin, Call, Given, Work
from recdsl.graph.emit import UNKNOWN
from recdsl.graph.expressions import Evaluator
from recdsl.graph.scope import Item, Ref, Stop, show_axes


def axes_at(ev: Evaluator, value: int, given: Given, call: Call, last: bool = False) -> tuple[int, ...]:
    """Positions of the axes that a call names; without `axis=` the only one (with `last`: the last)."""
    type = ev.b.type(value)
    if "axis" in given:
        return tuple(align.position(type, name, call.span) for name in ev.axes_named(given["axis"], call.span))
    if len(type.axes) == 1 or (last and type.axes):
        return (len(type.axes) - 1,)
    hint = f"write `axis=` with one of {show_axes(type.axes)}" if type.axes else "it is a scalar"
    raise Stop(AxisNeeded(call.span, call.name, str(type), hint))


Reduce = Callable[[Evaluator, int, tuple[int, ...]], int]


def _over(name: str, reduce: Reduce, last: bool = False) -> Work:
    def work(ev: Evaluator, call: Call, given: Given) -> Item:
        value = ev.floats(ev.node(given["x"], call.span), f"`{name}`", call.span)
        return Ref(UNKNOWN if value == UNKNOWN else reduce(ev, value, axes_at(ev, value, given, call, last)))

    return work


def total(ev: Evaluator, value: int, at: tuple[int, ...]) -> int:
    return ev.b.op("sum", value, over=tuple(sorted(at)))


def mean(ev: Evaluator, value: int, at: tuple[int, ...]) -> int:
    count = math.prod(ev.b.type(value).axes[k].size for k in at)
    summed = total(ev, value, at)
    return ev.b.op("mul", summed, ev.b.const(1.0 / count, summed)) if count > 1 else summed


def _stepwise(op: str) -> Reduce:
    """Reductions over several axes, one after another, the later ones first."""

    def reduce(ev: Evaluator, value: int, at: tuple[int, ...]) -> int:
        for place in sorted(at, reverse=True):
            value = ev.b.op(op, value, at=place)
        return value

    return reduce


def _least(ev: Evaluator, value: int, at: tuple[int, ...]) -> int:
    return ev.b.op("neg", _stepwise("reduce_max")(ev, ev.b.op("neg", value), at))


def _norm(ev: Evaluator, value: int, at: tuple[int, ...]) -> int:
    return ev.b.op("sqrt", total(ev, ev.b.op("mul", value, value), at))


def _softmax(ev: Evaluator, value: int, at: tuple[int, ...]) -> int:
    if len(at) == 1:
        return ev.b.op("softmax", value, at=at[0])
    return ev.b.op("exp", log_softmax(ev, value, at))


def log_softmax(ev: Evaluator, value: int, at: tuple[int, ...]) -> int:
    axes = ev.b.type(value).axes
    rest = tuple(k for k in range(len(axes)) if k not in at)
    wide = ev.b.op("broadcast", _stepwise("logsumexp")(ev, value, at), axes=axes, at=rest)
    return ev.b.op("sub", value, wide)


def _extreme(name: str, op: str, reduce: Reduce) -> Builtin:
    """max and min: of several values, or of one along an axis."""

    def work(ev: Evaluator, call: Call, given: Given) -> Item:
        others = [given[key] for key in given if key.isdigit()]
        if not others:
            return _over(name, reduce)(ev, call, given)
        if "axis" in given:
            raise Stop(
                BadCall(call.span, name, "several values and an axis", f"`{name}(a, b)` or `{name}(x, axis=hid)`")
            )
        found = ev.look(given["x"])
        for other in others:
            found = ev.join(op, (found, other), call.span, f"`{name}`")
        return found

    return Builtin(f"{name}(x, *others, axis=)", work)


def _dot(ev: Evaluator, call: Call, given: Given) -> Item:
    if "over" not in given:
        raise Stop(BadCall(call.span, "dot", "argument `over` is missing", "`dot(a, b, over=hid)`"))
    left, right = (ev.floats(ev.node(given[side], call.span), "`dot`", call.span) for side in "ab")
    if UNKNOWN in (left, right):
        return Ref(UNKNOWN)
    return Ref(align.dot(ev.b, left, right, ev.axes_named(given["over"], call.span), call.span))


REDUCTIONS: Mapping[str, Builtin] = {
    "max": _extreme("max", "maximum", _stepwise("reduce_max")),
    "min": _extreme("min", "minimum", _least),
    "sum": Builtin("sum(x, axis=)", _over("sum", total)),
    "mean": Builtin("mean(x, axis=)", _over("mean", mean)),
    "logsumexp": Builtin("logsumexp(x, axis=)", _over("logsumexp", _stepwise("logsumexp"))),
    "norm": Builtin("norm(x, axis=)", _over("norm", _norm)),
    "softmax": Builtin("softmax(x, axis=)", _over("softmax", _softmax, last=True)),
    "log_softmax": Builtin("log_softmax(x, axis=)", _over("log_softmax", log_softmax, last=True)),
    "dot": Builtin("dot(a, b, over=)", _dot),
}
