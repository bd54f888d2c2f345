"""The copy task: remember `length` symbols over a delay, then repeat them (Hochreiter & Schmidhuber 1997's form).

Steps: `length` symbols, then `delay` blanks of which the last is the go mark, then `length` blanks during which the
target is the symbols. The target is blank at all other steps: measure with `accuracy(last=length)`.

With `grow`, training begins with one symbol, and whenever the error of a batch falls below `grow` bits a symbol, one
more is asked for, up to `length`; each row has between five symbols fewer and that number (the curriculum of Menick et
al. 2021, arXiv 2006.07232, section 5.2). The error counts all of the loss as that of the repeated symbols.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import log
from typing import Any

from recdsl.training.arrays import np
from recdsl.training.batches import Array, Batch, Place, Request, Sampler, Source
from recdsl.training.declare import Declaration, Field, Option, Options

DECLARATION = Declaration(
    "copy",
    "repeat a sequence of symbols after a delay; label 0 is blank, 1..symbols the symbols, symbols + 1 the go mark",
    (
        Option(
            "delay", "int", 10, "steps between the last symbol and its first repetition, the go mark included", low=1
        ),
        Option("symbols", "int", 8, "number of different symbols; the vocabulary is symbols + 2", low=1, high=100_000),
        Option("length", "int", 10, "number of symbols to repeat", low=1, high=1_000_000),
        Option(
            "grow", "float", None, "bits a symbol below which training asks for one symbol more", above=0.0, none=True
        ),
    ),
)
GENERATED = True


class Copying:
    """Batch n is a function of (seed, split, n) and of `level`, the largest number of symbols that are asked for."""

    def __init__(self, options: Options, request: Request) -> None:
        self.options, self.request, self.position = options, request, 0
        self.growing = options["grow"] is not None and request.split == "train"
        self.level: int = 1 if self.growing else options["length"]
        self.steps_a_symbol = 1.0

    def next(self) -> Batch:
        rng = self.request.rng(self.position)
        self.position += 1
        if not self.growing:
            return Batch(self._arrays(rng.integers(1, self.options["symbols"] + 1, (self.level, self.request.batch))))
        return self._ragged(rng)

    def _arrays(self, data: Array) -> dict[str, Array]:
        """Sequences that repeat the columns of `data`."""
        (length, batch), delay = data.shape, self.options["delay"]
        x = np.zeros((2 * length + delay, batch), np.int64)
        x[:length] = data
        x[length + delay - 1] = self.options["symbols"] + 1
        y = np.zeros_like(x)
        y[length + delay :] = data
        return {"x": x, "y": y}

    def _ragged(self, rng: np.random.Generator) -> Batch:
        """Rows of different lengths, the end of the shorter ones masked."""
        lengths = rng.integers(max(1, self.level - 5), self.level + 1, self.request.batch)
        rows = [self._arrays(rng.integers(1, self.options["symbols"] + 1, (int(n), 1))) for n in lengths]
        longest = max(len(row["x"]) for row in rows)
        mask = np.arange(longest)[:, None] < (2 * lengths + self.options["delay"])[None]
        self.steps_a_symbol = float(mask.sum() / lengths.sum())
        arrays = {n: np.concatenate([np.pad(r[n], ((0, longest - len(r[n])), (0, 0))) for r in rows], 1) for n in "xy"}
        return Batch(arrays, mask)

    def learned(self, loss: float) -> None:
        """Told of the mean loss (in nats, over the valid steps) of the latest batch."""
        if self.growing and loss * self.steps_a_symbol / log(2.0) < self.options["grow"]:
            self.level = min(self.options["length"], self.level + 1)

    def state(self) -> dict[str, Any]:
        return {"position": self.position, "level": self.level, "steps_a_symbol": self.steps_a_symbol}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.position, self.level = int(state["position"]), int(state.get("level", self.level))
        self.steps_a_symbol = float(state.get("steps_a_symbol", 1.0))


def open_source(options: Options, _place: Place) -> Source:
    """Fields `x` and `y`, labels below symbols + 2, time 2 * length + delay. Size `vocab`."""
    vocab = options["symbols"] + 2

    def draw(request: Request) -> Sampler:
        return Copying(options, request)

    fields = (Field("x", "label", "input", vocab), Field("y", "label", "target", vocab))
    return Source(fields, draw, sizes={"vocab": vocab})
