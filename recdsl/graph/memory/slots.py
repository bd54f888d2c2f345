"""A store as carried states of the step: a fixed number of slots (semantics 1.1, M1).

A read becomes an equation `past.read = ...` and the write one for `past.value`, `past.key` and what says where the next
item goes, so order, types and places are found as for any other equation. Keys and values are states with an axis
`past.slot` in front; slots that are not written hold what they held, so every credit rule applies as it stands.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from recdsl.errors.memory import OneNumber
from recdsl.graph import align
from recdsl.graph.calls import Call
from recdsl.graph.context import Context
from recdsl.graph.emit import UNKNOWN
from recdsl.graph.expressions import Evaluator
from recdsl.graph.memory.attended import Attended, at_steps, attended
from recdsl.graph.memory.evict import Slots, state_types
from recdsl.graph.memory.store import Read, Store
from recdsl.graph.scope import Item, Ref, Results, Silent, Stop
from recdsl.graph.step import Memory, Note
from recdsl.graph.types import BOOL, FLOAT, Axis, Type
from recdsl.source import Span
from recdsl.syntax.ast import Equation, Expression, Name, Node


@dataclass(frozen=True)
class Lowering:
    """One store as equations. Those that write come last in a step; only they see targets."""

    store: Store

    # -- names ----------------------------------------------------------------------------------------------------
    @property
    def slot(self) -> Axis:
        """The axis of slots, one more where a read may select a slot of zeros."""
        assert self.store.slots is not None
        extra = any(read.null_slot for read in self.store.reads)
        return Axis(f"{self.store.name}.slot", self.store.slots + extra)

    @property
    def parts(self) -> tuple[str, ...]:
        """The last parts of the states' names."""
        items = ("value",) if self.store.write.key is None else ("value", "key")
        return (*items, *state_types(self.store, self.slot))

    def state(self, part: str) -> str:
        return f"{self.store.name}.{part}"

    @property
    def used(self) -> bool:
        """Whether the weights of reads are remembered."""
        return self.store.evict.kind == "least_used"

    # -- equations ------------------------------------------------------------------------------------------------
    def equations(self) -> tuple[Equation, ...]:
        """Reads, then the write."""
        return (*(self._reading(read) for read in self.store.reads), self._writing())

    def _carried(self) -> dict[str, Expression]:
        """What the slots held before the step."""
        place = self.store.span
        return {part: leaf("delay", (self.state(part), 1), place) for part in self.parts}

    def _reading(self, read: Read) -> Equation:
        targets = [read.name, f"{read.name}.weights"] if self.used else [read.name]
        return equation(targets, read.name, {"query": read.query, **self._carried()}, read.span)

    def _writing(self) -> Equation:
        write, given = self.store.write, self._carried()
        given["new_value"] = write.value
        optional = {"new_key": write.key, "when": write.when, "new_priority": self.store.evict.priority}
        given |= {name: value for name, value in optional.items() if value is not None}
        for k, read in enumerate(self.store.reads if self.used else ()):
            given[f"weights{k}"] = leaf("name", f"{read.name}.weights", self.store.span)
        return equation([self.state(part) for part in self.parts], self.state("write"), given, write.span)

    def declare(self, ctx: Context) -> None:
        """What calls of these equations mean, and the states whose types are known beforehand."""
        for part, type in state_types(self.store, self.slot).items():
            ctx.inferred[self.state(part)] = type
        for read in self.store.reads:
            ctx.handlers[read.name] = lambda ev, call, read=read: self._read(ev, call, read)
        ctx.handlers[self.state("write")] = self._write
        if self.store.life == "stream":
            ctx.lasting.update(self.state(part) for part in self.parts)

    # -- reading --------------------------------------------------------------------------------------------------
    def _read(self, ev: Evaluator, call: Call, read: Read) -> Item:
        b, values = ev.b, given(ev, call)
        held = values["value"]
        if ev.ctx.optimistic:
            known = ev.ctx.known(held)
            item = b.constant(0.0, Type("float", b.type(held).axes[1:])) if known else UNKNOWN
            return Results((item, b.constant(0.0, Type("float", (self.slot,))))) if self.used else Ref(item)
        if UNKNOWN in values.values():
            raise Silent
        query = ev.floats(values["query"], "the query", read.query.span)
        keys = values["value"] if self.store.write.key is None else values["key"]
        b.span = read.span
        slots = Slots(b, self.store, self.slot, values)
        made = Attended(self.store.name, read, held, keys, query)
        item, weights = attended(ev, made, lambda: (slots.held(null=read.null_slot), slots.order))
        return Results((item, weights)) if self.used else Ref(item)

    # -- writing --------------------------------------------------------------------------------------------------
    def _write(self, ev: Evaluator, call: Call) -> Item:
        values, write = given(ev, call), self.store.write
        fresh = {"value": ev.floats(values["new_value"], "a stored value", write.value.span)}
        if write.key is not None:
            fresh["key"] = ev.floats(values["new_key"], "a stored key", write.key.span)
        if ev.ctx.optimistic:
            return Results(tuple(self._assumed(ev, part, fresh) for part in self.parts))
        if UNKNOWN in (*values.values(), *fresh.values()):
            raise Silent
        priority = self._scalar(ev, values, "new_priority", FLOAT, self.store.evict.priority)
        ev.b.span = write.span
        wrote = self._condition(ev, values)
        slots = Slots(ev.b, self.store, self.slot, values)
        hit = slots.target(priority)
        if wrote is not None:
            hit = ev.b.op("and", hit, slots.wide(wrote))
        made = {part: self._stored(ev, hit, item, values[part]) for part, item in fresh.items()}
        made |= slots.next(hit, wrote, self._usage(ev, values), priority)
        return Results(tuple(made[part] for part in self.parts))

    def _assumed(self, ev: Evaluator, part: str, fresh: Mapping[str, int]) -> int:
        """In a pass that looks for types: something of the state's type, where that is known."""
        if part not in fresh:
            return ev.b.constant(0.0, state_types(self.store, self.slot)[part])
        if not ev.ctx.known(fresh[part]):
            return UNKNOWN
        return ev.b.constant(0.0, Type("float", (self.slot, *ev.b.type(fresh[part]).axes)))

    def _stored(self, ev: Evaluator, hit: int, item: int, old: int) -> int:
        """The state with an item in the slot that is hit."""
        b, axes = ev.b, ev.b.type(old).axes
        own = b.type(item).axes
        item = item if own == axes[1:] else align.to_axes(b, item, axes[1:])
        wide = b.op("broadcast", item, axes=axes, at=tuple(range(1, len(axes))))
        where = b.op("broadcast", hit, axes=axes, at=(0,)) if len(axes) > 1 else hit
        return b.op("where", where, wide, old)

    def _condition(self, ev: Evaluator, values: Mapping[str, int]) -> int | None:
        """bool: whether the step writes; None: each one does."""
        write = self.store.write
        due = None if write.every == 1 else at_steps(ev, write.every)
        when = self._scalar(ev, values, "when", BOOL, write.when)
        return ev.b.op("and", due, when) if due is not None and when is not None else due if when is None else when

    def _scalar(
        self, ev: Evaluator, values: Mapping[str, int], name: str, wanted: Type, at: Expression | None
    ) -> int | None:
        """A condition or a number of the sample. Raises Stop for anything else."""
        if at is None:
            return None
        found = ev.b.type(values[name])
        if found != wanted:
            option, what = ("when", "a condition") if wanted == BOOL else ("lowest", "a number")
            hint = "compare first, as in `x > 0`" if wanted == BOOL else "sum or average over its axes"
            raise Stop(OneNumber(at.span, option, str(found), what, hint))
        return values[name]

    def _usage(self, ev: Evaluator, values: Mapping[str, int]) -> int | None:
        """The sum of the weights of all reads."""
        found = [value for name, value in values.items() if name.startswith("weights")]
        total = found[0] if found else None
        for value in found[1:]:
            assert total is not None
            total = ev.b.op("add", total, value)
        return total

    # -- what the rest of the compiler is told --------------------------------------------------------------------
    def summary(self, ctx: Context) -> Memory:
        """The store as the step graph keeps it."""
        parts = [self.state(part) for part in ("value", "key") if part in self.parts]
        items = [ctx.emit.type(ctx.values[name]).numel for name in parts]
        recalls = tuple(ctx.recalls.get(self.store.name, ()))
        notes = notes_on(self.store)
        size = sum(items) // self.slot.size
        return Memory(
            self.store.name, self.slot.size, self.store.life, size, tuple(parts), recalls, notes, self.store.span
        )


