"""The copy task: remember `length` symbols over a delay, then repeat them (Hochreiter & Schmidhuber 1997's form).

Steps: `length` symbols, then `delay` blanks of which the last is the go mark, then `length` blanks during which the
target is the symbols. The target is blank at all other steps: measure with `accuracy(last=length)`.

With `grow`, training begins with one symbol, and whenever the error of a batch falls below `grow` bits a symbol, one
more is asked for, up to `length`; each row has between five symbols fewer and that number (the curriculum of Menick et
al. 2021, arXiv 2006.07232, section 5.2). The error counts all of the loss as that of the repeated symbols.

With `first`, the delay grows too: training begins with that delay, and once all symbols are asked for, success makes it
a fifth longer, up to `delay`. The rows of a batch are then alike: each batch has one number of symbols, every other one
the largest that is asked for, and one delay between half the longest and the longest. Tests are never shortened.
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
        Option("first", "int", None, "with `grow`: the delay that training begins with", low=1, none=True),
    ),
)
GENERATED = True
KEPT = ("level", "delay", "steps_a_symbol", "asked")


class Copying:
    """Batch n is a function of (seed, split, n) and of `level`, the largest number of symbols that are asked for, and
    `delay`, the longest."""

    def __init__(self, options: Options, request: Request) -> None:
        self.options, self.request, self.position = options, request, 0
        self.growing = options["grow"] is not None and request.split == "train"
        self.level: int = 1 if self.growing else options["length"]
        first = options["first"]
        self.alike = self.growing and first is not None
        self.delay: int = min(first, options["delay"]) if self.alike else options["delay"]
        self.steps_a_symbol, self.asked = 1.0, self.level

    def next(self) -> Batch:
        rng = self.request.rng(self.position)
        self.position += 1
        if not self.growing:
            return Batch(self._arrays(self._symbols(rng, self.level, self.request.batch), self.delay))
        return self._alike(rng) if self.alike else self._ragged(rng)

    def _symbols(self, rng: np.random.Generator, length: int, rows: int) -> Array:
        return rng.integers(1, self.options["symbols"] + 1, (length, rows))

    def _arrays(self, data: Array, delay: int) -> dict[str, Array]:
        """Sequences that repeat the columns of `data`."""
        length, batch = data.shape
        x = np.zeros((2 * length + delay, batch), np.int64)
        x[:length] = data
        x[length + delay - 1] = self.options["symbols"] + 1
        y = np.zeros_like(x)
        y[length + delay :] = data
        return {"x": x, "y": y}

    def _alike(self, rng: np.random.Generator) -> Batch:
        """Rows of one length and delay."""
        few = int(rng.integers(max(1, self.level - 5), self.level + 1))
        self.asked = self.level if rng.random() < 0.5 else few
        delay = int(rng.integers((self.delay + 1) // 2, self.delay + 1))
        self.steps_a_symbol = (2 * self.asked + delay) / self.asked
        return Batch(self._arrays(self._symbols(rng, self.asked, self.request.batch), delay))

    def _ragged(self, rng: np.random.Generator) -> Batch:
        """Rows of different lengths, the end of the shorter ones masked."""
        lengths = rng.integers(max(1, self.level - 5), self.level + 1, self.request.batch)
        rows = [self._arrays(self._symbols(rng, int(n), 1), self.delay) for n in lengths]
        longest = max(len(row["x"]) for row in rows)
        mask = np.arange(longest)[:, None] < (2 * lengths + self.delay)[None]
        self.steps_a_symbol = float(mask.sum() / lengths.sum())
        arrays = {n: np.concatenate([np.pad(r[n], ((0, longest - len(r[n])), (0, 0))) for r in rows], 1) for n in "xy"}
        return Batch(arrays, mask)

    def learned(self, loss: float) -> None:
        """Told of the mean loss (in nats, over the valid steps) of the latest batch."""
        if not self.growing or loss * self.steps_a_symbol / log(2.0) >= self.options["grow"]:
            return
        if self.level < self.options["length"]:
            self.level += not self.alike or self.asked == self.level
        elif self.alike and self.asked == self.level:
            self.delay = min(self.options["delay"], self.delay + max(1, self.delay // 5))

    def state(self) -> dict[str, Any]:
        kept = {name: getattr(self, name) for name in KEPT}
        return {"position": self.position, **kept}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.position = int(state["position"])
        for name in KEPT:
            setattr(self, name, type(getattr(self, name))(state.get(name, getattr(self, name))))


def open_source(options: Options, _place: Place) -> Source:
    """Fields `x` and `y`, labels below symbols + 2, time 2 * length + delay. Size `vocab`."""
    vocab = options["symbols"] + 2

    def draw(request: Request) -> Sampler:
        return Copying(options, request)

    fields = (Field("x", "label", "input", vocab), Field("y", "label", "target", vocab))
    return Source(fields, draw, sizes={"vocab": vocab})
