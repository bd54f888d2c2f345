"""Inputs and targets without any structure, to compare gradients on (Javed et al. 2021, arXiv 2103.05787)."""

from __future__ import annotations

from recdsl.training.arrays import np
from recdsl.training.batches import Batch, Place, Source, keyed
from recdsl.training.declare import Declaration, Field, Option, Options

DECLARATION = Declaration(
    "gradient_testbed",
    "fair coins as inputs and independent uniform targets: nothing can be learned, gradients can be compared",
    (
        Option("length", "int", 50, "steps of a sequence", low=1, high=1_000_000),
        Option("inputs", "int", 50, "number of input bits", low=1, high=1_000_000),
        Option("bound", "float", 50.0, "targets are uniform between minus this and this", above=0),
    ),
)
GENERATED = True


def open_source(options: Options, _place: Place) -> Source:
    """Fields `x` float[inputs] of 0 and 1, and `y` float."""
    length, inputs, bound = options["length"], options["inputs"], options["bound"]

    def make(rng: np.random.Generator, batch: int) -> Batch:
        x = rng.integers(0, 2, (length, batch, inputs)).astype(np.float32)
        return Batch({"x": x, "y": rng.uniform(-bound, bound, (length, batch)).astype(np.float32)})

    fields = (Field("x", "float", "input", shape=(inputs,)), Field("y", "float", "target"))
    return Source(fields, keyed(make), sizes={"obs": inputs})
