"""Stores that last as long as the model: their rows are buffers of the module, written behind each call.

A call reads the rows as earlier calls have left them. Where it reads all of them, it gets new ones in their place, so
that a backward pass still finds what its call has read; where it fetches a few (`searched`), which its functions keep,
rows are written where they are, and what stood there is remembered for as long as a call needs it (`Moment`). The text
of this file is part of every exported model; it needs torch only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recdsl.backends.torch.merging import Table

if TYPE_CHECKING:
    from recdsl.backends.torch.call import Call


def blank(info: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Tensor]:
    """What a store remembers of each slot beside its item: `serial`, the number of the write that it holds (from 1 on;
    0: none), and what its eviction goes by."""
    more = {"least_used": "use", "lowest": "priority"}.get(info["evict"])
    found = {"serial": torch.zeros(info["slots"], dtype=torch.long)}
    return found | ({more: torch.zeros(info["slots"], dtype=dtype)} if more else {})


def offered(call: Call, info: Mapping[str, Any]) -> dict[str, Tensor]:
    """What a call writes, by part, [items, ...]: of all valid steps that count, the first step first, by sample."""
    wanted = call.valid if call.counted is None else call.valid & call.counted
    parts = {part: sequence(call, output) for part, output in info["written"].items()}
    if "when" in parts:
        wanted = wanted & (parts.pop("when") > 0.5)
    chosen = wanted.reshape(-1).nonzero().squeeze(1)
    found = {part: value.reshape(-1, *value.shape[2:]).index_select(0, chosen) for part, value in parts.items()}
    return found | {"place": chosen}


class Moment:
    """What a store held at one moment, as what has been written over it since: of some slots what they held before.

    `rest` is filled when something is written, and leads to the next moment. Who needs a moment keeps it alive, and
    with it those behind it, no others.
    """

    def __init__(self) -> None:
        self.rest: tuple[Tensor, dict[str, Tensor], Moment] | None = None

    def __deepcopy__(self, memo: Any) -> Moment:
        return Moment()

    def written(self, slots: Tensor, old: dict[str, Tensor]) -> Moment:
        """The moment behind a write. old: what the slots held, by part."""
        self.rest = slots, old, Moment()
        return self.rest[2]

    def later(self) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """What was written over since, the first write first."""
        at = self
        while at.rest is not None:
            slots, old, at = at.rest
            yield slots, old

    def rows(self, now: Tensor, part: str, slots: Tensor) -> Tensor:
        """What some slots held. now: what all of them hold now."""
        found = now[slots]
        for gone, old in reversed(list(self.later())):
            if part in old and len(gone) and len(slots):
                ordered, place = gone.sort()
                at = torch.searchsorted(ordered, slots).clamp_max(len(ordered) - 1)
                hit = (ordered[at] == slots).nonzero().squeeze(1)
                found[hit] = old[part][place[at[hit]]]
        return found


@dataclass(frozen=True)
class Column:
    """One part of a store that is written in place, as it was at a moment: `column[slots]`."""

    model: Any
    name: str
    part: str
    moment: Moment

    def __getitem__(self, slots: Tensor) -> Tensor:
        return self.moment.rows(self.model.recdsl_tensor(self.name), self.part, slots)

    def written(self) -> Tensor:
        """The slots that have been written since, in ascending order."""
        slots = [slots for slots, _ in self.moment.later()]
        return torch.cat(slots).unique() if slots else torch.zeros(0, dtype=torch.long)


def sequence(call: Call, k: int) -> Tensor:
    """An output at all steps, [time, batch, *axes]."""
    value: Tensor = call.data[f"out{k}"].detach()
    return value.expand(call.steps, call.size, *value.shape) if call.fixed(k) else value


def write(call: Call, name: str, info: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    """Put what a call offers into new rows. Gives (slot, place): which slot holds the item of which place among the
    call's steps and samples. Raises ValueError for what is not finite: one such row would reach every search."""
    model, items = call.model, offered(call, info)
    for part in info["rows"]:
        if not bool(torch.isfinite(items[part]).all()):
            raise ValueError(f"what is written to the memory {name!r} is not finite ({part})")
    if info["used"]:
        items["used"] = used(call, info)
    kept = {part: model.recdsl_tensor(f"{name}.{part}") for part in info["kept"]}
    keeper = model.recdsl_keepers[name]
    table = tabled(call, name, info, items) if info["merge"] else None
    slots, order, fresh = CHOOSERS[info["evict"]](kept, items, info, table)
    if info["searched"]:
        rows = {part: items[part].index_select(0, order) for part in info["rows"]}
        keeper.overwrite(call, slots, rows | {"serial": fresh.pop("serial")}, keeper.columns)
    else:
        for part in info["rows"]:
            old = model.recdsl_tensor(f"{name}.{part}")
            fresh[part] = old.index_copy(0, slots, items[part].index_select(0, order).to(old.dtype))
        fresh["serial"] = kept["serial"].index_copy(0, slots, fresh["serial"])
    for part, value in fresh.items():
        model.recdsl_replace(f"{name}.{part}", value)
    if table is not None:
        changed, values = table.revised()
        keeper.revise(call, changed, {"value": values})
    return slots, items["place"].index_select(0, order)


