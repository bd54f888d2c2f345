"""A store without bound as a tape: what each step writes stays where it is, and reads fetch the best slots.

Nothing is copied from step to step: the tape is the sequence of what was written, `nearest` finds the places of the
slots that take part, `fetch` brings them, and the rest of a read is what it is for a store of so few slots. Credit goes
back to the steps that the slots come from (semantics 1.1, M2: skip edges).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recdsl.errors.keys import NotSupported
from recdsl.graph import align
from recdsl.graph.calls import Call
from recdsl.graph.context import Context
from recdsl.graph.emit import UNKNOWN
from recdsl.graph.expressions import Evaluator
from recdsl.graph.memory.attended import Attended, attended, fetched
from recdsl.graph.memory.cached import cached, compared
from recdsl.graph.memory.scores import Compared
from recdsl.graph.memory.slots import Lowering, equation, given, leaf, notes_on
from recdsl.graph.memory.store import Read, Store
from recdsl.graph.scope import Item, Ref, Results, Silent, Stop
from recdsl.graph.step import Memory, Note
from recdsl.graph.types import FLOAT, Axis, Type
from recdsl.syntax.ast import Equation, Expression

COUNTS = ("stamp", "count", "age")
"""When each slot was written, how many steps there were, and how many since the last reset."""


def refuse(store: Store) -> None:
    """Raises Stop for what a tape cannot do, at the read that asks for it."""
    many = "write a number of slots: as many as a sequence has writes keep all"
    for read in store.reads:
        if read.select.kind != "topk":
            advice = f"select `topk(k)`, of which credit and memory need k slots a step; or {many}"
            raise Stop(NotSupported(read.span, f"select: {read.select.kind}` of `slots: unbounded", advice))
        if read.null_slot:
            raise Stop(NotSupported(read.span, "null_slot` of `slots: unbounded", many))
    if store.evict.kind != "oldest":
        advice = "a store without bound throws nothing away: leave `evict` out, or write a number of slots"
        raise Stop(NotSupported(store.span, f"evict: {store.evict.kind}` of `slots: unbounded", advice))
    if store.life != "sequence":
        advice = f"a store without bound lasts one call and one sequence: `life: sequence`; or {many}"
        raise Stop(NotSupported(store.span, f"life: {store.life}` of `slots: unbounded", advice))


@dataclass(frozen=True)
class Tape(Lowering):
    """One store as equations; its states are tapes, which have the type of one slot."""

    def axis(self, read: Read) -> Axis:
        """The slots that a read fetches: those selected, and one more that says whether there are more."""
        return Axis(f"{self.store.name}_slot", int(read.select.number) + (read.normalise == "shifted_relu"))

    @property
    def parts(self) -> tuple[str, ...]:
        items = ("value",) if self.store.write.key is None else ("value", "key")
        return (*items, *(_cache(read) for read in self.store.reads), *COUNTS)

    @property
    def used(self) -> bool:
        return False

    def declare(self, ctx: Context) -> None:
        for part in COUNTS:
            ctx.inferred[self.state(part)] = FLOAT
        for read in self.store.reads:
            ctx.handlers[read.name] = lambda ev, call, read=read: self._fetched(ev, call, read)
        ctx.handlers[self.state("write")] = self._appended
        ctx.lasting.add(self.state("count"))
        taped = [part for part in self.parts if part not in COUNTS]
        ctx.taped.update(dict.fromkeys(map(self.state, taped), "tape"), **{self.state("stamp"): "stamp"})

    def _writing(self) -> Equation:
        write, operands = self.store.write, self._carried()
        operands["new_value"] = write.value
        optional: Mapping[str, Expression | None] = {"new_key": write.key, "when": write.when}
        operands |= {name: value for name, value in optional.items() if value is not None}
        return equation([self.state(part) for part in self.parts], self.state("write"), operands, write.span)

    def _carried(self) -> dict[str, Expression]:
        place = self.store.span
        return {part: leaf("delay", (self.state(part), 1), place) for part in self.parts}

    # -- reading --------------------------------------------------------------------------------------------------
    def _fetched(self, ev: Evaluator, call: Call, read: Read) -> Item:
        b, values = ev.b, given(ev, call)
        tape = values["value"]
        if ev.ctx.optimistic:
            known = ev.ctx.known(tape)
            return Ref(b.constant(0.0, Type("float", b.type(tape).axes)) if known else UNKNOWN)
        if UNKNOWN in values.values():
            raise Silent
        query = ev.floats(values["query"], "the query", read.query.span)
        b.span = read.span
        keyed = values["value"] if self.store.write.key is None else values["key"]
        axis = self.axis(read)
        others, body = compared(Compared(ev.ctx, read, self.store.name, keyed, query), b.type(keyed))
        since = b.op("sub", values["count"], values["age"])
        every = self.store.write.every
        known = (values[_cache(read)], values["stamp"], since, *others)
        place = b.op("nearest", *known, axis=axis, body=body, every=every)
        rows = b.op("fetch", tape, place, axis=axis)
        keys = rows if keyed == tape else b.op("fetch", keyed, place, axis=axis)
        item, _ = attended(ev, Attended(self.store.name, read, rows, keys, query), lambda: fetched(b, place))
        return Ref(item)

    # -- writing --------------------------------------------------------------------------------------------------
    def _appended(self, ev: Evaluator, call: Call) -> Item:
        values, write = given(ev, call), self.store.write
        fresh = {"value": ev.floats(values["new_value"], "a stored value", write.value.span)}
        if write.key is not None:
            fresh["key"] = ev.floats(values["new_key"], "a stored key", write.key.span)
        keyed = fresh.get("key", fresh["value"])
        for read in self.store.reads:
            made = Compared(ev.ctx, read, self.store.name, keyed, UNKNOWN)
            fresh[_cache(read)] = cached(made) if ev.ctx.known(keyed) else UNKNOWN
        if ev.ctx.optimistic:
            return Results(tuple(self._guess(ev, part, fresh) for part in self.parts))
        if UNKNOWN in (*values.values(), *fresh.values()):
            raise Silent
        b = ev.b
        b.span = write.span
        wrote, count = self._condition(ev, values), values["count"]
        stamp = count if wrote is None else b.op("where", wrote, count, b.const(-1.0, count))
        made = {part: self._slot(ev, item, values[part]) for part, item in fresh.items()}
        made["stamp"] = b.op("append", values["stamp"], stamp)
        made |= {part: b.op("add", values[part], b.const(1.0, values[part])) for part in ("count", "age")}
        return Results(tuple(made[part] for part in self.parts))

    def _guess(self, ev: Evaluator, part: str, fresh: Mapping[str, int]) -> int:
        """In a pass that looks for types: something of the type of a slot."""
        if part not in fresh:
            return ev.b.constant(0.0, FLOAT)
        if not ev.ctx.known(fresh[part]):
            return UNKNOWN
        return ev.b.constant(0.0, Type("float", ev.b.type(fresh[part]).axes))

    def _slot(self, ev: Evaluator, item: int, tape: int) -> int:
        axes = ev.b.type(tape).axes
        same = ev.b.type(item).axes == axes
        return ev.b.op("append", tape, item if same else align.to_axes(ev.b, item, axes))

    def summary(self, ctx: Context) -> Memory:
        parts = [part for part in self.parts if part not in COUNTS]
        size = sum(ctx.emit.type(ctx.values[self.state(part)]).numel for part in parts)
        recalls = tuple(ctx.recalls.get(self.store.name, ()))
        states = tuple(self.state(part) for part in ("value", "key") if part in parts)
        lasting = f"`{self.store.name}` holds what one call has written: no part of `.state`, and empty at the next"
        notes = (*notes_on(self.store), Note(lasting, self.store.span))
        return Memory(self.store.name, 0, self.store.life, size, states, recalls, notes, self.store.span)


def _cache(read: Read) -> str:
    """The part of a store that holds what a read's scores need of each slot."""
    return f"{read.name.rpartition('.')[2]}.cache"
