"""Trace patterning, an animal-learning stream (Rafiee et al. 2023, arXiv 2011.04590; Javed et al., JMLR 2023).

A trial shows one pattern of three active conditioned bits for one step. If the pattern is a reinforced one, the
unconditioned bit follows after an interval; distractor bit k is on with probability 1 / (10 k). Then comes a pause.
The stream has no end and no resets: a batch holds its next `length` steps.
"""

from __future__ import annotations

from itertools import combinations

from recdsl.training.arrays import np
from recdsl.training.batches import Array, Place, Source
from recdsl.training.declare import Declaration, Option, Options
from recdsl.training.trials import DISCOUNT, ISI, ITI, LENGTH, duration, source, with_distractors

DECLARATION = Declaration(
    "trace_patterning",
    "predict a reward that follows some patterns after an interval; an endless stream",
    (
        Option("seed", "int", 0, "which of the patterns are reinforced", low=0),
        LENGTH,
        Option("bits", "int", 6, "conditioned bits, of which half (rounded down) are active", low=2, high=16),
        Option("distractors", "int", 5, "distractor bits", low=0, high=1_000),
        Option("reinforced", "int", 10, "number of patterns that are reinforced", low=1),
        ISI,
        ITI,
        DISCOUNT,
    ),
)
GENERATED = True


def patterns(options: Options) -> tuple[Array, set[int]]:
    """All patterns, [number, bits], and which of them are reinforced."""
    bits = options["bits"]
    chosen = list(combinations(range(bits), bits // 2))
    found = np.zeros((len(chosen), bits), np.float32)
    for row, active in enumerate(chosen):
        found[row, list(active)] = 1.0
    order = np.random.Generator(np.random.PCG64([options["seed"], 7])).permutation(len(found))
    return found, set(order[: options["reinforced"]].tolist())


def open_source(options: Options, _place: Place) -> Source:
    """Fields `x` float[bits + 1 + distractors] (the reward bit behind the patterns'), `cumulant` and `return`."""
    bits, (shown, valid) = options["bits"], patterns(options)

    def make(rng: np.random.Generator) -> dict[str, Array]:
        interval = duration(rng, options["isi"])
        steps = np.zeros((interval + duration(rng, options["iti"]), bits + 1), np.float32)
        pattern = int(rng.integers(len(shown)))
        steps[0, :bits] = shown[pattern]
        steps[interval, bits] = float(pattern in valid)
        return {"x": with_distractors(rng, steps, options["distractors"]), "cumulant": steps[:, bits].copy()}

    return source(bits + 1 + options["distractors"], options, make)
