"""Credit through an external memory on images: one architecture, five mechanisms (Hansen 2017, arXiv 1701.03866).

`specs/episodic_classifier.yaml` names an image by the labels of the stored ones that are like it; the query is stopped,
so its embedding learns through stored items alone. Only the word of `credit.episodic` differs between runs. The decoder
of a reinstatement learns along with the rest, at the encoder's rate or at one of its own, that of the spec, or has
learned before, when the encoder was as it was drawn. The net of synthetic gradients has a rate of its own.

Each has the same learning rates to choose from, by the accuracy in the last fifth of training with a seed that is not
used again. They are small: an item is read for 512 / 64 = 8 updates, in which the encoder must not leave it behind.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from recdsl.cli.figure import Lines, Series, figure
from recdsl.training.catalogue import beside
from recdsl.training.loop import Trainer
from recdsl.training.online import trainer
from recdsl.training.pipeline import COMPILER
from recdsl.training.run import seed_all, setup

SPEC = Path(__file__).parent.parent / "specs" / "episodic_classifier.yaml"
BEFORE, QUICK = ", decoder trained before", ", decoder at a rate of its own"
CREDITS = {
    "through": "through",
    "exact": "reinstate(exact, encode=e, decode=rebuilt)",
    f"exact{BEFORE}": "reinstate(exact, encode=e, decode=rebuilt)",
    f"exact{QUICK}": "reinstate(exact, encode=e, decode=rebuilt)",
    "approximate": "reinstate(approximate, encode=e, decode=rebuilt)",
    f"approximate{BEFORE}": "reinstate(approximate, encode=e, decode=rebuilt)",
    "synthetic": "synthetic(hidden=64, condition=y, lr=3e-3)",
    "no credit": "stop",
}
RATES = (3e-5, 1e-4)
SEARCH = 100
"""The seed with which rates are chosen; results are of seeds from 0."""
POINTS = 20
DECODING = 400, 1e-3
"""Updates and learning rate of a decoder that learns before."""


@dataclass
class Run:
    """points: (update, share of right answers in training since the last point). test: of 20 batches of test images
    behind it, with the store as training has left it. seconds: of the processor, in training."""

    credit: str
    seed: int
    rate: float
    updates: int
    points: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    test: dict[str, float] = field(default_factory=dict[str, float])
    seconds: float = 0.0

    @property
    def last(self) -> float:
        """The mean over the last fifth."""
        tail = [share for _, share in self.points[-max(1, len(self.points) // 5) :]]
        return sum(tail) / len(tail)


def begun(name: str, seed: int, rate: float, updates: int, more: tuple[str, ...]) -> Trainer:
    """A trainer before its first update. more: overrides of the spec."""
    seed_all(seed)
    torch.set_num_threads(1)
    wanted = (f"credit.episodic={CREDITS[name]}", f"train.lr={rate}", f"train.steps={updates}")
    wanted += () if name.endswith(QUICK) else (f"train.lr.rebuilt.*={rate}",)
    always = (f"train.seed={seed}", "train.batch=64", "train.log=1")
    compiled = COMPILER.build(str(SPEC), (*wanted, *always, *more))
    ready = setup(compiled, beside(compiled.spec))
    return trainer(compiled, ready.source, ready.binding, ready.settings)


@cache
def decoder(seed: int, more: tuple[str, ...]) -> dict[str, Tensor]:
    """Parameters of an encoder that nothing has trained and of a decoder that has learned what it makes."""
    updates, rate = DECODING
    worker = begun("no credit", seed, rate, updates, more)
    while worker.step < updates:
        worker.update()
    return {name: value.detach() for name, value in worker.module.named_parameters()}


def learn(name: str, seed: int, rate: float, updates: int, more: tuple[str, ...]) -> Run:
    """One run."""
    known = decoder(seed, more) if name.endswith(BEFORE) else {}
    worker, found = begun(name, seed, rate, updates, more), Run(name, seed, rate, updates)
    worker.module.load_state_dict(known, strict=False)
    began, spacing = time.process_time(), max(1, updates // POINTS)
    while worker.step < updates:
        worker.update()
        if worker.step % spacing == 0:
            found.points.append((worker.step, worker.report()["accuracy"]))
    found.seconds = time.process_time() - began
    found.test = worker.evaluate("test", 20)
    return found


def wanted(seeds: int, done: list[Run]) -> Iterator[tuple[str, int, float]]:
    """Each kind of credit at every rate with the seed of the search, then every seed at the best rate."""
    for name in CREDITS:
        for rate in RATES if CREDITS[name] != "stop" else RATES[:1]:  # nothing of its answers is trained
            yield name, SEARCH, rate
    for seed in range(seeds):
        for name in CREDITS:
            yield name, seed, best(name, done)


def best(name: str, done: list[Run]) -> float:
    """The rate with the most right answers in the search."""
    return max((run for run in done if run.credit == name and run.seed == SEARCH), key=lambda run: run.last).rate


def results(done: list[Run]) -> list[Run]:
    """Without the search."""
    return [run for run in done if run.seed != SEARCH]


def drawn(found: list[Run]) -> str:
    """A line for each mechanism: means over seeds."""
    names = [name for name in CREDITS if any(run.credit == name for run in found)]
    series: list[Series] = []
    for key, name in enumerate(names):
        own = [run.points for run in found if run.credit == name]
        points = tuple((float(p[0][0]), sum(share for _, share in p) / len(p)) for p in zip(*own, strict=True))
        series.append(Series(key, points))
    below = f"Fashion-MNIST, a store of 512 images; 64 a batch; means of {len({run.seed for run in found})} seeds"
    panel = Lines("accuracy in training", "updates", "share of right answers", tuple(series), wide=True)
    return figure("Credit through an external memory", below, names, (panel,), columns=2)


def stored(out: Path | None, updates: int) -> list[Run]:
    """The runs of a file that a command like this one has left, to go on from."""
    if out is None or not out.exists():
        return []
    rows = json.loads(out.read_text()).get("runs", [])
    known = [Run(**{key: value for key, value in row.items() if key != "last"}) for row in rows]
    return [run for run in known if run.updates == updates]


def report(updates: int, seeds: int, more: tuple[str, ...], out: Path | None, picture: Path | None) -> None:
    """Measure what `out` does not hold yet, print a line a run, write JSON and SVG."""
    done = stored(out, updates)
    for name, seed, rate in wanted(seeds, done):
        if any((run.credit, run.seed, run.rate) == (name, seed, rate) for run in done):
            continue
        run = learn(name, seed, rate, updates, more)
        done.append(run)
        kind = f"{'search' if seed == SEARCH else f'seed {seed}'}  rate {rate:g}"
        figures = f"accuracy {run.last:.3f}, of test images {run.test['accuracy']:.3f}"
        print(f"{name}  {kind}  {figures}  {run.seconds:.0f} s", flush=True)
        if out is not None:
            rows = [{**asdict(run), "last": run.last} for run in done]
            out.write_text(json.dumps({"about": "see benchmarks/images.py", "runs": rows}) + "\n")
    if picture is not None:
        picture.write_text(drawn(results(done)), encoding="utf-8")
