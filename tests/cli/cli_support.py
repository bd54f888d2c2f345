"""Running the command line in this process, and in one of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from recdsl.cli.app import app

ROOT = Path(__file__).parent.parent.parent
SPECS = ROOT / "specs"
COPY = str(SPECS / "copy_lstm.yaml")
SMALL = ("sizes.hidden=4", "train.threads=1")

TINY = """\
recdsl: 1
name: tiny
sizes: {n: 3}
inputs: {x: "float[n]"}
targets: {y: "float[n]"}
params: {U: "float[n, n] ~ orthogonal"}
step: |
  h = tanh(U @ h[t-1] + x)
loss: mse(h, y)
"""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(*words: str, text: str | None = None) -> Done:
    """A command in this process."""
    result = CliRunner().invoke(app, list(words), input=text)
    return Done(result.exit_code, result.stdout, result.stderr)


def process(words: Sequence[str], folder: Path | None = None, **variables: str) -> Done:
    """A command in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "recdsl", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **variables},
    )
    return Done(done.returncode, done.stdout, done.stderr)


def tiny(folder: Path, text: str = TINY) -> str:
    """The path of a small spec."""
    path = folder / "tiny.yaml"
    path.write_text(text)
    return str(path)
