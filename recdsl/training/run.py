"""Train, resume and evaluate: a spec on one side, a run folder on the other."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Never

import numpy as np
import safetensors.torch
import torch

from recdsl.diagnostics import SpecError
from recdsl.errors.runs import CheckpointMismatch, DataChanged, NoDevice, NonFinite, RunError
from recdsl.errors.training import NeedsOnline, WindowUneven
from recdsl.syntax.ast import Spec
from recdsl.syntax.blocks import files_beside
from recdsl.training import checkpoint, folder, store, stores
from recdsl.training.backend import running
from recdsl.training.batches import Place, Source
from recdsl.training.binding import Binding, bind_data
from recdsl.training.catalogue import beside, open_data, used_sizes
from recdsl.training.folder import Folder
from recdsl.training.interrupt import Interruption
from recdsl.training.loop import Stopped, Trainer
from recdsl.training.online import replayed, trainer, windows
from recdsl.training.pipeline import COMPILER, Compiled, Compiler, spans
from recdsl.training.progress import Reporter, reporter, shown
from recdsl.training.settings import Settings, settings


@dataclass(frozen=True)
class Result:
    """How a run ended. `status` is the exit status: 0, or after a checkpoint 130 (Ctrl-C) or 143 (SIGTERM).

    valid, test: of evaluations with frozen parameters. online: means over the last updates, of a run on a stream.
    """

    folder: Path
    step: int
    status: int
    checkpoint: str
    valid: dict[str, float] = field(default_factory=dict[str, float])
    test: dict[str, float] = field(default_factory=dict[str, float])
    online: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class Setup:
    """A compiled spec with its opened data."""

    compiled: Compiled
    settings: Settings
    source: Source
    binding: Binding


def setup(compiled: Compiled, where: Place) -> Setup:
    """Open the data and match it with the inputs. Raises SpecError and RunError."""
    chosen = settings(compiled.spec)
    if chosen["threads"]:
        torch.set_num_threads(chosen["threads"])
    name, source = open_data(compiled.spec, where)
    fields = bind_data(compiled.inputs, name, source, spans(compiled.spec))
    device = _device(chosen["device"])
    compiled.module.to(device)
    _check_windows(compiled, chosen)
    binding = Binding(compiled.inputs, fields, getattr(torch, chosen["dtype"]), device)
    return Setup(compiled, chosen, source, binding)


def _check_windows(compiled: Compiled, chosen: Settings) -> None:
    """Online, windows must fall together with updates; else nothing is run again. Raises SpecError (RD0616, RD0617)."""
    about: Mapping[str, Any] = getattr(compiled.module, "recdsl_about", {})
    if about.get("reruns") and not chosen["online"]:
        rules = [item.rule for item in compiled.spec.credit]
        span = next((r.span for r in rules if any(n.value == "rerun" for n in r.nodes)), compiled.spec.span)
        raise SpecError([NeedsOnline(span, "drift=rerun")])
    found = windows(compiled.module, chosen["every"]) if chosen["online"] else []
    if found and not replayed(found, chosen["every"]):
        spans = {setting.name.text: setting.value.span for setting in compiled.spec.train}
        span = spans.get("every") or spans.get("online") or compiled.spec.span
        raise SpecError([WindowUneven(span, chosen["every"], ", ".join(str(size) for size, _ in sorted(found)))])


def _device(wanted: str) -> str:
    """The device that `train:` asks for. Raises RD0713."""
    there = torch.cuda.is_available()
    if wanted == "auto":
        return "cuda" if there else "cpu"
    if wanted == "cuda" and not there:
        built = torch.version.cuda is not None or torch.version.hip is not None
        reason = "torch finds no GPU here" if built else f"torch {torch.__version__} is built without GPUs"
        raise RunError(NoDevice(reason))
    return wanted


def train(
    path_or_text: str,
    overrides: Sequence[str] = (),
    *,
    root: str | Path = "runs",
    resume: str | None = None,
    trust: bool = False,
    progress: str = "auto",
    compiler: Compiler = COMPILER,
) -> Result:
    """Train a spec in a new folder under `root`, or go on with a run.

    resume: "last" (the newest run of this spec's name under `root`) or the path of a run or checkpoint, for which the
    spec may be left out (""); it must be the one that the run began with. A resumed run
    ends with the same bits as one that was never interrupted. trust: may run the user's own data function.
    progress: auto, bar, lines or silent. Raises SpecError (RD06xx) and RunError (RD065x, RD07xx).
    """
    talk = reporter(progress)
    try:
        if resume is None:
            return _start(path_or_text, overrides, Path(root), trust, talk, compiler)
        return _resume(path_or_text, overrides, Path(root), resume, trust, talk, compiler)
    finally:
        talk.close()


def _start(
    path_or_text: str, overrides: Sequence[str], root: Path, trust: bool, talk: Reporter, compiler: Compiler
) -> Result:
    compiled = compiler.build(path_or_text, overrides)
    where = beside(compiled.spec, trust)
    made = setup(compiled, where)
    seed_all(made.settings["seed"])
    worker = trainer(compiled, made.source, made.binding, made.settings)
    run = folder.create(root, compiled.spec.name)
    describe(run, made, path_or_text, overrides, where)
    with store.locked(run.path):
        stores.open_stores(worker.module, run.path)
        talk.note(f"run {run.path}" + _by(compiled))
        return Session(run, worker, talk).work()


def seed_all(seed: int) -> None:
    """Seed every global generator: a run must not depend on what its process did before."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def _resume(
    path_or_text: str,
    overrides: Sequence[str],
    root: Path,
    resume: str,
    trust: bool,
    talk: Reporter,
    compiler: Compiler,
) -> Result:
    run = folder.find(root, compiler.read(path_or_text, ()).name if resume == "last" else "", resume)
    with store.locked(run.path):
        store.tidy(run.path)
        store.tidy(run.checkpoints)
        if path_or_text:
            given = compiler.read(path_or_text, ())
            if given.span.source.text != run.read("spec.yaml"):
                raise RunError(CheckpointMismatch(str(run.path), "its spec.yaml differs from the spec given"))
            _check_blocks(run, given)
        made = reopen(run, overrides, trust, compiler)
        worker = trainer(made.compiled, made.source, made.binding, made.settings)
        whole = pick(run, resume, talk)
        if whole.state["fingerprint"] != worker.fingerprint:
            raise RunError(DataChanged(whole.state["fingerprint"], worker.fingerprint))
        worker.restore(whole)
        stores.open_stores(worker.module, run.path)
        run.rewind(whole.state["lines"])
        if overrides:
            run.write("overrides.json", json.dumps([*run.overrides, *overrides]))
        talk.note(f"run {run.path}: goes on from step {worker.step}" + _changes(overrides) + _by(made.compiled))
        run.log(f"resumed from {whole.path}" + _changes(overrides))
        due = bool(whole.state.get("evaluation_due"))
        return Session(run, worker, talk, whole.state["lines"], due).work()


