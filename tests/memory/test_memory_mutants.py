"""Planted faults in memories, each of which the comparison with the definition must reject."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from memory_support import Options, check

from recdsl.backends.torch import operations
from recdsl.credit import memories
from recdsl.graph.memory import evict, slots, weights

SHIFTED = Options(select="topk", chosen=2, slots=4, normalise="shifted_relu")
Patch = Callable[[pytest.MonkeyPatch], None]


def written_before_it_is_read(patch: pytest.MonkeyPatch) -> None:
    """Self-match: a query meets the item of its own step."""
    plain = slots.Lowering._read

    def read(self: Any, ev: Any, call: Any, own: Any) -> Any:
        if not ev.ctx.optimistic:
            p, b = ev.ctx.values["p"], ev.b
            hit = slots.Slots(b, self.store, self.slot, slots.given(ev, call)).target(None)
            old = call.keywords["value"]
            made = self._stored(ev, hit, p, old.id)
            call = replace(call, keywords={**call.keywords, "value": replace(old, id=made)})
        return plain(self, ev, call, own)

    patch.setattr(slots.Lowering, "_read", read)


def one_less_is_selected(patch: pytest.MonkeyPatch) -> None:
    plain = weights.Weighing.compared

    def compared(self: Any, op: str, value: int, number: float) -> int:
        return plain(self, op, value, number - 1 if op == "lt" and number == 2 else number)

    patch.setattr(weights.Weighing, "compared", compared)


def threshold_one_rank_too_high(patch: pytest.MonkeyPatch) -> None:
    plain = weights._threshold

    def threshold(made: Any) -> int:
        return plain(replace(made, read=replace(made.read, shift=replace(made.read.shift, kth=True))))

    patch.setattr(weights, "_threshold", threshold)


def threshold_without_gradient(patch: pytest.MonkeyPatch) -> None:
    plain = weights._threshold
    patch.setattr(weights, "_threshold", lambda made: made.b.op("stop", plain(made)))


def ranks_across_the_batch(patch: pytest.MonkeyPatch) -> None:
    """The places of another sample's items."""
    patch.setitem(operations.WRITERS, "rank", lambda op, a, attrs: f"ranks({a[0].text}, {a[1].text}, 1).roll(1, 0)")


def newer_before_older(patch: pytest.MonkeyPatch) -> None:
    plain = evict.Slots.order
    patch.setattr(evict.Slots, "order", lambda self: self.b.op("neg", plain(self)))


def nothing_is_ever_evicted(patch: pytest.MonkeyPatch) -> None:
    plain = evict.Slots.target

    def target(self: Any, priority: int | None) -> int:
        full = self.b.op("ge", self.wide(self.states["count"]), self.number(self.size, self.place))
        return self.b.op("and", plain(self, priority), self.b.op("not", full))

    patch.setattr(evict.Slots, "target", target)


def writes_a_step_early(patch: pytest.MonkeyPatch) -> None:
    def every(ev: Any, n: int) -> int:
        t = ev.b.leaf("step_number", "t", slots.FLOAT)
        return ev.b.op("eq", ev.b.op("mod", t, ev.b.const(n, t)), ev.b.const(0.0, t))

    patch.setattr(slots, "at_steps", every)


def stop_forgets_the_keys(patch: pytest.MonkeyPatch) -> None:
    plain = memories.edges
    patch.setattr(memories, "edges", lambda memory, uses: plain(memory, uses - {"key"}))


def stop_takes_the_query_too(patch: pytest.MonkeyPatch) -> None:
    plain = memories.edges
    patch.setattr(memories, "edges", lambda memory, uses: plain(memory, uses | {"query"}))


def sab_cuts_memories(patch: pytest.MonkeyPatch) -> None:
    from recdsl.credit import build

    patch.setattr(build, "spared", lambda *args, **named: frozenset[str]())


STOP = replace(SHIFTED, credit="{past: stop}", stopped=("value", "key"))
SAB = replace(SHIFTED, score="mlp", credit="sab(truncate=3)", grid=3)
FAULTS: list[tuple[Patch, Options]] = [
    (written_before_it_is_read, Options(key=False)),
    (one_less_is_selected, SHIFTED),
    (threshold_one_rank_too_high, SHIFTED),
    (threshold_without_gradient, SHIFTED),
    (ranks_across_the_batch, SHIFTED),
    (nothing_is_ever_evicted, Options()),
    (newer_before_older, Options(evict="least_used(decay=0)", select="topk", chosen=1, slots=4)),
    (writes_a_step_early, replace(SHIFTED, every=2)),
    (stop_forgets_the_keys, STOP),
    (stop_takes_the_query_too, STOP),
    (sab_cuts_memories, SAB),
]


@pytest.mark.parametrize(("fault", "o"), FAULTS, ids=[fault.__name__ for fault, _ in FAULTS])
def test_a_fault_is_found(fault: Patch, o: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    check(o, steps=9, samples=2)
    fault(monkeypatch)
    with pytest.raises(AssertionError):
        check(o, steps=9, samples=2)


def test_the_generated_ranks_are_those_of_the_op() -> None:
    """Ties by age, then by index, along any axis, broadcast or not."""
    from recdsl.backends.torch.ranks import ranks
    from recdsl.graph.types import Axis, Type
    from recdsl.ops import primitive

    type = Type("float", (Axis("a", 5), Axis("b", 4)))
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        x, age = (torch.randint(0, 3, (2, 5, 4), generator=generator).double() for _ in range(2))
        for at in (0, 1):
            found = primitive("rank").value(torch, (x, age), (("at", at),), (type, type))
            assert ranks(x, age, at + 1).equal(found)
            assert ranks(x, age[0], at + 1).equal(
                primitive("rank").value(torch, (x, age[:1].expand(2, 5, 4)), (("at", at),), (type, type))
            )
