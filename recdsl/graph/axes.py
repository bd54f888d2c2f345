"""Functions that name axes: rename, slice, onehot, eye."""

from __future__ import annotations

from collections.abc import Mapping

from recdsl.errors.axes import OutOfRange, RenameClash, WrongKind
from recdsl.errors.names import BadCall, NotConstant
from recdsl.graph import align
from recdsl.graph.calls import Builtin, Call, Given
from recdsl.graph.emit import UNKNOWN
from recdsl.graph.expressions import Evaluator
from recdsl.graph.reductions import axes_at
from recdsl.graph.scope import Item, Ref, Stop, Text, Word
from recdsl.graph.sizes import Number
from recdsl.graph.types import Axis


def _rename(ev: Evaluator, call: Call, given: Given) -> Item:
    value = ev.floats(ev.node(given.pop("x"), call.span), "`rename`", call.span)
    if value == UNKNOWN:
        return Ref(UNKNOWN)
    axes = list(ev.b.type(value).axes)
    for old, item in given.items():
        place = align.position(ev.b.type(value), ev.scope.axis_name(old), call.span)
        axes[place] = _renamed(ev, call, axes[place], item)
    names = [axis.name for axis in axes]
    for axis, old in zip(axes, ev.b.type(value).axes, strict=True):
        if axis != old and names.count(axis.name) > 1:
            raise Stop(RenameClash(call.span, old.name, axis.name, f"the value has `{axis.name}` twice then"))
    return Ref(ev.b.op("rename", value, axes=tuple(axes)))


def _renamed(ev: Evaluator, call: Call, axis: Axis, item: Item) -> Axis:
    if isinstance(item, Number) and item.size:
        size = item.size
    elif isinstance(item, Word | Text):
        size = ev.scope.size(item.text)
        if size is None:
            return Axis(item.text, axis.size)
    else:
        raise Stop(NotConstant(call.span, "the new name", "the name of an axis", "write `rename(h, hid=twin)`"))
    if size.value != axis.size:
        why = f"`{axis.name}` has {axis.size} entries, `{size.text}` has {size.value}"
        raise Stop(RenameClash(call.span, axis.name, size.text, why))
    return size.axis


def _slice(ev: Evaluator, call: Call, given: Given) -> Item:
    value = ev.floats(ev.node(given["x"], call.span), "`slice`", call.span)
    if value == UNKNOWN:
        return Ref(UNKNOWN)
    (at, *more) = axes_at(ev, value, given, call)
    start = ev.number(given.get("start", Number(0)), "`start`", call.span).value
    if "size" not in given or more:
        raise Stop(BadCall(call.span, "slice", "`size` is missing" if not more else "several axes", AXES["slice"].use))
    size = ev.size(given["size"], "`size`", call.span)
    whole = ev.b.type(value).axes[at]
    if start != int(start) or start < 0 or start + size.value > whole.size:
        end = f"{start:g} to {start + size.value - 1:g}"
        raise Stop(OutOfRange(call.span, end, whole.name, whole.size))
    return Ref(ev.b.op("slice", value, at=at, start=int(start), axis=size.axis))


def _onehot(ev: Evaluator, call: Call, given: Given) -> Item:
    value = ev.node(given["y"], call.span)
    if value in ev.ctx.onehot or value == UNKNOWN:
        return Ref(value)
    axis = ev.ctx.index_axis.get(value)
    if axis is None:
        raise Stop(WrongKind(call.span, "`onehot`", str(ev.b.type(value)), "its operand is a class or token"))
    found = ev.b.op("one_hot", value, axis=axis)
    ev.ctx.onehot[found] = value
    return Ref(found)


def _eye(ev: Evaluator, call: Call, given: Given) -> Item:
    axis = ev.size(given["size"], "the argument of `eye`", call.span).axis
    return Ref(ev.b.op("eye", axes=(axis, axis)))


AXES: Mapping[str, Builtin] = {
    "rename": Builtin("rename(x, **axes)", _rename),
    "slice": Builtin("slice(x, axis=, start=, size=)", _slice),
    "onehot": Builtin("onehot(y)", _onehot),
    "eye": Builtin("eye(size)", _eye),
}