def _by(compiled: Compiled) -> str:
    return f"; backend {running(compiled.backend, compiled.module)}" if compiled.backend else ""


def _changes(overrides: Sequence[str]) -> str:
    return f", with {' '.join(overrides)}" if overrides else ""


def pick(run: Folder, resume: str, talk: Reporter) -> checkpoint.Checkpoint:
    """The checkpoint that is named, or else the newest one that is whole; those passed over are noted."""
    if Path(resume).name.startswith("step-"):
        return checkpoint.load(Path(resume))

    def note(text: str) -> None:
        talk.note(f"note: {text}")
        with suppress(RunError):
            run.log(f"note: {text}")

    return checkpoint.newest(run.checkpoints, note)


def describe(run: Folder, made: Setup, path_or_text: str, overrides: Sequence[str], where: Place) -> None:
    """Write what a run folder says about itself (see `folder`)."""
    spec = made.compiled.spec
    run.write("spec.yaml", spec.span.source.text)
    _copy_blocks(run, spec)
    run.write("resolved.yaml", made.compiled.resolved)
    run.write("overrides.json", json.dumps(list(overrides)))
    about = folder.environment(made.settings["seed"], where.folder, overrides)
    about["backend"] = running(made.compiled.backend, made.compiled.module)
    about["spec_path"] = os.path.abspath(path_or_text) if "\n" not in path_or_text else None
    run.write("environment.json", json.dumps(about, indent=1))
    known = {size.name.text for size in spec.sizes if size.value is None}
    sizes = {item.type.axes[0].name: item.size for item in made.compiled.inputs if item.type.axes}
    sizes |= dict(made.source.sizes)
    data = {
        "fingerprint": made.source.fingerprint(),
        "symbols": list(made.source.symbols),
        "sizes": _data_sizes(made, known, sizes),
    }
    run.write("data.json", json.dumps(data))
    if made.compiled.code:
        run.write("generated/model.py", made.compiled.code)


