"""How far float32 is from float64 after thousands of steps and updates; and float64 in C from float64 in torch.

Parameters and data are numbers that float32 holds, so what is measured is arithmetic alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from benchmarks.table import Row
from recdsl.backends.native import native_module
from recdsl.backends.torch import execute
from recdsl.backends.torch.module import generate
from recdsl.driver import Compilation, analyse
from recdsl.training.catalogue import beside
from recdsl.training.online import trainer
from recdsl.training.pipeline import COMPILER
from recdsl.training.run import setup

STEPS, SAMPLES, SIZE, INPUTS = 5_000, 2, 32, 8
HEAD = f"""\
recdsl: 1
sizes: {{i: {INPUTS}, n: {SIZE}}}
inputs: {{x: "float[i]"}}
targets: {{y: "float[n]"}}
"""
CELL = "step: |\n  h = {0}(x, size=n)\n  g = linear(h, size=n)\nloss: mse(g, y)\ncredit: {1}\n"
SAB = """\
memory:
  past:
    slots: unbounded
    write: {value: h, every: 10}
    read: {query: proposal, score: mlp(8), select: topk(5), normalise: shifted_relu}
step: |
  proposal, c = lstm_cell(x, h[t-1], c[t-1], size=n)
  h = proposal + past.read
  g = linear([h; past.read], size=n)
loss: mse(g, y)
credit: sab(truncate=10)
"""
SPECS = {
    "gru": HEAD + CELL.format("gru", "bptt"),
    "lstm": HEAD + CELL.format("lstm", "bptt"),
    "elman": HEAD + CELL.format("elman", "bptt"),
    "lru": HEAD + CELL.format("lru", "bptt"),
    "gru, snap(1)": HEAD + CELL.format("gru", "snap(1)"),
    "lstm_columns": HEAD + CELL.format("lstm_columns", "columns"),
    "sab": HEAD + SAB,
}
STREAM = """\
recdsl: 1
sizes: {{n: 8}}
inputs: {{x: "float[12]", cumulant: float}}
params: {{w: "float[n] ~ normal(0, 0.3)"}}
step: |
  h, c = lstm_columns(x, size=n)
  v = w @ h
loss: {{value: "td(v, cumulant, discount=0.9)"}}
credit: columns
data: trace_patterning(isi=[2, 4], iti=[3, 5], seed=1)
train: {{online: true, batch: 1, steps: 1_000_000, optimizer: "{0}", seed: 3}}
"""
OPTIMIZERS = (
    "sgd(lr=3e-3)",
    "momentum(lr=3e-3)",
    "rmsprop(lr=1e-4)",
    "adam(lr=1e-4)",
    "td_lambda(lr=1e-3, trace=0.9, normalise=true, keep=0.99)",
    "idbd(lr=1e-3, meta=1e-3)",
)
RUNS = (("native", torch.float64), ("native", torch.float32), ("torch", torch.float32))
Found = Mapping[str, Tensor]


def run(wanted: list[str]) -> Iterator[Row]:
    """A row for each model and way to run it."""
    for name in SPECS:
        if not wanted or name in wanted:
            yield from _calls(name)
    for optimizer in OPTIMIZERS:
        if not wanted or "online" in wanted:
            yield from _updates(optimizer)


def _calls(name: str) -> Iterator[Row]:
    found = analyse(SPECS[name])
    expected = called(found, "torch", torch.float64, STEPS)
    for backend, dtype in RUNS:
        off = apart(called(found, backend, dtype, STEPS), expected)
        more = {key: off.pop(key) for key in ("outputs", "loss")}
        runs = f"{backend} {str(dtype).removeprefix('torch.')}"
        shown = {key: _short(value) for key, value in {**more, "gradients": max(off.values())}.items()}
        yield {"cell": name, "config": f"{STEPS:,} steps", "runs": runs, **shown}


def called(found: Compilation, backend: str, dtype: torch.dtype, steps: int) -> Found:
    """Outputs, loss and gradients of a call."""
    text = generate(found.graph, found.plan, "")
    first = execute(text).Model(0, torch.float32)
    module = native_module(found.graph, found.plan, text).Model(0, dtype) if backend == "native" else None
    module = execute(text).Model(0, dtype) if module is None else module
    with torch.no_grad():
        for one, other in zip(module.parameters(), first.parameters(), strict=True):
            one.copy_(other)
    draws = Generator().manual_seed(1)
    x, y = (torch.randn((steps, SAMPLES, size), generator=draws) for size in (INPUTS, SIZE))
    result = module({"x": x.to(dtype), "y": y.to(dtype)})
    result.loss.backward()
    grads = {name: p.grad for name, p in module.named_parameters()}
    return {"outputs": result.outputs["g"].detach(), "loss": result.loss.detach(), **grads}


def apart(found: Found, expected: Found) -> dict[str, float]:
    """The largest difference of each tensor, in units of its largest entry."""
    return {name: float((found[name] - value).abs().max() / value.abs().max()) for name, value in expected.items()}


def _updates(optimizer: str) -> Iterator[Row]:
    first, expected = learned(optimizer, "torch", torch.float64, STEPS)
    way = (expected - first).norm()
    for backend, dtype in RUNS:
        off = float((learned(optimizer, backend, dtype, STEPS)[1] - expected).norm() / way)
        runs = f"{backend} {str(dtype).removeprefix('torch.')}"
        yield {
            "cell": f"lstm_columns, {optimizer}",
            "config": f"{STEPS:,} updates",
            "runs": runs,
            "parameters": _short(off),
        }


def learned(optimizer: str, backend: str, dtype: torch.dtype, updates: int) -> tuple[Tensor, Tensor]:
    """All parameters before and after so many online updates."""
    kind = str(dtype).removeprefix("torch.")
    compiled = COMPILER.build(STREAM.format(optimizer), (f"train.backend={backend}", f"train.dtype={kind}"))
    made = setup(compiled, beside(compiled.spec))
    found: Any = trainer(compiled, made.source, made.binding, made.settings)
    first = _flat(found.module)
    while found.step < updates:
        found.updates(updates - found.step)
    if backend == "native" and found.learner is None:
        raise RuntimeError(f"updates were made one by one: {found.alone}")
    return first, _flat(found.module)


def _flat(module: torch.nn.Module) -> Tensor:
    return torch.cat([p.detach().double().flatten() for p in module.parameters()])


def _short(number: float) -> float:
    return float(f"{number:.1e}")
