"""Stores that last as long as the model: their rows are buffers of the module, written behind each call.

A call reads the rows as earlier calls have left them and gets new ones in their place, so that a backward pass still
finds what its call has read. The text of this file is part of every exported model; it needs torch only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

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
    for k in info["used"]:
        items["used"] = items.get("used", 0) + sequence(call, k)[call.valid].sum(0)[: info["slots"]]
    kept = {part: model.recdsl_tensor(f"{name}.{part}") for part in info["kept"]}
    slots, order, fresh = CHOOSERS[info["evict"]](kept, items, info)
    for part in info["rows"]:
        old = model.recdsl_tensor(f"{name}.{part}")
        fresh[part] = old.index_copy(0, slots, items[part].index_select(0, order).to(old.dtype))
    for part, value in fresh.items():
        model.recdsl_replace(f"{name}.{part}", value)
    return slots, items["place"].index_select(0, order)


Chosen = tuple[Tensor, Tensor, dict[str, Tensor]]


def _oldest(kept: Mapping[str, Tensor], items: Mapping[str, Tensor], info: Mapping[str, Any]) -> Chosen:
    """A queue: of more items than slots the last stay. `count` is as a program reads it, below twice the slots."""
    size, number = info["slots"], len(items["place"])
    serial, count = kept["serial"], kept["count"]
    first, start = int(serial.max()) + 1, int(count)
    order = torch.arange(max(0, number - size), number, device=serial.device)
    slots = (order + start) % size
    total = start + number
    count = torch.full_like(count, total if total < 2 * size else size + total % size)
    return slots, order, {"serial": serial.index_copy(0, slots, first + order), "count": count}


def _by_worth(kept: Mapping[str, Tensor], items: Mapping[str, Tensor], info: Mapping[str, Any]) -> Chosen:
    """One item after the other takes a free slot, or that of least worth (the older of equal ones). An item with a
    priority below all others is not kept."""
    size, ranked = info["slots"], info["evict"] == "lowest"
    part = "priority" if ranked else "use"
    serial, worth = kept["serial"].clone(), kept[part].clone()
    new = items["priority"].tolist() if ranked else [1.0] * len(items["place"])
    held: dict[int, int] = {}
    count, last = min(int(kept["count"]), size), int(serial.max())
    for k, own in enumerate(new):
        if count < size:
            slot, count = count, count + 1
        else:
            least = (worth == worth.min()).nonzero().squeeze(1)
            slot = int(least[serial[least].argmin()])
            if ranked and own < float(worth[slot]):
                continue
        last += 1
        held[slot], worth[slot], serial[slot] = k, own, last
    slots = torch.tensor(list(held), dtype=torch.long, device=serial.device)
    order = torch.tensor(list(held.values()), dtype=torch.long, device=serial.device)
    if not ranked:
        faded = info["fading"] * kept[part] + items["used"]
        worth = faded.index_copy(0, slots, torch.ones_like(faded[slots]))
    age = torch.zeros_like(kept["age"])
    age[:size] = (last - serial).to(age.dtype)
    age[size:] = last + 1.0  # the slot of zeros is the oldest
    return slots, order, {"serial": serial, part: worth, "count": torch.full_like(kept["count"], count), "age": age}


CHOOSERS = {"oldest": _oldest, "least_used": _by_worth, "lowest": _by_worth}
