"""Learning curves on trace patterning: columnar and constructive networks against truncated BPTT at equal compute.

After Javed et al. (JMLR 24(256), 2023), with their stream, and with normalised inputs and features, eligibility traces
and updates divided by their root mean square for all methods. Two things are not theirs, since they have 50 million
steps and here it is minutes: eight streams side by side, and an update every ten steps.

Compute, as their configurations count it: parameters * (1 + 6) a step for columns in training, parameters for frozen
ones, parameters * (1 + k) for tbptt(k) with an update at each step: two units for k = 30. (Its size is from that; it is
run with an update every ten steps as all are, which here is no worse.) An update in ten makes tbptt cheaper, so
that it has a second entry with more units, where a step costs 2 k / 10: k steps replayed and gone back over.

Each method has the same rates to choose from, by the last error on a seed that is not used again. The error is theirs:
the mean squared difference to the true return.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch

from recdsl.backends import find
from recdsl.cli.figure import Lines, Series, figure
from recdsl.driver import analyse
from recdsl.training.catalogue import beside
from recdsl.training.online import Online, trainer
from recdsl.training.pipeline import COMPILER, Compiled, Stages
from recdsl.training.run import seed_all, setup

SPECS = Path(__file__).parent.parent / "specs"
EVERY, STREAMS = 10, 8
STREAM = (f"train.batch={STREAMS}", f"train.every={EVERY}")
OPTIMIZER = "train.optimizer=td_lambda(lr={rate}, trace=0.99, normalise=true, keep=0.999)"
RATES = (1e-3, 2e-3)
SEARCH = 100
"""The seed on which rates are chosen; results are of seeds from 0."""
POINTS = 30
CONSTANT, BAYES = 0.01885, 0.00170
"""Errors of the best constant, and of the best that can be known without the interval (a trial at a time)."""

COLUMNAR = str(SPECS / "columnar_td.yaml")
CONSTRUCTIVE = str(SPECS / "constructive_columns.yaml")
TBPTT = """recdsl: 1
name: tbptt-lstm
sizes: {obs: 12, hidden: HIDDEN}
inputs: {x: "float[obs]", cumulant: float}
targets: {return: float}
params:
  w: float[hidden] = 0
  bias: float = 0
step: |
  u = normalise(x, rate=0.9999)
  h, c = lstm(u, size=hidden)
  f = normalise(h, rate=0.9999)
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
    """A network under its rule. cost: products a step and stream, see above."""

    name: str
    spec: str
    cost: int


