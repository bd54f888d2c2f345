"""Delayed recall: a cue, then distractors, then a query; the answer is the cue."""

from __future__ import annotations

from recdsl.training.arrays import np
from recdsl.training.batches import Batch, Place, Source, keyed
from recdsl.training.declare import Declaration, Field, Option, Options

DECLARATION = Declaration(
    "delayed_recall",
    "name the first symbol after `delay` distractors; labels: cues, then distractors, then the query",
    (
        Option("delay", "int", 20, "distractors between cue and query", low=0, high=10_000_000),
        Option("symbols", "int", 4, "number of different cues, which is the number of answers", low=2, high=100_000),
        Option("distractors", "int", 4, "number of different distractors", low=1, high=100_000),
    ),
)
GENERATED = True


def open_source(options: Options, _place: Place) -> Source:
    """Fields `x` (labels) and `y` (the cue, given at every step: score the last); time delay + 2.

    Sizes `vocab` = symbols + distractors + 1 and `symbols`.
    """
    delay, symbols, distractors = options["delay"], options["symbols"], options["distractors"]
    vocab = symbols + distractors + 1

    def make(rng: np.random.Generator, batch: int) -> Batch:
        x = np.full((delay + 2, batch), vocab - 1, np.int64)
        x[0] = rng.integers(0, symbols, batch)
        x[1:-1] = rng.integers(symbols, symbols + distractors, (delay, batch))
        return Batch({"x": x, "y": np.broadcast_to(x[0], x.shape).copy()})

    fields = (Field("x", "label", "input", vocab), Field("y", "label", "target", symbols))
    return Source(fields, keyed(make), sizes={"vocab": vocab, "symbols": symbols})
