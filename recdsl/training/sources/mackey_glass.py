"""The Mackey-Glass equation (Mackey & Glass 1977), a chaotic series: predict its next value.

dx/dt = 0.2 x(t - tau) / (1 + x(t - tau)^10) - 0.1 x(t), by Runge-Kutta steps of order four and width 0.1 (the delayed
value between two steps is their mean), one observation a unit of time. Each row starts from a constant past of its own
and is run for 300 units before it is shown. Rows have no end: a batch holds their next `length` steps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recdsl.training.arrays import np
from recdsl.training.batches import Array, Batch, Place, Request, Source
from recdsl.training.declare import Declaration, Field, Option, Options

DECLARATION = Declaration(
    "mackey_glass",
    "predict the next value of a chaotic series; an endless stream",
    (
        Option("length", "int", 100, "steps of a batch", low=1, high=1_000_000),
        Option("tau", "int", 17, "the delay, in units of time; chaotic from about 17", low=1, high=1_000),
    ),
)
GENERATED = True
WIDTH, UNIT, BURN_IN = 0.1, 10, 300


def slope(x: Array, late: Array) -> Array:
    """dx/dt."""
    return 0.2 * late / (1.0 + late**10) - 0.1 * x


class Series:
    """`past`: values of the last tau units, [10 tau + 1, rows], oldest first; the last is the newest observation."""

    def __init__(self, options: Options, request: Request) -> None:
        self.length, self.depth = options["length"], UNIT * options["tau"]
        starts = np.array([request.rng(row).uniform(1.0, 1.4) for row in range(request.batch)])
        self.past: Array = np.tile(starts, (self.depth + 1, 1))
        self._run(BURN_IN)

    def _run(self, units: int) -> Array:
        """The values after each of so many units, [units, rows]."""
        path = np.concatenate([self.past, np.empty((units * UNIT, self.past.shape[1]))])
        for k in range(self.depth, len(path) - 1):
            x, old, new = path[k], path[k - self.depth], path[k - self.depth + 1]
            middle = 0.5 * (old + new)
            a = slope(x, old)
            b = slope(x + 0.5 * WIDTH * a, middle)
            c = slope(x + 0.5 * WIDTH * b, middle)
            path[k + 1] = x + WIDTH / 6.0 * (a + 2.0 * b + 2.0 * c + slope(x + WIDTH * c, new))
        self.past = path[-self.depth - 1 :].copy()
        return path[self.depth + UNIT :: UNIT]

    def next(self) -> Batch:
        first = self.past[-1:]
        values = np.concatenate([first, self._run(self.length)]).astype(np.float32)
        return Batch({"x": values[:-1, :, None], "y": values[1:]})

    def state(self) -> dict[str, Any]:
        return {"past": self.past.tolist()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.past = np.array(state["past"], np.float64)


def open_source(options: Options, _place: Place) -> Source:
    """Fields `x` float[1] and `y` float, the value one unit of time later."""
    fields = (Field("x", "float", "input", shape=(1,)), Field("y", "float", "target"))
    return Source(fields, lambda request: Series(options, request), sizes={"obs": 1}, continues=True)
