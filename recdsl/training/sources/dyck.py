"""Dyck languages: balanced brackets of several kinds; name the bracket that may be closed next."""

from __future__ import annotations

from recdsl.training.arrays import np
from recdsl.training.batches import Batch, Place, Source, keyed
from recdsl.training.declare import Declaration, Field, Option, Options

DECLARATION = Declaration(
    "dyck",
    "after each bracket, name the kind that is innermost open (0: none is); needs a stack",
    (
        Option(
            "kinds",
            "int",
            2,
            "kinds of brackets; labels: kinds opening ones, then kinds closing ones",
            low=1,
            high=10_000,
        ),
        Option("depth", "int", 4, "deepest nesting", low=1, high=10_000),
        Option("length", "int", 32, "steps of a sequence", low=2, high=1_000_000),
    ),
)
GENERATED = True


def open_source(options: Options, _place: Place) -> Source:
    """Fields `x` (labels below 2 * kinds) and `y` (labels below kinds + 1). Sizes `vocab` and `classes`."""
    kinds, depth, length = options["kinds"], options["depth"], options["length"]

    def make(rng: np.random.Generator, batch: int) -> Batch:
        x, y = np.zeros((length, batch), np.int64), np.zeros((length, batch), np.int64)
        stack, level, rows = np.zeros((batch, depth + 1), np.int64), np.zeros(batch, np.int64), np.arange(batch)
        for step in range(length):
            opens = ((rng.random(batch) < 0.5) & (level < depth)) | (level == 0)
            kind = rng.integers(0, kinds, batch)
            top = stack[rows, level]
            x[step] = np.where(opens, kind, kinds + top - 1)
            level = level + np.where(opens, 1, -1)
            stack[rows[opens], level[opens]] = kind[opens] + 1
            # Level 0 is the bottom and always holds 0: nothing is open.
            y[step] = stack[rows, level]
        return Batch({"x": x, "y": y})

    fields = (Field("x", "label", "input", 2 * kinds), Field("y", "label", "target", kinds + 1))
    return Source(fields, keyed(make), sizes={"vocab": 2 * kinds, "classes": kinds + 1})
