"""Runs: the folder, resumption to the bit, interruption, numbers that are not finite, evaluation on the side."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from recdsl.errors.runs import NonFinite, RunError
from recdsl.training import checkpoint
from recdsl.training.loading import load
from recdsl.training.loop import Trainer
from recdsl.training.pipeline import Compiler
from recdsl.training.run import Result, evaluate, train

from .fakes import COPY, FAKE, build, read

torch.set_num_threads(1)
DATA = 'data: text(path="a.txt", length=5)\ntarget: next'
STREAM = COPY.replace("data: copy(delay=2, symbols=8, length=2)", DATA) + "train.stream: true\n"


def run(text: str, root: Path, *overrides: str, **options: Any) -> Result:
    return train(text, overrides, root=root, progress="silent", compiler=FAKE, **options)


def bits(path: str | Path) -> dict[str, Any]:
    """All of a checkpoint, in a comparable form, but for the time it took and the lines it wrote."""
    found = checkpoint.load(Path(path))
    rest = {name: value for name, value in found.state.items() if name not in ("seconds", "lines")}
    return {name: tensor.numpy().tobytes() for name, tensor in found.tensors.items()} | {"state": json.dumps(rest)}


def lines(folder: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in json.loads(line).items() if key != "seconds"}
        for line in (folder / "metrics.jsonl").read_text().splitlines()
    ]


@pytest.fixture
def text_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("0123456789" * 60, encoding="utf-8")
    monkeypatch.chdir(tmp_path)


def test_folder(tmp_path: Path) -> None:
    spec = tmp_path / "my spec.yaml"
    spec.write_text(COPY + "# a comment\n", encoding="utf-8")
    result = run(str(spec), tmp_path / "runs", "train.steps=6")
    assert result.status == 0
    assert result.step == 6
    assert result.folder.parent == tmp_path / "runs" / "fake"
    assert (result.folder / "spec.yaml").read_text() == COPY + "# a comment\n"
    assert json.loads((result.folder / "overrides.json").read_text()) == ["train.steps=6"]
    assert json.loads((result.folder / "environment.json").read_text())["seed"] == 0
    assert (tmp_path / "runs" / "fake" / "latest").resolve() == result.folder.resolve()
    assert [(line["step"], line["split"]) for line in lines(result.folder)] == [
        (3, "train"),
        (5, "valid"),
        (6, "train"),
        (6, "valid"),
        (6, "test"),
    ]
    assert [path.name for path in checkpoint.listed(result.folder / "checkpoints")] == ["step-0000004", "step-0000006"]
    assert "finished at step 6" in (result.folder / "log.txt").read_text()


def test_names_of_users_make_no_paths(tmp_path: Path) -> None:
    result = run(COPY.replace("name: fake", "name: ../../x y[t-1]") + "train.steps: 1\n", tmp_path)
    assert result.folder.parent.parent == tmp_path


class Stopping:
    """A compiler whose module sends a signal in its n-th training call."""

    def __init__(self, call: int, number: signal.Signals, real: Compiler = FAKE) -> None:
        self.call, self.number, self.real, self.seen = call, number, real, 0

    def compiler(self) -> Compiler:
        def stopped(path_or_text: str, overrides: Any = ()) -> Any:
            compiled = self.real.build(path_or_text, overrides)
            compiled.module.register_forward_hook(self._hook)
            return compiled

        return Compiler(self.real.read, stopped)

    def _hook(self, module: Any, _inputs: Any, _output: Any) -> None:
        if module.training:
            self.seen += 1
            if self.seen == self.call:
                os.kill(os.getpid(), self.number)


@pytest.mark.parametrize("text", [COPY, STREAM], ids=["copy", "stream"])
@pytest.mark.usefixtures("text_file")
def test_resume_after_any_step_is_the_same_run(tmp_path: Path, text: str) -> None:
    """Interrupt after every step in turn: weights, optimizer, state, generators, sampler and metrics agree."""
    whole = run(text, tmp_path / "whole")
    for step in range(1, 12):
        stopping = Stopping(step, signal.SIGINT if step % 2 else signal.SIGTERM)
        first = train(text, root=tmp_path / "part", progress="silent", compiler=stopping.compiler())
        assert (first.step, first.status) == (step, 130 if step % 2 else 143)
        second = run(text, tmp_path / "part", resume=str(first.folder))
        assert second.folder == first.folder
        assert bits(second.checkpoint) == bits(whole.checkpoint)
        assert lines(second.folder) == lines(whole.folder)


@pytest.mark.parametrize(
    "optimizer", ["adam", "adamw", "sgd(momentum=0.9)", "rmsprop", "adagrad", "adamax", "nadam", "radam"]
)
def test_every_optimizer_resumes(tmp_path: Path, optimizer: str) -> None:
    text = COPY + f"train.optimizer: {optimizer}\ntrain.steps: 6\n"
    whole = run(text, tmp_path / "a")
    part = train(text, root=tmp_path / "b", progress="silent", compiler=Stopping(3, signal.SIGINT).compiler())
    again = run(text, tmp_path / "b", resume="last")
    assert part.step == 3
    assert bits(again.checkpoint) == bits(whole.checkpoint)


FORGOTTEN = ["optimizer", "sampler", "random", "state", "numpy", "tally"]


@pytest.mark.parametrize("part", FORGOTTEN)
@pytest.mark.usefixtures("text_file")
def test_whatever_a_checkpoint_forgets_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    """Leave out each part in turn: the comparison with the uninterrupted run must see it."""
    text = STREAM + "train.steps: 7\n"
    whole = run(text, tmp_path / "a")
    first = train(text, root=tmp_path / "b", progress="silent", compiler=Stopping(4, signal.SIGINT).compiler())
    real: Callable[[Trainer, Any], None] = Trainer.restore

    def forgetful(self: Trainer, found: checkpoint.Checkpoint) -> None:
        torch.manual_seed(99)
        fresh, rest = self.snapshot()
        tensors = dict(found.tensors)
        kept = {name: value for name, value in tensors.items() if not name.startswith(part + "/")}
        kept |= {
            name: torch.zeros_like(value)
            for name, value in tensors.items()
            if name.startswith(("state/", "optimizer/")) and name not in kept
        }
        kept |= {name: value for name, value in fresh.items() if name.startswith("random/") and name not in kept}
        state = dict(found.state)
        if part in ("sampler", "tally"):
            state[part] = rest[part]
        if part == "numpy":
            state[part] = [1, 0, 0.0]
        real(self, checkpoint.Checkpoint(found.path, found.step, kept, state))

    monkeypatch.setattr(Trainer, "restore", forgetful)
    second = run(text, tmp_path / "b", resume=str(first.folder))
    assert (bits(second.checkpoint), lines(second.folder)) != (bits(whole.checkpoint), lines(whole.folder))


def test_evaluation_leaves_no_trace(tmp_path: Path) -> None:
    often = run(COPY + "train.evaluate: 1\n", tmp_path)
    never = run(COPY + "train.evaluate: 0\n", tmp_path)
    assert bits(often.checkpoint) == bits(never.checkpoint)


def test_longer_runs_go_on(tmp_path: Path) -> None:
    text = COPY + "train.schedule: constant\n"
    whole = run(text, tmp_path, "train.steps=9")
    short = run(text, tmp_path, "train.steps=5")
    longer = run(text, tmp_path, "train.steps=9", resume=str(short.folder))
    assert bits(longer.checkpoint) == bits(whole.checkpoint)


def test_a_run_goes_on_with_its_own_spec_alone(tmp_path: Path) -> None:
    """The spec may be left out; another one is not ignored."""
    whole = run(COPY, tmp_path)
    assert run("", tmp_path, resume=str(whole.folder)).step == whole.step
    assert problem(lambda: run(COPY + "\n", tmp_path, resume=str(whole.folder))).code == "RD0705"


def test_resume_from_one_checkpoint_and_past_a_damaged_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = run(COPY, tmp_path)
    expected = bits(whole.checkpoint)
    named = run(COPY, tmp_path, resume=str(whole.folder / "checkpoints" / "step-0000004"))
    assert bits(named.checkpoint) == expected
    (Path(whole.checkpoint) / "tensors.safetensors").write_bytes(b"x")
    again = train(COPY, root=tmp_path, progress="lines", compiler=FAKE, resume="last")
    assert bits(again.checkpoint) == expected
    said = capsys.readouterr().err
    assert "note: the checkpoint" in said
    assert "goes on from step 8" in said


@pytest.mark.parametrize("name", ["overrides.json", "data.json", "environment.json"])
@pytest.mark.parametrize("content", ["{", "[]", "{}", "3"])
def test_folders_with_other_contents(tmp_path: Path, name: str, content: str) -> None:
    done = run(COPY, tmp_path)
    (done.folder / name).write_text(content)
    if (name, content) == ("overrides.json", "[]"):
        return
    found = problem(lambda: evaluate(done.folder, compiler=FAKE))
    assert (found.code, name in found.text()) == ("RD0707", True)


def test_only_damaged_checkpoints(tmp_path: Path) -> None:
    done = run(COPY, tmp_path)
    for path in (done.folder / "checkpoints").glob("step-*/state.json"):
        path.unlink()
    assert "all of its checkpoints are damaged" in problem(lambda: evaluate(done.folder, compiler=FAKE)).help()


def problem(action: Callable[[], object]) -> Any:
    with pytest.raises(RunError) as caught:
        action()
    return caught.value.problem


def test_what_cannot_be_resumed(tmp_path: Path) -> None:
    assert problem(lambda: run(COPY, tmp_path, resume="last")).code == "RD0704"
    assert problem(lambda: run(COPY, tmp_path, resume=str(tmp_path / "none"))).code == "RD0707"
    done = run(COPY, tmp_path)
    assert problem(lambda: run(COPY + "train.seed: 4\n", tmp_path, resume="last")).code == "RD0705"
    found = problem(lambda: run(COPY, tmp_path, "vocab=11", resume=str(done.folder)))
    assert found.code == "RD0705"
    assert "`V`" in found.text()


@pytest.mark.usefixtures("text_file")
def test_changed_data_is_noticed(tmp_path: Path) -> None:
    done = run(STREAM, tmp_path / "runs")
    (tmp_path / "a.txt").write_text("0123456798" * 60, encoding="utf-8")
    assert problem(lambda: run(STREAM, tmp_path / "runs", resume=str(done.folder))).code == "RD0657"


def blow_up(gradient: torch.Tensor) -> torch.Tensor:
    return gradient * float("inf")


@pytest.mark.parametrize("what", ["loss", "gradient", "parameter"])
def test_not_finite_stops_before_the_update(tmp_path: Path, what: str) -> None:
    seen: dict[str, Any] = {}

    def spoiled(path_or_text: str, overrides: Any = ()) -> Any:
        compiled = build(path_or_text, overrides)
        module = compiled.module
        seen["module"] = module

        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            if int(module.get_buffer("calls")) == 7:
                seen["before"] = {name: value.clone() for name, value in module.named_parameters()}
                if what == "loss":
                    output.loss = output.loss * float("nan")
                elif what == "gradient":
                    module.get_parameter("U").register_hook(blow_up)
                else:
                    output.outputs["logits"] = output.outputs["logits"] * float("inf")
                    output.loss = output.loss * float("inf")

        module.register_forward_hook(hook)
        return compiled

    found = problem(lambda: train(COPY, root=tmp_path, progress="silent", compiler=Compiler(read, spoiled)))
    assert found.code == "RD0701"
    assert found.step == 6
    assert (found.what, found.name) == {
        "loss": ("loss", "loss"),
        "gradient": ("gradient", "U"),
        "parameter": ("output", "logits"),
    }[what]
    assert "step-0000004" in found.help()
    assert found.batch in found.help()
    kept = safetensors.torch.load_file(found.batch)
    assert Path(found.batch).parent.parent == tmp_path / "fake"
    assert {name: tuple(value.shape) for name, value in kept.items()} == {"x": (6, 4), "y": (6, 4)}
    for name, value in seen["module"].named_parameters():
        assert torch.equal(value, seen["before"][name])


def test_not_finite_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    del monkeypatch
    (tmp_path / "d.npz").touch()
    x = np.random.default_rng(0).integers(0, 10, (40, 5))
    np.savez(tmp_path / "d.npz", x=x, y=x)
    good = COPY.replace("copy(delay=2, symbols=8, length=2)", f'npz(path="{tmp_path}/d.npz")')
    assert run(good, tmp_path).status == 0
    x[:] = 10
    np.savez(tmp_path / "d.npz", x=x, y=x)
    with pytest.raises(Exception, match="RD0608"):
        run(good, tmp_path)


@pytest.mark.usefixtures("text_file")
def test_not_finite_while_evaluating(tmp_path: Path) -> None:
    """The batch that is kept is the evaluation's, with the state that training would go on with."""

    def spoiled(path_or_text: str, overrides: Any = ()) -> Any:
        compiled = build(path_or_text, overrides)

        def hook(module: Any, _inputs: Any, _output: Any) -> None:
            if not module.training:
                raise RunError(NonFinite(0, "input", "x", 1, 1, "none"))

        compiled.module.register_forward_hook(hook)
        return compiled

    found = problem(lambda: train(STREAM, root=tmp_path, progress="silent", compiler=Compiler(read, spoiled)))
    assert found.step == 5
    assert set(safetensors.torch.load_file(found.batch)) == {"x", "next", "reset", "state/h"}


