"""Operators, and the elementwise functions that numbers go through when compiling."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from recdsl.errors.axes import BadNumber, NotAMatrix, OutOfRange, Refused, WrongKind
from recdsl.graph import align
from recdsl.graph.emit import UNKNOWN
from recdsl.graph.scope import Item, Ref, Stop
from recdsl.graph.sizes import Number, fold
from recdsl.graph.types import Axis, Type
from recdsl.source import Span
from recdsl.syntax.ast import Node

if TYPE_CHECKING:
    from recdsl.graph.expressions import Evaluator

ARITHMETIC = {"+": "add", "-": "sub", "*": "mul", "/": "div", "%": "mod"}
COMPARISONS = {"<": "lt", "<=": "le", ">": "gt", ">=": "ge", "==": "eq", "!=": "ne"}


def apply(ev: Evaluator, node: Node, args: list[Item]) -> Item:
    """An operator of items."""
    op, span = str(node.value), node.span
    match node.kind:
        case "unary":
            return _unary(ev, op, args[0], span)
        case "binary":
            return binary(ev, op, args[0], args[1], span)
        case "compare":
            return compare(ev, op, args[0], args[1], span)
        case "concat":
            return _concat(ev, args, span)
        case "pick":
            return Ref(pick(ev, ev.node(args[0], span), op, args[1], span))
        case "transpose":
            return Ref(transpose(ev, ev.node(args[0], span), span))
        case kind:
            raise AssertionError(kind)


def binary(ev: Evaluator, op: str, left: Item, right: Item, span: Span) -> Item:
    a, b = ev.look(left), ev.look(right)
    if op in ("and", "or"):
        return _logical(ev, op, (a, b), span)
    if isinstance(a, Number) and isinstance(b, Number) and op != "@":
        return folded(ev, span, lambda: fold(op, a, b))
    if op == "@":
        return Ref(_matmul(ev, ev.node(a, span), ev.node(b, span), span))
    if op == "**":
        return _power(ev, a, b, span)
    return ev.join(ARITHMETIC[op], (a, b), span, f"`{op}`")


def folded(ev: Evaluator, span: Span, work: Callable[[], Number]) -> Number:
    """Arithmetic on numbers."""
    try:
        return work()
    except OverflowError:
        raise Stop(BadNumber(span, f"`{shown(span)}` is too large for a number")) from None
    except (ArithmeticError, ValueError) as error:
        raise Stop(BadNumber(span, f"`{shown(span)}` has no value: {error}")) from None


def _matmul(ev: Evaluator, left: int, right: int, span: Span) -> int:
    if left == UNKNOWN:
        return UNKNOWN
    if not ev.ctx.known(right):
        axes = ev.b.type(left).axes[:-1]
        return ev.b.constant(0.0, Type("float", axes)) if ev.ctx.optimistic else UNKNOWN
    left, right = (_float_or_open(ev, side, span) for side in (left, right))
    return align.matmul(ev.b, left, right, span)


def _float_or_open(ev: Evaluator, value: int, span: Span) -> int:
    return ev.floats(value, "`@`", span) if ev.ctx.known(value) else value


def _power(ev: Evaluator, base: Item, exponent: Item, span: Span) -> Item:
    if isinstance(exponent, Number):
        if exponent.value == 0:  # constant, also at 0, where the derivative of a power would be 0 / 0
            value = ev.floats(ev.node(base, span), "`**`", span)
            return Ref(ev.b.const(1.0, value))
        if exponent.value == 2:
            return ev.join("mul", (base, base), span, "`**`")
        return ev.join("power", (base,), span, "`**`", exponent=float(exponent.value))
    if not isinstance(base, Number):
        return ev.join("pow", (base, exponent), span, "`**`")
    if base.value <= 0:
        raise Stop(BadNumber(span, f"`{shown(span)}`: the base of a power is {base.value}, not above 0"))
    return elementwise(ev, "exp", ev.join("mul", (exponent, elementwise(ev, "log", base, span)), span, "`**`"), span)


def elementwise(ev: Evaluator, op: str, item: Item, span: Span) -> Item:
    """An elementwise op of one operand; of a number, its value."""
    item = ev.look(item)
    if isinstance(item, Number):
        value = item.value
        return folded(ev, span, lambda: finite(NUMERIC[op](value)))
    return ev.join(op, (item,), span, f"`{op}`")


def _unary(ev: Evaluator, op: str, operand: Item, span: Span) -> Item:
    if op == "not":
        return _logical(ev, "not", (operand,), span)
    item = ev.look(operand)
    if isinstance(item, Number):
        return item if op == "+" else Number(-item.value)
    value = ev.floats(ev.node(item, span), f"`{op}`", span)
    return Ref(value if op == "+" else ev.b.op("neg", value))


def _logical(ev: Evaluator, op: str, items: Sequence[Item], span: Span) -> Ref:
    values = {k: ev.node(item, span) for k, item in enumerate(items)}
    for value in values.values():
        if ev.ctx.known(value) and ev.b.type(value).dtype != "bool":
            raise Stop(WrongKind(span, f"`{op}`", str(ev.b.type(value)), "compare first, as in `x > 0`"))
    wide = ev.together(values, f"`{op}`", span)
    return Ref(UNKNOWN if wide is None else ev.b.op(op, *wide.values()))


def compare(ev: Evaluator, op: str, left: Item, right: Item, span: Span) -> Item:
    items = [ev.look(left), ev.look(right)]
    if any(isinstance(item, Ref) and _is_int(ev, item.id) for item in items):
        whole = [_integer(ev, item, span) for item in items]
        ids = [value for value in whole if value is not None]
        if len(ids) == 2:
            return Ref(ev.b.op(COMPARISONS[op], *ids))
    return ev.join(COMPARISONS[op], items, span, f"`{op}`")


def _is_int(ev: Evaluator, value: int) -> bool:
    return ev.ctx.known(value) and ev.b.type(value).dtype == "int"


def _integer(ev: Evaluator, item: Item, span: Span) -> int | None:
    """A class, a token or a whole number, as an integer value."""
    if isinstance(item, Ref) and _is_int(ev, item.id):
        return item.id
    if isinstance(item, Number) and isinstance(item.value, int):
        return ev.b.constant(item.value, Type("int"))
    return None


# moving axes


def _concat(ev: Evaluator, items: Sequence[Item], span: Span) -> Ref:
    values = [ev.floats(ev.node(item, span), "`[...; ...]`", span) for item in items]
    return Ref(UNKNOWN if UNKNOWN in values else align.concat(ev.b, values, span))


def transpose(ev: Evaluator, value: int, span: Span) -> int:
    if not ev.ctx.known(value):
        return UNKNOWN
    type = ev.b.type(value)
    if len(type.axes) != 2:
        raise Stop(NotAMatrix(span, "`.T`", str(type), "name the axes instead: `dot`, `sum`, or elementwise by name"))
    return ev.b.op("transpose", value, order=(1, 0))


def pick(ev: Evaluator, value: int, axis: str, index: Item, span: Span) -> int:
    """`z[gate=0]` or `W[vocab=x]`; of a square matrix the row, as in NumPy."""
    if value == UNKNOWN:
        return UNKNOWN
    axis = ev.scope.axis_name(axis)
    value = _float_or_open(ev, value, span)
    at = align.position(ev.b.type(value), axis, span, first=True)
    whole, index = ev.b.type(value).axes[at], ev.look(index)
    if isinstance(index, Number):
        if not isinstance(index.value, int) or not 0 <= index.value < whole.size:
            raise Stop(OutOfRange(span, f"{index.value:g}", axis, whole.size))
        entry = ev.b.op("slice", value, at=at, start=index.value, axis=Axis("1", 1))
        return ev.b.op("sum", entry, over=(at,))
    where = as_index(ev, ev.node(index, span), whole, span)
    return ev.b.op("gather", value, where, at=at)


def as_index(ev: Evaluator, value: int, axis: Axis, span: Span) -> int:
    """A class or token that may index the axis; a one-hot input counts as its class."""
    if value == UNKNOWN:
        return UNKNOWN
    value = ev.ctx.onehot.get(value, value)
    own = ev.ctx.index_axis.get(value)
    if own is None:
        message = f"an index of type {ev.b.type(value)}"
        raise Stop(Refused(span, message, "index by a class, a token or a number"))
    if own != axis:
        message = f"a class of `{own}` as an index of axis `{axis}`"
        raise Stop(Refused(span, message, f"declare it as `class[{axis.name}]` or `token[{axis.name}]`"))
    return value


NUMERIC: Mapping[str, Callable[[float], float]] = {
    "exp": math.exp,
    "expm1": math.expm1,
    "log": math.log,
    "log1p": math.log1p,
    "sqrt": math.sqrt,
    "tanh": math.tanh,
    "sin": math.sin,
    "cos": math.cos,
    "abs": abs,
    "floor": math.floor,
    "erf": math.erf,
    "neg": lambda x: -x,
    "sign": lambda x: float((x > 0) - (x < 0)),
    "relu": lambda x: max(x, 0.0),
    "sigmoid": lambda x: 0.5 + 0.5 * math.tanh(0.5 * x),
    "softplus": lambda x: max(x, 0.0) + math.log1p(math.exp(-abs(x))),
}


def finite(value: float) -> Number:
    """A computed number. Raises ArithmeticError."""
    if not math.isfinite(value):
        raise ArithmeticError("not a finite number")
    return Number(float(value))


def shown(span: Span) -> str:
    """The text of a place, shortened."""
    text = " ".join(span.text.split())
    return text if len(text) <= 40 else f"{text[:37]}..."
