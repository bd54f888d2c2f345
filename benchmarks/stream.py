"""The suite `stream`: what a step costs under forward rules as sequences grow, in one call and from call to call."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.bptt import peak
from benchmarks.table import Row
from benchmarks.traces import COLUMNAR
from recdsl.driver import compile as compile_spec

RULES = ("columns", "snap(1)", "rflo", "eprop", "rtrl", "uoro", "bptt")
LENGTHS = (100, 1_000, 10_000)
INPUTS, COLUMNS, BATCH, PIECE = 16, 32, 1, 100
"""Of a columnar LSTM; bptt is there to compare, since its memory must grow."""


def run(only: list[str], repeats: int) -> Iterator[Row]:
    """One row a rule: CPU time and peak memory a step, and by how much they grow from the middle to the last length."""
    torch.set_num_threads(1)
    for rule in only or RULES:
        row: Row = {"cell": rule}
        for way, piece in (("call", None), ("stream", PIECE)):
            times = [seconds(rule, steps, piece, repeats) / steps for steps in LENGTHS]
            held = [peak(calls, rule, steps, piece) for steps in LENGTHS]
            for steps, each in zip(LENGTHS, times, strict=True):
                row[f"{way}_{steps}_us"] = round(1e6 * each, 1)
            row[f"{way}_time_x"] = round(times[-1] / times[1], 2)
            row[f"{way}_MiB"] = round(held[-1] / 2**20, 2)
            row[f"{way}_B/step"] = round((held[-1] - held[1]) / (LENGTHS[-1] - LENGTHS[1]))
        yield row


def calls(rule: str, steps: int, piece: int | None) -> Callable[[], object]:
    """Forward and backward over so many steps: in one call, or in calls of `piece` steps that hand on their state."""
    text = (
        COLUMNAR.replace("OBS", str(INPUTS)).replace("HID", str(COLUMNS)).replace("credit: columns", f"credit: {rule}")
    )
    model: Any = compile_spec(text)
    x, y = torch.randn(steps, BATCH, INPUTS), torch.randn(steps, BATCH)
    size = piece or steps
    model({"x": x[:2], "y": y[:2]}).loss.backward()  # libraries that load at the first call are not the model's memory

    def call() -> None:
        state: dict[str, Tensor] | None = None
        for lo in range(0, steps, size):
            model.zero_grad()
            result = model({"x": x[lo : lo + size], "y": y[lo : lo + size]}, state=state)
            result.loss.backward()
            state = result.state

    return call


def seconds(rule: str, steps: int, piece: int | None, repeats: int) -> float:
    """The least CPU time of several runs; the first is left out."""
    call = calls(rule, steps, piece)
    call()
    found: list[float] = []
    for _ in range(max(1, min(repeats, 10_000 // steps))):
        start = time.process_time()
        call()
        found.append(time.process_time() - start)
    return min(found)
