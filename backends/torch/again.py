"""What the runtime has to know of calls whose pieces are run again on the way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recdsl.backends.torch.room import loaded_elsewhere
from recdsl.credit.plan import CreditPlan
from recdsl.credit.replay import STEPS, least, replays
from recdsl.graph.step import StepGraph
from recdsl.program.interface import Assembled
from recdsl.program.ir import Storage


def going_again(graph: StepGraph, plan: CreditPlan, variants: Mapping[str, Assembled]) -> dict[str, Any] | None:
    """least: from how many bytes on, that a call would keep, its pieces are run again; numbers: how many it keeps of a
    step and sample; steps: of a piece; lag: how many those are at least."""
    if not replays(graph, plan):
        return None
    made = variants["plain"]
    kept = loaded_elsewhere(made.program, "forward")
    numbers = sum(_numbers(item) for item in made.program.storages if item.name in kept and item.kind == "buffer")
    lag = max((len(carries) for _, carries in made.interface.inits), default=1)
    return {"least": least(graph, plan), "numbers": numbers, "steps": max(STEPS, lag), "lag": lag}


def _numbers(item: Storage) -> int:
    """Of a step and sample."""
    count = 1
    for axis in item.type.axes:
        count *= axis.size
    return count if dict(item.type.lead).get("t") else 0


def boundaries(made: Assembled) -> dict[str, Any]:
    """Storages of the tapes of each store by the entries that read them, places that are handed on, and cotangents that
    cross, (input, output, shape; None: samples), by entry."""
    face, declared = made.interface, {item.name: item for item in made.program.storages}
    entries = ("backward", "backward_outputs")
    stores: list[dict[str, Any]] = []
    for front, every in face.spacing:
        own = [(name, role) for name, scalar, role in face.tapes if scalar == front]
        shapes = {name: tuple(axis.size for axis in declared[name].type.axes) for name, _ in own}
        backs = {
            entry: {n: shapes[n] for n, role in own if role == "back" and n[0] == PREFIX[entry]} for entry in entries
        }
        tapes = {name: shapes[name] for name, role in own if role != "back"}
        stamps = next(name for name, role in own if role == "stamps")
        stores.append({"front": front, "every": every, "stamps": stamps, "tapes": tapes, **backs})
    crossed = {
        entry: [
            (given, left, _extents(declared[given]))
            for given, left in face.crossed
            if given.startswith(f"behind_{PREFIX[entry]}")
        ]
        for entry in entries
    }
    return {"stores": stores, "found": list(face.found), "crossed": crossed}


PREFIX = {"backward": "b", "backward_outputs": "o"}
"""What names of storages of a reverse pass begin with."""


def _extents(item: Storage) -> tuple[int | None, ...]:
    lead = [None if extent.terms else extent.const for _, extent in item.type.lead]
    return (*lead, *(axis.size for axis in item.type.axes))
