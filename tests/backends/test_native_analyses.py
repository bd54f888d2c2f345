"""An analysis is kept, and made anew as soon as anything that it has seen is not as it was."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from backend_support import normal

from recdsl import analyses, driver
from recdsl.backends.native import store
from recdsl.canonical import digest
from recdsl.diagnostics import SpecError

ROOT = Path(__file__).parents[2]
SPEC = """recdsl: 1
sizes: {n: 2}
inputs: {x: "float[n]"}
targets: {y: "float[n]"}
params: {W: "float[n, n] ~ normal(0, 0.5)"}
step: |
  h = tanh(W @ h[t-1] + x)
  z = cell(h)
loss: mse(z, y)
train: {seed: 3}
"""
BLOCK = """recdsl: 1
block: cell
arguments: {x: "float[inp]"}
step: |
  y = FUNCTION(x)
returns: y
"""


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The texts that are analysed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(store, "enabled", True)
    real, found = vars(driver)["_analysed"], list[str]()

    def noted(source: Any, *rest: Any) -> Any:
        found.append(source.text)
        return real(source, *rest)

    monkeypatch.setattr("recdsl.driver._analysed", noted)
    return found


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    (tmp_path / "cell.yaml").write_text(BLOCK.replace("FUNCTION", "tanh"))
    path = tmp_path / "model.yaml"
    path.write_text(SPEC)
    return path


def test_nothing_is_analysed_twice(spec: Path, made: list[str]):
    first = driver.analysed(str(spec))
    second = driver.analysed(str(spec))
    assert len(made) == 1
    assert "graph" not in vars(second)
    assert (second.seed, second.credit, second.boundaries, second.key) == (3, "bptt", (), first.key)
    assert digest(second.spec, second.graph, second.plan) == digest(first.spec, first.graph, first.plan)
    assert str(second.report) == str(first.report)
    assert second.source == first.source


@pytest.mark.compiler
def test_models_are_the_same(spec: Path, made: list[str]):
    found: list[torch.Tensor] = []
    for backend in ("native", "native", "auto", "torch"):
        for name in [name for name in sys.modules if name.startswith(("recdsl_native_", "recdsl_generated_"))]:
            del sys.modules[name]
        model: Any = driver.compile(str(spec), backend, torch.float64)
        model({"x": normal(1, 5, 3, 2), "y": normal(2, 5, 3, 2)}).loss.backward()
        found.append(next(model.parameters()).grad)
    assert len(made) == 2  # the torch backend generates from what it analyses
    assert all(torch.allclose(other, found[0], rtol=1e-12, atol=1e-12) for other in found)


def rewrite(spec: Path) -> None:
    spec.write_text(SPEC.replace("n: 2", "n: 3"))


def change(spec: Path) -> None:
    (spec.parent / "cell.yaml").write_text(BLOCK.replace("FUNCTION", "exp"))


def shadow(spec: Path) -> None:
    """Behind a link there is no block."""
    (spec.parent / "cell.yaml").rename(spec.parent / "other.yaml")
    (spec.parent / "cell.yaml").symlink_to(spec.parent / "other.yaml")


@pytest.mark.parametrize("harm", [rewrite, change, shadow])
def test_files_that_are_not_as_they_were(spec: Path, made: list[str], harm: Callable[[Path], None]):
    first = driver.analysed(str(spec))
    harm(spec)
    try:
        right = driver.analyse(str(spec)).key
    except SpecError:
        right = ""
    before = len(made)
    try:
        found = driver.analysed(str(spec)).key
    except SpecError:
        found = ""
    assert len(made) == before + 1
    assert found == right != first.key


def test_a_block_that_appears_beside_the_spec(spec: Path, made: list[str]):
    """It stands in front of the library's."""
    spec.write_text(SPEC.replace("cell(h)", "linear(h, size=n)"))
    library = driver.analysed(str(spec))
    block = BLOCK.replace("cell", "linear").replace("step:", "sizes: {size: required}\nstep:")
    (spec.parent / "linear.yaml").write_text(block.replace("FUNCTION(x)", "2 * x"))
    own = driver.analysed(str(spec))
    assert len(made) == 2
    assert len(library.graph.parameters) > len(own.graph.parameters) == 1


