"""Associative recall (Ba et al. 2016): `c9k8j3?k` asks for the digit that followed the letter."""

from __future__ import annotations

from recdsl.training.arrays import np
from recdsl.training.batches import Batch, Place, Source, keyed
from recdsl.training.declare import Declaration, Field, Option, Options

DECLARATION = Declaration(
    "associative_recall",
    "name the digit that followed a letter; labels: letters, then digits, then the mark before the question",
    (
        Option("pairs", "int", 8, "pairs of a letter and a digit", low=1, high=1_000_000),
        Option("letters", "int", 26, "number of different letters, no fewer than pairs", low=1, high=1_000_000),
        Option("digits", "int", 10, "number of different digits, which is the number of answers", low=2, high=100_000),
    ),
)
GENERATED = True


def open_source(options: Options, _place: Place) -> Source:
    """Fields `x` (labels) and `y` (the answer, given at every step: score the last); time 2 pairs + 2.

    The letters of a sequence differ; digits may repeat. Sizes `vocab` = letters + digits + 1 and `digits`.
    """
    pairs, letters, digits = options["pairs"], max(options["letters"], options["pairs"]), options["digits"]
    vocab = letters + digits + 1

    def make(rng: np.random.Generator, batch: int) -> Batch:
        keys = rng.random((batch, letters)).argsort(1)[:, :pairs].T
        values = rng.integers(0, digits, (pairs, batch))
        asked, rows = rng.integers(0, pairs, batch), np.arange(batch)
        x = np.full((2 * pairs + 2, batch), vocab - 1, np.int64)
        x[0:-2:2], x[1:-2:2] = keys, letters + values
        x[-1] = keys[asked, rows]
        return Batch({"x": x, "y": np.broadcast_to(values[asked, rows], x.shape).copy()})

    fields = (Field("x", "label", "input", vocab), Field("y", "label", "target", digits))
    return Source(fields, keyed(make), sizes={"vocab": vocab, "digits": digits})
