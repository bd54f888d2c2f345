"""Credit through stores that last as long as the model: what of it a verdict keeps, and what it drops.

The rows of such a store are constants of a call. The derivative that a verdict speaks of is that of the call's losses
by one shift of the parameters of all calls whose items the store holds: what a row holds depends on parameters too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from recdsl.credit.plan import Dropped, Row, StoreCredit
from recdsl.credit.verdict import Case, Judge
from recdsl.graph.step import Memory, StepGraph, Written

CALL = 1
"""The smallest lag, in steps, of what an earlier call has written."""


def kept(graph: StepGraph, memory: Memory) -> tuple[str, ...]:
    """The leaves of a store: its rows, and what says which of them hold something."""
    return tuple(p.name for p in graph.parameters if p.span is None and p.name.startswith(f"{memory.name}."))


def across_calls(judge: Judge, case: Case, row: Row, stores: Sequence[StoreCredit]) -> Row:
    """The row of a parameter, with what reaches the call's losses through rows that earlier calls have written."""
    start = judge.graph.leaf.get(f"parameter:{case.parameter}")
    if start is None or not stores:
        return row
    credits = {store.memory: store for store in stores}
    reached = judge.flow.forward([start])
    for memory, made in _live(judge, case):
        if made.item in reached:
            row = _dropped(judge, row, made, credits[memory.name])
    return row


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
    """A row whose paths through one part of a store are dropped."""
    span = store.span
    edge = Dropped(f"{made.output} -> {judge.graph.nodes[made.slots].name}", span.line if span else None, span)
    first = CALL if row.first_dropped_lag is None else min(CALL, row.first_dropped_lag)
    known = tuple(dict.fromkeys((*row.dropped, edge)))
    words = () if row.longest_kept_lag is not None or row.flops or "no-credit" in row.qualifiers else ("no-credit",)
    return replace(row, verdict="biased", first_dropped_lag=first, dropped=known, qualifiers=(*row.qualifiers, *words))
