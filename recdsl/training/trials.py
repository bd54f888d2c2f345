"""Trials of animal learning (Rafiee et al. 2023, arXiv 2011.04590): a cue, an interval, perhaps a reward, a pause."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from recdsl.training.arrays import np
from recdsl.training.batches import Array, Request, Source
from recdsl.training.declare import Field, Option, Options
from recdsl.training.pieces import Pieces

Trial: TypeAlias = "Callable[[np.random.Generator], Mapping[str, Array]]"

LENGTH = Option("length", "int", 100, "steps of a batch", low=1, high=1_000_000)
ISI = Option("isi", "pair", (24.0, 36.0), "bounds of the interval between cue and reward, in steps", low=1)
ITI = Option("iti", "pair", (80.0, 120.0), "bounds of the pause between trials, in steps", low=1)
DISCOUNT = Option("discount", "float", 0.9, "of the field `return`, the true value to predict", low=0, high=0.9999)


def duration(rng: np.random.Generator, bounds: tuple[float, float]) -> int:
    """A number of steps between the bounds, both included."""
    return int(rng.integers(int(bounds[0]), int(bounds[1]) + 1))


def with_distractors(rng: np.random.Generator, steps: Array, count: int) -> Array:
    """More columns, of bits that mean nothing: bit k is on with probability 1 / (10 k)."""
    rate = 1.0 / (10.0 * np.arange(1, count + 1))
    noise = (rng.random((len(steps), count)) < rate).astype(np.float32)
    return np.concatenate([steps, noise], axis=1)


def fields(width: int) -> tuple[Field, ...]:
    """`x` float[width], `cumulant` (the reward bit of the same step), and the true `return` to compare with."""
    return (
        Field("x", "float", "input", shape=(width,)),
        Field("cumulant", "float", "input"),
        Field("return", "float", "target"),
    )


def source(width: int, options: Options, make: Trial) -> Source:
    """The stream of the trials that `make` makes of a generator: arrays `x` and `cumulant`."""

    def draw(request: Request) -> Pieces:
        return Pieces(make, request, options["length"], options["discount"])

    return Source(fields(width), draw, sizes={"obs": width}, continues=True)
