"""The adding problem (Hochreiter & Schmidhuber 1997): sum the two marked numbers of a sequence."""

from __future__ import annotations

from recdsl.training.arrays import np
from recdsl.training.batches import Batch, Place, Source, keyed
from recdsl.training.declare import Declaration, Field, Option, Options

DECLARATION = Declaration(
    "adding",
    "add two marked numbers; answer 1 always has a mean squared error of 1/6",
    (Option("length", "int", 50, "steps of a sequence", low=2, high=10_000_000),),
)
GENERATED = True


def open_source(options: Options, _place: Place) -> Source:
    """Fields `x` float[2] (a number in 0..1, a mark) and `y` float, the sum, given at every step (score the last)."""
    length = options["length"]

    def make(rng: np.random.Generator, batch: int) -> Batch:
        x = np.zeros((length, batch, 2), np.float32)
        x[:, :, 0] = rng.random((length, batch), np.float32)
        rows = np.arange(batch)
        # One mark in each half, so that both are there and the first must be carried.
        first, second = rng.integers(0, length // 2, batch), rng.integers(length // 2, length, batch)
        x[first, rows, 1] = x[second, rows, 1] = 1.0
        total = x[first, rows, 0] + x[second, rows, 0]
        return Batch({"x": x, "y": np.broadcast_to(total, (length, batch)).copy()})

    fields = (Field("x", "float", "input", shape=(2,)), Field("y", "float", "target"))
    return Source(fields, keyed(make), sizes={"channels": 2})
