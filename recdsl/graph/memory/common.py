"""One store for all samples, which lasts as long as the model: its rows are no states of a sequence.

Rows stand in a step as leaves that neither steps nor samples change, like parameters: all samples at all steps of a
call read what earlier calls have written. What the call writes is shown by outputs `past.write.value`, and the like; a
runtime puts it into the rows behind the call, the items of the first step first, those of one step by sample.
"""

from __future__ import annotations

from dataclasses import dataclass

from recdsl.graph import align
from recdsl.graph.calls import Call
from recdsl.graph.context import Context
from recdsl.graph.emit import UNKNOWN
from recdsl.graph.expressions import Evaluator
from recdsl.graph.histories import note_type
from recdsl.graph.memory.slots import Lowering, equation, given, notes_on
from recdsl.graph.scope import Item, Results, Silent
from recdsl.graph.step import Memory, Written
from recdsl.graph.types import FLOAT, Type
from recdsl.syntax.ast import Equation, Expression


@dataclass(frozen=True)
class Common(Lowering):
    """One store as equations: `count`, how many items were written as far as that matters, and, where the oldest does
    not go first, `age`, how long ago each was."""

    @property
    def items(self) -> tuple[str, ...]:
        return ("value",) if self.store.write.key is None else ("value", "key")

    @property
    def parts(self) -> tuple[str, ...]:
        return (*self.items, "count") if self.store.evict.kind == "oldest" else (*self.items, "count", "age")

    @property
    def shown(self) -> tuple[str, ...]:
        """What a write shows."""
        write = self.store.write
        when = ("when",) if write.when is not None or write.every > 1 else ()
        return (*self.items, *when, *(("priority",) if self.store.evict.priority is not None else ()))

    def output(self, part: str) -> str:
        return f"{self.state('write')}.{part}"

    def declare(self, ctx: Context) -> None:
        ctx.common.update(self.state(part) for part in self.parts)
        ctx.inferred[self.state("count")] = FLOAT
        if "age" in self.parts:
            ctx.inferred[self.state("age")] = Type("float", (self.slot,))
        for read in self.store.reads:
            ctx.handlers[read.name] = lambda ev, call, read=read: self._read(ev, call, read)
        ctx.handlers[self.state("write")] = self._offer

    def _writing(self) -> Equation:
        write = self.store.write
        optional: dict[str, Expression | None] = {"new_value": write.value, "new_key": write.key, "when": write.when}
        optional["new_priority"] = self.store.evict.priority
        operands = {name: value for name, value in optional.items() if value is not None}
        return equation([self.output(part) for part in self.shown], self.state("write"), operands, write.span)

    def _offer(self, ev: Evaluator, call: Call) -> Item:
        """What the step would write."""
        values, write, b = given(ev, call), self.store.write, ev.b
        fresh = {"value": ev.floats(values["new_value"], "a stored value", write.value.span)}
        if write.key is not None:
            fresh["key"] = ev.floats(values["new_key"], "a stored key", write.key.span)
        if ev.ctx.optimistic:
            for part, item in fresh.items():
                self._note(ev.ctx, part, item)
            return Results(tuple(fresh.get(part, b.constant(0.0, FLOAT)) for part in self.shown))
        if UNKNOWN in (*values.values(), *fresh.values()):
            raise Silent
        b.span = write.span
        made = {part: self._aligned(ev, part, item) for part, item in fresh.items()}
        priority = self._scalar(ev, values, "new_priority", FLOAT, self.store.evict.priority)
        when = self._condition(ev, values)
        made |= {} if when is None else {"when": b.op("to_float", when)}
        made |= {} if priority is None else {"priority": b.op("stop", priority)}
        return Results(tuple(made[part] for part in self.shown))

    def _note(self, ctx: Context, part: str, item: int) -> None:
        """The type of the rows, from that of an item."""
        name = self.state(part)
        if ctx.known(item):
            type = Type("float", (self.slot, *ctx.emit.type(item).axes))
            ctx.unknown.setdefault(name, self.store.span)
            note_type(ctx, name, ctx.emit.constant(0.0, type))

    def _aligned(self, ev: Evaluator, part: str, item: int) -> int:
        axes = ev.ctx.inferred[self.state(part)].axes[1:]
        return item if ev.b.type(item).axes == axes else align.to_axes(ev.b, item, axes)

    def summary(self, ctx: Context) -> Memory:
        leaves = {node.name: node.id for node in ctx.emit.nodes if node.op == "parameter"}
        written = [
            Written(part, ctx.values[self.output(part)], self.output(part), leaves.get(self.state(part), -1))
            for part in self.shown
        ]
        if self.used:
            reads = [f"{read.name}.weights" for read in self.store.reads]
            written += [Written("used", ctx.values[name], name) for name in reads]
        rows = [self.state(part) for part in self.items]
        entries = sum(ctx.emit.type(leaves[name]).numel for name in rows) // self.slot.size
        recalls, store = tuple(ctx.recalls.get(self.store.name, ())), self.store
        return Memory(
            store.name, self.slots, store.life, entries, tuple(rows), recalls, notes_on(store), store.span,
            tuple(written), store.evict.kind, store.evict.decay, store.write.evaluated, merge=self.merge,
        )  # fmt: skip

    @property
    def merge(self) -> tuple[str, float, float] | None:
        made = self.store.write.merge
        return None if made is None else (made.kind, made.rate, made.within)

    @property
    def slots(self) -> int:
        assert self.store.slots is not None
        return self.store.slots
