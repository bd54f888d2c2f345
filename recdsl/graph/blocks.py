"""Blocks, expanded in place under the name that they are assigned to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from recdsl.diagnostics import Note, suggest
from recdsl.errors.axes import ArgumentType
from recdsl.errors.names import BadCall, NoResult, NotConstant, Recursive, ReservedName, UnknownName
from recdsl.graph import histories, parameters
from recdsl.graph.calls import Call
from recdsl.graph.context import Context
from recdsl.graph.emit import UNKNOWN
from recdsl.graph.expressions import Evaluator
from recdsl.graph.functions import FUNCTIONS
from recdsl.graph.library import find
from recdsl.graph.names import MODULE_NAMES
from recdsl.graph.scope import Argument, Function, Item, Items, Ref, Results, Scope, Silent, Stop, Text, Word
from recdsl.graph.sizes import Number, Size
from recdsl.graph.types import Axis, Type
from recdsl.source import Span
from recdsl.syntax.ast import BlockDecl, Declared, Equation, Expression, Name, ParamDecl

DEPTH = 32
MOST_CALLS = 2_000
Run = Callable[[Context, Scope, Sequence[Equation]], None]
Items_ = Mapping[str, Item]
Option = Number | Text | Function | Items


def define_step(ev: Evaluator, params: Sequence[ParamDecl], step: Sequence[Equation]) -> None:
    """Parameters of a step, and a claim on each name that it assigns."""
    for param in params:
        ev.attempt(param.name.span, lambda: _parameter(ev, param))  # noqa: B023
        ev.scope.names.setdefault(param.name.text, Ref(UNKNOWN))
    for equation in step:
        for target in equation.targets:
            ev.attempt(target.span, lambda: _take(ev, target, "a value"))  # noqa: B023


def _take(ev: Evaluator, name: Name, what: str) -> None:
    """Claim a name that becomes an attribute of a module, or the name of a module with parameters."""
    if name.text in MODULE_NAMES or name.text.startswith(("__", "recdsl_")):
        raise Stop(ReservedName(name.span, name.text, what, "compiled models have an attribute of that name"))
    ev.scope.claim(name)


def _parameter(ev: Evaluator, param: ParamDecl) -> None:
    try:
        _take(ev, param.name, "a parameter")
    except Stop:
        ev.scope.names[param.name.text] = Ref(UNKNOWN)
        raise
    parameters.declare(ev, param)


@dataclass(frozen=True)
class Expansion:
    """One call of a block. `plain` evaluates expressions of a scope, `run` builds a step."""

    ev: Evaluator
    block: BlockDecl
    call: Call
    plain: Callable[[Context, Scope], Evaluator]
    run: Run
    home: Span

    def expand(self, equation: Equation) -> Results:
        """The block's equations under the names that are assigned."""
        self._check()
        scope, block, items = self.ev.scope, self.block, self._items()
        prefix = f"{scope.full(equation.targets[0].text)}."
        if block.fold is None:
            pairs = zip(block.returns, equation.targets, strict=False)
            return self._round(block, items, prefix, {name.text: scope.full(target.text) for name, target in pairs})
        entries = self._option(items[block.fold.text], block.fold.text) if block.fold.text in items else None
        if not isinstance(entries, Items) or not entries.items:
            raise Stop(BadCall(self.call.span, block.name.text, f"`{block.fold.text}=` is not a list", self.usage()))
        found, last = Results(()), len(entries.items) - 1
        for index, entry in enumerate(entries.items):
            chosen = block
            if index == last and block.last:
                chosen = replace(block, step=block.last, params=block.last_params or block.params)
            found = self._round(chosen, {**items, block.fold.text: entry}, f"{prefix}{index}.", {})
            if block.arguments:
                items[block.arguments[0].name.text] = Ref(found.ids[0])
        return found

    def usage(self) -> str:
        """How the block is called."""
        sizes = [f"{n.text}={'...' if default is None else default.span.text}" for n, default in self.block.sizes]
        return f"`{self.block.name.text}({', '.join([*(a.name.text for a in self.block.arguments), *sizes])})`"

    def _check(self) -> None:
        name, calls = self.block.name.text, self.ev.scope.calls
        chain = " -> ".join(f"`{call}`" for call in (*calls, name))
        if name in calls:
            raise Stop(Recursive(self.call.span, name, "calls itself", chain))
        self._count(name, calls, chain)
        assigned = [target.text for equation in (*self.block.step, *self.block.last) for target in equation.targets]
        for result in self.block.returns:
            if result.text not in assigned:
                raise Stop(NoResult(result.span, name, result.text, suggest(result.text, assigned)))

    def _count(self, name: str, calls: tuple[str, ...], chain: str) -> None:
        """Refuse calls without end; the first that is one too many speaks for the others."""
        ctx = self.ev.ctx
        ctx.expanded = ctx.expanded + 1 if calls else 1
        if ctx.expanded > MOST_CALLS + 1:
            raise Silent
        if len(calls) >= DEPTH:
            ctx.expanded = MOST_CALLS + 1
            raise Stop(Recursive(self.call.span, name, f"is nested {len(calls) + 1} deep", "..."))
        if ctx.expanded > MOST_CALLS:
            raise Stop(Recursive(self.call.span, name, f"is one of more than {MOST_CALLS} calls in one", chain))

    def _bad(self, what: str, hint: str = "") -> Stop:
        return Stop(BadCall(self.call.span, self.block.name.text, what, hint or self.usage()))

    def _items(self) -> dict[str, Item]:
        """What was given, by the block's names."""
        arguments = [argument.name.text for argument in self.block.arguments]
        options = [name.text for name, _ in self.block.sizes]
        if len(self.call.args) > len(arguments):
            raise self._bad(f"{len(self.call.args)} positional arguments, but it takes {len(arguments)}")
        found = dict(zip(arguments, self.call.args, strict=False))
        for keyword, item in self.call.keywords.items():
            if keyword in found:
                raise self._bad(f"`{keyword}` is given twice")
            if keyword not in (*arguments, *options):
                raise self._bad(f"no argument `{keyword}`", suggest(keyword, (*arguments, *options)))
            found[keyword] = item
        for name in arguments:
            if name not in found:
                raise self._bad(f"argument `{name}` is missing")
        return found

    def _round(self, block: BlockDecl, items: Items_, prefix: str, outer: Mapping[str, str]) -> Results:
        """One expansion of the block's step in a scope of its own."""
        ctx = self.ev.ctx
        assigned = frozenset(target.text for equation in block.step for target in equation.targets)
        scope = Scope(prefix, outer=outer, assigned=assigned, calls=(*self.ev.scope.calls, block.name.text))
        scope.home = self.ev.scope.home or self.home
        inner, first, start = self.plain(ctx, scope), len(ctx.problems.found), len(ctx.emit.nodes)
        for name, _ in block.sizes:
            if name.text in items:
                scope.define(name, self._option(items[name.text], name.text))
        for argument in block.arguments:
            self._argument(inner, argument, items[argument.name.text])
        self._defaults(inner)
        define_step(inner, block.params, block.step)
        for state in block.states:
            inner.attempt(state.name.span, lambda: histories.declare(inner, state))  # noqa: B023
        self.run(ctx, scope, block.step)
        if not ctx.optimistic:
            self._blame(first)
            ctx.expansions.append((start, len(ctx.emit.nodes), self.call.span))
        entries = [scope.names.get(name.text) for name in block.returns]
        return Results(tuple(entry.id if isinstance(entry, Ref) else UNKNOWN for entry in entries))

    def _blame(self, first: int) -> None:
        """Problems found inside a block point at the call too; first at the call, if the block is another file's."""
        found, call = self.ev.ctx.problems.found, self.call
        inside, moved = found[first:], set[tuple[str, str]]()
        del found[first:]
        for problem in inside:
            if problem.span.source is call.span.source:
                note = Note(call.span, f"in this call of `{call.name}`")
                found.append(replace(problem, notes=(*problem.notes, note)))
            elif (problem.code, problem.text()) not in moved:  # one cause may show at several places of the block
                moved.add((problem.code, problem.text()))
                note = Note(problem.span, f"here, inside `{call.name}`")
                found.append(replace(problem, span=call.span, notes=(note, *problem.notes)))

    # sizes and options

    def _option(self, item: Item, name: str) -> Option:
        """A keyword's value: a size, a number, the name of a function or block, text, or a list of such."""
        return option(self.ev, item, name, self.call)

    def _defaults(self, inner: Evaluator) -> None:
        """Sizes that were neither given nor bound by an argument."""
        for name, default in self.block.sizes:
            if name.text in inner.scope.names:
                continue
            if default is None:
                raise self._bad(f"`{name.text}=` is missing")
            inner.scope.define(name, option(inner, _default(inner, default), name.text, self.call))

    # arguments

    def _argument(self, inner: Evaluator, declared: Declared, item: Item) -> None:
        """Match an argument's type, which may give names to axes, and define it."""
        ev, kind = self.ev, declared.type.kind
        value = ev.node(item, self.call.span)
        if not ev.ctx.known(value):
            value = self._assumed(inner, declared)
        elif kind in ("token", "class"):
            value = ev.ctx.onehot.get(value, value)
            axis = ev.ctx.index_axis.get(value)
            if axis is None:
                raise self._mismatch(declared, value, "give it a class, token or onehot input")
            self._match(inner, declared, (axis,), value)
        else:
            if kind != "bool":
                value = ev.floats(value, f"argument `{declared.name.text}`", self.call.span)
            elif ev.b.type(value).dtype != "bool":
                raise self._mismatch(declared, value, "compare first, as in `x > 0`")
            self._match(inner, declared, ev.b.type(value).axes, value)
        inner.scope.define(declared.name, Argument(value))

    def _mismatch(self, declared: Declared, value: int, hint: str) -> Stop:
        block, found = self.block.name.text, str(self.ev.b.type(value))
        return Stop(ArgumentType(self.call.span, block, declared.name.text, declared.type.span.text, found, hint))

    def _match(self, inner: Evaluator, declared: Declared, axes: tuple[Axis, ...], value: int) -> None:
        """Axes in order: a name that is free yet takes the axis, others must be it."""
        if len(axes) != len(declared.type.axes):
            hint = f"it has {len(axes)} {'axis' if len(axes) == 1 else 'axes'}, not {len(declared.type.axes)}"
            raise self._mismatch(declared, value, hint)
        for axis, expression in zip(axes, declared.type.axes, strict=True):
            if not _bound(inner.scope, expression, Size(axis.name, axis.size)):
                wanted = inner.size_of(expression, "the size of an axis").axis
                if wanted != axis:
                    text = expression.span.text
                    raise self._mismatch(declared, value, f"`{text}` is `{wanted}` here, not `{axis}`")

    def _assumed(self, inner: Evaluator, declared: Declared) -> int:
        """An argument of unknown type: its declared type where that says all, else unknown, with unknown axes."""
        for axis in declared.type.axes:
            _bound(inner.scope, axis, Size(f"{axis.root.value}?", 0))
        if not self.ev.ctx.optimistic or declared.type.kind != "float":
            return UNKNOWN
        try:
            axes = inner.type_of(declared.type).axes
        except (Stop, Silent):
            return UNKNOWN
        return self.ev.b.constant(0.0, Type("float", axes)) if all(axis.size for axis in axes) else UNKNOWN


