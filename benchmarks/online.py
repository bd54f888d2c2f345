"""The suite `online`: updates a second of learning from a stream, whole training loop with data, records and optimizer.

`torch`: one call of the generated torch module an update. `calls`: the same with its loops in C. `native`: many updates
in one call of C, which is what `recdsl train` does; `c_us` is the time of that call alone, an update.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.table import Row
from benchmarks.trace_patterning import SPECS, Method, changes, methods
from recdsl.backends.native.online import Done, Learner, Stretch
from recdsl.training.catalogue import beside
from recdsl.training.online import Online, trainer
from recdsl.training.pipeline import COMPILER
from recdsl.training.run import seed_all, setup

LONG = 10**6
"""Updates that a schedule may count on."""


@dataclass(frozen=True)
class Case:
    """A spec with overrides. one: updates that are timed where each is a call of its own; many: else."""

    name: str
    spec: str
    changes: tuple[str, ...]
    one: int
    many: int


def cases() -> Iterator[Case]:
    spec = str(SPECS / "columnar_td.yaml")
    yield Case("columnar_td", spec, ("train.log=1000",), 150, 8_000)
    yield Case("columnar_td, float64", spec, ("train.log=1000", "train.dtype=float64"), 150, 8_000)
    for method in methods():
        if "constructive" not in method.name:
            yield Case(f"patterning: {method.name}", method.spec, _patterning(method), 150, 4_000)


def _patterning(method: Method) -> tuple[str, ...]:
    return (*changes(method, 0, 1e-3, LONG), "train.log=1000")


def run(only: list[str], repeats: int) -> Iterator[Row]:
    """A row a case: CPU microseconds an update, the least of the repeats, in turns."""
    torch.set_num_threads(1)
    for case in cases():
        if only and not any(name in case.name for name in only):
            continue
        ways: dict[str, Callable[[], float]] = {
            "torch": _one_by_one(case, "torch"),
            "calls": _one_by_one(case, "native"),
            "native": _together(case),
        }
        least = dict.fromkeys(ways, float("inf"))
        for _ in range(repeats):
            for name, measure in ways.items():
                least[name] = min(least[name], measure())
        row: Row = {"cell": case.name} | {f"{name}_us": round(1e6 * value, 2) for name, value in least.items()}
        row["c_us"] = round(1e6 * min(clock.least for clock in CLOCKS if clock.name == case.name), 2)
        row |= {f"{name}/native": round(least[name] / least["native"], 1) for name in ("torch", "calls")}
        yield row | {"native_per_s": round(1 / least["native"])}


def _worker(case: Case, backend: str) -> Online:
    seed_all(1)
    given = (*case.changes, f"train.backend={backend}", f"train.steps={LONG}")
    compiled = COMPILER.build(case.spec, given)
    ready = setup(compiled, beside(compiled.spec))
    made = trainer(compiled, ready.source, ready.binding, ready.settings)
    assert isinstance(made, Online)
    for _ in range(30):
        made.update()
    return made


def _one_by_one(case: Case, backend: str) -> Callable[[], float]:
    made = _worker(case, backend)

    def measure() -> float:
        began = time.process_time()
        for _ in range(case.one):
            made.update()
        return (time.process_time() - began) / case.one

    return measure


@dataclass
class Clock:
    """The time of calls of C alone."""

    name: str
    learner: Learner
    least: float = float("inf")

    def learn(self, given: Stretch) -> Done:
        began = time.process_time()
        done = Learner.learn(self.learner, given)
        self.least = min(self.least, (time.process_time() - began) / max(1, done.count))
        return done


CLOCKS: list[Clock] = []


def _together(case: Case) -> Callable[[], float]:
    made = _worker(case, "native")
    made.updates(1)
    learner: Any = made.learner
    assert learner is not None, made.alone
    CLOCKS.append(Clock(case.name, learner))
    learner.learn = CLOCKS[-1].learn

    def measure() -> float:
        first, began = made.step, time.process_time()
        while made.step - first < case.many:
            made.updates(1_000)
            made.report()
        return (time.process_time() - began) / (made.step - first)

    return measure
