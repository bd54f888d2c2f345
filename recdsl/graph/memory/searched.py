"""One store for all samples whose reads select `topk(k)`: a search finds the rows, and they alone enter the step.

Scores of all slots are made by the search, which has no derivative and keeps nothing; the rows that it finds are scored
again, and their weights are those of `weights.py`. So what a step keeps for a backward pass does not grow with the
number of slots, nor does the gradient of the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from importlib.util import find_spec

from recdsl.errors.keys import NotSupported
from recdsl.errors.memory import NoEffect, NoIndex
from recdsl.graph.calls import Call
from recdsl.graph.context import Context
from recdsl.graph.emit import UNKNOWN
from recdsl.graph.expressions import Evaluator
from recdsl.graph.memory.attended import Attended, attended, fetched
from recdsl.graph.memory.common import Common
from recdsl.graph.memory.scores import Compared
from recdsl.graph.memory.slots import given
from recdsl.graph.memory.store import Read, Store
from recdsl.graph.scope import Item, Ref, Results, Silent, Stop
from recdsl.graph.step import Memory, Written
from recdsl.graph.types import Axis, Type
from recdsl.syntax.ast import Equation, Name


def searchable(store: Store) -> bool:
    """Whether every read of a store for all samples fetches some of its rows."""
    assert store.slots is not None
    return all(r.select.kind == "topk" and r.select.number < store.slots and not r.null_slot for r in store.reads)


@dataclass(frozen=True)
class Searched(Common):
    """One store as equations; see `Common`."""

    def axis(self, read: Read) -> Axis:
        """The rows that a read fetches: those selected, and one more that says whether there are more."""
        return Axis(f"{read.name}.row", int(read.select.number) + (read.normalise == "shifted_relu"))

    def _reading(self, read: Read) -> Equation:
        made = super()._reading(read)
        if not self.used:
            return made
        place = Name(f"{read.name}.place", read.span)
        return Equation((*made.targets, place), made.value, made.span)

    def _read(self, ev: Evaluator, call: Call, read: Read) -> Item:
        b, values = ev.b, given(ev, call)
        table, axis = values["value"], self.axis(read)
        if ev.ctx.optimistic:
            item = b.constant(0.0, Type("float", b.type(table).axes[1:])) if ev.ctx.known(table) else UNKNOWN
            weights, place = b.constant(0.0, Type("float", (axis,))), b.constant(-1, Type("int", (axis,)))
            return Results((item, weights, place)) if self.used else Ref(item)
        if UNKNOWN in values.values():
            raise Silent
        query = ev.floats(values["query"], "the query", read.query.span)
        b.span = read.span
        keyed = table if self.store.write.key is None else values["key"]
        place = self._search(ev, read, values, keyed, query)
        rows = b.op("gather_rows", table, place, axis=axis)
        keys = rows if keyed == table else b.op("gather_rows", keyed, place, axis=axis)
        made = Attended(self.store.name, read, rows, keys, query)
        item, weights = attended(ev, made, lambda: fetched(b, place))
        return Results((item, weights, place)) if self.used else Ref(item)

    def _search(self, ev: Evaluator, read: Read, values: Mapping[str, int], keys: int, query: int) -> int:
        """The places of the rows with the highest scores, [row]."""
        made = Compared(ev.ctx, read, self.store.name, keys, query)
        others = OTHERS[read.score.kind](made)
        aged = "age" in self.parts
        known = (keys, values["count"], *((values["age"],) if aged else ()), *others)
        return ev.b.op("lookup", *known, axis=self.axis(read), score=read.score.kind, read=read.name, aged=aged)

    def summary(self, ctx: Context) -> Memory:
        made, indexes, on_disk = super().summary(ctx), self._indexes(), self.store.on_disk
        places = [Written("place", ctx.values[name], name) for name in self._places()]
        return replace(
            made,
            written=(*made.written, *places),
            searched=True,
            on_disk=on_disk,
            indexes=indexes,
            place=self.store.place,
        )

    def _indexes(self) -> tuple[tuple[str, str, int, int, int], ...]:
        """(read, score, lists, probes, rows) of each read with an index."""
        return tuple(
            (read.name, read.score.kind, read.index.lists, read.index.probes, self.axis(read).size)
            for read in self.store.reads
            if read.index is not None
        )

    def _places(self) -> list[str]:
        return [f"{read.name}.place" for read in self.store.reads] if self.used else []


def common(store: Store) -> Common:
    """The lowering of a store for all samples. Raises Stop for an index that nothing would use."""
    return Searched(store) if searchable(store) else Common(store)


INDEXED = ("dot", "cosine", "inverse_distance")
"""Scores that are an inner product or a distance, as an index knows them."""


def refuse_index(store: Store) -> None:
    """Raises Stop for an index of a store that is not searched, or of a score that no index knows, or without faiss."""
    for read in store.reads:
        if read.index is None:
            continue
        if store.life != "model" or store.slots is None or not searchable(store):
            hint = "leave it out, or write `life: model` and select `topk(k)`, k below the slots, in all reads"
            raise Stop(NoEffect(read.index.span, "index", "where reads see all rows", hint))
        if read.score.kind not in INDEXED:
            hint = f"leave it out, or choose one of the scores {', '.join(INDEXED)}"
            raise Stop(NoEffect(read.index.span, "index", f"beside `score: {read.score.kind}`", hint))
        if find_spec("faiss") is None:
            raise Stop(NoIndex(read.index.span, "faiss", "pip install 'recdsl[index]'"))


def refuse_disk(store: Store) -> None:
    """Raises Stop for rows on disk of a store that changes from step to step, or whose reads need all rows."""
    if not store.on_disk or (store.life == "model" and store.slots is not None and searchable(store)):
        return
    assert store.storage is not None
    why = "slots: unbounded" if store.slots is None else f"life: {store.life}" if store.life != "model" else "read"
    wanted = "`life: model`, a number of slots, and reads that select `topk(k)` with k below it (no `null_slot`)"
    advice = f"rows on disk need {wanted}; or leave `storage` out"
    raise Stop(NotSupported(store.storage.span, f"storage: disk` beside this `{why}", advice))


OTHERS: Mapping[str, Callable[[Compared], tuple[int, ...]]] = {
    "dot": lambda made: (made.matched(),),
    "cosine": lambda made: (made.matched(),),
    "inverse_distance": lambda made: (made.matched(),),
    "mlp": lambda made: (made.key_matrix(made.key_axes), made.mixed_query(), made.last_weights()),
    "separable": lambda made: (made.key_weights(made.key_axes),),
}
"""What a search needs beside the keys, by score (`recdsl/ops/lookup.py`)."""
