"""Small handwritten digits (8 x 8, 1,797 of them), read as sequences. The data comes with the package."""

from __future__ import annotations

import lzma
from functools import cache
from importlib.resources import files

from recdsl.training.arrays import np
from recdsl.training.batches import Array, Batch, Place, Source, epochs
from recdsl.training.declare import Declaration, Field, Option, Options
from recdsl.training.noise import NOISE, noisy

DECLARATION = Declaration(
    "sequential_digits",
    "classify 8 x 8 digits read in order; the label is given at every step (score the last)",
    (
        Option(
            "as",
            "word",
            "rows",
            "rows: 8 steps of 8 pixels; pixels: 64 steps of one; flat: 1 step of 64",
            choices=("rows", "pixels", "flat"),
        ),
        Option("permute", "int", None, "seed of a fixed shuffle of the pixels", low=0, none=True),
        NOISE,
    ),
)
GENERATED = True
COUNT = 1797


def load() -> tuple[Array, Array]:
    """Images [1797, 64] in 0..1 and labels [1797], in a fixed mixed order (the file is ordered by writer)."""
    raw = lzma.decompress((files("recdsl.training") / "data" / "digits.xz").read_bytes())
    values = np.frombuffer(raw, np.uint8)
    order = np.random.Generator(np.random.PCG64(1797)).permutation(COUNT)
    images = values[: COUNT * 64].reshape(COUNT, 64)[order].astype(np.float32) / 16.0
    return images, values[COUNT * 64 :][order].astype(np.int64)


def open_source(options: Options, _place: Place) -> Source:
    """Fields `x` float[columns] (rows), float (pixels) or float[pixels] (flat), `y` labels below 10, and `noise`, where
    it is asked for. 1,297 train, 140 valid, 360 test."""

    @cache
    def loaded() -> tuple[Array, Array]:
        images, labels = load()
        if options["permute"] is not None:
            images = images[:, np.random.Generator(np.random.PCG64(options["permute"])).permutation(64)]
        return images, labels

    steps, shape = {"rows": (8, (8,)), "pixels": (64, ()), "flat": (1, (64,))}[options["as"]]
    bounds = {"train": (0, 1297), "valid": (1297, 1437), "test": (1437, COUNT)}

    def gather(split: str, chosen: Array) -> Batch:
        rows, (images, labels) = chosen + bounds[split][0], loaded()
        x = images[rows].reshape(len(rows), steps, *shape).swapaxes(0, 1)
        return Batch({"x": np.ascontiguousarray(x), "y": np.broadcast_to(labels[rows], (steps, len(rows))).copy()})

    fields = (Field("x", "float", "input", shape=shape), Field("y", "label", "target", 10))
    counts = {split: stop - start for split, (start, stop) in bounds.items()}
    found = Source(fields, *epochs(counts, gather), {"columns": 8, "pixels": 64, "classes": 10})
    return noisy(found, options["noise"])
