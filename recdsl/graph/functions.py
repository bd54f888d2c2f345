"""The functions of the language, each composed of primitive ops."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from recdsl.errors.graph import AxisNeeded, BadCall, NotConstant, OutOfRange, RenameClash, WrongKind
from recdsl.graph import align
from recdsl.graph.calls import Call, bind
from recdsl.graph.emit import UNKNOWN
from recdsl.graph.expressions import NUMERIC, Evaluator
from recdsl.graph.scope import Item, Number, Ref, Stop, Text, Word, show_axes
from recdsl.graph.types import Axis

Given = dict[str, Item]
Work = Callable[[Evaluator, Call, Given], Item]


@dataclass(frozen=True)
class Builtin:
    """A function: how it is written, and what it builds."""

    use: str
    work: Work


def apply(ev: Evaluator, call: Call) -> Item:
    """A call of a built-in function."""
    builtin = FUNCTIONS[call.name]
    return builtin.work(ev, call, bind(call, builtin.use))


# elementwise


def _plain(op: str) -> Builtin:
    return Builtin(f"{op}(x)", lambda ev, call, given: ev.math(op, given["x"], call.span))


class Maths:
    """Short forms for composing: every method is an elementwise op aligned by name."""

    def __init__(self, ev: Evaluator, call: Call) -> None:
        self.ev, self.call = ev, call

    def op(self, name: str, *items: Item) -> Item:
        found = [self.ev.look(item) for item in items]
        if len(found) == 1 and name in NUMERIC:
            return self.ev.math(name, found[0], self.call.span)
        return self.ev.join(name, found, self.call.span, f"`{self.call.name}`")

    def bin(self, op: str, left: Item, right: Item) -> Item:
        return self.ev.binary(op, left, right, self.call.span)

    def where(self, left: Item, op: str, right: Item, then: Item, other: Item) -> Item:
        condition = self.ev.compare(op, left, right, self.call.span)
        return choose(self.ev, condition, then, other, self.call)


def _composed(use: str, work: Callable[[Maths, Given], Item]) -> Builtin:
    return Builtin(use, lambda ev, call, given: work(Maths(ev, call), _looked(ev, given, call)))


def _looked(ev: Evaluator, given: Given, call: Call) -> Given:
    """Arguments as values, numbers among them as they are."""
    return {name: ev.look(item) for name, item in given.items()}


def _n(value: float) -> Number:
    return Number(value)


def _sigmoid_like(m: Maths, g: Given) -> Item:
    return m.bin("*", g["x"], m.op("sigmoid", g["x"]))


def _gelu(m: Maths, g: Given) -> Item:
    cdf = m.bin("+", _n(1.0), m.op("erf", m.bin("*", g["x"], _n(math.sqrt(0.5)))))
    return m.bin("*", m.bin("*", _n(0.5), g["x"]), cdf)


def _elu(m: Maths, g: Given) -> Item:
    below = m.bin("-", m.op("exp", m.op("minimum", g["x"], _n(0.0))), _n(1.0))
    return m.where(g["x"], ">", _n(0.0), g["x"], m.bin("*", g.get("alpha", _n(1.0)), below))


def _leaky_relu(m: Maths, g: Given) -> Item:
    return m.where(g["x"], ">", _n(0.0), g["x"], m.bin("*", g.get("slope", _n(0.01)), g["x"]))


def _clamp(m: Maths, x: Item, lo: Item, hi: Item) -> Item:
    return m.op("minimum", m.op("maximum", x, lo), hi)


def _hyperbolic(m: Maths, g: Given, sign: str) -> Item:
    both = m.bin(sign, m.op("exp", g["x"]), m.op("exp", m.op("neg", g["x"])))
    return m.bin("*", _n(0.5), both)


def _hard_sigmoid(m: Maths, g: Given) -> Item:
    return _clamp(m, m.bin("+", m.bin("/", g["x"], _n(6.0)), _n(0.5)), _n(0.0), _n(1.0))


def choose(ev: Evaluator, condition: Item, then: Item, other: Item, call: Call) -> Item:
    """`where(condition, then, other)` with operands aligned by name."""
    what, chosen = "`where`", ev.node(condition, call.span)
    if ev.ctx.known(chosen) and ev.b.type(chosen).dtype != "bool":
        raise Stop(WrongKind(call.span, "a condition", str(ev.b.type(chosen)), "compare first, as in `x > 0`"))
    branches = [ev.look(then), ev.look(other)]
    values = {0: chosen}
    for k, item in enumerate(branches, 1):
        if not isinstance(item, Number):
            values[k] = ev.floats(ev.node(item, call.span), what, call.span)
    wide = ev.together(values, what, call.span)
    if wide is None or (ev.ctx.optimistic and not ev.ctx.known(chosen)):
        return Ref(UNKNOWN) if wide is None else Ref(wide[max(wide)])
    ids = [
        ev.b.const(item.value, wide[0]) if isinstance(item, Number) else wide[k] for k, item in enumerate(branches, 1)
    ]
    return Ref(ev.b.op("where", wide[0], *ids))


def _where(ev: Evaluator, call: Call, given: Given) -> Item:
    return choose(ev, given["c"], given["a"], given["b"], call)


def _spike(ev: Evaluator, call: Call, given: Given) -> Item:
    shapes = ("triangle", "fast_sigmoid", "arctan", "sigmoid")
    shape = given.get("surrogate", Text("triangle"))
    if not isinstance(shape, Word | Text) or shape.text not in shapes:
        raise Stop(BadCall(call.span, "spike", "no such surrogate", f"surrogate is one of {', '.join(shapes)}"))
    width = float(ev.number(given.get("width", Number(1.0)), "the width", call.span).value)
    if width <= 0:
        raise Stop(BadCall(call.span, "spike", "the width is not above 0", FUNCTIONS["spike"].use))
    return ev.join("spike", (given["x"],), call.span, "`spike`", surrogate=shape.text, width=width)


# over axes


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


# names of axes


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
        raise Stop(
            BadCall(call.span, "slice", "`size` is missing" if not more else "several axes", FUNCTIONS["slice"].use)
        )
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


def _stop(ev: Evaluator, call: Call, given: Given) -> Item:
    return ev.join("stop", (given["x"],), call.span, "`stop`")


def _straight(ev: Evaluator, call: Call, given: Given) -> Item:
    return ev.join("straight_through", (given["hard"], given["soft"]), call.span, "`straight_through`")


def _transpose(ev: Evaluator, call: Call, given: Given) -> Item:
    return Ref(ev.transpose(ev.node(given["x"], call.span), call.span))


_PLAIN: Sequence[str] = (
    "exp", "log", "sqrt", "tanh", "sigmoid", "relu", "softplus", "abs", "sign", "sin", "cos", "floor", "erf",
)  # fmt: skip

FUNCTIONS: Mapping[str, Builtin] = {
    **{name: _plain(name) for name in _PLAIN},
    "tan": _composed("tan(x)", lambda m, g: m.bin("/", m.op("sin", g["x"]), m.op("cos", g["x"]))),
    "gelu": _composed("gelu(x)", _gelu),
    "silu": _composed("silu(x)", _sigmoid_like),
    "elu": _composed("elu(x, alpha=1)", _elu),
    "leaky_relu": _composed("leaky_relu(x, slope=0.01)", _leaky_relu),
    "softsign": _composed("softsign(x)", lambda m, g: m.bin("/", g["x"], m.bin("+", _n(1.0), m.op("abs", g["x"])))),
    "hard_sigmoid": _composed("hard_sigmoid(x)", _hard_sigmoid),
    "hardtanh": _composed("hardtanh(x)", lambda m, g: _clamp(m, g["x"], _n(-1.0), _n(1.0))),
    "log1p": _composed("log1p(x)", lambda m, g: m.op("log", m.bin("+", _n(1.0), g["x"]))),
    "expm1": _composed("expm1(x)", lambda m, g: m.bin("-", m.op("exp", g["x"]), _n(1.0))),
    "square": _composed("square(x)", lambda m, g: m.bin("*", g["x"], g["x"])),
    "reciprocal": _composed("reciprocal(x)", lambda m, g: m.bin("/", _n(1.0), g["x"])),
    "sinh": _composed("sinh(x)", lambda m, g: _hyperbolic(m, g, "-")),
    "cosh": _composed("cosh(x)", lambda m, g: _hyperbolic(m, g, "+")),
    "clamp": _composed("clamp(x, lo, hi)", lambda m, g: _clamp(m, g["x"], g["lo"], g["hi"])),
    "max": _extreme("max", "maximum", _stepwise("reduce_max")),
    "min": _extreme("min", "minimum", _least),
    "where": Builtin("where(c, a, b)", _where),
    "sum": Builtin("sum(x, axis=)", _over("sum", total)),
    "mean": Builtin("mean(x, axis=)", _over("mean", mean)),
    "logsumexp": Builtin("logsumexp(x, axis=)", _over("logsumexp", _stepwise("logsumexp"))),
    "norm": Builtin("norm(x, axis=)", _over("norm", _norm)),
    "softmax": Builtin("softmax(x, axis=)", _over("softmax", _softmax, last=True)),
    "log_softmax": Builtin("log_softmax(x, axis=)", _over("log_softmax", log_softmax, last=True)),
    "dot": Builtin("dot(a, b, over=)", _dot),
    "rename": Builtin("rename(x, **axes)", _rename),
    "slice": Builtin("slice(x, axis=, start=, size=)", _slice),
    "onehot": Builtin("onehot(y)", _onehot),
    "stop": Builtin("stop(x)", _stop),
    "spike": Builtin("spike(x, surrogate=, width=)", _spike),
    "straight_through": Builtin("straight_through(hard, soft)", _straight),
    "eye": Builtin("eye(size)", _eye),
    "transpose": Builtin("transpose(x)", _transpose),
}
