"""Declarations of parameters: initialisers, literals, masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from recdsl.diagnostics import suggest
from recdsl.errors.axes import BadMask, LiteralShape, NotAMatrix, WrongKind
from recdsl.errors.names import BadCall, NotConstant, UnknownFunction
from recdsl.graph.calls import Call, bind
from recdsl.graph.emit import UNKNOWN
from recdsl.graph.expressions import Evaluator
from recdsl.graph.scope import Item, Items, Parameterised, Ref, Silent, Stop
from recdsl.graph.sizes import Number
from recdsl.graph.step import Parameter
from recdsl.graph.types import Type
from recdsl.source import Span
from recdsl.syntax.ast import Expression, ParamDecl

Init = tuple[str, tuple[Any, ...]]


@dataclass(frozen=True)
class Initialiser:
    """How it is written, the default of each argument, and how many axes a parameter must have."""

    use: str
    defaults: tuple[tuple[str, float], ...] = ()
    axes: int = 0


INITIALISERS: Mapping[str, Initialiser] = {
    "uniform": Initialiser("uniform(low=-0.1, high=0.1)", (("low", -0.1), ("high", 0.1))),
    "normal": Initialiser("normal(mean=0, std=0.1)", (("mean", 0.0), ("std", 0.1))),
    "glorot": Initialiser("glorot()", axes=1),
    "orthogonal": Initialiser("orthogonal()", axes=2),
    "he": Initialiser("he()", axes=1),
    "lecun": Initialiser("lecun()", axes=1),
    "ring": Initialiser("ring(low=0, high=0.999)", (("low", 0.0), ("high", 0.999))),
    "zeros": Initialiser("zeros()"),
    "ones": Initialiser("ones()"),
    "constant": Initialiser("constant(value)", (("value", 0.0),)),
}
MASKS: Mapping[str, str] = {"sparse": "sparse(density)", "blocks": "blocks(n)"}


def declare(ev: Evaluator, decl: ParamDecl) -> None:
    """Register a parameter, make its leaf, and put its mask on it."""
    scope, full = ev.scope, ev.scope.full(decl.name.text)
    if decl.type.kind != "float":
        raise Stop(WrongKind(decl.type.span, "a parameter", decl.type.kind, "parameters are float"))
    type = ev.type_of(decl.type)
    init = _initial(ev, decl, type)
    masks = tuple(_mask(ev, mask, type) for mask in decl.masks)
    ev.b.span = decl.name.span
    leaf = ev.b.leaf("parameter", full, type)
    place = scope.home or decl.name.span
    ev.ctx.parameters[full] = Parameter(full, type, init, masks, decl.frozen, place)
    if masks:
        name = f"{full}.mask"
        ev.ctx.parameters[name] = Parameter(name, type, ("mask", masks), (), True, place)
        leaf = ev.b.op("mul", leaf, ev.b.leaf("parameter", name, type))
    scope.names[decl.name.text] = Parameterised(leaf)


def captured(ev: Evaluator, expression: Expression) -> Call:
    """A call of constants that is not one of a function: `normal(0, 1 / sqrt(hid))`, `glorot`."""
    root, found = expression.root, list[Call]()
    if root.kind == "name":
        return Call(str(root.value), (), {}, root.span)

    def call(inner: Evaluator, call: Call, top: bool) -> Item:
        if not top:
            return ev.call(inner, call, False)
        found.append(call)
        return Number(0)

    item = Evaluator(ev.ctx, ev.scope, call, ev.delay).run(expression)
    if not found:
        raise (
            Silent
            if item == Ref(UNKNOWN)
            else Stop(NotConstant(expression.span, "an initialiser or mask", "a call", "such as `normal(0, 0.1)`"))
        )
    return found[0]


def _initial(ev: Evaluator, decl: ParamDecl, type: Type) -> Init:
    if decl.literal is not None:
        value = nested(ev, ev.run(decl.literal), type, decl.literal.span)
        return ("values", value) if isinstance(value, tuple) else ("constant", (value,))
    assert decl.init is not None
    call = captured(ev, decl.init)
    known = INITIALISERS.get(call.name)
    if known is None:
        hint = suggest(call.name, INITIALISERS) or f"one of {', '.join(INITIALISERS)}"
        raise Stop(UnknownFunction(call.span, call.name, hint))
    given = bind(call, known.use)
    if len(type.axes) < known.axes:
        raise Stop(NotAMatrix(call.span, f"`{call.name}`", str(type), "use `uniform` or `normal`"))
    values = tuple(_float(ev, given[name], call.span) if name in given else value for name, value in known.defaults)
    if call.name == "uniform" and len(given) == 1 and "low" in given:
        values = (-abs(values[0]), abs(values[0]))
    if not _sensible(call.name, values):
        raise Stop(BadCall(call.span, call.name, f"{values[0]:g} and {values[1]:g} are not a range", f"`{known.use}`"))
    return call.name, values


def _sensible(name: str, values: tuple[float, ...]) -> bool:
    """Whether the two numbers of an initialiser go together."""
    if name == "ring":
        return 0 <= values[0] <= values[1] < 1
    return (name != "uniform" or values[0] <= values[1]) and (name != "normal" or values[1] >= 0)


def _float(ev: Evaluator, item: Item, span: Span) -> float:
    return float(ev.number(item, "an argument of an initialiser", span).value)


def nested(ev: Evaluator, item: Item, type: Type, span: Span) -> Any:
    """A literal as nested tuples of the type's shape, or one float for every entry."""
    if not isinstance(item, Items):
        return _float(ev, item, span)
    level: list[Item] = [item]
    for axis in type.axes:
        if any(not isinstance(part, Items) or len(part.items) != axis.size for part in level):
            raise Stop(LiteralShape(span, _shape(item), str(type), str(list(type.shape))))
        level = [inner for part in level if isinstance(part, Items) for inner in part.items]
    if any(isinstance(part, Items) for part in level):
        raise Stop(LiteralShape(span, _shape(item), str(type), str(list(type.shape))))
    flat: list[Any] = [_float(ev, part, span) for part in level]
    for axis in reversed(type.axes):
        flat = [tuple(flat[k : k + axis.size]) for k in range(0, len(flat), axis.size)]
    return flat[0]


