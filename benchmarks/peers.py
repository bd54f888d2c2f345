"""The suite `peers`: forward rules beside braintrace's D-RTRL, which has a Python of its own, measured in turns."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.braintrace_peer import INPUTS, OUTPUTS
from benchmarks.table import Row
from recdsl.diagnostics import SpecError
from recdsl.driver import analyse
from recdsl.driver import compile as compile_spec

CELLS = {"gru": ("GRUCell", "h"), "lstm": ("LSTMCell", "h, c")}
CONFIGS = tuple((size, batch, steps) for size, batch, steps in ((64, 1, 50), (64, 32, 20), (256, 1, 20), (256, 32, 5)))
RULES = ("columns", "snap(1)", "rtrl")
MOST = 2**26
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
    why = missing(python)
    if why:
        print(f"peers: skipped: {why}")
        return
    assert python is not None
    torch.set_num_threads(1)
    for cell in only or CELLS:
        for size, batch, steps in CONFIGS:
            yield measure(python, cell, size, batch, steps, repeats)


def missing(python: str | None) -> str:
    """Why the peer cannot be run, or ""."""
    if python is None:
        return "--peer-python PATH names no Python with braintrace and jax"
    try:
        done = subprocess.run([python, "-c", "import braintrace"], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{python}: {error.strerror}"
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


def measure(python: str, cell: str, size: int, batch: int, steps: int, repeats: int) -> Row:
    """Least CPU microseconds a step of each rule and of the peer, in turns."""
    made = {rule: call for rule in RULES if (call := ours(cell, size, batch, steps, rule)) is not None}
    words = [CELLS[cell][0], *map(str, (size, batch, steps))]
    peer = subprocess.Popen(
        [python, str(Path(__file__).with_name("braintrace_peer.py")), *words],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert peer.stdin is not None
    assert peer.stdout is not None
    peer.stdout.readline()
    best = dict.fromkeys([*made, "peer"], float("inf"))
    for _ in range(repeats):
        for rule, call in made.items():
            start = time.process_time()
            call()
            best[rule] = min(best[rule], time.process_time() - start)
        print("run", file=peer.stdin, flush=True)
        best["peer"] = min(best["peer"], float(peer.stdout.readline()))
    peer.stdin.close()
    peer.wait()
    row: Row = {"cell": cell, "config": f"B={batch} H={size} T={steps}"}
    for name, seconds in best.items():
        row[f"{name}_us"] = round(1e6 * seconds / steps, 1)
        if name != "peer":
            row[f"peer/{name}"] = round(best["peer"] / seconds, 2)
    return row


def ours(cell: str, size: int, batch: int, steps: int, rule: str) -> Callable[[], None] | None:
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
    model: Any = compile_spec(text)
    data = {"x": torch.randn(steps, batch, INPUTS), "y": torch.randn(steps, batch, OUTPUTS)}

    def call() -> None:
        model.zero_grad()
        model(data).loss.backward()

    call()
    return call
