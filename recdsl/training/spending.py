"""What a call costs: time and memory of forward plus backward, measured."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

LEAST = 0.2
"""Seconds over which calls are timed."""


@dataclass(frozen=True)
class Spent:
    """time: microseconds a step of a call. held: bytes that a call has at its peak. growth: those that a step adds."""

    time: float
    held: int
    growth: float


def spent(model: Any, batch: Mapping[str, Tensor]) -> Spent:
    """Measure calls with this batch."""
    steps = len(next(iter(batch.values())))
    return Spent(1e6 * seconds(model, batch) / steps, peak(model, batch), growth(model, batch))


def growth(model: Any, batch: Mapping[str, Tensor]) -> float:
    """Bytes that a step adds to a call: what a call of twice as many has more.

    Forward rules run long calls in pieces, here of half the batch: it is long calls that this is about.
    """
    steps, chunk = len(next(iter(batch.values()))), model.recdsl_chunk
    model.recdsl_chunk = max(1, steps // 2)
    short, long = (peak(model, {name: torch.cat([v] * times) for name, v in batch.items()}) for times in (1, 2))
    model.recdsl_chunk = chunk
    return max(0.0, (long - short) / steps)  # less than nothing is what a first call keeps for the next


def learn(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> None:
    """One call, forward and backward."""
    model.zero_grad()
    result: Any = model(dict(batch))
    if result.loss.requires_grad:
        result.loss.backward()


def seconds(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> float:
    """The quickest of several calls: others that use the machine only ever make them slower."""
    learn(model, batch)
    found: list[float] = []
    while not found or (sum(found) < LEAST and len(found) < 100):
        began = time.perf_counter()
        learn(model, batch)
        found.append(time.perf_counter() - began)
    return min(found)


def peak(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> int:
    """Bytes at the peak of a call, above what there was before it; what earlier calls have left for it counts too."""
    arena: Any = getattr(model, "recdsl_arena", None)
    if arena is not None:
        arena.idle = []
    os.environ.setdefault("KINETO_LOG_LEVEL", "9")  # else the profiler writes to the terminal
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        learn(model, batch)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text())["traceEvents"]
    changes = sorted((e["ts"], e["args"]["Bytes"]) for e in events if e.get("name") == "[memory]")
    now = most = 0
    for _, change in changes:
        now += change
        most = max(most, now)
    return most
