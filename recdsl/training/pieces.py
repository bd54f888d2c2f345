"""Endless streams that are made of pieces: trials of an experiment, episodes of a game."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from recdsl.training.arrays import np
from recdsl.training.batches import Array, Batch, Request

SMALL = 1e-12
"""What comes so late that it counts less than this share is left out of a return."""


@dataclass
class Pieces:
    """One stream a row. Piece n of a row is `make(request.rng(row, n))`, so a position is two numbers a row.

    make: arrays [steps, ...] by field, `cumulant` among them. Batches of `length` steps get one more field, `return`:
    the sum over k >= 0 of discount^k * cumulant[t + 1 + k], of what really comes. ends: whether each piece stands by
    itself; then returns end with it, and its first step is a reset.
    """

    make: Callable[[np.random.Generator], Mapping[str, Array]]
    request: Request
    length: int
    discount: float
    ends: bool = False
    made: dict[tuple[int, int], Mapping[str, Array]] = field(default_factory=dict[tuple[int, int], Mapping[str, Array]])

    def __post_init__(self) -> None:
        self.piece, self.offset = [0] * self.request.batch, [0] * self.request.batch

    def _raw(self, row: int, number: int) -> Mapping[str, Array]:
        if (row, number) not in self.made:
            self.made[row, number] = self.make(self.request.rng(row, number))
        return self.made[row, number]

    def _whole(self, row: int) -> Mapping[str, Array]:
        """The piece in work, with returns; those before it are forgotten."""
        number = self.piece[row]
        raw = self._raw(row, number)
        if "return" not in raw:
            raw = self.made[row, number] = {**raw, "return": self._returns(row, number)}
            self.made.pop((row, number - 1), None)
        return raw

    def _returns(self, row: int, number: int) -> Array:
        cumulants = self._raw(row, number)["cumulant"].astype(np.float64)
        found = np.zeros(len(cumulants))
        later = 0.0 if self.ends else self._ahead(row, number + 1)
        for t in range(len(cumulants) - 1, -1, -1):
            found[t] = later
            later = cumulants[t] + self.discount * later
        return found.astype(np.float32)

    def _ahead(self, row: int, number: int) -> float:
        """The discounted sum of a piece's cumulants and of all behind it."""
        total, weight = 0.0, 1.0
        while weight > SMALL:
            cumulants = self._raw(row, number)["cumulant"].astype(np.float64)
            total += weight * float(cumulants @ self.discount ** np.arange(len(cumulants)))
            weight *= self.discount ** len(cumulants)
            number += 1
        return total

    def _row(self, row: int) -> dict[str, Array]:
        parts: list[Mapping[str, Array]] = []
        firsts: list[Array] = []
        wanted = self.length
        while wanted:
            whole, start = self._whole(row), self.offset[row]
            part = {name: array[start : start + wanted] for name, array in whole.items()}
            steps = len(part["cumulant"])
            firsts.append(np.arange(start, start + steps) == 0)
            parts.append(part)
            wanted -= steps
            self.offset[row] += steps
            if self.offset[row] == len(whole["cumulant"]):
                self.piece[row], self.offset[row] = self.piece[row] + 1, 0
        found = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        return {**found, "reset": np.concatenate(firsts)}

    def next(self) -> Batch:
        rows = [self._row(row) for row in range(self.request.batch)]
        arrays = {name: np.stack([row[name] for row in rows], axis=1) for name in rows[0]}
        reset = arrays.pop("reset")
        return Batch(arrays, reset=reset if self.ends else None)

    def state(self) -> dict[str, Any]:
        return {"trial": list(self.piece), "offset": list(self.offset)}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.piece, self.offset = list(map(int, state["trial"])), list(map(int, state["offset"]))
        self.made.clear()
