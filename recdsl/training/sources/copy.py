"""The copy task: remember `length` symbols over a delay, then repeat them (Hochreiter & Schmidhuber 1997's form).

Steps: `length` symbols, then `delay` blanks of which the last is the go mark, then `length` blanks during which the
target is the symbols. The target is blank at all other steps: measure with `accuracy(last=length)`.
"""

from __future__ import annotations

from recdsl.training.arrays import np
from recdsl.training.batches import Batch, Place, Source, keyed
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
    ),
)
GENERATED = True


def open_source(options: Options, _place: Place) -> Source:
    """Fields `x` and `y`, labels below symbols + 2, time 2 * length + delay. Size `vocab`."""
    delay, symbols, length = options["delay"], options["symbols"], options["length"]
    vocab = symbols + 2

    def make(rng: np.random.Generator, batch: int) -> Batch:
        data = rng.integers(1, symbols + 1, (length, batch))
        x = np.zeros((2 * length + delay, batch), np.int64)
        x[:length] = data
        x[length + delay - 1] = symbols + 1
        y = np.zeros_like(x)
        y[length + delay :] = data
        return Batch({"x": x, "y": y})

    fields = (Field("x", "label", "input", vocab), Field("y", "label", "target", vocab))
    return Source(fields, keyed(make), sizes={"vocab": vocab})