@pytest.mark.parametrize(("batch", "step"), [(1, 5), (3, 10), (5, 12), (7, 12)])
def test_interrupted_evaluations_end_at_the_next_batch(tmp_path: Path, batch: int, step: int) -> None:
    whole = run(COPY, tmp_path / "whole")
    calls = 0

    def counting(path_or_text: str, overrides: Any = ()) -> Any:
        compiled = build(path_or_text, overrides)

        def hook(module: Any, _inputs: Any, _output: Any) -> None:
            nonlocal calls
            calls += not module.training
            if calls == batch and not module.training:
                os.kill(os.getpid(), signal.SIGINT)

        compiled.module.register_forward_hook(hook)
        return compiled

    part = train(COPY, root=tmp_path / "part", progress="silent", compiler=Compiler(read, counting))
    assert (part.step, part.status, calls) == (step, 130, batch)
    again = run(COPY, tmp_path / "part", resume=str(part.folder))
    assert bits(again.checkpoint) == bits(whole.checkpoint)
    assert lines(again.folder) == lines(whole.folder)


def test_evaluate_and_load(tmp_path: Path) -> None:
    done = run(COPY, tmp_path)
    assert evaluate(done.folder, compiler=FAKE) == done.test
    assert evaluate(done.folder, split="valid", batches=2, compiler=FAKE) == done.valid
    first = evaluate(done.folder / "checkpoints" / "step-0000004", compiler=FAKE)
    assert first["loss"] > done.test["loss"]
    model = load(done.folder, compiler=FAKE)
    assert model.step == 12
    result = model.predict({"x": np.zeros((4, 2), np.int64)})
    assert result.outputs["logits"].shape == (4, 2, 10)
    assert problem(lambda: model.predict({"x": np.full((4, 2), 10)})).code == "RD0654"
    assert problem(lambda: model.sample("a")).code == "RD0709"


