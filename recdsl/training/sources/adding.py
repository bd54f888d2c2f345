"""The adding problem (Hochreiter & Schmidhuber 1997): sum the two marked numbers of a sequence.

With `grow`, training begins with sequences of `first` steps, and whenever the error of a batch of the longest falls
below `grow`, they get a fifth longer, up to `length`. Every other batch is of the longest sequences, the others are
between half that length and all of it. Tests are never shortened. The error is the whole loss of a batch: score the
last step alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recdsl.training.arrays import np
from recdsl.training.batches import Batch, Keyed, Place, Request, Sampler, Source
from recdsl.training.declare import Declaration, Field, Option, Options

DECLARATION = Declaration(
    "adding",
    "add two marked numbers; answer 1 always has a mean squared error of 1/6",
    (
        Option("length", "int", 50, "steps of a sequence", low=2, high=10_000_000),
        Option("grow", "float", None, "squared error below which training goes to longer ones", above=0.0, none=True),
        Option("first", "int", 10, "with `grow`: the length that training begins with", low=2, high=10_000_000),
    ),
)
GENERATED = True
FIELDS = (Field("x", "float", "input", shape=(2,)), Field("y", "float", "target"))


def made(rng: np.random.Generator, batch: int, length: int) -> Batch:
    """Sequences of `length` steps."""
    x = np.zeros((length, batch, 2), np.float32)
    x[:, :, 0] = rng.random((length, batch), np.float32)
    rows = np.arange(batch)
    # One mark in each half, so that both are there and the first must be carried.
    first, second = rng.integers(0, length // 2, batch), rng.integers(length // 2, length, batch)
    x[first, rows, 1] = x[second, rows, 1] = 1.0
    total = x[first, rows, 0] + x[second, rows, 0]
    return Batch({"x": x, "y": np.broadcast_to(total, (length, batch)).copy()})


class Growing:
    """Batch n is a function of (seed, split, n) and of `longest`, the length that has been come to."""

    def __init__(self, options: Options, request: Request) -> None:
        self.options, self.request, self.position = options, request, 0
        self.longest: int = min(options["first"], options["length"])
        self.asked = self.longest

    def next(self) -> Batch:
        rng = self.request.rng(self.position)
        self.position += 1
        shorter = int(rng.integers(max(2, (self.longest + 1) // 2), self.longest + 1))
        self.asked = self.longest if rng.random() < 0.5 else shorter
        return made(rng, self.request.batch, self.asked)

    def learned(self, loss: float) -> None:
        """Told of the mean loss of the latest batch."""
        if self.asked == self.longest and loss < self.options["grow"]:
            self.longest = min(self.options["length"], self.longest + max(1, self.longest // 5))

    def state(self) -> dict[str, Any]:
        return {"position": self.position, "longest": self.longest, "asked": self.asked}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.position = int(state["position"])
        self.longest, self.asked = int(state["longest"]), int(state["asked"])


def open_source(options: Options, _place: Place) -> Source:
    """Fields `x` float[2] (a number in 0..1, a mark) and `y` float, the sum, given at every step (score the last)."""

    def draw(request: Request) -> Sampler:
        if options["grow"] is not None and request.split == "train":
            return Growing(options, request)
        return Keyed(lambda rng, batch: made(rng, batch, options["length"]), request)

    return Source(FIELDS, draw, sizes={"channels": 2})
