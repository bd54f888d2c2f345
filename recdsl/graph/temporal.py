"""The loss `td`: temporal differences (Sutton 1988), with what a step remembers of the last valid one.

`td(v, c, discount=g)`: delta = c[t] + g[t] * stop(v[t]) - v[t-1], with g[t] = 0 where a new sequence has begun since;
the loss is delta^2 / 2. A semi-gradient: only v[t-1] is differentiated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from recdsl.errors.axes import LossAxes, WrongKind
from recdsl.errors.names import ReservedName
from recdsl.errors.temporal import DiscountLearned, DiscountRange, NoPrediction
from recdsl.graph import align
from recdsl.graph.calls import Call, bind
from recdsl.graph.context import Context, History
from recdsl.graph.emit import UNKNOWN
from recdsl.graph.expressions import Evaluator
from recdsl.graph.functions import Maths
from recdsl.graph.reach import reached
from recdsl.graph.reductions import mean
from recdsl.graph.scope import Item, Number, Ref, Silent, Stop
from recdsl.graph.step import TD, Carry, Loss, Node, StepGraph
from recdsl.graph.types import BOOL, Axis, Type
from recdsl.source import Span
from recdsl.syntax.ast import LossDecl

USE = "td(v, c, discount)"
NAMES = ("v", "c", "discount")
RESERVED = "td"


def build(ev: Evaluator, call: Call, name: str) -> tuple[int, TD]:
    """The node of the loss named `name`, and what it is made of. Raises Stop."""
    given = bind(call, USE)
    if RESERVED in ev.scope.assigned:
        hint = "a `td` loss keeps what it remembers under this name"
        raise Stop(ReservedName(ev.scope.places[RESERVED], RESERVED, "a value", hint))
    value, m = _prediction(ev, call, given["v"]), Maths(ev, call)
    axes = ev.b.type(value).axes
    same = _memory(ev, call, f"{RESERVED}.{name}.same", "input", BOOL, ev.b.constant(True, BOOL))
    seen = _memory(ev, call, f"{RESERVED}.{name}.seen", "held", BOOL, ev.b.constant(True, BOOL))
    before = _memory(ev, call, f"{RESERVED}.{name}.v", "held", Type("float", axes), value)
    cumulant = _given(ev, call, given["c"], value, "c")
    discount = _discount(ev, call, given["discount"], value)
    flag = _wide(ev, same, ev.b.type(discount).axes)
    factor = ev.b.op("where", flag, discount, ev.b.const(0.0, discount))
    ahead = m.bin("*", Ref(factor), Ref(ev.b.op("stop", value)))
    error = ev.node(m.bin("-", m.bin("+", Ref(cumulant), ahead), Ref(before)), call.span)
    error = align.to_axes(ev.b, error, axes)
    half = ev.node(m.bin("*", Number(0.5), m.bin("*", Ref(error), Ref(error))), call.span)
    loss = mean(ev, half, tuple(range(len(axes)))) if axes else half
    loss = ev.b.op("where", seen, loss, ev.b.const(0.0, loss))
    held, marks, joins = (ev.b.nodes[leaf].name for leaf in (before, seen, same))
    return loss, TD(ev.b.used(value), cumulant, discount, factor, error, held, marks, joins)


def check(ctx: Context, carries: Sequence[Carry], losses: Sequence[Loss]) -> None:
    """What needs all of the step: predictions depend on parameters, discounts on none that is learned."""
    nodes = ctx.emit.nodes
    decls = {decl.name.text: decl for decl in ctx.spec.losses}
    for loss in losses:
        if loss.td is None:
            continue
        decl = decls[loss.name]
        if not any(nodes[k].op == "parameter" for k in reached(nodes, carries, [loss])):
            ctx.problems.add(NoPrediction(_place(decl, "v"), _place(decl, "v").text))
        learned = _learned(ctx, carries, loss.td.discount)
        if learned:
            ctx.problems.add(DiscountLearned(_place(decl, "discount"), learned))


def with_traces(graph: StepGraph, trace: float) -> StepGraph:
    """The graph whose `td` losses have eligibility traces with this lambda."""
    if all(loss.td is None for loss in graph.losses):
        return graph
    losses = (replace(loss, td=replace(loss.td, trace=trace)) if loss.td else loss for loss in graph.losses)
    return replace(graph, losses=tuple(losses))


def _prediction(ev: Evaluator, call: Call, item: Item) -> int:
    """The node of v: a float of the step."""
    item = ev.look(item)
    if isinstance(item, Number):
        raise Stop(WrongKind(call.span, "`td`", f"the number {item.value:g}", "it is a value"))
    value = ev.node(item, call.span)
    if not ev.ctx.known(value):
        raise Silent
    if ev.b.type(value).dtype != "float":
        hint = "the first argument is a float that the step computes"
        raise Stop(WrongKind(call.span, "`td`", _kind(ev.b.type(value)), hint))
    return value


def _kind(type: Type) -> str:
    return {"int": "a class or token", "bool": "a condition"}[type.dtype]


def _memory(ev: Evaluator, call: Call, name: str, kind: str, type: Type, source: int) -> int:
    """The leaf of what a step remembers of the one before. Of kind "input" it restarts with a reset."""
    lag = f"{name}[t-1]" if kind == "input" else name
    leaf = ev.b.leaf("carry", lag, type)
    if kind == "held":
        ev.ctx.lasting.add(name)
    ev.ctx.histories[name] = History(name, type, kind, [leaf], call.span, source)
    return leaf


def _given(ev: Evaluator, call: Call, item: Item, value: int, what: str) -> int:
    """The cumulant, with the axes of the prediction; no gradient goes to it."""
    item = ev.look(item)
    if isinstance(item, Number):
        return ev.b.const(float(item.value), value)
    found = ev.floats(ev.node(item, call.span), f"`{what}` of `td`", call.span)
    if found == UNKNOWN:
        raise Silent
    if not align.same_set(ev.b.type(found), ev.b.type(value)):
        raise Stop(LossAxes(call.span, "td", str(ev.b.type(value)), str(ev.b.type(found))))
    return ev.b.op("stop", align.to_axes(ev.b, found, ev.b.type(value).axes))


def _discount(ev: Evaluator, call: Call, item: Item, value: int) -> int:
    """g, along some of the prediction's axes."""
    item = ev.look(item)
    if isinstance(item, Number):
        if not 0 <= item.value <= 1:
            raise Stop(DiscountRange(call.span, f"{item.value:g}"))
        return ev.b.constant(float(item.value))
    found = ev.floats(ev.node(item, call.span), "`discount` of `td`", call.span)
    if found == UNKNOWN:
        raise Silent
    own, axes = ev.b.type(found), ev.b.type(value).axes
    if not set(own.axes) <= set(axes):
        raise Stop(LossAxes(call.span, "td", str(ev.b.type(value)), str(own), "a discount has axes of the value"))
    return ev.b.op("stop", found)


def _wide(ev: Evaluator, flag: int, axes: tuple[Axis, ...]) -> int:
    return ev.b.op("broadcast", flag, axes=axes, at=()) if axes else flag


def _learned(ctx: Context, carries: Sequence[Carry], discount: int) -> str:
    """A trained parameter that a value depends on, in this step or earlier; empty if there is none."""
    nodes, stack, seen = ctx.emit.nodes, [discount], set[int]()
    before = {carry.read: (carry.write, carry.init) for carry in carries}
    while stack:
        place = stack.pop()
        if place in seen:
            continue
        seen.add(place)
        node: Node = nodes[place]
        if node.op == "parameter" and not ctx.parameters[node.name].frozen:
            return node.name
        stack.extend((*node.args, *before.get(place, ())))
    return ""


def _place(decl: LossDecl, name: str) -> Span:
    """Where an argument stands."""
    root = decl.value.root
    keywords = dict(root.keywords)
    at = NAMES.index(name)
    index = keywords.get(name, root.args[at] if at < len(root.args) else None)
    return decl.value.span if index is None else decl.value.nodes[index].span
