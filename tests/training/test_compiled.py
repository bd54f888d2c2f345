"""The real compiler under the loop: learn, stop, go on to the same bits, come back as a model."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recdsl.diagnostics import SpecError
from recdsl.errors.runs import RunError
from recdsl.syntax.spec import read_spec
from recdsl.training.loading import load
from recdsl.training.pipeline import COMPILER, Compiler
from recdsl.training.run import Result, evaluate, train
from recdsl.training.settings import settings

from .test_run import Stopping, bits, lines

SPEC = """recdsl: 1
name: little
sizes: {vocab: data, hidden: 12}
inputs: {x: "onehot[vocab]"}
targets: {y: "class[vocab]"}
step: |
  h = gru(x, size=hidden)
  logits = linear(h, size=vocab)
loss: cross_entropy(logits, y)
credit: tbptt(window=4)
data: text(path="a.txt", length=6)
train: {batch: 4, steps: 12, optimizer: adam(lr=5e-2), clip: 1.0, log: 5, stream: true, checkpoint: 5, metrics: bits}
"""
DIGITS = """recdsl: 1
name: digits
sizes: {columns: data, classes: data, hidden: 48}
inputs: {x: "float[columns]"}
targets: {y: "class[classes]"}
step: |
  h = gru(x, size=hidden)
  logits = linear(h, size=classes)
loss:
  classify: {value: "cross_entropy(logits, y)", at: last}
data: sequential_digits
train: {batch: 32, steps: 300, optimizer: adam(lr=1e-2), clip: 1.0, schedule: cosine}
"""


@pytest.fixture
def spec(tmp_path: Path) -> str:
    torch.set_num_threads(1)
    (tmp_path / "a.txt").write_text("0123456789" * 60, encoding="utf-8")
    path = tmp_path / "little.yaml"
    path.write_text(SPEC, encoding="utf-8")
    return str(path)


def run(spec: str, root: Path, *overrides: str, **options: Any) -> Result:
    return train(spec, overrides, root=root, progress="silent", **options)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_resume_is_the_same_run(spec: str, tmp_path: Path, dtype: str) -> None:
    own = f"train.dtype={dtype}"
    whole = run(spec, tmp_path / "a", own)
    for step in (1, 4, 7, 11):
        stopping = Stopping(step, signal.SIGINT, COMPILER)
        part = run(spec, tmp_path / "b", own, compiler=stopping.compiler())
        assert (part.step, part.status) == (step, 130)
        again = run(spec, tmp_path / "b", resume="last")
        assert bits(again.checkpoint) == bits(whole.checkpoint)
        assert lines(again.folder) == lines(whole.folder)


REAL_TIME = """recdsl: 1
name: little
sizes: {inp: 12, column: 6}
inputs: {x: "float[inp]"}
targets: {cumulant: float}
params:
  W: float[column, inp] ~ uniform(-1, 1)
  u: float[column] = 0.9
  w: float[column] = 0.1
step: |
  h = u * h[t-1] + W @ x
  v = w @ tanh(h)
