"""What crosses from step to step: `h[t-k]` of assigned names, of inputs, and of a block's arguments."""

from __future__ import annotations

from recdsl.diagnostics import suggest
from recdsl.errors.axes import InitialVaries, StateType
from recdsl.errors.names import NeverAssigned, NoHistory
from recdsl.graph import align
from recdsl.graph.context import Context, Declaration, History
from recdsl.graph.emit import UNKNOWN
from recdsl.graph.expressions import Evaluator
from recdsl.graph.parameters import initial_value
from recdsl.graph.scope import Argument, Parameterised, Ref, Silent, Stop, Target
from recdsl.graph.step import Carry, Node, Parameter
from recdsl.graph.types import Type
from recdsl.source import Span
from recdsl.syntax.ast import StateDecl

GROWTH = 16
"""How often the inferred axes of one state may change before inference gives up on it."""


def declare(ev: Evaluator, decl: StateDecl) -> None:
    """Register a state's declaration; one outside a block wins over the block's own."""
    full = ev.scope.full(decl.name.text)
    if full in ev.ctx.declared:
        return
    if decl.name.text not in ev.scope.assigned:
        near = suggest(decl.name.text, ev.scope.assigned)
        raise Stop(NeverAssigned(decl.name.span, decl.name.text, near or f"write `{decl.name.text} = ...` in the step"))
    type = None if decl.type is None else ev.type_of(decl.type)
    ev.ctx.declared[full] = Declaration(decl, ev.scope, type)
    if ev.ctx.optimistic and type is not None:  # a block's declaration may come after a read of the state
        ev.ctx.inferred[full] = type
        ev.ctx.changed.extend([full] if full in ev.ctx.unknown else [])


def read(ev: Evaluator, name: str, lag: int, span: Span) -> int:
    """The node for `name[t-lag]`."""
    scope, entry = ev.scope, ev.scope.names.get(name)
    match entry:
        case Target():
            raise Stop(NoHistory(span, name, lag, "a target", "targets are for losses; declare it under `inputs` too"))
        case Parameterised():
            raise Stop(
                NoHistory(span, name, lag, "a parameter", f"parameters do not change from step to step: `{name}`")
            )
        case Argument():
            return _argument(ev, name, entry.id, lag, span)
        case Ref():
            return _state(ev, scope.full(name), lag, span)
        case None if name in scope.assigned or name in ev.ctx.common:
            return _state(ev, scope.full(name), lag, span)
        case None:
            near = suggest(name, scope.known())
            raise Stop(NeverAssigned(span, name, near or f"write `{name} = ...` in the step"))
        case _:
            what = "the step number" if name == "t" else "a size or option"
            raise Stop(NoHistory(span, name, lag, what))


def state_type(ctx: Context, full: str) -> Type | None:
    """A state's type as declared or inferred so far."""
    declared = ctx.declared.get(full)
    return declared.type if declared and declared.type else ctx.inferred.get(full)


def _state(ev: Evaluator, full: str, lag: int, span: Span) -> int:
    ctx = ev.ctx
    type = state_type(ctx, full)
    if type is None:
        value = ctx.values.get(full, UNKNOWN)
        if ctx.known(value):
            if ev.b.type(value).dtype == "int":
                raise Stop(NoHistory(span, full, lag, "a class or token", "assign `onehot(...)` of it"))
            type = ctx.inferred[full] = Type("float", ev.b.type(value).axes)
    if type is None:
        ctx.unknown.setdefault(full, span)
        return UNKNOWN
    if full in ctx.common:
        ctx.parameters[full] = Parameter(full, type, ("constant", (0.0,)), (), True, None)
        return ev.b.leaf("parameter", full, type)
    history = ctx.histories.get(full)
    if history is None or history.type != type:
        history = ctx.histories[full] = History(full, type, "state", [], scope_place(ev, span))
    return _link(ev, history, lag)


def _link(ev: Evaluator, history: History, lag: int) -> int:
    """The leaf that holds the value of `lag` steps ago; those before it are made on the way."""
    while len(history.links) < lag:
        name = link_name(history, len(history.links) + 1)
        history.links.append(ev.b.leaf("carry", name, history.type))
    return history.links[lag - 1]


def scope_place(ev: Evaluator, span: Span) -> Span:
    """Where the user finds a history: at the read, or at the name that the outermost block is assigned to."""
    return ev.scope.home or span


def link_name(history: History, lag: int) -> str:
    return history.name if history.kind in ("state", "held") and lag == 1 else f"{history.name}[t-{lag}]"