@pytest.mark.usefixtures("text_file")
def test_sample(tmp_path: Path) -> None:
    text = (
        STREAM
        + "vocab: data\ntrain.steps: 150\ntrain.batch: 8\ntrain.optimizer: adam(lr=5e-2)\ntrain.schedule: constant\n"
    )
    done = run(text, tmp_path / "runs")
    (tmp_path / "a.txt").unlink()
    model = load(done.folder, compiler=FAKE)
    assert model.sample("3", 12, temperature=0) == "456789012345"
    assert model.sample("3", 12, temperature=2.0, seed=1) == model.sample("3", 12, temperature=2.0, seed=1)
    assert model.sample("3", 30, temperature=9.0, seed=1) != model.sample("3", 30, temperature=9.0, seed=2)
    assert problem(lambda: model.sample("x")).code == "RD0709"


def test_disk_full_keeps_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.fsync
    calls = 0

    def full(handle: int) -> None:
        nonlocal calls
        calls += 1
        if calls > 16:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    found = problem(lambda: run(COPY + "train.checkpoint: 1\n", tmp_path))
    assert found.code == "RD0702"
    monkeypatch.undo()
    again = run(COPY + "train.checkpoint: 1\n", tmp_path, resume="last")
    assert bits(again.checkpoint) == bits(run(COPY + "train.checkpoint: 1\n", tmp_path).checkpoint)
