"""Commands that run models: compile -o, gradcheck, train, eval, export, doctor."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from cli_support import COPY, ROOT, SMALL, TINY, Done, process, run, tiny

import recdsl.backends.reference
import recdsl.training.gradcheck as measuring
from recdsl.driver import analyse

BLOCKED = """
import sys, runpy

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "recdsl":
            raise ImportError("recdsl is not here")

sys.meta_path.insert(0, Refuse())
import torch

model = runpy.run_path(sys.argv[1])["Model"]()
x = torch.randint(10, (6, 2))
result = model({"x": x, "y": x})
result.loss.backward()
print(sum(p.grad.abs().sum() > 0 for p in model.parameters()).item() == len(list(model.parameters())))
"""


def test_the_written_module_runs_without_recdsl(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    assert run("compile", COPY, *SMALL, "-o", str(path)).status == 0
    assert [item.name for item in tmp_path.iterdir()] == ["model.py"]
    done = subprocess.run(
        [sys.executable, "-I", "-c", BLOCKED, str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "True"


def test_gradcheck_holds_for_full_credit(tmp_path: Path) -> None:
    done = run("gradcheck", tiny(tmp_path), "--json")
    assert done.status == 0
    assert done.json["holds"]
    (row,) = done.json["rows"]
    assert row["verdict"] == "exact"
    assert row["definition"] < 1e-10
    assert row["full"] < 1e-10


def test_gradcheck_measures_what_a_window_drops(tmp_path: Path) -> None:
    done = run("gradcheck", tiny(tmp_path), "credit=tbptt(window=2)", "--json")
    assert done.status == 0
    (row,) = done.json["rows"]
    assert row["verdict"] == "biased"
    assert row["definition"] < 1e-10
    assert row["full"] > 1e-3
    assert "every claim holds" in run("gradcheck", tiny(tmp_path), "credit=tbptt(window=2)").out


def test_gradcheck_contradicts_a_false_claim(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict of one rule over the gradient of another, and a gradient that is a little wrong."""
    windowed = analyse(tiny(tmp_path), ["credit=tbptt(window=2)"])
    (row,) = analyse(tiny(tmp_path)).plan.rows
    from dataclasses import replace

    check = measuring.gradcheck(replace(windowed, plan=replace(windowed.plan, rows=(row,))))
    assert not check.holds
    assert "said to be exact" in check.rows[0].problem

    original = measuring.gradients
    monkeypatch.setattr(measuring, "gradients", lambda m, d: {k: v * (1 + 1e-6) for k, v in original(m, d).items()})
    done = run("gradcheck", tiny(tmp_path))
    assert done.status == 1
    assert "1 of 1 claims are contradicted" in done.out


def test_gradcheck_notices_what_is_not_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "gradients", lambda _m, _d: {"U": torch.full((3, 3), torch.nan).double()})
    done = run("gradcheck", tiny(tmp_path), "--json")
    assert done.status == 1
    assert done.json["rows"][0]["definition"] is None


def test_the_definition_is_not_the_compiled_module() -> None:
    assert measuring.Reference is recdsl.backends.reference.Reference


def _train(folder: Path, *words: str) -> Done:
    return run("train", COPY, *SMALL, "train.batch=4", "--run-dir", str(folder), "--progress", "silent", *words)


def test_train_then_eval_and_load(tmp_path: Path) -> None:
    done = _train(tmp_path, "train.steps=3", "--json")
    assert done.status == 0
    found = done.json
    assert found["step"] == 3
    assert {"loss", "accuracy"} <= set(found["test"])
    again = run("eval", found["run"], "--batches", "2", "--json")
    assert again.status == 0
    assert again.json["split"] == "test"
    assert again.json["accuracy"] >= 0
    assert run("eval", found["run"], "--batches", "2").out.startswith("test  loss")
    more = run("train", "--resume", found["run"], "train.steps=5", "--json", "--progress", "silent")
    assert more.status == 0
    assert more.json["step"] == 5
    assert more.json["run"] == found["run"]


