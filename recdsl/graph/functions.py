"""The functions of the language, each composed of primitive ops."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from recdsl.errors.axes import WrongKind
from recdsl.errors.names import BadCall
from recdsl.graph import operators
from recdsl.graph.axes import AXES
from recdsl.graph.calls import Builtin, Call, Given, bind
from recdsl.graph.emit import UNKNOWN
from recdsl.graph.expressions import Evaluator
from recdsl.graph.operators import NUMERIC, elementwise
from recdsl.graph.reductions import REDUCTIONS
from recdsl.graph.scope import Item, Number, Ref, Stop, Text, Word


def apply(ev: Evaluator, call: Call) -> Item:
    """A call of a built-in function."""
    builtin = FUNCTIONS[call.name]
    return builtin.work(ev, call, bind(call, builtin.use))


# elementwise


def _plain(op: str) -> Builtin:
    return Builtin(f"{op}(x)", lambda ev, call, given: elementwise(ev, op, given["x"], call.span))


class Maths:
    """Short forms for composing: every method is an elementwise op aligned by name."""

    def __init__(self, ev: Evaluator, call: Call) -> None:
        self.ev, self.call = ev, call

    def op(self, name: str, *items: Item) -> Item:
        found = [self.ev.look(item) for item in items]
        if len(found) == 1 and name in NUMERIC:
            return elementwise(self.ev, name, found[0], self.call.span)
        return self.ev.join(name, found, self.call.span, f"`{self.call.name}`")

    def bin(self, op: str, left: Item, right: Item) -> Item:
        return operators.binary(self.ev, op, left, right, self.call.span)

    def where(self, left: Item, op: str, right: Item, then: Item, other: Item) -> Item:
        condition = operators.compare(self.ev, op, left, right, self.call.span)
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
    below = m.op("expm1", m.op("minimum", g["x"], _n(0.0)))
    return m.where(g["x"], ">", _n(0.0), g["x"], m.bin("*", g.get("alpha", _n(1.0)), below))


def _leaky_relu(m: Maths, g: Given) -> Item:
    return m.where(g["x"], ">", _n(0.0), g["x"], m.bin("*", g.get("slope", _n(0.01)), g["x"]))


def _clamp(m: Maths, x: Item, lo: Item, hi: Item) -> Item:
    return m.op("minimum", m.op("maximum", x, lo), hi)


def _hyperbolic(m: Maths, g: Given, sign: str, exponential: str) -> Item:
    both = m.bin(sign, m.op(exponential, g["x"]), m.op(exponential, m.op("neg", g["x"])))
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


def _stop(ev: Evaluator, call: Call, given: Given) -> Item:
    return ev.join("stop", (given["x"],), call.span, "`stop`")


def _straight(ev: Evaluator, call: Call, given: Given) -> Item:
    return ev.join("straight_through", (given["hard"], given["soft"]), call.span, "`straight_through`")


def _transpose(ev: Evaluator, call: Call, given: Given) -> Item:
    return Ref(operators.transpose(ev, ev.node(given["x"], call.span), call.span))


_PLAIN: Sequence[str] = (
    "exp", "expm1", "log", "log1p", "sqrt", "tanh", "sigmoid", "relu", "softplus", "abs", "sign", "sin", "cos", "floor",
    "erf",
)  # fmt: skip

FUNCTIONS: Mapping[str, Builtin] = {
    **REDUCTIONS,
    **AXES,
    **{name: _plain(name) for name in _PLAIN},
    "tan": _composed("tan(x)", lambda m, g: m.bin("/", m.op("sin", g["x"]), m.op("cos", g["x"]))),
    "gelu": _composed("gelu(x)", _gelu),
    "silu": _composed("silu(x)", _sigmoid_like),
    "elu": _composed("elu(x, alpha=1)", _elu),
    "leaky_relu": _composed("leaky_relu(x, slope=0.01)", _leaky_relu),
    "softsign": _composed("softsign(x)", lambda m, g: m.bin("/", g["x"], m.bin("+", _n(1.0), m.op("abs", g["x"])))),
    "hard_sigmoid": _composed("hard_sigmoid(x)", _hard_sigmoid),
    "hardtanh": _composed("hardtanh(x)", lambda m, g: _clamp(m, g["x"], _n(-1.0), _n(1.0))),
    "square": _composed("square(x)", lambda m, g: m.bin("*", g["x"], g["x"])),
    "reciprocal": _composed("reciprocal(x)", lambda m, g: m.bin("/", _n(1.0), g["x"])),
    "sinh": _composed("sinh(x)", lambda m, g: _hyperbolic(m, g, "-", "expm1")),
    "cosh": _composed("cosh(x)", lambda m, g: _hyperbolic(m, g, "+", "exp")),
    "clamp": _composed("clamp(x, lo, hi)", lambda m, g: _clamp(m, g["x"], g["lo"], g["hi"])),
    "where": Builtin("where(c, a, b)", _where),
    "stop": Builtin("stop(x)", _stop),
    "spike": Builtin("spike(x, surrogate=, width=)", _spike),
    "straight_through": Builtin("straight_through(hard, soft)", _straight),
    "transpose": Builtin("transpose(x)", _transpose),
}
