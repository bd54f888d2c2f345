"""Trace patterning, an animal-learning stream (Rafiee et al. 2023, arXiv 2011.04590; Javed et al., JMLR 2023).

A trial shows one pattern of three active conditioned bits for one step. If the pattern is a reinforced one, the
unconditioned bit follows after an interval; distractor bit k is on with probability 1 / (10 k). Then comes a pause.
The stream has no end and no resets: a batch holds its next `length` steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import Any

from recdsl.training.arrays import np
from recdsl.training.batches import Array, Batch, Place, Request, Source
from recdsl.training.declare import Declaration, Field, Option, Options

DECLARATION = Declaration(
    "trace_patterning",
    "predict a reward that follows some patterns after an interval; an endless stream",
    (
        Option("seed", "int", 0, "which of the patterns are reinforced", low=0),
        Option("length", "int", 100, "steps of a batch", low=1, high=1_000_000),
        Option("bits", "int", 6, "conditioned bits, of which half (rounded down) are active", low=2, high=16),
        Option("distractors", "int", 5, "distractor bits", low=0, high=1_000),
        Option("reinforced", "int", 10, "number of patterns that are reinforced", low=1),
        Option("isi", "pair", (24.0, 36.0), "bounds of the interval between pattern and reward, in steps", low=1),
        Option("iti", "pair", (80.0, 120.0), "bounds of the pause between trials, in steps", low=1),
    ),
)
GENERATED = True


class Stream:
    """One endless stream a row. Trial n of a row is a function of (seed, split, row, n): a position is two numbers."""

    def __init__(self, options: Options, request: Request) -> None:
        self.options, self.request = options, request
        self.trial, self.offset = [0] * request.batch, [0] * request.batch
        active = combinations(range(options["bits"]), options["bits"] // 2)
        patterns = np.zeros((0, options["bits"]), np.float32)
        for chosen in active:
            row = np.zeros((1, options["bits"]), np.float32)
            row[0, list(chosen)] = 1.0
            patterns = np.concatenate([patterns, row])
        self.patterns = patterns
        order = np.random.Generator(np.random.PCG64([options["seed"], 7])).permutation(len(patterns))
        self.valid = set(order[: options["reinforced"]].tolist())
        self._cache: dict[int, tuple[int, Array]] = {}

    def _trial(self, row: int) -> Array:
        number = self.trial[row]
        if row not in self._cache or self._cache[row][0] != number:
            self._cache[row] = number, self._make(self.request.rng(row, number))
        return self._cache[row][1]

    def _make(self, rng: np.random.Generator) -> Array:
        """One trial: [steps, bits + 1 + distractors]."""
        options, bits = self.options, self.options["bits"]
        interval = int(rng.integers(int(options["isi"][0]), int(options["isi"][1]) + 1))
        pause = int(rng.integers(int(options["iti"][0]), int(options["iti"][1]) + 1))
        steps = np.zeros((interval + pause, bits + 1 + options["distractors"]), np.float32)
        pattern = int(rng.integers(len(self.patterns)))
        steps[0, :bits] = self.patterns[pattern]
        steps[interval, bits] = float(pattern in self.valid)
        rate = 1.0 / (10.0 * np.arange(1, options["distractors"] + 1))
        steps[:, bits + 1 :] = rng.random((len(steps), options["distractors"])) < rate
        return steps

    def _row(self, row: int) -> Array:
        parts: list[Array] = []
        wanted = self.options["length"]
        while wanted:
            rest = self._trial(row)[self.offset[row] :][:wanted]
            parts.append(rest)
            wanted -= len(rest)
            self.offset[row] += len(rest)
            if self.offset[row] == len(self._trial(row)):
                self.trial[row], self.offset[row] = self.trial[row] + 1, 0
        return np.concatenate(parts)

    def next(self) -> Batch:
        x = np.stack([self._row(row) for row in range(self.request.batch)], axis=1)
        return Batch({"x": x, "cumulant": x[:, :, self.options["bits"]].copy()})

    def state(self) -> dict[str, Any]:
        return {"trial": list(self.trial), "offset": list(self.offset)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.trial, self.offset = list(map(int, state["trial"])), list(map(int, state["offset"]))


def open_source(options: Options, _place: Place) -> Source:
    """Fields `x` float[bits + 1 + distractors] and `cumulant` float (the reward bit of the same step)."""
    width = options["bits"] + 1 + options["distractors"]
    fields = (Field("x", "float", "input", shape=(width,)), Field("cumulant", "float", "input"))
    return Source(fields, lambda request: Stream(options, request), sizes={"obs": width}, continues=True)