def _bound(scope: Scope, expression: Expression, size: Size) -> bool:
    """Give an axis name that is free yet its size."""
    root = expression.root
    if root.kind != "name" or str(root.value) in scope.names:
        return False
    scope.define(Name(str(root.value), root.span), Number(size.value, size))
    return True


def option(ev: Evaluator, item: Item, name: str, call: Call) -> Option:
    """A keyword's value, as a name of the block stands for it."""
    item = _named(ev, item)
    if isinstance(item, Items):  # its words mean what they mean here, wherever the list is passed on to
        return Items(tuple(_single(ev, part, name, call) for part in item.items))
    return _single(ev, item, name, call)


def _named(ev: Evaluator, item: Item) -> Item:
    """What a word stands for, be it the name of a function or block."""
    if not isinstance(item, Word):
        return item
    entry = ev.scope.names.get(item.text)
    if isinstance(entry, Number | Function | Items | Text):
        return entry
    if entry is None and (item.text in FUNCTIONS or find(ev.ctx, item.text)):
        return Function(item.text)
    if entry is None and item.text not in (*ev.scope.assigned, "t"):
        near = suggest(item.text, [*ev.scope.names, *FUNCTIONS])
        raise Stop(UnknownName(item.span, item.text, near or "a size, a number or a function stands here"))
    return ev.look(item)


def _single(ev: Evaluator, item: Item, name: str, call: Call) -> Number | Text | Function:
    item = _named(ev, item)
    if isinstance(item, Number | Text | Function):
        return item
    if item == Ref(UNKNOWN):
        raise Silent
    raise Stop(NotConstant(call.span, f"`{name}`", "a size, a number or a function", f"values go before `{name}=`"))


def _default(inner: Evaluator, default: Expression) -> Item:
    root = default.root
    return Word(str(root.value), root.span) if root.kind == "name" else inner.run(default)
