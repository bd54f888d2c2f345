"""Copying over a long delay: `specs/sab_copy.yaml`, other rules for the same model, and LSTMs without a memory.

All learn from the same batches, with the spec's optimizer: delay and number of symbols grow with each model's own
success. A run ends early when it repeats `SOLVED` of the symbols of test sequences. "h cut": credit goes back through
an LSTM's cell alone; "every 5": through its h too, but not on entering every fifth step.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
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

SPEC = Path(__file__).parent.parent / "specs" / "sab_copy.yaml"
MODELS = {
    "sab(truncate=5)": ("sab(truncate=5)", "memory"),
    "memory, tbptt(5)": ("tbptt(window=5)", "memory"),
    "attention over all, bptt": ("bptt", "all"),
    "LSTM, bptt": ("bptt", ""),
    "LSTM, h cut every 5, c whole": ("bptt", "stop"),
    "LSTM, h cut, c whole": ('{"h[t-1]": cut, default: bptt}', ""),
    "LSTM, tbptt(5)": ("tbptt(window=5)", ""),
}
ELMAN, LSTM = "h = tanh(W @ x + U @ h[t-1])", "h, c = lstm_cell(x, h[t-1], c[t-1], size=hidden)"
OFTEN = "before = where(t % 5 == 0, stop(h[t-1]), h[t-1])\n  " + LSTM.replace("h[t-1]", "before")
STATES = 'states: {h: "float[hidden]", c: "float[hidden]"}\n'
SOLVED, EVERY = 0.995, 100
FURTHER = (2, 4)
COLUMNS = ("model", "seeds", "solved", "accuracy", *(f"x{n}" for n in FURTHER), "delay reached", "updates", "cpu_s")


@dataclass
class Run:
    """accuracy: share of repeated symbols of test sequences that are right, by delay, behind the last update. reached:
    symbols and delay that training had come to. seconds: of CPU."""

    model: str
    seed: int
    delay: int
    updates: int = 0
    reached: tuple[int, int] = (0, 0)
    accuracy: dict[int, float] = field(default_factory=dict[int, float])
    points: list[tuple[int, float]] = field(default_factory=list[tuple[int, float]])
    seconds: float = 0.0


def text(name: str, delay: int) -> str:
    """The spec of a model. Attention over all is over as many states as a sequence of that delay has: an unbounded
    store has no `all`, and one with so many slots takes longer."""
    found, (credit, kind) = SPEC.read_text(encoding="utf-8"), MODELS[name]
    found = found.replace("credit: sab(truncate=5)", f"credit: {credit}")
    if kind == "all":
        return found.replace("topk(5)", f"topk({delay + 20})")
    if kind == "memory":
        return found
    head, rest = found.split("params:\n")
    rest = rest[rest.index("step:") :].replace("  r = past.read\n", "").replace("[h; r]", "h")
    if kind == "stop":
        return head + STATES + rest.replace(ELMAN, OFTEN)
    return head + rest.replace(ELMAN, LSTM)


def ready(name: str, seed: int, delay: int, updates: int) -> tuple[Trainer, Setup]:
    changes = (f"data.delay={delay}", f"train.steps={updates}", f"train.seed={seed}", "train.backend=native")
    compiled = COMPILER.build(text(name, delay), changes)
    made = setup(compiled, beside(compiled.spec))
    return trainer(compiled, made.source, made.binding, made.settings), made


def accuracy(worker: Trainer, made: Setup) -> float:
    found = evaluate(worker.module, made.source, made.binding, made.settings, "test", 8)
    return next(value for name, value in found.items() if "last" in name)


def further(worker: Trainer, found: Run, delay: int) -> float:
    """The accuracy over another delay, by a model with the same weights."""
    other, made = ready(found.model, found.seed, delay, found.updates)
    other.module.load_state_dict(worker.module.state_dict())
    return accuracy(other, made)


def learn(name: str, seed: int, delay: int, updates: int) -> Run:
    """One run."""
    seed_all(seed)
    torch.set_num_threads(1)
    (worker, made), found = ready(name, seed, delay, updates), Run(name, seed, delay)
    began, share = time.process_time(), 0.0
    while worker.step < updates and share < SOLVED:
        worker.update()
        if worker.step % EVERY == 0 and reached(worker)[1] == delay:
            share = accuracy(worker, made)
            found.points.append((worker.step, share))
    found.seconds, found.updates, found.reached = time.process_time() - began, worker.step, reached(worker)
    for longer in (1, *FURTHER):
        found.accuracy[longer * delay] = further(worker, found, longer * delay)
    return found


def reached(worker: Trainer) -> tuple[int, int]:
    """Symbols and delay that training asks for by now."""
    state = worker.sampler.state()
    return int(state["level"]), int(state["delay"])


def rows(found: Sequence[Run], delay: int) -> list[Row]:
    """One row a model, means over seeds."""
    made: list[Row] = []
    for name in dict.fromkeys(run.model for run in found):
        own = [run for run in found if run.model == name]
        row: Row = {"model": name, "seeds": len(own)}
        row["solved"] = sum(run.accuracy[delay] > 0.99 for run in own)
        row["accuracy"] = round(mean(run.accuracy[delay] for run in own), 3)
        row |= {f"x{n}": round(mean(run.accuracy[n * delay] for run in own), 3) for n in FURTHER}
        row["delay reached"] = round(mean(run.reached[1] for run in own))
        row["updates"], row["cpu_s"] = round(mean(run.updates for run in own)), round(mean(run.seconds for run in own))
        made.append(row)
    return made


def stored(out: Path | None) -> list[Run]:
    """The runs of a file that a command like this one has left, to go on from."""
    if out is None or not out.exists():
        return []
    known = [Run(**row) for row in json.loads(out.read_text())["runs"]]
    for run in known:
        run.accuracy = {int(length): share for length, share in run.accuracy.items()}
    return known


def report(delay: int, updates: int, seeds: int, only: Sequence[str], out: Path | None) -> None:
    """Measure what `out` does not hold yet, print a line a run and a table, write JSON."""
    found, names = stored(out), [name for name in MODELS if not only or any(part in name for part in only)]
    for seed, name in product(range(1, seeds + 1), names):
        if any((run.model, run.seed, run.delay) == (name, seed, delay) for run in found):
            continue
        run = learn(name, seed, delay, updates)
        found.append(run)
        shares = "  ".join(f"delay {n}: {share:.3f}" for n, share in run.accuracy.items())
        done = f"{run.updates} updates, {run.seconds:.0f} s, {run.reached[0]} symbols over {run.reached[1]}"
        print(f"{name}  seed {seed}  {shares}  ({done})", flush=True)
        if out is not None:
            made = [asdict(run) for run in found]
            out.write_text(json.dumps({"about": "see benchmarks/copying.py", "runs": made}, indent=1) + "\n")
    print("\n" + table(rows([run for run in found if run.delay == delay], delay), COLUMNS))
