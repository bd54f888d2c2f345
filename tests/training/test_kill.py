"""SIGKILL at random moments: the run goes on to the same bits. Everything is imported once; each trial is a fork."""

from __future__ import annotations

import os
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from recdsl.training import checkpoint
from recdsl.training.run import train

from .fakes import COPY, FAKE
from .test_run import bits, lines

TEXT = COPY + "train.steps: 12\ntrain.checkpoint: 3\ntrain.keep: 2\n"
TRIALS = 50


class Events:
    """Counts calls and returns of all functions, C ones too, and kills its process at one of them."""

    def __init__(self, last: int = -1) -> None:
        self.count, self.last = 0, last

    def __call__(self, *_: Any) -> None:
        self.count += 1
        if self.count == self.last:
            os.kill(os.getpid(), signal.SIGKILL)


def child(root: Path, resume: bool, last: int = -1) -> int:
    """Train (or go on) under `root` in a fork that dies at its event `last`; its exit status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            sys.setprofile(Events(last) if last > 0 else None)
            train(TEXT, root=root, resume="last" if resume else None, progress="silent", compiler=FAKE)
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_kill_at_random_moments(tmp_path: Path) -> None:
    """Up to three kills a trial, uniform over everything that a run does; then it goes on to the end."""
    train(TEXT, root=tmp_path / "first", progress="silent", compiler=FAKE)  # imports that would be counted
    events = Events()
    sys.setprofile(events)
    whole = train(TEXT, root=tmp_path / "whole", progress="silent", compiler=FAKE)
    sys.setprofile(None)
    expected = bits(whole.checkpoint), lines(whole.folder)
    rng = random.Random(3)
    resumed = kills = 0
    for trial in range(TRIALS):
        root, resume = tmp_path / str(trial), False
        for _ in range(rng.randint(1, 3)):
            kills += child(root, resume, rng.randrange(1, events.count)) == -signal.SIGKILL
            runs = [path for path in root.glob("fake/*-*-*") if checkpoint.listed(path / "checkpoints")]
            resume = bool(runs)
        resumed += resume
        assert child(root, resume) == 0
        folder = next(path for path in root.glob("fake/*-*-*") if (path / "checkpoints" / "step-0000012").exists())
        assert (bits(folder / "checkpoints" / "step-0000012"), lines(folder)) == expected
        assert not list(folder.glob("checkpoints/.tmp*"))
    assert kills >= TRIALS
    assert resumed >= TRIALS // 2


@pytest.mark.parametrize("moment", ["write", "rename", "remove"])
def test_kill_inside_a_commit(tmp_path: Path, moment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Die between the steps of a commit, and in the middle of dropping an old checkpoint."""
    whole = train(TEXT, root=tmp_path / "whole", progress="silent", compiler=FAKE)
    pid = os.fork()
    if pid == 0:
        from recdsl.training import store

        real, calls = os.rename, 0

        def die(*args: Any) -> None:
            nonlocal calls
            calls += 1
            late = moment == "remove" and ".tmp-old" in str(args[1])
            if calls >= 4 and (moment == "rename" or late):
                if late:
                    real(*args)
                os.kill(os.getpid(), signal.SIGKILL)
            real(*args)

        def torn(path: Path, data: bytes) -> None:
            nonlocal calls
            calls += 1
            path.write_bytes(data[: len(data) // 2] if calls >= 10 else data)
            if calls >= 10:
                os.kill(os.getpid(), signal.SIGKILL)

        if moment == "write":
            monkeypatch.setattr(store, "write", torn)
        else:
            monkeypatch.setattr(os, "rename", die)
        train(TEXT, root=tmp_path / "part", progress="silent", compiler=FAKE)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    again = train(TEXT, root=tmp_path / "part", resume="last", progress="silent", compiler=FAKE)
    assert bits(again.checkpoint) == bits(whole.checkpoint)
    assert lines(again.folder) == lines(whole.folder)