def notes_on(store: Store) -> tuple[Note, ...]:
    """What a user should know about reads that are legal."""
    return tuple(Note(text, read.span, read.normalise != "mean") for read in store.reads for text in _notes(read))


def _notes(read: Read) -> list[str]:
    """Why a read that is legal may teach less than is hoped for."""
    shift, one = read.shift, 2 if read.shift.kth else 1
    if read.normalise == "shifted_relu" and read.select.kind == "topk" and read.select.number <= one:
        if shift.floor or shift.underfull in ("raw", "softmax"):
            return [f"at most one slot of `{read.name}` has a weight, about 1: scorer and query learn little from it"]
        return [f"the one slot that `{read.name}` gives has weight 1, so its scorer and query get no gradient"]
    if read.normalise == "mean":
        return [f"the weights of `{read.name}` are equal, so its keys and query get no gradient"]
    return []


def given(ev: Evaluator, call: Call) -> dict[str, int]:
    """The operands of a read or write, by name."""
    return {name: ev.node(item, call.span) for name, item in call.keywords.items()}


def leaf(kind: str, value: str | tuple[str, int], span: Span) -> Expression:
    return Expression((Node(kind, value, (), (), span),))


def equation(targets: Sequence[str], call: str, given: Mapping[str, Expression], span: Span) -> Equation:
    """`targets = call(name=..., ...)`."""
    nodes: list[Node] = []
    keywords: list[tuple[str, int]] = []
    for name, expression in given.items():
        base = len(nodes)
        for node in expression.nodes:
            args = tuple(k + base for k in node.args)
            words = tuple((word, k + base) for word, k in node.keywords)
            nodes.append(replace(node, args=args, keywords=words))
        keywords.append((name, len(nodes) - 1))
    nodes.append(Node("call", call, (), tuple(keywords), span))
    return Equation(tuple(Name(target, span) for target in targets), Expression(tuple(nodes)), span)
