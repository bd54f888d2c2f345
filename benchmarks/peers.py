"""The suite `peers`: forward rules beside braintrace's D-RTRL, which has a Python of its own, measured in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.braintrace_peer import INPUTS, OUTPUTS
from benchmarks.elsewhere import missing, peer
from benchmarks.table import Row
from recdsl.diagnostics import SpecError
from recdsl.driver import analyse
from recdsl.driver import compile as compile_spec

CELLS = {"gru": ("GRUCell", "h"), "gru_reset_after": ("GRUCell", "h"), "lstm": ("LSTMCell", "h, c")}
"""Ours with the peer's, which has one GRU, and what ours returns."""
CONFIGS = tuple(
    (size, batch, steps) for size, batch, steps in ((64, 1, 100), (64, 32, 100), (256, 1, 100), (256, 32, 20))
)
RULES = ("columns", "snap(1)")
BACKENDS = ("torch", "native")
MOST = 2**27
"""Bytes of traces above which a rule of ours is left out."""
SPEC = """\
recdsl: 1
sizes: {inp: INPUTS, hid: SIZE, out: OUTPUTS}
inputs: {x: "float[inp]"}
targets: {y: "float[out]"}
step: |
  LEFT = CELL(x, size=hid)
  p = linear(h, size=out)
loss: mse(p, y)
credit: RULE
"""


def run(python: str | None, only: list[str], repeats: int) -> Iterator[Row]:
    """One row a cell and size; nothing, and why, where the other Python has no braintrace."""
    why = missing(python, "braintrace")
    if why:
        print(f"peers: skipped: {why}")
        return
    assert python is not None
    torch.set_num_threads(1)
    for cell in only or CELLS:
        for size, batch, steps in CONFIGS:
            yield measure(python, cell, size, batch, steps, repeats)


def measure(python: str, cell: str, size: int, batch: int, steps: int, repeats: int) -> Row:
    """Least CPU microseconds a step of each rule and of the peer, in turns."""
    wanted = {f"{rule} {backend}": (rule, backend) for rule in RULES for backend in BACKENDS}
    made = {name: ours(cell, size, batch, steps, *how) for name, how in wanted.items()}
    calls = {name: call for name, call in made.items() if call is not None}
    best = dict.fromkeys([*calls, "peer"], float("inf"))
    row: Row = {"cell": cell, "config": f"B={batch} H={size} T={steps}"}
    with peer(python, "braintrace_peer.py", (CELLS[cell][0], size, batch, steps)) as other:
        for _ in range(repeats):
            for name, call in calls.items():
                start = time.process_time()
                call()
                best[name] = min(best[name], time.process_time() - start)
            best["peer"] = min(best["peer"], other.ask())
    for name, seconds in best.items():
        if seconds < float("inf"):
            row[f"{name}_us"] = round(1e6 * seconds / steps, 1)
            if name != "peer" and best["peer"] < float("inf"):
                row[f"peer/{name}"] = round(best["peer"] / seconds, 2)
    row["peer_without_gradient"] = " ".join(other.said.split()[1:]) or "-"
    return row


def ours(cell: str, size: int, batch: int, steps: int, rule: str, backend: str) -> Callable[[], None] | None:
    """Forward, loss and gradients; None where the traces would be too large to be of use."""
    words = {"INPUTS": INPUTS, "OUTPUTS": OUTPUTS, "SIZE": size, "LEFT": CELLS[cell][1], "CELL": cell, "RULE": rule}
    text = SPEC
    for name, word in words.items():
        text = text.replace(name, str(word))
    try:
        rows = analyse(text).plan.rows
    except SpecError:
        return None  # above the budget of the compiler itself
    if batch * sum(row.bytes for row in rows) > MOST:
        return None
    model: Any = compile_spec(text, backend)
    data = {"x": torch.randn(steps, batch, INPUTS), "y": torch.randn(steps, batch, OUTPUTS)}

    def call() -> None:
        model.zero_grad()
        model(data).loss.backward()

    call()
    return call
