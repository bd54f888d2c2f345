"""Which backend a run takes, what it says of that, and that it is the same run whichever it takes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from backend_support import normal

from recdsl.backends.choose import Choice, Work, choose
from recdsl.backends.native.build import NativeWarning
from recdsl.driver import analyse
from recdsl.driver import compile as compile_spec
from recdsl.training.backend import chosen
from recdsl.training.loading import load
from recdsl.training.progress import Silent
from recdsl.training.run import train

SPEC = """recdsl: 1
name: chosen
sizes: {label: 5, hidden: 4, answer: 2}
inputs: {x: "onehot[label]"}
targets: {y: "class[answer]"}
step: |
  h = gru(x, size=hidden)
  logits = linear(h, size=answer)
loss: cross_entropy(logits, y)
credit: tbptt(window=6)
data: delayed_recall(delay=2, symbols=2, distractors=2)
train: {batch: 3, steps: 8, log: 4, checkpoint: 4, seed: 3, dtype: float64}
"""
LONG = Work(10**6, 0, forward=False, width=64)


@pytest.mark.compiler
def test_long_runs_of_small_models_are_compiled() -> None:
    assert choose(LONG).backend == "native"
    assert choose(Work(None, 0, False, 64)).backend == "native"


@pytest.mark.compiler
def test_searches_of_a_growing_memory_are_worth_compiling() -> None:
    work = Work(50_000, 0, forward=False, width=512)
    assert choose(work).backend == "torch"
    assert choose(replace(work, search=True)).reason == "reverse rules, searches of a memory, matrices up to 512 wide"
    copying = Path(__file__).parents[2] / "specs" / "sab_copy.yaml"
    assert chosen(analyse(copying.read_text())).backend == "native"


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (Work(1_000, 0, False, 64), "compiling C takes"),
        (Work(10**6, 0, False, 512), "matrices of 512"),
        (Work(10**6, 0, True, 64, "cuda"), "not on cuda"),
    ],
)
def test_torch_where_c_gains_nothing(work: Work, reason: str) -> None:
    made = choose(work)
    assert made.backend == "torch"
    assert reason in made.reason


def test_no_compiler_is_said_once_and_clearly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    made = choose(LONG)
    said = "no C compiler (cc, gcc, clang not found; the package `ziglang` has one)"
    assert str(made) == f"torch (auto: {said}; with one, loops would run as C)"


def test_a_backend_that_is_asked_for_is_taken() -> None:
    assert choose(Work(1, 0, False, 4_096), "native") == Choice("native", "", "native")
    assert chosen(analyse(SPEC, ["train.backend=torch", "train.steps=1_000_000"])).backend == "torch"


@pytest.mark.compiler
def test_auto_looks_at_the_run() -> None:
    assert chosen(analyse(SPEC)).backend == "torch"
    assert chosen(analyse(SPEC, ["train.steps=1_000_000"])).backend == "native"
    assert chosen(analyse(SPEC, ["train.steps=20_000", "credit=snap(1)"])).backend == "native"


@pytest.mark.compiler
def test_modules_of_auto() -> None:
    found: Any = compile_spec(SPEC, "auto")
    assert found.recdsl_runs == "native"
    wide: Any = compile_spec(SPEC, "auto", overrides=["sizes.hidden=512"])
    assert not hasattr(wide, "recdsl_runs")


def run(root: Path, *overrides: str) -> Any:
    return train(SPEC, overrides, root=root, progress="silent")


@pytest.mark.compiler
@pytest.mark.parametrize(("first", "then"), [("torch", "native"), ("native", "torch")])
def test_a_run_goes_on_with_another_backend(tmp_path: Path, first: str, then: str) -> None:
    """Checkpoints are the same: names, shapes, and the numbers to rounding."""
    whole = run(tmp_path, f"train.backend={then}")
    half = run(tmp_path / "half", f"train.backend={first}", "train.steps=4")
    rest = train("", [f"train.backend={then}", "train.steps=8"], resume=str(half.folder), progress="silent")
    one, other = (load(found.folder).module.state_dict() for found in (whole, rest))
    assert list(one) == list(other)
    for name, value in one.items():
        assert torch.allclose(value, other[name], rtol=1e-10, atol=1e-12), name
    assert json.loads((rest.folder / "environment.json").read_text())["backend"] == first


@pytest.mark.parametrize("resumed", [False, True])
def test_a_run_says_what_runs_it(resumed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where C was chosen and there is none after all, that is torch."""
    half = run(tmp_path / "half", "train.backend=torch", "train.steps=4")
    broken = tmp_path / "broken"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && exit 0\necho "error: no" >&2; exit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("CC", str(broken))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in [name for name in sys.modules if name.startswith("recdsl_native_")]:
        monkeypatch.delitem(sys.modules, name)
    said: list[str] = []
    monkeypatch.setattr(Silent, "note", lambda self, text: said.append(text))
    expected = "torch (N2: the C compiler failed: error: no), not native"
    changes = ["train.backend=native", "train.steps=5"]
    resume = str(half.folder) if resumed else None
    with pytest.warns(NativeWarning, match="N2"):
        done = train("" if resumed else SPEC, changes, root=tmp_path, resume=resume, progress="silent")
    about = json.loads((done.folder / "environment.json").read_text())
    assert about["backend"] == ("torch" if resumed else expected)
    assert any(line.endswith(f"; backend {expected}") for line in said)


@pytest.mark.compiler
def test_batches_mean_the_same() -> None:
    models: list[Any] = [compile_spec(SPEC, name, torch.float64) for name in ("torch", "native")]
    batch = {"x": normal(1, 7, 3).abs().long().clamp(max=4), "y": torch.zeros(7, 3, dtype=torch.long)}
    losses = [float(model(batch).loss.detach()) for model in models]
    assert abs(losses[0] - losses[1]) < 1e-12
