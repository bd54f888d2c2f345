"""Learning curves on trace patterning: columnar and constructive networks against truncated BPTT at equal compute.

After Javed et al. (JMLR 24(256), 2023), with shorter intervals than theirs, so that minutes are enough to see
something. Compute as their configurations count it: parameters * (1 + 6) a step for columns in training, parameters *
(1 + k) for tbptt(k). Learning is online, an update every ten steps of eight streams, by TD with updates divided by
their root mean square, at one rate for all. As in their tuned configurations, columns have eligibility traces and
truncated BPTT has none. The error is theirs: the mean squared difference to the true return.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path

import torch

from recdsl.backends import find
from recdsl.cli.figure import Lines, Series, figure
from recdsl.driver import analyse
from recdsl.training.catalogue import beside
from recdsl.training.online import trainer
from recdsl.training.pipeline import COMPILER, Compiled, Stages
from recdsl.training.run import seed_all, setup

SPECS = Path(__file__).parent.parent / "specs"
STREAM = ("train.batch=8", "train.every=10", "data=trace_patterning(seed=3, isi=[8, 12], iti=[25, 35])")
OPTIMIZER = "train.optimizer=td_lambda(lr=3e-3, trace={trace}, normalise=true, keep=0.999)"
POINTS = 40

TBPTT = """recdsl: 1
name: tbptt-lstm
sizes: {obs: 12, hidden: HIDDEN}
inputs: {x: "float[obs]", cumulant: float}
targets: {return: float}
params:
  w: float[hidden] = 0
  bias: float = 0
step: |
  h, c = lstm(x, size=hidden)
  f = normalise(h)
  v = w @ f + bias
loss: td(v, cumulant, discount=0.9)
credit: tbptt(window=WINDOW)
data: trace_patterning(seed=3)
train:
  online: true
  optimizer: td_lambda(lr=1e-3, normalise=true)
  metrics: mse(v, return)
  threads: 1
"""


@dataclass(frozen=True)
class Method:
    """A network under its rule. cost: products a step and stream, as the paper counts them."""

    name: str
    spec: str
    cost: int


@dataclass
class Run:
    """points: (step, mean squared error to the return since the last point)."""

    method: str
    seed: int
    updates: int
    cost: int
    points: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    seconds: float = 0.0

    @property
    def last(self) -> float:
        """The mean over the last quarter."""
        tail = [error for _, error in self.points[-max(1, len(self.points) // 4) :]]
        return sum(tail) / len(tail)


def methods() -> list[Method]:
    """At most as much compute as the columnar network has, but for rounding to whole units."""

    def dense(window: int, hidden: int) -> Method:
        text = TBPTT.replace("HIDDEN", str(hidden)).replace("WINDOW", str(window))
        return Method(f"tbptt({window}), {hidden} units", text, 4 * hidden * (12 + hidden + 1) * (1 + window))

    return [
        Method("columnar, 15 columns", str(SPECS / "columnar_td.yaml"), 15 * 4 * 14 * 7),
        Method("constructive, 3 x 5", str(SPECS / "constructive_columns.yaml"), 4 * 5 * (14 + 19 + 24 * 7)),
        dense(20, 4),
        dense(8, 8),
    ]


def native(spec: str, changes: tuple[str, ...]) -> Compiled:
    """A compiled spec whose modules run as C where they can."""
    made = COMPILER.build(spec, changes)

    def module(update: int) -> torch.nn.Module:
        return find("native").module(analyse(spec, changes, update), torch.float32)

    return replace(made, module=module(0), stages=Stages(made.stages.boundaries, module))


def changes(method: Method, seed: int, updates: int) -> tuple[str, ...]:
    trace = 0.0 if "tbptt" in method.name else 0.9
    found = [*STREAM, OPTIMIZER.format(trace=trace), f"train.steps={updates}", f"train.seed={seed}"]
    if "constructive" in method.name:
        one, two = updates // 3, 2 * updates // 3
        stages = [("a.*", 0, one), ("b.*", one, two), ("wb", one, None), ("c.*", two, None), ("wc", two, None)]
        calls = [f'train("{name}", start={start}, until={until or "none"})' for name, start, until in stages]
        found.append(f"train.stages=[{', '.join(calls)}]")
    return tuple(found)


def learn(method: Method, seed: int, updates: int) -> Run:
    """One run."""
    seed_all(seed)
    compiled = native(method.spec, changes(method, seed, updates))
    ready = setup(compiled, beside(compiled.spec))
    worker, found = (
        trainer(compiled, ready.source, ready.binding, ready.settings),
        Run(method.name, seed, updates, method.cost),
    )
    began, spacing = time.perf_counter(), max(1, updates // POINTS)
    while worker.step < updates:
        worker.updates(min(spacing - worker.step % spacing, updates - worker.step))
        if worker.step % spacing == 0:
            found.points.append((worker.step * ready.settings["every"], worker.report()["mse"]))
    found.seconds = time.perf_counter() - began
    return found


def drawn(found: list[Run]) -> str:
    """Learning curves, a line a method: means over seeds."""
    names = list(dict.fromkeys(run.method for run in found))
    series: list[Series] = []
    for key, name in enumerate(names):
        own = [run.points for run in found if run.method == name]
        points = tuple((float(p[0][0]), sum(e for _, e in p) / len(p)) for p in zip(*own, strict=True))
        series.append(Series(key, points))
    count, updates = len({run.seed for run in found}), found[0].updates
    below = f"{updates * 10:,} steps of 8 streams, an update every 10 steps; means of {count} seeds; equal compute"
    panel = Lines("online error", "steps of each stream", "squared error to the return", tuple(series), wide=True)
    return figure("Trace patterning", below, names, (panel,), columns=2)


def report(updates: int, seeds: int, out: Path | None, picture: Path | None) -> None:
    """Measure, print a line a run, write JSON and SVG."""
    found: list[Run] = []
    for method, seed in product(methods(), range(seeds)):
        run = learn(method, seed, updates)
        found.append(run)
        line = f"{run.method}  seed {run.seed}  error {run.last:.5f}  {run.seconds:.0f} s"
        print(line, flush=True)
        if out is not None:
            rows = [{**asdict(run), "last": run.last} for run in found]
            out.write_text(json.dumps({"about": "see benchmarks/trace_patterning.py", "runs": rows}, indent=1) + "\n")
        if picture is not None:
            picture.write_text(drawn(found), encoding="utf-8")