def _data_sizes(made: Setup, known: set[str], sizes: dict[str, int]) -> dict[str, int]:
    """The sizes that came from the data, so that the model can be built again without it."""
    if not known:
        return {}
    found = sizes | dict(used_sizes(made.compiled.spec, made.source))
    return {name: found[name] for name in sorted(known) if name in found}


def _copy_blocks(run: Folder, spec: Spec) -> None:
    """The user's block files, beside the copy of the spec, so that the folder needs nothing else."""
    for name, source in files_beside(spec).items():
        if name in ("spec", "resolved"):
            run.log(f"note: the block file {name}.yaml is not copied: a run folder has a file of that name")
        else:
            run.write(f"{name}.yaml", source.text)


def _check_blocks(run: Folder, spec: Spec) -> None:
    """The blocks of the spec given are those that the run was made with. Raises RD0705."""
    for name, source in files_beside(spec).items():
        if (run.path / f"{name}.yaml").is_file() and run.read(f"{name}.yaml") != source.text:
            raise RunError(CheckpointMismatch(str(run.path), f"its {name}.yaml differs from the block beside the spec"))


def stored(run: Folder, overrides: Sequence[str], compiler: Compiler) -> Compiled:
    """Build the spec of a run again: its own overrides, the data's sizes, then further overrides."""
    sizes = [f"sizes.{name}={size}" for name, size in run.entry("data.json", "sizes", dict).items()]
    return compiler.build(str(run.path / "spec.yaml"), (*run.overrides, *sizes, *overrides))


def reopen(run: Folder, overrides: Sequence[str], trust: bool, compiler: Compiler) -> Setup:
    """The setup of a run, its data read from where it was."""
    compiled = stored(run, overrides, compiler)
    return setup(compiled, Place(run.entry("environment.json", "spec_folder", str), trust))