def _argument(ev: Evaluator, name: str, value: int, lag: int, span: Span) -> int:
    """An input of the spec, or what a block was given, at an earlier step."""
    if value == UNKNOWN:
        return UNKNOWN
    ctx, source = ev.ctx, ev.ctx.onehot.get(value, value)
    node = ev.b.nodes[source]
    if node.op == "input":
        full, kind = node.name, "input"
    else:
        full, kind, source = f"{ev.scope.prefix}{name}", "state", value
    type = ev.b.type(source)
    history = ctx.histories.get(full)
    if history is None or ctx.optimistic:
        history = ctx.histories[full] = History(full, type, kind, [], scope_place(ev, span), source)
    found = _link(ev, history, lag)
    axis = ctx.index_axis.get(source)
    if axis is None:
        return found
    ctx.index_axis[found] = axis
    return _onehot(ev, found) if value in ctx.onehot else found


def _onehot(ev: Evaluator, index: int) -> int:
    """The one-hot form of a delayed class, made once."""
    found = ev.ctx.delayed.get(index)
    if found is None:
        found = ev.ctx.delayed[index] = ev.b.op("one_hot", index, axis=ev.ctx.index_axis[index])
        ev.ctx.onehot[found] = index
    return found


def conform(ctx: Context, value: int, full: str, span: Span) -> int:
    """The value with the axes of the state that it is assigned to."""
    type = state_type(ctx, full)
    if type is None or not ctx.known(value):
        return value
    found = ctx.emit.type(value)
    if found.dtype == "bool":
        value = ctx.emit.op("to_float", value)
    if found.dtype == "int" or not align.same_set(found, type):
        hint = f"the axes are {type}; sum over the others, or change the declaration"
        raise Stop(StateType(span, full, str(type), str(found), hint))
    return value if found.axes == type.axes else align.to_axes(ctx.emit, value, type.axes)


def note_type(ctx: Context, full: str, value: int) -> None:
    """In an optimistic pass: what is assigned to a state that is read gives its type."""
    declared = ctx.declared.get(full)
    if (declared and declared.type) or not ctx.known(value) or ctx.emit.type(value).dtype == "int":
        return
    if full not in ctx.inferred and full not in ctx.unknown:
        return
    found, before = Type("float", ctx.emit.type(value).axes), ctx.inferred.get(full)
    if before is not None and align.same_set(found, before):
        return
    ctx.growth[full] = ctx.growth.get(full, 0) + 1
    if ctx.growth[full] <= GROWTH:
        ctx.inferred[full] = found
        ctx.changed.append(full)


def carries(ctx: Context, top: Evaluator) -> list[Carry]:
    """All carried components, once every equation has been built."""
    found: list[Carry] = []
    for history in list(ctx.histories.values()):
        value = history.source if history.source != UNKNOWN else ctx.values.get(history.name, UNKNOWN)
        if value == UNKNOWN:
            continue
        try:
            value = value if history.source != UNKNOWN else conform(ctx, value, history.name, history.span)
            init = _initial(ctx, top, history)
        except Stop as stop:
            ctx.problems.add(stop.problem)
            continue
        except Silent:
            continue
        declared = ctx.declared.get(history.name)
        kept = history.name in ctx.lasting or (declared is not None and declared.decl.kept)
        for lag, link in enumerate(history.links, 1):
            kind = "delay" if history.kind == "state" and lag > 1 else history.kind
            kind = ctx.taped.get(history.name, kind)
            name = link_name(history, lag)
            found.append(Carry(name, link, value, init, kind, history.span, resets=not kept))
            value = link
    return found


def _initial(ctx: Context, top: Evaluator, history: History) -> int:
    """The time-invariant node that a history starts from. Raises Stop."""
    ctx.emit.span = history.span
    declared = ctx.declared.get(history.name)
    if declared is None or declared.decl.initial is None:
        start = {"int": -1, "bool": False}.get(history.type.dtype, 0.0)
        return ctx.emit.constant(start, history.type)
    expression = declared.decl.initial
    ev = Evaluator(ctx, declared.scope, top.call, top.delay)
    value = initial_value(ev, expression, history.type)
    if value == UNKNOWN:
        raise Silent
    if _varies(ctx.emit.nodes, value):
        raise Stop(InitialVaries(expression.span, history.name))
    found = ctx.emit.type(value)
    if found.dtype != "float" or not align.same_set(found, history.type):
        hint = f"declare the initial value as {history.type}"
        raise Stop(StateType(expression.span, history.name, str(history.type), f"the initial value {found}", hint))
    return value if found.axes == history.type.axes else align.to_axes(ctx.emit, value, history.type.axes)


def _varies(nodes: list[Node], value: int) -> bool:
    """Whether a value depends on the step."""
    stack, seen = [value], set[int]()
    while stack:
        place = stack.pop()
        if place in seen:
            continue
        seen.add(place)
        if nodes[place].op in ("input", "target", "carry", "step_number"):
            return True
        stack.extend(nodes[place].args)
    return False
