"""What is built, what is in it, and that it works where nothing else of the project is."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LINKS = ("backends", "grammars", "specs")

WANTED = (
    "recdsl/backends/__init__.py",
    "recdsl/backends/init.py",
    "recdsl/backends/torch/runtime.py",
    "recdsl/backends/reference/__init__.py",
    "recdsl/grammars/equations.lark",
    "recdsl/grammars/types.lark",
    "recdsl/grammars/calls.lark",
    "recdsl/specs/copy_lstm.yaml",
    "recdsl/specs/char_gru.yaml",
    "recdsl/specs/blocks/gru.yaml",
    "recdsl/training/data/digits.xz",
)


def _python(*words: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | variables
    return subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    done = _python("-m", "hatchling", "build", "-d", str(folder), cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    (found,) = built.glob("*.whl")
    return found


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a clone")
@pytest.mark.parametrize("name", LINKS)
def test_the_links_are_committed_as_links(name: str) -> None:
    done = subprocess.run(
        ["git", "ls-files", "-s", f"recdsl/{name}"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("120000 ")
    assert (ROOT / "recdsl" / name).readlink() == Path("..", name)


def test_the_wheel_has_everything(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        kinds = {info.external_attr >> 28 for info in archive.infolist()}
    assert set(WANTED) <= names
    assert kinds <= {0o10, 0}  # regular files only: no links
    shipped = {f"recdsl/specs/{path.relative_to(ROOT / 'specs')}" for path in (ROOT / "specs").rglob("*.yaml")}
    assert shipped <= names
    sources = {str(path.relative_to(ROOT)) for path in (ROOT / "recdsl").rglob("*.py")}
    sources |= {f"recdsl/{path.relative_to(ROOT)}" for path in (ROOT / "backends").rglob("*.py")}
    assert sources <= names
    outside = {name.split("/")[0] for name in names}
    assert outside == {"recdsl", next(name for name in outside if name.endswith(".dist-info"))}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_sdist_builds_the_same_wheel(built: Path, wheel: Path, tmp_path: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    done = _python("-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path), cwd=folder)
    assert done.returncode == 0, done.stderr
    (again,) = tmp_path.glob("*.whl")
    assert _names(again) == _names(wheel)


def _names(wheel: Path) -> dict[str, int]:
    with zipfile.ZipFile(wheel) as archive:
        return {info.filename: info.CRC for info in archive.infolist() if not info.filename.endswith("RECORD")}


SCRIPT = """
import sys
sys.path = [{target!r}, *(path for path in sys.path if path != {root!r})]
import recdsl
assert recdsl.__file__.startswith({target!r}), recdsl.__file__
sys.argv = ["recdsl", *{words!r}]
from recdsl.cli import main
main()
"""


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel alone, installed without what it needs (which this environment has)."""
    target = tmp_path_factory.mktemp("installed")
    done = _python("-m", "pip", "install", "--no-deps", "--no-index", "-q", "--target", str(target), str(wheel))
    assert done.returncode == 0, done.stderr
    return target


@pytest.mark.parametrize(
    "words",
    [
        ["check", "SPEC"],
        ["compile", "SPEC", "--show", "source"],
        ["new", "mine"],
        ["data", "list"],
        ["train", "SPEC", "train.steps=1", "sizes.hidden=4"],
        ["doctor"],
    ],
)
def test_the_installed_wheel_works(installed: Path, tmp_path: Path, words: list[str]) -> None:
    spec = str(installed / "recdsl" / "specs" / "sequential_digits.yaml")
    given = [spec if word == "SPEC" else word for word in words]
    done = _python("-c", SCRIPT.format(target=str(installed), root=str(ROOT), words=given), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