class Session:
    """One stretch of a run, from start or resumption to its end or interruption."""

    def __init__(self, run: Folder, trainer: Trainer, talk: Reporter, lines: int = 0, due: bool = False) -> None:
        self.run, self.trainer, self.talk = run, trainer, talk
        self.lines, self.due = lines, due
        self.settings = trainer.settings

    def work(self) -> Result:
        """Update until done or interrupted. A run that failed says where its last good checkpoint is."""
        with Interruption() as interruption:
            self.trainer.stopping = lambda: interruption.signal is not None
            self.talk.start(self.settings["steps"], self.trainer.step)
            try:
                with stores.guarded(self.run.path, self.trainer.last_good):
                    self._updates(interruption)
                return self._end(interruption)
            except RunError as error:
                self._failed(error)

    def _updates(self, interruption: Interruption) -> None:
        with suppress(Stopped):
            if self.due:
                self._evaluate()
            while self.trainer.step < self.settings["steps"] and interruption.signal is None:
                self.trainer.updates(self._room())
                self._after()

    def _room(self) -> int:
        """Updates until something else is to be done."""
        step, spacings = self.trainer.step, [self.settings[name] for name in ("log", "evaluate", "checkpoint")]
        return min([self.settings["steps"] - step, *(every - step % every for every in spacings if every)])

    def _failed(self, error: RunError) -> Never:
        """Complete the message, and keep the batch that a NaN or an infinity came from. Raises the error."""
        problem = error.problem
        if isinstance(problem, NonFinite):
            where = self._dump()
            error = RunError(replace(problem, step=self.trainer.step, checkpoint=self.trainer.last_good, batch=where))
        with suppress(RunError):
            self.run.log(str(error))
        raise error

    def _dump(self) -> str:
        """Write the batch in work, with the state that it met, into the run folder; the path."""
        trainer = self.trainer
        if trainer.batch is None:
            return "none"
        path = self.run.path / f"batch-at-step-{trainer.step}.safetensors"
        flags = {"mask": trainer.batch.mask, "reset": trainer.batch.reset}
        arrays = {**trainer.batch.arrays, **{name: flag for name, flag in flags.items() if flag is not None}}
        tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in arrays.items()}
        tensors |= {f"state/{name}": value.cpu().contiguous() for name, value in (trainer.state or {}).items()}
        try:
            store.replace(path, safetensors.torch.save(tensors))
        except RunError as error:
            return f"not written ({error.problem.text()})"
        return str(path)

    def _due(self, name: str) -> bool:
        every = self.settings[name]
        return bool(every) and self.trainer.step % every == 0

    def _after(self) -> None:
        trainer = self.trainer
        self.talk.advance(trainer.step)
        if self._due("log"):
            self._measure("train", trainer.report() | stores.recalls(trainer.module))
        if self._due("evaluate") and trainer.step < self.settings["steps"]:
            self._evaluate()
        if self._due("checkpoint"):
            self._save()

    def _evaluate(self) -> None:
        """If it is given up, a resumed run does it first."""
        self.due = True
        self._measure("valid", self.trainer.evaluate("valid", self.settings["evaluation_batches"]))
        self.due = False

    def _measure(self, split: str, values: dict[str, float]) -> None:
        self.talk.values(self.trainer.step, split, values)
        self.lines += 1
        self.run.measure(
            {"step": self.trainer.step, "split": split, **values, "seconds": round(self.trainer.seconds, 3)}
        )

    def _save(self) -> None:
        tensors, state = self.trainer.snapshot()
        # Lines of metrics so far, so that a resumed run neither loses nor repeats one.
        state["lines"], state["evaluation_due"] = self.lines, self.due
        path = checkpoint.save(self.run.checkpoints, self.trainer.step, tensors, state, self.settings["keep"])
        stores.mark(self.trainer.module, self.settings["keep"])
        self.trainer.last_good = str(path)

    def _end(self, interruption: Interruption) -> Result:
        trainer = self.trainer
        if reason := getattr(trainer, "alone", ""):
            self.run.log(f"note: updates were made one by one: {reason}")
        if not trainer.last_good.endswith(f"step-{trainer.step:07d}"):
            self._save()
        if trainer.step >= self.settings["steps"]:
            with suppress(Stopped):
                return self._finish()
        text = f"interrupted at step {trainer.step}; go on with --resume {self.run.path}"
        self.talk.note(text)
        self.run.log(text)
        return Result(self.run.path, trainer.step, interruption.status, trainer.last_good)

    def _finish(self) -> Result:
        """The last evaluations. Raises Stopped; a resumed run does them again."""
        trainer, found = self.trainer, {"online": self.trainer.recent(), "valid": {}, "test": {}}
        if not self.settings["online"] or self.settings["evaluate"]:
            found["valid"] = trainer.evaluate("valid", self.settings["evaluation_batches"])
            found["test"] = trainer.evaluate("test", None)
        for split, values in found.items():
            if values:
                self._measure(split, values)
        self.run.log(f"finished at step {trainer.step}: {shown(found['test'] or found['online'])}")
        return Result(self.run.path, trainer.step, 0, trainer.last_good, found["valid"], found["test"], found["online"])


def evaluate(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    split: str = "test",
    batches: int | None = None,
    trust: bool = False,
    compiler: Compiler = COMPILER,
) -> dict[str, float]:
    """Loss and metrics of a run (its newest whole checkpoint) or, for the path of a spec, of its initial parameters.

    split: train, valid or test. batches: how many (None: one pass; endless data: `evaluation_batches` of `train:`).
    """
    from recdsl.training.loop import evaluate as measure
    from recdsl.training.loop import load_weights, split_names

    if "\n" not in str(path) and Path(path).is_dir():
        run = folder.opened(Path(path))
        made = reopen(run, overrides, trust, compiler)
        whole = pick(run, str(path), reporter("lines"))
        load_weights(made.compiled.module, split_names(whole.tensors)["model"], str(whole.path))
        stores.open_stores(made.compiled.module, run.path, private=True)
    else:
        compiled = compiler.build(str(path), overrides)
        made = setup(compiled, beside(compiled.spec, trust))
    return measure(made.compiled.module, made.source, made.binding, made.settings, split, batches)
