"""The suite `rtrl`: forward rules of a GRU and an LSTM, 16 inputs and a readout of 8, against jax by hand."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy
import torch

from benchmarks.braintrace_peer import INPUTS, OUTPUTS
from benchmarks.elsewhere import missing, peer
from benchmarks.peers import BACKENDS, CELLS, SPEC
from benchmarks.table import Row
from recdsl.driver import compile as compile_spec

CONFIGS = ((1, 64, 40), (32, 64, 6), (1, 256, 6))
"""Samples, hidden units, steps. Dense influence of 32 samples at 256 units is 6.9 GB."""
RULES = (("lstm", "snap(1)"), ("gru", "rtrl"), ("lstm", "rtrl"))
LIMIT = 2**29
"""Bytes of the peer's traces above which a row is left out."""


def run(python: str | None, only: list[str], repeats: int) -> Iterator[Row]:
    """One row a cell, rule and size; `snap(1)` at 32 samples and 256 units too."""
    why = missing(python, "jax")
    if why or python is None:
        print(f"rtrl: skipped: {why}")
        return
    torch.set_num_threads(1)
    for cell, rule in RULES:
        for batch, size, steps in (*CONFIGS, *([(32, 256, 6)] if rule == "snap(1)" else [])):
            if not only or cell in only:
                yield measure(python, cell, rule, (batch, size, steps), repeats)


def measure(python: str, cell: str, rule: str, extent: tuple[int, int, int], repeats: int) -> Row:
    """Least CPU microseconds a step, in turns, after gradients were compared."""
    batch, size, steps = extent
    row: Row = {"cell": f"{cell} {rule}", "config": f"B={batch} H={size} T={steps}"}
    if dense_bytes(cell, size) * batch > LIMIT and rule == "rtrl":
        return row
    data = {"x": torch.randn(steps, batch, INPUTS), "y": torch.randn(steps, batch, OUTPUTS)}
    models = {backend: made(cell, rule, size, backend) for backend in BACKENDS}
    weights = {name.removeprefix("h."): value for name, value in models["torch"].named_parameters()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "given.npz"
        arrays: dict[str, Any] = {name: value.detach().numpy() for name, value in (data | weights).items()}
        arrays |= {"out.W": arrays.pop("p.W"), "out.b": arrays.pop("p.b")}
        numpy.savez(file, **arrays)
        with peer(python, "jax_rtrl_peer.py", (cell, rule, str(file))) as other:
            calls = {backend: call(model, data) for backend, model in models.items()}
            if other.said:
                agree(models, numpy.load(f"{file}.out.npz"))
            least = dict.fromkeys([*calls, "jax"], float("inf"))
            for _ in range(repeats):
                for name, function in calls.items():
                    least[name] = min(least[name], function())
                least["jax"] = min(least["jax"], other.ask())
    row |= {f"{name}_us": round(1e6 * value / steps, 1) for name, value in least.items() if value < float("inf")}
    return row | {f"jax/{name}": round(least["jax"] / least[name], 2) for name in calls if least["jax"] < float("inf")}


def dense_bytes(cell: str, size: int) -> int:
    """Of the whole influence of one sample."""
    gates, states = {"gru": (3, 1), "lstm": (4, 2)}[cell]
    return 4 * states * size * gates * size * (INPUTS + size + 1)


def made(cell: str, rule: str, size: int, backend: str) -> Any:
    """The model, with the same weights for every backend."""
    text = SPEC
    for name, word in {
        "INPUTS": INPUTS, "OUTPUTS": OUTPUTS, "SIZE": size, "LEFT": CELLS[cell][1], "CELL": cell, "RULE": rule
    }.items():  # fmt: skip
        text = text.replace(name, str(word))
    return compile_spec(text, backend)


def call(model: Any, data: dict[str, torch.Tensor]) -> Callable[[], float]:
    """CPU seconds of forward, loss and gradients."""

    def function() -> float:
        began = time.process_time()
        model.zero_grad()
        model(data).loss.backward()
        return time.process_time() - began

    function()
    return function


def agree(models: dict[str, Any], theirs: Any) -> None:
    """The gradients of all are the same."""
    for backend, model in models.items():
        for name, parameter in model.named_parameters():
            key = name.removeprefix("h.").replace("p.", "out.")
            expected = torch.from_numpy(theirs[key])
            apart = float((parameter.grad - expected).abs().max())
            assert apart <= 2e-3 * float(expected.abs().max()), f"{backend}: gradient of {name} is off by {apart}"
