"""What was generated is kept: not made twice, the same for every process, and never trusted where it is not as made."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from backend_support import normal
from native_support import SPEC

from recdsl.backends.native import build, lower, store
from recdsl.backends.native.build import NativeWarning
from recdsl.backends.torch import module as generator
from recdsl.canonical import digest
from recdsl.driver import analyse
from recdsl.driver import compile as compile_spec

pytestmark = pytest.mark.compiler


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(store, "enabled", True)
    return tmp_path / "recdsl" / "native"


def made(spec: str = SPEC) -> Any:
    """A model as in a new process."""
    for name in [name for name in sys.modules if name.startswith(("recdsl_native_", "recdsl_generated_"))]:
        del sys.modules[name]
    model: Any = compile_spec(spec, "native", torch.float64)
    assert model.recdsl_runs == "native"
    return model


def gradient(model: Any, *, masked: bool) -> torch.Tensor:
    batch = {"x": normal(1, 5, 3, 2), "y": normal(2, 5, 3, 2)}
    mask = torch.arange(5)[:, None] < torch.tensor([5, 3, 1])
    model.zero_grad()
    model(batch, mask=mask if masked else None).loss.backward()
    return next(iter(model.parameters())).grad.clone()


def never(*args: Any, **options: Any) -> Any:
    raise AssertionError("made again")


def test_nothing_is_made_twice(cache: Path, monkeypatch: pytest.MonkeyPatch):
    first = made()
    found = [gradient(first, masked=masked) for masked in (False, True)]
    assert sorted(path.stem.partition("-")[2] for path in cache.glob("*.model")) == [
        "analysis",
        "module",
        "plain",
        "ragged",
    ]
    for place, name in ((generator, "programs"), (generator, "generate"), (lower, "lower"), (build, "_compile")):
        monkeypatch.setattr(place, name, never)
    second = made()
    assert type(second) is not type(first)
    assert (second.recdsl_source, second.recdsl_c) == (first.recdsl_source, first.recdsl_c)
    for masked, right in zip((False, True), found, strict=True):
        assert torch.equal(gradient(second, masked=masked), right)
    with pytest.raises(AssertionError, match="made again"):
        made(SPEC.replace("tanh", "sigmoid"))


def test_the_other_variant_is_made_when_it_is_called(monkeypatch: pytest.MonkeyPatch):
    lowered = list[str]()
    real = lower.lower

    def noted(assembled: Any) -> Any:
        lowered.append(assembled.program.name)
        return real(assembled)

    monkeypatch.setattr(lower, "lower", noted)
    for name in [name for name in sys.modules if name.startswith(("recdsl_native_", "recdsl_generated_"))]:
        del sys.modules[name]
    model: Any = compile_spec(SPEC, "native", torch.float64)
    assert len(lowered) == 1
    gradient(model, masked=False)
    assert len(lowered) == 1
    gradient(model, masked=True)
    assert len(lowered) == 2


@pytest.mark.parametrize("change", ["credit: tbptt(window=2)", "name: other", "sizes: {m: 3}"])
def test_what_a_model_follows_from_is_in_its_name(change: str):
    one, other = (
        analyse(SPEC),
        analyse(SPEC + change if not change.startswith("sizes") else SPEC.replace("n: 2", "n: 3")),
    )
    keys = [store.Store(item.graph, item.plan, item.credit).key for item in (one, analyse(SPEC), other)]
    assert len(keys[0]) == 40
    assert keys[0] == keys[1] != keys[2]


def test_another_compiler_makes_its_own(monkeypatch: pytest.MonkeyPatch):
    stages = analyse(SPEC)
    before = store.Store(stages.graph).key
    monkeypatch.setattr(store, "compiler_files", lambda: "changed")
    assert before != store.Store(stages.graph).key


def test_every_file_of_the_compiler_counts():
    """`compiler_files` covers what `COMPILER` names, C and blocks of the language too."""
    root = Path(build.__file__).resolve().parent
    assert (root / "prelude.c").exists()
    assert len(store.compiler_files()) == 64
    folders = {"backends", "program", "ops", "credit", "graph", "jacobian", "grammars", "syntax", "training"}
    assert folders | {"specs/blocks"} == {*store.COMPILER}


KEY = """
import sys
from recdsl.backends.native.store import Store
from recdsl.driver import analyse
stages = analyse(sys.argv[1])
print(Store(stages.graph, stages.plan, stages.credit).key)
"""


def test_names_are_those_of_every_process():
    keys = set[str]()
    spec = str(Path(__file__).parents[2] / "specs" / "columnar_lstm.yaml")
    for seed in ("1", "2"):
        place = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run([sys.executable, "-c", KEY, spec], env=place, capture_output=True, text=True, check=True)
        keys.add(done.stdout)
    assert len(keys) == 1


@pytest.mark.parametrize("harm", ["truncate", "poison", "link", "mode"])
def test_what_is_not_as_it_was_made_is_made_anew(cache: Path, harm: str, tmp_path: Path):
    right = gradient(made(), masked=False)
    (kept,) = cache.glob("*-plain.model")
    data = kept.read_bytes()
    if harm == "truncate":
        kept.write_bytes(data[: len(data) // 2])
    elif harm == "poison":
        kept.write_bytes(data.replace(b"real", b"reel", 1))
    elif harm == "link":
        (tmp_path / "other").write_bytes(data)
        kept.unlink()
        kept.symlink_to(tmp_path / "other")
    else:
        kept.chmod(0o666)
    with pytest.warns(NativeWarning, match="N5: .*made anew"):
        assert torch.equal(gradient(made(), masked=False), right)
    assert not kept.is_symlink()
    assert kept.stat().st_mode & 0o077 == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(gradient(made(), masked=False), right)


def test_a_full_disk_costs_time_alone(cache: Path, monkeypatch: pytest.MonkeyPatch):
    def full(target: Path, data: bytes) -> None:
        if target.suffix == ".model":
            raise OSError(28, "No space left on device")
        real(target, data)

    real = build.replace
    monkeypatch.setattr(build, "replace", full)
    gradient(made(), masked=False)
    assert not list(cache.glob("*.model"))


@dataclass(frozen=True)
class Leaf:
    name: str
    numbers: tuple[float, ...]
    names: frozenset[str]


def test_digests_tell_values_apart():
    one = Leaf("a", (1.0, 2.0), frozenset({"x", "y"}))
    same = Leaf("a", (1.0, 2.0), frozenset(["y", "x"]))
    assert digest(one) == digest(same)
    others = [replace(one, name="b"), replace(one, numbers=(1, 2)), replace(one, numbers=(1.0, 2.0, 0.0)),
              replace(one, names=frozenset({"x"})), (one,), [one], {"one": one}, "a", None]  # fmt: skip
    assert len({digest(item) for item in (one, *others)}) == len(others) + 1
    assert digest("a", "b") != digest("ab") != digest(("a", "b"))
    with pytest.raises(TypeError, match="is no data"):
        digest(replace(one, name=never))
    assert store.Store(never).key == ""
