"""Credit through an external memory on images: one architecture, five mechanisms (Hansen 2017, arXiv 1701.03866).

`specs/episodic_classifier.yaml` names an image by the labels of the stored ones that are like it; the query is stopped,
so its embedding learns through stored items alone. Only the word of `credit.episodic` differs between runs.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path

import torch

from recdsl.cli.figure import Lines, Series, figure
from recdsl.training.catalogue import beside
from recdsl.training.online import trainer
from recdsl.training.pipeline import COMPILER
from recdsl.training.run import seed_all, setup

SPEC = Path(__file__).parent.parent / "specs" / "episodic_classifier.yaml"
CREDITS = {
    "through": "through",
    "exact reinstatement": "reinstate(exact, encode=e, decode=rebuilt)",
    "approximate reinstatement": "reinstate(approximate, encode=e, decode=rebuilt)",
    "synthetic": "synthetic(hidden=64, condition=y)",
    "no credit": "stop",
}
POINTS = 20


@dataclass
class Run:
    """points: (update, share of right answers in training since the last point). test: loss and accuracy behind it, on
    test images, with the store as training has left it. seconds: of training."""

    credit: str
    seed: int
    updates: int
    points: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    test: dict[str, float] = field(default_factory=dict[str, float])
    seconds: float = 0.0


def learn(name: str, seed: int, updates: int, more: tuple[str, ...]) -> Run:
    """One run. more: overrides of the spec."""
    seed_all(seed)
    torch.set_num_threads(1)
    changes = (f"credit.episodic={CREDITS[name]}", f"train.steps={updates}", f"train.seed={seed}", "train.log=1", *more)
    compiled = COMPILER.build(str(SPEC), changes)
    ready = setup(compiled, beside(compiled.spec))
    worker, found = trainer(compiled, ready.source, ready.binding, ready.settings), Run(name, seed, updates)
    began, spacing = time.perf_counter(), max(1, updates // POINTS)
    while worker.step < updates:
        worker.update()
        if worker.step % spacing == 0:
            found.points.append((worker.step, worker.report()["accuracy"]))
    found.seconds = time.perf_counter() - began
    found.test = worker.evaluate("test", 100)
    return found


def drawn(found: list[Run]) -> str:
    """A line for each mechanism: means over seeds."""
    names = list(dict.fromkeys(run.credit for run in found))
    series: list[Series] = []
    for key, name in enumerate(names):
        own = [run.points for run in found if run.credit == name]
        points = tuple((float(p[0][0]), sum(share for _, share in p) / len(p)) for p in zip(*own, strict=True))
        series.append(Series(key, points))
    below = f"Fashion-MNIST, 512 slots, batches of 32; means of {len({run.seed for run in found})} seeds"
    panel = Lines("accuracy in training", "updates", "share of right answers", tuple(series), wide=True)
    return figure("Credit through an external memory", below, names, (panel,), columns=2)


def report(updates: int, seeds: int, more: tuple[str, ...], out: Path | None, picture: Path | None) -> None:
    """Measure, print a line a run, write JSON and SVG."""
    found: list[Run] = []
    for seed, name in product(range(seeds), CREDITS):
        run = learn(name, seed, updates, more)
        found.append(run)
        test = f"test accuracy {run.test['accuracy']:.3f}  loss {run.test['loss']:.3f}"
        print(f"{name}  seed {seed}  {test}  {run.seconds:.0f} s", flush=True)
        if out is not None:
            rows = [asdict(run) for run in found]
            out.write_text(json.dumps({"about": "see benchmarks/images.py", "runs": rows}, indent=1) + "\n")
    if picture is not None:
        picture.write_text(drawn(found), encoding="utf-8")