def test_what_is_asked_is_in_the_name(spec: Path, made: list[str]):
    driver.analysed(str(spec))
    driver.analysed(str(spec), ["sizes.n=3"])
    driver.analysed(str(spec), ["train.seed=4"])
    driver.analysed(SPEC.replace("cell", "tanh"))
    elsewhere = spec.with_name("same.yaml")
    elsewhere.write_text(SPEC)
    assert driver.analysed(str(elsewhere)).spec.span.source.path == str(elsewhere)
    assert len(made) == 5


def test_sizes_of_the_data(spec: Path, made: list[str]):
    """They are read each time."""
    text = SPEC.replace("n: 2", "n: data").replace("cell(h)", "tanh(h)")
    spec.write_text(text.replace("train:", 'data: text(path="words.txt", length=4)\ntrain:').replace(
        'inputs: {x: "float[n]"}\ntargets: {y: "float[n]"}', 'inputs: {x: "onehot[n]"}\ntargets: {y: "class[n]"}'
    ).replace("mse(z, y)", "cross_entropy(z, y)"))  # fmt: skip
    words = spec.parent / "words.txt"
    words.write_text("abc" * 200)
    sizes = [driver.analysed(str(spec)).graph.parameters[0].type.shape for _ in range(2)]
    assert (sizes[0], len(made)) == (sizes[1], 1)
    words.write_text("abcdef" * 200)
    assert driver.analysed(str(spec)).graph.parameters[0].type.shape != sizes[0]
    words.unlink()
    with pytest.raises(SpecError, match="RD0610"):
        driver.analysed(str(spec))


def test_sizes_of_data_that_is_generated(made: list[str], monkeypatch: pytest.MonkeyPatch):
    """They follow from the spec."""
    text = (ROOT / "specs" / "recall_synthetic.yaml").read_text()
    first = driver.analysed(text)
    monkeypatch.setattr("recdsl.driver._sizes", lambda spec: {})
    assert driver.analysed(text).graph.inputs[0].size == first.graph.inputs[0].size > 0
    assert len(made) == 1


def test_rules_of_other_packages(spec: Path, made: list[str], monkeypatch: pytest.MonkeyPatch):
    """Nobody follows what they are made of: nothing is found, and nothing kept."""
    driver.analysed(str(spec))
    monkeypatch.setattr(analyses, "entry_points", lambda group: [group])
    driver.analysed(str(spec))
    driver.analysed(str(spec))
    assert len(made) == 3


def test_parts_that_cannot_be_read(spec: Path, made: list[str], monkeypatch: pytest.MonkeyPatch):
    right = driver.analyse(str(spec))
    for data in (b"", b"garbage", b"crecdsl.nowhere\nx\n."):
        with monkeypatch.context() as patch:
            patch.setattr(pickle, "dumps", lambda _, protocol, data=data: data)
            driver.analysed(str(spec), [f"train.seed={len(data)}"])
        made.clear()
        again = driver.analysed(str(spec), [f"train.seed={len(data)}"])
        assert (made, again.seed) == ([], len(data))
        assert digest(again.graph) == digest(right.graph)
        assert len(made) == 1


FRESH = """
import sys
import torch
import recdsl
recdsl.compile(sys.argv[1], "native", torch.float32)
slow = ("recdsl.graph.build", "recdsl.credit", "recdsl.syntax.spec", "recdsl.training.settings", "networkx",
        "recdsl.program", "recdsl.backends.native.lower", "recdsl.backends.native.online")
print(*(name for name in slow if name in sys.modules))
"""


@pytest.mark.compiler
def test_what_a_new_process_imports(spec: Path):
    """Where all is there: nothing that compiles."""
    place = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", FRESH, str(spec)]
    said = [subprocess.run(command, env=place, capture_output=True, text=True, check=True).stdout for _ in range(2)]
    assert "recdsl.credit" in said[0]
    assert said[1].split() == []