def _shape(item: Item) -> str:
    """The extents of a literal along its first entries."""
    found: list[int] = []
    while isinstance(item, Items) and len(found) < 8:
        found.append(len(item.items))
        if not item.items:
            break
        item = item.items[0]
    return str(found)


def _mask(ev: Evaluator, expression: Expression, type: Type) -> tuple[str, float]:
    call = captured(ev, expression)
    if call.name not in MASKS:
        raise Stop(
            UnknownFunction(call.span, call.name, suggest(call.name, MASKS) or "`sparse(density)` or `blocks(n)`")
        )
    (item,) = bind(call, MASKS[call.name]).values()
    value = _float(ev, item, call.span)
    if len(type.axes) != 2:
        raise Stop(BadMask(call.span, call.name, str(type), "it is for matrices"))
    if call.name == "sparse" and not 0 < value <= 1:
        raise Stop(BadMask(call.span, call.name, str(type), f"the density is {value:g}", "a density is in (0, 1]"))
    if call.name == "blocks" and (value < 1 or any(axis.size % value for axis in type.axes)):
        why = f"{value:g} blocks do not divide it evenly"
        raise Stop(BadMask(call.span, call.name, str(type), why, "n divides both extents"))
    return call.name, value


def initial_value(ev: Evaluator, expression: Expression, type: Type) -> int:
    """A state's start: numbers, nested numbers, or what is computed from parameters."""
    ev.b.span = expression.span
    item = ev.run(expression)
    if isinstance(item, Number):
        return ev.b.constant(float(item.value), type)
    if isinstance(item, Items):
        return ev.b.constant(nested(ev, item, type, expression.span), type)
    return ev.node(item, expression.span)
