"""Checkpoints: no damage is silent, no failed write harms the one before, nothing is unpickled."""

from __future__ import annotations

import builtins
import errno
import os
import random
import resource
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from recdsl.errors.runs import RunError
from recdsl.training import checkpoint, store

TENSORS = {"model/W": torch.randn(20, 30), "state/n": torch.tensor(3), "random/torch": torch.get_rng_state()}
STATE = {"step": 5, "sampler": {"position": 7}}


def code(run: Callable[[], object]) -> str:
    with pytest.raises(RunError) as caught:
        run()
    return caught.value.problem.code


def test_round_trip(tmp_path: Path) -> None:
    path = checkpoint.save(tmp_path, 5, TENSORS, STATE)
    found = checkpoint.load(path)
    assert found.step == 5
    assert found.state == STATE
    assert found.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(found.tensors[name], tensor) for name, tensor in TENSORS.items())
    assert not list(tmp_path.glob(".tmp*"))


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10_000_000, 3):
        checkpoint.save(tmp_path, step, TENSORS, STATE, keep=2)
    assert [path.name for path in checkpoint.listed(tmp_path)] == ["step-0000003", "step-10000000"]


def test_every_damage_is_found(tmp_path: Path) -> None:
    """1,000 flipped bits, 200 truncations, 100 zeroed pages, over all three files: 0 silent."""
    path = checkpoint.save(tmp_path, 5, TENSORS, STATE)
    files = sorted(path.iterdir())
    whole = {file: file.read_bytes() for file in files}
    rng = random.Random(1)
    silent, said = 0, set[tuple[str, bool]]()
    for trial in range(1300):
        file = files[trial % 3]
        data = bytearray(whole[file])
        place = rng.randrange(len(data))
        if trial < 1000:
            data[place] ^= 1 << rng.randrange(8)
        elif trial < 1200:
            del data[place:]
        else:
            data[place : place + 4096] = bytes(len(data[place : place + 4096]))
        if bytes(data) == whole[file]:
            continue
        file.write_bytes(bytes(data))
        try:
            checkpoint.load(path)
            silent += 1
        except RunError as error:
            said.add((error.problem.code, str(path) in error.problem.text()))
        file.write_bytes(whole[file])
    assert silent == 0
    assert said == {("RD0703", True)}
    checkpoint.load(path)


def test_swapped_and_missing_files(tmp_path: Path) -> None:
    one = checkpoint.save(tmp_path, 1, TENSORS, STATE)
    two = checkpoint.save(tmp_path, 2, {"model/W": torch.zeros(20, 30)}, STATE)
    shutil.copy(one / "tensors.safetensors", two / "tensors.safetensors")
    assert code(lambda: checkpoint.load(two)) == "RD0703"
    shutil.copytree(one, tmp_path / "step-0000009")
    assert code(lambda: checkpoint.load(tmp_path / "step-0000009")) == "RD0703"
    (one / "state.json").unlink()
    assert code(lambda: checkpoint.load(one)) == "RD0703"


def test_newest_whole_one_with_a_note(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.save(tmp_path, step, TENSORS, STATE)
    (tmp_path / "step-0000003" / "manifest.json").write_bytes(b"")
    (tmp_path / "step-0000002" / "tensors.safetensors").unlink()
    notes: list[str] = []
    assert checkpoint.newest(tmp_path, notes.append).step == 1
    assert len(notes) == 2
    assert "step-0000003" in notes[0]
    assert code(lambda: checkpoint.newest(tmp_path / "none", notes.append)) == "RD0704"


class Failing:
    """Lets the first n calls of open, write, fsync, mkdir and rename through; the next fails as a full disk does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, allowed: int) -> None:
        self.left = allowed
        for owner, name in ((os, "fsync"), (os, "rename"), (os, "mkdir"), (builtins, "open")):
            monkeypatch.setattr(owner, name, self._wrap(getattr(owner, name)))

    def _wrap(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.left -= 1
            if self.left == -1:
                raise OSError(errno.ENOSPC, "No space left on device")
            return real(*args, **kwargs)

        return call


def test_a_failure_at_every_call(tmp_path: Path) -> None:
    """Fail the n-th call to the system for every n: the checkpoint before stays whole."""
    before = checkpoint.save(tmp_path, 1, TENSORS, STATE)
    said: list[str] = []
    for allowed in range(100):
        with pytest.MonkeyPatch.context() as patch:
            failing = Failing(patch, allowed)
            try:
                checkpoint.save(tmp_path, 2, TENSORS, STATE)
            except RunError as error:
                said.append(f"{error.problem.code} {error}")
            if failing.left >= 0:
                break
        assert checkpoint.newest(tmp_path, lambda _note: None).step in (1, 2)
        assert not list(tmp_path.glob(".tmp*"))
        shutil.rmtree(tmp_path / "step-0000002", ignore_errors=True)
        checkpoint.load(before)
    assert len(said) >= 8
    assert all(text.startswith("RD0702") and "bytes needed" in text and str(before) in text for text in said)


@pytest.mark.parametrize("limit", range(0, 24_576, 4096))
def test_file_size_limit(tmp_path: Path, limit: int) -> None:
    """RLIMIT_FSIZE at every 4 KiB, in a child: RD0702, the checkpoint before is whole."""
    tensors = {"model/W": torch.randn(60, 100)}
    before = checkpoint.save(tmp_path, 1, tensors, STATE)
    child = os.fork()
    if child == 0:
        status = 70
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            checkpoint.save(tmp_path, 2, tensors, STATE)
        except RunError as error:
            status = 0 if error.problem.code == "RD0702" else 71
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert checkpoint.newest(tmp_path, lambda _note: None).path == before
    assert not list(tmp_path.glob(".tmp*"))


def test_read_only_folder_is_another_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "mkdir", refuse)
    assert code(lambda: checkpoint.save(tmp_path / "x", 1, TENSORS, STATE)) == "RD0706"


def test_lock(tmp_path: Path) -> None:
    with store.locked(tmp_path):

        def again() -> None:
            with store.locked(tmp_path):
                pass

        assert code(again) == "RD0708"
    again()


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle

    path = checkpoint.save(tmp_path, 5, TENSORS, STATE)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "load", refuse)
    checkpoint.load(path)
    (path / "tensors.safetensors").write_bytes(pickle.dumps({"W": 1}))
    assert code(lambda: checkpoint.load(path)) == "RD0703"