loss: mse(v, cumulant)
credit: RULE
data: trace_patterning(length=6)
train: {batch: 2, steps: 12, optimizer: adam(lr=5e-2), log: 5, stream: true, checkpoint: 5}
"""


@pytest.mark.parametrize("rule", ["columns", "uoro", "artbp(4)"])
def test_traces_and_draws_are_resumed(spec: str, tmp_path: Path, rule: str) -> None:
    Path(spec).write_text(REAL_TIME.replace("RULE", rule), encoding="utf-8")
    whole = run(spec, tmp_path / "a")
    for step in (1, 7):
        stopping = Stopping(step, signal.SIGINT, COMPILER)
        run(spec, tmp_path / "b", compiler=stopping.compiler())
        again = run(spec, tmp_path / "b", resume="last")
        assert bits(again.checkpoint) == bits(whole.checkpoint)
        assert lines(again.folder) == lines(whole.folder)


def test_the_folder_holds_the_model(spec: str, tmp_path: Path) -> None:
    done = run(spec, tmp_path, "sizes.hidden=20", "train.steps=150")
    assert (done.folder / "spec.yaml").read_text() == SPEC
    resolved = (done.folder / "resolved.yaml").read_text()
    assert "vocab: 10" in resolved
    assert "hidden: 20" in resolved
    assert settings(read_spec(resolved)) == settings(read_spec(SPEC, ("train.steps=150",)))
    for line in ("seed: 0", "keep: 3", "evaluate: 500", "checkpoint: 5", "threads: none", "dtype: float32"):
        assert f"  {line}\n" in resolved
    assert "adam(lr=0.05, betas=[0.9, 0.999], eps=1e-08, weight_decay=0.0)" in resolved
    assert "torch" in (done.folder / "generated" / "model.py").read_text()
    assert evaluate(done.folder) == done.test
    (tmp_path / "a.txt").unlink()
    model = load(done.folder)
    assert model.sample("3", 12, temperature=0) == "456789012345"
    batch = {"x": np.arange(8).reshape(8, 1) % 10}
    first = model.predict({"x": batch["x"][:5]})
    second = model.predict({"x": batch["x"][5:]}, state=first.state)
    whole = model.predict(batch)
    parts = torch.cat([first.outputs["logits"], second.outputs["logits"]])
    assert torch.allclose(parts, whole.outputs["logits"], atol=1e-6)


BLOCKS = {
    "cell": "recdsl: 1\nblock: cell\narguments: {x: 'float[inp]'}\nsizes: {size: required}\n"
    "step: |\n  y = half(x, size=size)\nreturns: y\n",
    "half": "recdsl: 1\nblock: half\narguments: {x: 'float[inp]'}\nsizes: {size: required}\n"
    "params: {W: 'float[size, inp] ~ normal(0, 0.5)'}\nstep: |\n  y = tanh(W @ x + 0.5 * y[t-1])\nreturns: y\n",
    "other": "recdsl: 1\nblock: other\nstep: |\n  y = 1\nreturns: y\n",
}


def test_the_folder_holds_the_blocks(spec: str, tmp_path: Path) -> None:
    """Those that stood beside the spec, so that the folder works without it, and after it has changed."""
    for name, text in BLOCKS.items():
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    Path(spec).write_text(SPEC.replace("gru(", "cell("), encoding="utf-8")
    done = run(spec, tmp_path)
    assert {path.stem for path in done.folder.glob("*.yaml")} == {"spec", "resolved", "cell", "half"}
    (tmp_path / "half.yaml").write_text(BLOCKS["half"].replace("0.5 * y", "0.6 * y"), encoding="utf-8")
    with pytest.raises(RunError, match=r"half\.yaml differs"):
        run(spec, tmp_path, resume="last")
    for path in (Path(spec), tmp_path / "half.yaml", tmp_path / "cell.yaml"):
        path.unlink()
    moved = tmp_path / "elsewhere"
    done.folder.rename(moved)
    assert evaluate(moved) == done.test
    assert load(moved).step == run("", tmp_path, resume=str(moved)).step == 12


def test_new_overrides_are_remembered(spec: str, tmp_path: Path) -> None:
    run(spec, tmp_path, "train.steps=5")
    assert run(spec, tmp_path, "train.steps=8", resume="last").step == 8
    assert run(spec, tmp_path, resume="last").step == 8
    assert "spec given" not in (tmp_path / "little" / "latest" / "log.txt").read_text()


def test_digits_above_95_percent(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    assert run(DIGITS, tmp_path).test["accuracy"] > 0.95


def test_places_of_problems(spec: str, tmp_path: Path) -> None:
    bad = SPEC.replace("lr=5e-2", "lr=-1").replace("clip: 1.0", "cliip: 1.0")
    Path(spec).write_text(bad, encoding="utf-8")
    with pytest.raises(SpecError) as caught:
        run(spec, tmp_path)
    for problem in caught.value.problems:
        assert problem.span.line == 12
        assert str(problem.span).startswith(spec)


def test_a_compiler_can_be_wrapped() -> None:
    assert isinstance(Stopping(1, signal.SIGINT, COMPILER).compiler(), Compiler)


def test_what_learns_little_is_said_once_more_where_it_is_trained() -> None:
    memory = "memory: {past: {slots: 4, write: {value: h}, read: {query: h, select: topk(1), normalise: shifted_relu}}}"
    text = f"""recdsl: 1
name: best
sizes: {{a: 2}}
inputs: {{x: "float[a]"}}
targets: {{y: "float[a]"}}
{memory}
step: |
  h = tanh(x)
  out = h + past.read
loss: mse(out, y)
"""
    with pytest.warns(UserWarning, match=r"line 6: the one slot that `past\.read` gives has weight 1"):
        COMPILER.build(text, ())
