"""Expressions to nodes, in one walk over their post-order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from recdsl.diagnostics import suggest
from recdsl.errors.axes import BadSize, Refused, WrongKind
from recdsl.errors.names import NotConstant, TargetInStep, UnknownName
from recdsl.graph import align, operators
from recdsl.graph.calls import Call
from recdsl.graph.context import Context
from recdsl.graph.emit import UNKNOWN
from recdsl.graph.scope import (
    Argument,
    Function,
    Item,
    Items,
    Parameterised,
    Ref,
    Scope,
    Silent,
    Stop,
    Target,
    Text,
    Word,
)
from recdsl.graph.sizes import LIMIT, Number, Size, literal
from recdsl.graph.types import FLOAT, Type
from recdsl.ops.base import ShapeError
from recdsl.source import Span
from recdsl.syntax.ast import Expression, Node, TypeExpr

CallHandler = Callable[["Evaluator", Call, bool], Item]
DelayHandler = Callable[["Evaluator", str, int, Span], int]


class Evaluator:
    """Evaluates the expressions of one scope. `call` and `delay` are what calls and `h[t-k]` mean there."""

    def __init__(self, ctx: Context, scope: Scope, call: CallHandler, delay: DelayHandler) -> None:
        self.ctx, self.scope, self.b = ctx, scope, ctx.emit
        self.call, self.delay = call, delay

    # walking

    def run(self, expression: Expression) -> Item:
        """The value of an expression. Problems are collected; what they spoil is UNKNOWN."""
        words, items = _keyword_words(expression), list[Item]()
        last = len(expression.nodes) - 1
        for index, node in enumerate(expression.nodes):
            self.b.span = node.span
            items.append(self.guard(node.span, lambda: self._node(node, items, index in words, index == last)))  # noqa: B023
        return items[-1]

    def guard(self, span: Span, work: Callable[[], Item]) -> Item:
        """The item, or UNKNOWN after noting why there is none."""
        try:
            return work()
        except Stop as stop:
            self.ctx.problems.add(stop.problem)
        except ShapeError as error:
            self.ctx.problems.add(Refused(span, error.message, error.hint))
        except Silent:
            pass
        return Ref(UNKNOWN)

    def attempt(self, span: Span, work: Callable[[], None]) -> None:
        """Do the work at a place, or note why it cannot be done."""
        self.b.span = span

        def wrapped() -> Item:
            work()
            return Ref(UNKNOWN)

        self.guard(span, wrapped)

    def _node(self, node: Node, items: Sequence[Item], word: bool, root: bool) -> Item:
        args = [items[arg] for arg in node.args]
        match node.kind:
            case "number":
                assert isinstance(node.value, int | float)
                return literal(node.value)
            case "text":
                return Text(str(node.value))
            case "name":
                found = Word(str(node.value), node.span)
                return found if word else self.look(found)
            case "delay":
                assert isinstance(node.value, tuple)
                return Ref(self.delay(self, *node.value, node.span))
            case "call":
                keywords = {name: items[index] for name, index in node.keywords}
                return self.call(self, Call(str(node.value), tuple(args), keywords, node.span), root)
            case "list":
                return Items(tuple(args))
            case _:
                return operators.apply(self, node, args)

    # names and constants

    def look(self, item: Item) -> Item:
        """What a word stands for; other items are themselves."""
        if not isinstance(item, Word):
            return item
        if item.text == "t":
            return Ref(self.b.leaf("step_number", "t", FLOAT))
        entry = self.scope.names.get(item.text)
        match entry:
            case None if item.text in self.scope.assigned:
                raise Stop(
                    NotConstant(item.span, f"`{item.text}`", "a number or a size here", "it is assigned in the step")
                )
            case None:
                near = suggest(item.text, [*self.scope.known(), "t"])
                raise Stop(UnknownName(item.span, item.text, near or self._place(item.text)))
            case Target():
                if not self.scope.losses:
                    raise Stop(TargetInStep(item.span, item.text))
                return Ref(entry.id)
            case Parameterised() | Argument():
                return Ref(entry.id)
            case _:
                return entry

    def _place(self, name: str) -> str:
        if "." in name:
            return "names with a dot are reads of a memory: `past.read` of the memory `past`"
        inside = " inside the block: pass it as an argument" if self.scope.calls else ""
        return f"declare it under `inputs`, `params` or `sizes`, or assign it in the step{inside}"

    def node(self, item: Item, span: Span) -> int:
        """An item as a value of the step."""
        item = self.look(item)
        match item:
            case Ref():
                return item.id
            case Number():
                return self.b.constant(float(item.value))
            case Function():
                raise Stop(NotConstant(span, f"`{item.name}`", "called here", "it is a function"))
            case _:
                raise Stop(NotConstant(span, "a list or text", "a value here", "join values with `[a; b]`"))

    def number(self, item: Item, what: str, span: Span) -> Number:
        """An item that must be a number known when compiling."""
        item = self.look(item)
        if isinstance(item, Number):
            return item
        if item == Ref(UNKNOWN):
            raise Silent
        raise Stop(NotConstant(span, what, "a number or a size", "only numbers and sizes can stand here"))

    def size(self, item: Item, what: str, span: Span) -> Size:
        """An item that must be a size."""
        number = self.number(item, what, span)
        if number.size and number.size.text.endswith("?"):
            if self.ctx.optimistic:
                return number.size
            raise Silent
        if number.size is None or not 1 <= number.size.value <= LIMIT:
            raise Stop(BadSize(span, what, _counted(number.value)))
        return number.size

    def size_of(self, expression: Expression, what: str) -> Size:
        """The size that an expression is. Raises Stop."""
        seen = len(self.ctx.problems.found)
        item = self.run(expression)
        if len(self.ctx.problems.found) > seen:
            raise Silent
        return self.size(item, what, expression.span)

    def type_of(self, type: TypeExpr) -> Type:
        """A declared type's axes, as floats. Raises Stop."""
        return Type("float", tuple(self.size_of(axis, "the size of an axis").axis for axis in type.axes))

    def axes_named(self, item: Item, span: Span) -> list[str]:
        """The axis names that `axis=` or `over=` is given."""
        items = item.items if isinstance(item, Items) else (item,)
        return [self._axis_name(part, span) for part in items]

    def _axis_name(self, item: Item, span: Span) -> str:
        match item:
            case Word() | Text():
                return self.scope.axis_name(item.text)
            case Number(size=Size() as size):
                return size.text
            case _:
                raise Stop(NotConstant(span, "`axis`", "the name of an axis", "write `axis=hid`"))

    # arithmetic

    def floats(self, value: int, what: str, span: Span) -> int:
        """A value as floats: bools become 0 and 1, integers are refused."""
        if not self.ctx.known(value):
            return UNKNOWN
        type = self.b.type(value)
        if type.dtype == "int":
            raise Stop(WrongKind(span, what, "a class or token", "write `onehot(x)`, or pick a row: `W[vocab=x]`"))
        return self.b.op("to_float", value) if type.dtype == "bool" else value

    def join(self, op: str, items: Sequence[Item], span: Span, what: str, **attrs: Any) -> Ref:
        """An elementwise op of operands aligned by name; numbers take the others' type."""
        found = [self.look(item) for item in items]
        if all(isinstance(item, Number) for item in found):
            found[0] = Ref(self.node(found[0], span))
        values = {
            k: self.floats(self.node(item, span), what, span)
            for k, item in enumerate(found)
            if not isinstance(item, Number)
        }
        wide = self.together(values, what, span)
        if wide is None:
            return Ref(UNKNOWN)
        like = next(iter(wide.values()))
        ids = [self.b.const(item.value, like) if isinstance(item, Number) else wide[k] for k, item in enumerate(found)]
        return Ref(self.b.op(op, *ids, **attrs))

    def together(self, values: Mapping[int, int], what: str, span: Span) -> dict[int, int] | None:
        """The values along the union of their axes; None if that is not known. Unknown ones follow the others."""
        known = [value for value in values.values() if self.ctx.known(value)]
        if not known or (len(known) < len(values) and not self.ctx.optimistic):
            return None
        full = [value if self.ctx.known(value) else known[0] for value in values.values()]
        return dict(zip(values, align.aligned(self.b, full, what, span), strict=True))


def _keyword_words(expression: Expression) -> frozenset[int]:
    """Nodes whose names are not looked up at once: keyword values, and the entries of lists given as such."""
    found: set[int] = set()
    for node in expression.nodes:
        for _, index in node.keywords:
            found.add(index)
            if expression.nodes[index].kind == "list":
                found.update(expression.nodes[index].args)
    return frozenset(found)


def _counted(value: float) -> str:
    """A number that was to be a size, with its digits grouped unless they are too many to read."""
    digits = len(str(abs(int(value)))) - 1
    return f"{value:,}" if digits < 18 else f"more than 10**{digits}" if value > 0 else f"less than -10**{digits}"
