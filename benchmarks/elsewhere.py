"""Peers that need a Python of their own: a process that makes as many calls as a line says."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

LIMIT = 300
"""Seconds that a peer has for compiling and its first call."""


@dataclass(frozen=True)
class Peer:
    """A process that runs a script of this folder. said: the first line that it wrote, or "" where it ended."""

    process: subprocess.Popen[str]
    given: IO[str]
    taken: IO[str]
    said: str

    def ask(self, count: int = 1, *, wall: bool = False) -> float:
        """CPU (or wall) seconds of `count` more calls together; infinite where there is no such process any more."""
        if not self.said or self.process.poll() is not None:
            return float("inf")
        print(count, file=self.given, flush=True)
        found = self.taken.readline().split() or ["inf", "inf"]
        return float(found[wall])


def missing(python: str | None, package: str) -> str:
    """Why a peer cannot be run, or ""."""
    if python is None:
        return f"--peer-python PATH names no Python with {package}"
    try:
        done = subprocess.run([python, "-c", f"import {package}"], capture_output=True, text=True, check=False)
    except OSError as error:
        return f"{python}: {error.strerror}"
    return done.stderr.strip().splitlines()[-1] if done.returncode else ""


@contextmanager
def peer(python: str, script: str, words: Sequence[str | int]) -> Generator[Peer]:
    """The script, ready to be asked; it ends with the block."""
    command = [python, str(Path(__file__).with_name(script)), *map(str, words)]
    pipe = subprocess.PIPE
    run = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True)
    assert run.stdin is not None
    assert run.stdout is not None
    clock = threading.Timer(LIMIT, run.kill)
    clock.start()
    said = run.stdout.readline().strip()
    clock.cancel()
    try:
        yield Peer(run, run.stdin, run.stdout, said)
    finally:
        if run.poll() is None:
            run.stdin.close()
            run.wait()
