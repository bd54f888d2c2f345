"""Credit through stores that last as long as the model: what of it a verdict keeps, and what it drops.

The rows of such a store are constants of a call. The derivative that a verdict speaks of is that of the call's losses
by one shift of the parameters of all calls whose items the store holds: what a row holds depends on parameters too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from recdsl.credit.plan import Dropped, Row, StoreCredit
from recdsl.credit.verdict import Case, Judge
from recdsl.graph.step import Memory, Written

CALL = 1
"""The smallest lag, in steps, of what an earlier call has written."""


def across_calls(judge: Judge, case: Case, row: Row, stores: Sequence[StoreCredit]) -> Row:
    """The row of a parameter, with what reaches the call's losses through rows that earlier calls have written."""
    start = judge.graph.leaf.get(f"parameter:{case.parameter}")
    if start is None or not stores:
        return row
    credits = {store.memory: store for store in stores}
    reached = _reached(judge, start)
    met = [(credits[memory.name], made) for memory, made in _live(judge, case) if made.item in reached]
    for store, made in met:
        row = _through(judge, case, row, made, store, start)
    items = {made.item for store, made in met if _kept(store, made)}
    flops, _ = judge.stored(start, items)
    _, size = judge.stored(start, {made.item for store, made in met if _kept(store, made) and store.replay is None})
    return replace(row, flops=row.flops + flops, bytes=row.bytes + size)


def _kept(store: StoreCredit, made: Written) -> bool:
    """Whether a part of a store's items gets credit at all."""
    return made.part in store.parts and store.kind not in ("stop", "param")


def _through(judge: Judge, case: Case, row: Row, made: Written, store: StoreCredit, start: int) -> Row:
    """What becomes of a verdict through one part of a store. A window drops what lies further back from the write, or
    between a read and a loss, so `through` is exact for the whole call alone. Where items are made of what was read, it
    drops what goes by way of items that have left."""
    if not _kept(store, made):
        return _dropped(judge, row, made, store)
    words = (*row.qualifiers, *_words(store, made), *_selected(judge, made))
    row = replace(row, qualifiers=tuple(dict.fromkeys(words)))
    whole = case.window.size is None and not case.cuts and not case.altered and not row.rule.startswith("artbp")
    rows = [other.slots for memory in judge.graph.memories for other in memory.rows]
    chained = any(other.item in judge.flow.forward(rows) for memory in judge.graph.memories for other in memory.rows)
    if (store.kind == "through" and whole and not chained) or (at_once(store) and whole):
        return replace(row, longest_kept_lag=None)
    return _dropped(judge, row, made, store)


def at_once(store: StoreCredit) -> bool:
    """Whether what is read gets its own derivative in the pass that finds it."""
    return store.kind == "reinstate" and store.exact and store.replay is not None and store.replay.every == 1


def _words(store: StoreCredit, made: Written) -> tuple[str, ...]:
    replayed = store.replay is not None and made.part == store.replay.part
    late = replayed and store.replay is not None and store.replay.every != 1
    found = {"through": ("drift",), "synthetic": ("predicted",), "corrected": ("predicted",)}.get(store.kind, ())
    return (*found, *(("re-encoded",) if replayed else ()), *(("late",) if late else ()))


def _selected(judge: Judge, made: Written) -> tuple[str, ...]:
    """Which rows get credit depends on the data, where a read selects."""
    reads = [recall for memory in judge.graph.memories for recall in memory.recalls if recall.selective]
    sources = [judge.graph.nodes[source] for recall in reads for source, _ in (*recall.values, *recall.keys)]
    leaves = {node.args[0] if node.op == "gather_rows" else node.id for node in sources}
    return ("if-selected",) if made.slots in leaves else ()


def _reached(judge: Judge, start: int) -> set[int]:
    """What a parameter reaches, in later calls too: what reads an item that it reaches may be part of another item."""
    rows = [made for memory in judge.graph.memories for made in memory.rows]
    starts, found = {start}, judge.flow.forward([start])
    while new := {made.slots for made in rows if made.item in found} - starts:
        starts |= new
        found = judge.flow.forward(starts)
    return found


def _live(judge: Judge, case: Case) -> Iterable[tuple[Memory, Written]]:
    """Rows whose derivative matters to a loss of the call, or to another row that does."""
    rows = [(memory, made) for memory in judge.graph.memories for made in memory.rows]
    ends, found = {judge.graph.losses[k].root for k in case.losses}, list[tuple[Memory, Written]]()
    more = True
    while more:
        live = judge.flow.backward(ends)
        new = [item for item in rows if item[1].slots in live and item not in found]
        found += new
        ends |= {made.item for _, made in new}
        more = bool(new)
    return found


def _dropped(judge: Judge, row: Row, made: Written, store: StoreCredit) -> Row:
    """A row whose paths through one part of a store are dropped, or count otherwise than their derivative says."""
    span = store.span
    edge = Dropped(f"{made.output} -> {judge.graph.nodes[made.slots].name}", span.line if span else None, span)
    first = CALL if row.first_dropped_lag is None else min(CALL, row.first_dropped_lag)
    known = tuple(dict.fromkeys((*row.dropped, edge)))
    without = store.kind in ("stop", "param") and row.longest_kept_lag is None and not row.flops
    words = ("no-credit",) if without and "no-credit" not in row.qualifiers else ()
    return replace(row, verdict="biased", first_dropped_lag=first, dropped=known, qualifiers=(*row.qualifiers, *words))