@dataclass
class Run:
    """points: (step, mean squared error to the return since the last point)."""

    method: str
    seed: int
    rate: float
    updates: int
    cost: int
    points: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    seconds: float = 0.0

    @property
    def last(self) -> float:
        """The mean over the last fifth."""
        tail = [error for _, error in self.points[-max(1, len(self.points) // 5) :]]
        return sum(tail) / len(tail)


def methods() -> list[Method]:
    """About as much compute for each: the columnar network has 3,920 products a step."""

    def dense(window: int, hidden: int, factor: float, note: str = "") -> Method:
        text = TBPTT.replace("HIDDEN", str(hidden)).replace("WINDOW", str(window))
        parameters = 4 * hidden * (12 + hidden + 1)
        return Method(f"tbptt({window}), {hidden} units{note}", text, round(parameters * factor))

    return [
        Method("columnar, 10 columns", COLUMNAR, 10 * 4 * 14 * 7),
        Method("constructive, 3 x 5 columns", CONSTRUCTIVE, 4 * 5 * (14 + 19 + 24 * 7)),
        dense(30, 2, 1 + 30),
        dense(30, 8, 2 * 30 / EVERY, f", an update in {EVERY}"),
    ]


def native(spec: str, changes: tuple[str, ...]) -> Compiled:
    """A compiled spec whose modules run as C where they can."""
    made = COMPILER.build(spec, changes)

    def module(update: int) -> torch.nn.Module:
        return find("native").module(analyse(spec, changes, update), torch.float32)

    return replace(made, module=module(0), stages=Stages(made.stages.boundaries, module))


def changes(method: Method, seed: int, rate: float, updates: int) -> tuple[str, ...]:
    """The overrides of a run. The first of three stages, which learns from nothing, has half of the updates."""
    found = [*STREAM, OPTIMIZER.format(rate=rate), f"train.steps={updates}", f"train.seed={seed}"]
    if method.spec == CONSTRUCTIVE:
        one, two = updates // 2, 3 * updates // 4
        stages = [("a.*", 0, one), ("b.*", one, two), ("wb", one, None), ("c.*", two, None), ("wc", two, None)]
        calls = [f'train("{name}", start={start}, until={until or "none"})' for name, start, until in stages]
        found.append(f"train.stages=[{', '.join(calls)}]")
    return tuple(found)


def learn(method: Method, seed: int, rate: float, updates: int) -> Run:
    """One run."""
    seed_all(seed)
    compiled = native(method.spec, changes(method, seed, rate, updates))
    ready = setup(compiled, beside(compiled.spec))
    worker = trainer(compiled, ready.source, ready.binding, ready.settings)
    assert isinstance(worker, Online)
    found = Run(method.name, seed, rate, updates, method.cost)
    began, spacing = time.perf_counter(), max(1, updates // POINTS)
    while worker.step < updates:
        worker.updates(min(spacing - worker.step % spacing, updates - worker.step))
        if worker.step % spacing == 0:
            found.points.append((worker.step * EVERY, worker.report()["mse"]))
    found.seconds = time.perf_counter() - began
    return found


def wanted(seeds: int, done: list[Run]) -> Iterator[tuple[Method, int, float]]:
    """Every method at every rate on the seed of the search, then every seed with each method at its best rate."""
    for rate in sorted(RATES, reverse=True):
        for method in methods():
            yield method, SEARCH, rate
    for seed in range(seeds):
        for method in methods():
            yield method, seed, best(method, done)


def best(method: Method, done: list[Run]) -> float:
    """The rate with the least error on the seed of the search."""
    tried = [run for run in done if run.method == method.name and run.seed == SEARCH]
    return min(tried, key=lambda run: run.last).rate


def results(done: list[Run]) -> list[Run]:
    """Without the search."""
    return [run for run in done if run.seed != SEARCH]


def drawn(found: list[Run]) -> str:
    """Learning curves, a line a method: means over seeds."""
    names = list(dict.fromkeys(run.method for run in found))
    series: list[Series] = []
    for key, name in enumerate(names):
        own = [run.points for run in found if run.method == name]
        points = tuple((float(p[0][0]), sum(e for _, e in p) / len(p)) for p in zip(*own, strict=True))
        series.append(Series(key, points))
    ends = (found[0].points[0][0], found[0].points[-1][0])
    for name, error in (("best constant", CONSTANT), ("best possible", BAYES)):
        series.append(Series(len(names), tuple((float(x), error) for x in ends)))
        names.append(name)
    count, updates = len({run.seed for run in found}), found[0].updates
    below = f"{updates * EVERY:,} steps of {STREAMS} streams, an update every {EVERY}; means of {count} seeds"
    panel = Lines("online error", "steps of each stream", "squared error to the return", tuple(series), wide=True)
    return figure("Trace patterning at equal compute", below, names, (panel,), columns=2)


def stored(out: Path | None, updates: int) -> list[Run]:
    """The runs of a file that a command like this one has left, to go on from."""
    if out is None or not out.exists():
        return []
    rows = json.loads(out.read_text()).get("runs", [])
    fields = set(Run.__dataclass_fields__)
    known = [Run(**{k: v for k, v in row.items() if k in fields}) for row in rows if "rate" in row]
    return [run for run in known if run.updates == updates]


def report(updates: int, seeds: int, out: Path | None, picture: Path | None) -> None:
    """Measure what `out` does not hold yet, print a line a run, write JSON and SVG."""
    done = stored(out, updates)
    for method, seed, rate in wanted(seeds, done):
        if any((run.method, run.seed, run.rate) == (method.name, seed, rate) for run in done):
            continue
        run = learn(method, seed, rate, updates)
        done.append(run)
        kind = f"cost {run.cost:,}  {'search' if seed == SEARCH else f'seed {seed}'}"
        print(f"{run.method}  {kind}  rate {rate:g}  error {run.last:.5f}  {run.seconds:.0f} s", flush=True)
        if out is not None:
            rows = [{**asdict(run), "last": run.last} for run in done]
            out.write_text(json.dumps({"about": "see benchmarks/trace_patterning.py", "runs": rows}) + "\n")
    if picture is not None and results(done):
        picture.write_text(drawn(results(done)), encoding="utf-8")
