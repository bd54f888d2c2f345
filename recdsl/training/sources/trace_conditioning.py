"""Trace conditioning, an animal-learning stream (Rafiee et al. 2023, arXiv 2011.04590): a cue, and a reward later.

The cue is on for one step, the reward for one step after the interval; between them there is nothing to see. The stream
has no end and no resets: a batch holds its next `length` steps.
"""

from __future__ import annotations

from recdsl.training.arrays import np
from recdsl.training.batches import Array, Place, Source
from recdsl.training.declare import Declaration, Option, Options
from recdsl.training.trials import DISCOUNT, ISI, ITI, LENGTH, duration, source, with_distractors

DECLARATION = Declaration(
    "trace_conditioning",
    "predict a reward that follows a cue after an interval; an endless stream",
    (LENGTH, Option("distractors", "int", 0, "distractor bits", low=0, high=1_000), ISI, ITI, DISCOUNT),
)
GENERATED = True


def open_source(options: Options, _place: Place) -> Source:
    """Fields `x` float[2 + distractors] (cue, reward, distractors), `cumulant` and `return`."""

    def make(rng: np.random.Generator) -> dict[str, Array]:
        interval = duration(rng, options["isi"])
        steps = np.zeros((interval + duration(rng, options["iti"]), 2), np.float32)
        steps[0, 0] = steps[interval, 1] = 1.0
        return {"x": with_distractors(rng, steps, options["distractors"]), "cumulant": steps[:, 1].copy()}

    return source(2 + options["distractors"], options, make)
