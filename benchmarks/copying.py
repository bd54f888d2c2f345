"""Copying over a delay and adding over a length: `specs/sab_copy.yaml` and `specs/sab_adding.yaml`, other rules for the
same models, and LSTMs without a memory.

All learn from the same batches, with the spec's optimizer: delay or length grows with each model's own success. A run
ends early when it does as well as `Task.enough` on test sequences. "h cut": credit goes back through an LSTM's cell
alone; "every 5": through its h too, but not on entering every fifth step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from statistics import mean

import torch

from benchmarks.table import Row, table
from recdsl.training.catalogue import beside
from recdsl.training.loop import Trainer, evaluate
from recdsl.training.online import trainer
from recdsl.training.pipeline import COMPILER
from recdsl.training.run import Setup, seed_all, setup

SPECS = Path(__file__).parent.parent / "specs"
MODELS = {
    "sab(truncate=5)": ("sab(truncate=5)", "memory"),
    "memory, tbptt(5)": ("tbptt(window=5)", "memory"),
    "attention over all, bptt": ("bptt", "all"),
    "LSTM, bptt": ("bptt", ""),
    "LSTM, h cut every 5, c whole": ("bptt", "stop"),
    "LSTM, h cut, c whole": ('{"h[t-1]": cut, default: bptt}', ""),
    "LSTM, tbptt(5)": ("tbptt(window=5)", ""),
}
LSTM = "h, c = lstm_cell(x, h[t-1], c[t-1], size=hidden)"
OFTEN = "before = where(t % 5 == 0, stop(h[t-1]), h[t-1])\n  " + LSTM.replace("h[t-1]", "before")
STATES = 'states: {h: "float[hidden]", c: "float[hidden]"}\n'
EVERY, FURTHER = 100, (2, 4)


def copying_lstm(text: str) -> str:
    """`sab_copy.yaml` with an LSTM in the place of the memory."""
    head, rest = text.split("params:\n")
    rest = rest[rest.index("step:") :].replace("  r = past.read\n", "").replace("[h; r]", "h")
    return head + rest.replace("h = tanh(W @ x + U @ h[t-1])", LSTM)


def adding_lstm(text: str) -> str:
    """`sab_adding.yaml` without its memory."""
    head, rest = text.split("memory:\n")
    rest = rest[rest.index("step:") :].replace("  r = past.read\n  h = proposal + r\n", "").replace(" + v @ r", "")
    return head.replace("w, v:", "w:") + rest.replace("proposal, c =", "h, c =")


@dataclass(frozen=True)
class Task:
    """extent: the option of the data that says how far apart things are; `kept`: that of a sampler's state. least: for
    attention over all, slots that suffice for an extent. enough: how good a score ends a run; solved: and counts."""

    spec: str
    extent: str
    kept: str
    metric: str
    score: str
    enough: Callable[[float], bool]
    solved: Callable[[float], bool]
    selects: str
    least: Callable[[int], str]
    lstm: Callable[[str], str]


TASKS = {
    "copying": Task(
        "sab_copy.yaml",
        "delay",
        "delay",
        "accuracy_last10",
        "accuracy",
        lambda share: share >= 0.995,
        lambda share: share > 0.99,
        "topk(5)",
        lambda delay: f"topk({delay + 20})",
        copying_lstm,
    ),
    "adding": Task(
        "sab_adding.yaml",
        "length",
        "longest",
        "mse",
        "squared error",
        lambda error: error < 1e-3,
        lambda error: error < 1e-2,
        "topk(5), normalise: shifted_relu",
        lambda length: f"topk({length // 2}), normalise: softmax",
        adding_lstm,
    ),
}


@dataclass
class Run:
    """score: of test sequences by delay or length, behind the last update: the share of repeated symbols that are
    right, or the squared error. reached: the delay or length that training had come to. seconds: of CPU."""

    task: str
    model: str
    seed: int
    extent: int
    updates: int = 0
    reached: int = 0
    score: dict[int, float] = field(default_factory=dict[int, float])
    points: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    seconds: float = 0.0

    @property
    def chosen(self) -> Task:
        return TASKS[self.task]


def text(task: Task, name: str, extent: int) -> str:
    """The spec of a model. Attention over all is over as many states as a sequence of that extent has: an unbounded
    store has no `all`, and one with so many slots takes longer."""
    found, (credit, kind) = (SPECS / task.spec).read_text(encoding="utf-8"), MODELS[name]
    found = found.replace("credit: sab(truncate=5)", f"credit: {credit}")
    if kind == "all":
        return found.replace(task.selects, task.least(extent))
    if kind == "memory":
        return found
    found = task.lstm(found)
    return found.replace("step: |", STATES + "step: |").replace(LSTM, OFTEN) if kind == "stop" else found


def ready(found: Run, extent: int, updates: int) -> tuple[Trainer, Setup]:
    task = found.chosen
    changes = (f"data.{task.extent}={extent}", f"train.steps={updates}", f"train.seed={found.seed}")
    compiled = COMPILER.build(text(task, found.model, extent), (*changes, "train.backend=native"))
    made = setup(compiled, beside(compiled.spec))
    return trainer(compiled, made.source, made.binding, made.settings), made


def score(task: Task, worker: Trainer, made: Setup) -> float:
    return evaluate(worker.module, made.source, made.binding, made.settings, "test", 8)[task.metric]


def further(worker: Trainer, found: Run, extent: int) -> float:
    """The score over another delay or length, by a model with the same weights."""
    other, made = ready(found, extent, found.updates)
    other.module.load_state_dict(worker.module.state_dict())
    return score(found.chosen, other, made)


def learn(found: Run, updates: int) -> None:
    """One run, written into `found`."""
    seed_all(found.seed)
    torch.set_num_threads(1)
    worker, made = ready(found, found.extent, updates)
    began, done = time.process_time(), False
    while worker.step < updates and not done:
        worker.update()
        if worker.step % EVERY == 0 and reached(found.chosen, worker) == found.extent:
            now = score(found.chosen, worker, made)
            found.points.append((worker.step, now))
            done = found.chosen.enough(now)
    found.seconds, found.updates = time.process_time() - began, worker.step
    found.reached = reached(found.chosen, worker)
    for times in (1, *FURTHER):
        found.score[times * found.extent] = further(worker, found, times * found.extent)


def reached(task: Task, worker: Trainer) -> int:
    """The delay or length that training asks for by now."""
    return int(worker.sampler.state()[task.kept])


def rows(found: Sequence[Run]) -> list[Row]:
    """One row a model, means over seeds."""
    made: list[Row] = []
    for name in dict.fromkeys(run.model for run in found):
        own = [run for run in found if run.model == name]
        task, extent = own[0].chosen, own[0].extent
        row: Row = {"model": name, "seeds": len(own)}
        row["solved"] = sum(task.solved(run.score[extent]) for run in own)
        row[task.score] = round(mean(run.score[extent] for run in own), 4)
        row |= {f"x{n}": round(mean(run.score[n * extent] for run in own), 4) for n in FURTHER}
        row["reached"] = round(mean(run.reached for run in own))
        row["updates"], row["cpu_s"] = round(mean(run.updates for run in own)), round(mean(run.seconds for run in own))
        made.append(row)
    return made


def columns(task: Task) -> tuple[str, ...]:
    return ("model", "seeds", "solved", task.score, *(f"x{n}" for n in FURTHER), "reached", "updates", "cpu_s")


def restored(row: Mapping[str, object]) -> Run:
    run = Run(**row)  # pyright: ignore[reportArgumentType]
    run.score = {int(extent): share for extent, share in run.score.items()}
    return run


def stored(out: Path | None) -> list[Run]:
    """The runs of a file that a command like this one has left, to go on from."""
    return [] if out is None or not out.exists() else [restored(row) for row in json.loads(out.read_text())["runs"]]


def report(task: str, extent: int, updates: int, seeds: int, only: Sequence[str], out: Path | None) -> None:
    """Measure what `out` does not hold yet, print a line a run and a table, write JSON."""
    found, names = stored(out), [name for name in MODELS if not only or any(part in name for part in only)]
    for seed, name in product(range(1, seeds + 1), names):
        run = Run(task, name, seed, extent)
        if any((old.task, old.model, old.seed, old.extent) == (task, name, seed, extent) for old in found):
            continue
        learn(run, updates)
        found.append(run)
        scores = "  ".join(f"{run.chosen.extent} {n}: {value:.4f}" for n, value in run.score.items())
        done = f"{run.updates} updates, {run.seconds:.0f} s, came to {run.reached}"
        print(f"{name}  seed {seed}  {scores}  ({done})", flush=True)
        if out is not None:
            made = [asdict(run) for run in found]
            out.write_text(json.dumps({"about": "see benchmarks/copying.py", "runs": made}, indent=1) + "\n")
    print("\n" + table(rows([run for run in found if (run.task, run.extent) == (task, extent)]), columns(TASKS[task])))
