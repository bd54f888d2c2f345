"""The suite `ceiling`: a columnar LSTM with exact real-time recurrent learning and an update at each step, by generated
C (the online learner), by a loop in C that was written for this one model (`ceiling.c`), and by jax."""

from __future__ import annotations

import ctypes
import tempfile
import time
from array import array
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from benchmarks.elsewhere import missing, peer
from benchmarks.roofline import copy_rate
from benchmarks.table import Row
from benchmarks.traces import COLUMNAR, GATES
from recdsl.backends.native.build import library, widest
from recdsl.backends.native.lower import head, prelude
from recdsl.backends.native.online import Moved, Shape, Stretch, Update
from recdsl.driver import compile as compile_spec

LANES = 16
RATE = 1e-3


@dataclass(frozen=True)
class Size:
    """Samples, columns, inputs, and steps that are timed together."""

    batch: int
    columns: int
    inputs: int
    steps: int

    @property
    def text(self) -> str:
        return f"B={self.batch} C={self.columns} D={self.inputs}"

    @property
    def weights(self) -> int:
        return 4 * self.columns * (self.inputs + 2)


SIZES = (
    Size(1, 16, 8, 20_000), Size(1, 128, 8, 4_000), Size(1, 128, 64, 1_000), Size(1, 1024, 64, 1_000),
    Size(32, 16, 8, 2_000), Size(32, 128, 64, 1_000),
)  # fmt: skip


def run(python: str | None, repeats: int) -> Iterator[Row]:
    """One row a size: least CPU microseconds a step, in turns, after the weights that each leaves were compared."""
    torch.set_num_threads(1)
    why = missing(python, "jax")
    if why:
        print(f"ceiling: without jax: {why}")
    for size in SIZES:
        yield measure(size, None if why else python, repeats)


def measure(size: Size, python: str | None, repeats: int) -> Row:
    x, y = drawn(size)
    least: dict[str, float] = {}
    with ExitStack() as stack:
        calls: dict[str, Callable[[], float]] = {}
        mine, start = ours(size, x, y)
        calls["native"], learned = mine
        calls["c"] = agreed("C", by_hand(size, x, y, start), learned, start)
        if python is not None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            arrays: dict[str, Any] = {"x": x, "y": y, "W": start[0], "w": start[1]}
            numpy.savez(folder / "given.npz", **{name: value.numpy() for name, value in arrays.items()})
            words = (str(RATE), str(folder / "given.npz"))
            other = stack.enter_context(peer(python, "jax_columns_peer.py", words))
            left = numpy.load(folder / "given.npz.out.npz")
            found = (torch.from_numpy(left["W"]), torch.from_numpy(left["w"]))
            calls["jax"] = agreed("jax", (lambda: other.ask(), found), learned, start)
        for _ in range(repeats):
            for name, call in calls.items():
                least[name] = min(least.get(name, float("inf")), call())
    return row(size, {name: 1e6 * seconds / size.steps for name, seconds in least.items()})


def row(size: Size, us: dict[str, float]) -> Row:
    """Ratios above 1: native takes less. bound: both traces and the weights read and written once a step, at the rate
    of a copy of as many bytes."""
    numbers = size.weights * (2 * size.batch + 1)
    bound = 1e6 * 2 * 4 * numbers / copy_rate(1, 4 * numbers)
    found: Row = {"cell": "columnar lstm", "config": size.text}
    found |= {f"{name}_us": round(value, 3) for name, value in us.items()}
    found |= {f"{name}/native": round(us[name] / us["native"], 2) for name in us if name != "native"}
    found |= {"bound_us": round(bound, 3), "native/bound": round(us["native"] / bound, 2)}
    found["native_steps_per_s"] = round(1e6 / us["native"])
    return found | {"native_ns_per_weight": round(1e3 * us["native"] / size.weights / size.batch, 2)}


def drawn(size: Size) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(size.steps, size.batch, size.inputs, generator=generator)
    return x, torch.randn(size.steps, size.batch, generator=generator)


Weights = tuple[Tensor, Tensor]
"""Of the gates i, f, o, g [4, C, D + 2] (inputs, the column's own output, bias), and of the readout [C]."""
Way = tuple[Callable[[], float], Weights]
"""CPU seconds of all steps, each time from the same start, and the weights that they leave."""


def collected(named: dict[str, Tensor]) -> Weights:
    gates = [torch.cat([named["W" + q], named["u" + q][:, None], named["b" + q][:, None]], 1) for q in GATES]
    return torch.stack(gates).clone(), named["w"].clone()


def ours(size: Size, x: Tensor, y: Tensor) -> tuple[Way, Weights]:
    """The online learner of the native backend, and the weights that it begins with."""
    text = COLUMNAR.replace("OBS", str(size.inputs)).replace("HID", str(size.columns))
    model: Any = compile_spec(text, "native")
    named = {name: value.detach() for name, value in model.named_parameters()}
    start = {name: value.clone() for name, value in named.items()}
    update = Update("sgd", (0.0, 0.0, 0.0), tuple(Moved(name, value, (), 0.0, RATE) for name, value in named.items()))
    learner = model.recdsl_learner(Shape(1, 1, size.batch, 0), update, ())
    first = {"t": torch.tensor(0)}  # no state: zeros
    stretch = Stretch({"x": x, "y": y}, None, (first,), array("d", (1.0,)) * size.steps, bytearray(size.steps))

    def call() -> float:
        for name, value in named.items():
            value.copy_(start[name])
        began = time.process_time()
        done = learner.learn(stretch)
        seconds = time.process_time() - began
        assert done.count == size.steps
        return seconds

    call()
    return (call, collected(named)), collected(start)


def by_hand(size: Size, x: Tensor, y: Tensor, start: Weights) -> Way:
    """`ceiling.c` with this size's literals, compiled as the backend compiles."""
    sizes = f"#define B {size.batch}\n#define C {size.columns}\n#define D {size.inputs}\n"
    source = head(single=True) + prelude() + sizes + Path(__file__).with_name("ceiling.c").read_text()
    function: Any = library(source, widest()[1]).recdsl_ceiling
    function.argtypes = (ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_double, *[ctypes.c_void_p] * 6)
    groups, entries = size.columns // LANES, size.inputs + 2
    gates = start[0].view(4, groups, LANES, entries).permute(1, 0, 3, 2)
    moving = [torch.empty_like(gates, memory_format=torch.contiguous_format), start[1].clone()]
    moving += [torch.empty(groups, 4, entries, size.batch, LANES) for _ in range(2)]
    moving += [torch.empty(groups, size.batch, LANES) for _ in range(2)]

    def call() -> float:
        moving[0].copy_(gates)
        moving[1].copy_(start[1])
        for value in moving[2:]:
            value.zero_()
        began = time.process_time()
        function(size.steps, x.data_ptr(), y.data_ptr(), RATE, *(value.data_ptr() for value in moving))
        return time.process_time() - began

    call()
    return call, (moving[0].permute(1, 0, 3, 2).reshape(4, size.columns, entries), moving[1])


def agreed(name: str, way: Way, learned: Weights, start: Weights) -> Callable[[], float]:
    """The call, if it moves the weights as far, to half a percent of the farthest."""
    for value, expected, before in zip(way[1], learned, start, strict=True):
        apart, moved = float((value - expected).abs().max()), float((expected - before).abs().max())
        assert moved > 0
        assert apart <= 5e-3 * moved, f"{name}: weights are {apart} from those of the online learner"
    return way[0]
