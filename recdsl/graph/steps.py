"""A step: equations in the order they need, each bound to its names."""

from __future__ import annotations

from collections.abc import Sequence

from recdsl.diagnostics import suggest
from recdsl.errors.axes import Refused
from recdsl.errors.names import NestedBlock, ResultCount, UnknownFunction
from recdsl.graph import functions, histories, library
from recdsl.graph.blocks import Expansion
from recdsl.graph.calls import Call
from recdsl.graph.context import Context
from recdsl.graph.emit import UNKNOWN
from recdsl.graph.expressions import Evaluator
from recdsl.graph.operators import shown
from recdsl.graph.order import ordered
from recdsl.graph.scope import Function, Item, Ref, Results, Scope, Silent, Stop
from recdsl.ops.base import ShapeError
from recdsl.syntax.ast import Equation, Name


def evaluator(ctx: Context, scope: Scope) -> Evaluator:
    """Evaluates expressions of a scope; block calls are refused."""
    return Evaluator(ctx, scope, _call, histories.read)


def run(ctx: Context, scope: Scope, equations: Sequence[Equation]) -> None:
    """Build all equations of a step."""
    order, stuck, cycles = ordered(equations)
    for problem in cycles:
        ctx.problems.add(problem)
    for equation in stuck:
        scope.names.update({target.text: Ref(UNKNOWN) for target in equation.targets})
    for equation in order:
        assign(ctx, scope, equation)


def assign(ctx: Context, scope: Scope, equation: Equation) -> None:
    """Build one equation and bind its names."""

    def call(ev: Evaluator, call: Call, root: bool) -> Item:
        return _call(ev, call, root, equation)

    ctx.emit.span = equation.span
    scope.losses = equation.value.root.kind == "call" and str(equation.value.root.value).endswith(".write")
    item = Evaluator(ctx, scope, call, histories.read).run(equation.value)
    scope.losses = False
    try:
        results = item.ids if isinstance(item, Results) else (_single(ctx, scope, equation, item),)
    except Silent:
        results = (UNKNOWN,) * len(equation.targets)
    except Stop as stop:
        ctx.problems.add(stop.problem)
        results = (UNKNOWN,) * len(equation.targets)
    for target, value in zip(equation.targets, results, strict=False):
        bind(ctx, scope, target, value)


def _single(ctx: Context, scope: Scope, equation: Equation, item: Item) -> int:
    """The value of an equation that is not a block call."""
    if item == Ref(UNKNOWN):
        raise Silent
    if len(equation.targets) > 1:
        raise Stop(
            ResultCount(
                equation.span, len(equation.targets), shown(equation.value.span), 1, "write one equation for each name"
            )
        )
    return evaluator(ctx, scope).node(item, equation.value.span)


def bind(ctx: Context, scope: Scope, target: Name, value: int) -> None:
    """Give a name its value: in its scope, and in the graph under its full name."""
    full = scope.full(target.text)
    if ctx.optimistic:
        histories.note_type(ctx, full, value)
    ctx.emit.span = target.span
    try:
        value = histories.conform(ctx, value, full, target.span)
    except Stop as stop:
        ctx.problems.add(stop.problem)
        value = UNKNOWN
    except ShapeError as error:
        ctx.problems.add(Refused(target.span, error.message, error.hint))
        value = UNKNOWN
    ctx.emit.name(value, full)
    scope.names[target.text] = Ref(value)
    ctx.values[full] = value


def _call(ev: Evaluator, call: Call, root: bool, equation: Equation | None = None) -> Item:
    """What a call means: an option that names a function, a function, or a block."""
    handler = ev.ctx.handlers.get(call.name)  # a name with a dot: no spec can call it
    if handler is not None:
        return handler(ev, call)
    option = ev.scope.names.get(call.name)
    if isinstance(option, Function):
        call = Call(option.name, call.args, call.keywords, call.span)
    if call.name in functions.FUNCTIONS:
        return functions.apply(ev, call)
    block = library.find(ev.ctx, call.name)
    if block is None:
        near = suggest(call.name, [*functions.FUNCTIONS, *library.names(ev.ctx)])
        raise Stop(UnknownFunction(call.span, call.name, near))
    if not root or equation is None:
        raise Stop(_nested(call, equation))
    if len(equation.targets) > len(block.returns):
        hint = f"it returns {', '.join(name.text for name in block.returns)}"
        raise Stop(ResultCount(equation.span, len(equation.targets), call.name, len(block.returns), hint))
    return Expansion(ev, block, call, evaluator, run, equation.targets[0].span).expand(equation)


def _nested(call: Call, equation: Equation | None) -> NestedBlock:
    """The problem with both lines that the user should write."""
    first = f"inner = {call.span.text}"
    if equation is None or equation.span.source is not call.span.source:
        return NestedBlock(call.span, call.name, first, "... inner ...")
    text, start = equation.span.text, call.span.start - equation.span.start
    second = text[:start] + "inner" + text[start + call.span.end - call.span.start :]
    return NestedBlock(call.span, call.name, first, second)