def test_training_is_interrupted_with_a_checkpoint(tmp_path: Path) -> None:
    words = ["train", COPY, *SMALL, "train.steps=1000000", "train.batch=2", "train.log=5", "--run-dir", str(tmp_path)]
    with subprocess.Popen(
        [sys.executable, "-m", "recdsl", *words, "--progress", "lines"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as running:
        assert running.stderr is not None
        deadline = time.monotonic() + 60
        while "step 5/" not in running.stderr.readline() and time.monotonic() < deadline:
            pass
        running.send_signal(signal.SIGINT)
        running.stderr.read()
        assert running.wait(60) == 130
    (run_folder,) = [path for path in (tmp_path / "copy-lstm").iterdir() if not path.is_symlink()]
    assert list((run_folder / "checkpoints").glob("step-*"))


def test_data_that_is_missing_names_the_command(tmp_path: Path) -> None:
    spec = str(ROOT / "specs" / "char_gru.yaml")
    done = process(["train", spec], tmp_path, RECDSL_DATA=str(tmp_path / "none"))
    assert done.status == 2
    assert "recdsl data fetch shakespeare" in done.err


def test_users_code_needs_trust(tmp_path: Path) -> None:
    path = tiny(tmp_path, TINY + "data: mymodule:batches\n")
    done = run("train", path, "--run-dir", str(tmp_path), "--progress", "silent")
    assert done.status in (1, 2)
    assert "--trust" in done.err


def test_export_a_spec_and_a_run(tmp_path: Path) -> None:
    path = tmp_path / "step.pt2"
    assert run("export", COPY, *SMALL, "-o", str(path)).status == 0
    step = torch.export.load(path).module()
    state = {name: torch.zeros(5, 4) for name in ("h", "h.c")}
    outputs, after = step({"x": torch.randint(10, (5,))}, state)
    assert outputs["logits"].shape == (5, 10)
    assert after["h"].shape == (5, 4)
    folder = _train(tmp_path, "train.steps=2", "--json").json["run"]
    assert run("export", folder, "-o", str(path)).status == 0


def test_what_cannot_be_exported_is_said(tmp_path: Path) -> None:
    path = tiny(tmp_path, TINY.replace("+ x)", "+ x) * (t + 1)"))
    done = run("export", path, "-o", str(tmp_path / "step.pt2"))
    assert done.status == 2
    assert "not supported yet" in done.err
    assert not (tmp_path / "step.pt2").exists()


def test_doctor() -> None:
    done = run("doctor", "--json")
    assert done.status == 0, done.out
    facts = json.loads(done.out)["facts"]
    assert facts["torch"] == torch.__version__
    assert facts["autograd"] == "works"
    assert "all is well" in run("doctor").out


@pytest.mark.compiler
def test_the_written_library_runs_without_recdsl(tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    done = run("compile", tiny(tmp_path), "--emit", "c", "-o", str(path))
    assert done.status == 0, done.err
    written = {item.name for item in tmp_path.iterdir()}
    assert {"model.py", "model.c", "libmodel.so"} <= written
    text = BLOCKED.replace("torch.randint(10, (6, 2))", "torch.randn(6, 2, 3)")
    command = [sys.executable, "-I", "-c", text, str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "True"


def test_emit_c_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny(tmp_path)
    assert "-o model.py" in run("compile", path, "--emit", "c").err
    assert "must be possible" in run("compile", path, "--emit", "c", "-o", str(tmp_path / "a-b.py")).err
    monkeypatch.setenv("CC", "no-such-compiler")
    done = run("compile", path, "--emit", "c", "-o", str(tmp_path / "model.py"))
    assert done.status == 1
    assert "no C compiler (no-such-compiler not found; the package `ziglang` has one)" in done.err
    assert not (tmp_path / "model.py").exists()