def tabled(call: Call, name: str, info: Mapping[str, Any], items: Mapping[str, Tensor]) -> Table:
    """What becomes of items whose keys are stored."""
    keys, values, serial = (call.model.recdsl_tensor(f"{name}.{part}") for part in ("key", "value", "serial"))
    some = slice(0, info["slots"])  # behind them there may be the slot of zeros
    return Table(info["merge"], keys[some], values[some], serial, {part: items[part] for part in ("key", "value")})


def used(call: Call, info: Mapping[str, Any]) -> Tensor:
    """What the reads of a call weigh each slot by, summed over its valid steps, [slots]."""
    if not info["searched"]:
        parts = [sequence(call, k)[call.valid].sum(0)[: info["slots"]] for k in info["used"]]
        return torch.stack(parts).sum(0)
    total = call.like.new_zeros(info["slots"])
    for weights, places in zip(info["used"], info["places"], strict=True):
        place = sequence(call, places)[call.valid].reshape(-1)
        total.index_add_(0, place.clamp_min(0), sequence(call, weights)[call.valid].reshape(-1) * (place >= 0))
    return total


Chosen = tuple[Tensor, Tensor, dict[str, Tensor]]
"""Slots that are written; which item goes to each; what is new beside rows: `serial` of these slots, else of all."""


def _oldest(
    kept: Mapping[str, Tensor], items: Mapping[str, Tensor], info: Mapping[str, Any], table: Table | None
) -> Chosen:
    """A queue: of more items than slots the last stay. `count` is as a program reads it, below twice the slots. An item
    that another is merged with keeps its place in it."""
    size, serial, count = info["slots"], kept["serial"], kept["count"]
    first, start = int(serial.max()) + 1, int(count)
    every = torch.arange(len(items["place"]), device=serial.device)
    new = every if table is None else table.taking(lambda n: (start + n) % size)
    last = every[: len(new)][-size:]
    total = start + len(new)
    count = torch.full_like(count, total if total < 2 * size else size + total % size)
    return (last + start) % size, new[-size:], {"serial": first + last, "count": count}


def _by_worth(
    kept: Mapping[str, Tensor], items: Mapping[str, Tensor], info: Mapping[str, Any], table: Table | None
) -> Chosen:
    """One item after the other takes a free slot, or that of least worth (the older of equal ones). An item with a
    priority below all others is not kept. One that is merged with another counts as one more use of it, or gives it its
    own priority."""
    size, ranked = info["slots"], info["evict"] == "lowest"
    part = "priority" if ranked else "use"
    serial, worth = kept["serial"].clone(), kept[part].clone()
    new = items["priority"].tolist() if ranked else [1.0] * len(items["place"])
    held: dict[int, int] = {}
    count, last = min(int(kept["count"]), size), int(serial.max())
    merged = torch.zeros_like(worth)
    for k, own in enumerate(new):
        same = None if table is None else table.slot(k)
        if table is not None and same is not None:
            table.merge(k, same)
            merged[same] += 1
            worth[same] = own if ranked else worth[same] + 1
            continue
        if count < size:
            slot, count = count, count + 1
        else:
            least = (worth == worth.min()).nonzero().squeeze(1)
            slot = int(least[serial[least].argmin()])
            if ranked and own < float(worth[slot]):
                continue
        last += 1
        held[slot], worth[slot], serial[slot], merged[slot] = k, own, last, 0
        if table is not None:
            table.put(k, slot)
    slots = torch.tensor(list(held), dtype=torch.long, device=serial.device)
    order = torch.tensor(list(held.values()), dtype=torch.long, device=serial.device)
    if not ranked:
        faded = info["fading"] * kept[part] + items["used"]
        worth = faded.index_copy(0, slots, torch.ones_like(faded[slots])) + merged
    age = torch.zeros_like(kept["age"])
    age[:size] = (last - serial).to(age.dtype)
    age[size:] = last + 1.0  # the slot of zeros is the oldest
    counted = torch.full_like(kept["count"], count)
    return slots, order, {"serial": serial[slots], part: worth, "count": counted, "age": age}


CHOOSERS = {"oldest": _oldest, "least_used": _by_worth, "lowest": _by_worth}
