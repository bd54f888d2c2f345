"""A run's folder, `runs/NAME/STAMP/`:

spec.yaml           the spec, byte for byte
NAME.yaml           a copy of each block file beside the spec that it uses
resolved.yaml       with overrides, sizes from the data, and every setting of `train:`
overrides.json      what was given on the command line
environment.json    versions, threads, seed, where the spec was
data.json           the data's fingerprint, sizes and symbols
generated/model.py  the code that the backend wrote, where it wrote any
metrics.jsonl       a line a measurement
log.txt             what was said
checkpoints/        see `checkpoint.py`
stores/             rows of memories with `storage: disk`
batch-at-step-N...  the batch whose numbers, loss or gradients were not finite
"""

from __future__ import annotations

import json
import os
import platform
import re
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

from recdsl.errors.runs import NoCheckpoint, NotARun, RunError
from recdsl.training.store import guarded, replace

T = TypeVar("T")


@dataclass(frozen=True)
class Folder:
    """Paths in a run's folder."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def read(self, name: str) -> str:
        """A text file of the run. Raises RD0707."""
        try:
            return (self.path / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise RunError(NotARun(str(self.path), f"{name}: {error}")) from None

    def json(self, name: str) -> Any:
        """A JSON file of the run. Raises RD0707."""
        try:
            return json.loads(self.read(name))
        except json.JSONDecodeError as error:
            raise RunError(NotARun(str(self.path), f"{name}: {error}")) from None

    def entry(self, name: str, key: str, kind: type[T]) -> T:
        """An entry of a JSON file of the run. Raises RD0707."""
        found: Any = self.json(name)
        value: Any = cast("dict[str, Any]", found).get(key) if isinstance(found, dict) else None
        if not isinstance(value, kind):
            raise RunError(NotARun(str(self.path), f"{name}: it has no `{key}`"))
        return value

    @property
    def overrides(self) -> list[str]:
        """What was given on the command line. Raises RD0707."""
        found: Any = self.json("overrides.json")
        if not isinstance(found, list):
            raise RunError(NotARun(str(self.path), "overrides.json: it is no list"))
        return [str(item) for item in cast("list[Any]", found)]

    def write(self, name: str, text: str) -> None:
        with guarded(self.path / name):
            (self.path / name).parent.mkdir(exist_ok=True)
        replace(self.path / name, text.encode())

    def append(self, name: str, line: str) -> None:
        """Add one line in one write, so that a crash leaves at most one torn line at the end."""
        with guarded(self.path / name, len(line)), open(self.path / name, "ab") as stream:
            stream.write(line.encode() + b"\n")

    def log(self, line: str) -> None:
        self.append("log.txt", f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}")

    def measure(self, values: Mapping[str, Any]) -> None:
        self.append("metrics.jsonl", json.dumps(values))

    def rewind(self, count: int) -> None:
        """Keep the first `count` lines of metrics: what came after the checkpoint is measured again."""
        kept = self.metrics.read_bytes().splitlines(keepends=True)[:count] if count else []
        if count or self.metrics.exists():
            replace(self.metrics, b"".join(kept))


def create(root: Path, name: str) -> Folder:
    """A new folder `root/NAME/STAMP`, with `latest` pointing to it. Raises RD0702, RD0706."""
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "model"
    parent = root / safe[:100]
    with guarded(parent):
        parent.mkdir(parents=True, exist_ok=True)
        path = parent / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        path.mkdir()
        (path / "checkpoints").mkdir()
        link = parent / f".tmp-latest-{os.getpid()}"
        link.unlink(missing_ok=True)
        link.symlink_to(path.name)
        os.replace(link, parent / "latest")
    return Folder(path)


def find(root: Path, name: str, resume: str) -> Folder:
    """The folder to resume: a path, or "last" for the newest run of a name. Raises RD0704, RD0707."""
    if resume == "last":
        safe = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "model"
        parent = root / safe[:100]
        runs = [path for path in parent.glob("*-*-*") if (path / "spec.yaml").is_file() and not path.is_symlink()]
        if not runs:
            raise RunError(NoCheckpoint(str(parent), f"no run of `{safe}` was found under {root}"))
        return Folder(max(runs, key=lambda path: (path.stat().st_mtime_ns, path.name)))
    return opened(Path(resume))


def opened(path: Path) -> Folder:
    """A run folder that exists; a checkpoint inside one stands for it. Raises RD0707."""
    if path.name.startswith("step-") and path.parent.name == "checkpoints":
        path = path.parent.parent
    if not (path / "spec.yaml").is_file():
        reason = "it has no spec.yaml" if path.is_dir() else "there is no such folder"
        raise RunError(NotARun(str(path), reason))
    return Folder(path)


def environment(seed: int, spec_folder: str, overrides: Sequence[str]) -> dict[str, Any]:
    """What a result may depend on besides the spec."""
    import numpy
    import torch

    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "cuda": torch.version.cuda if torch.cuda.is_available() else None,
        "seed": seed,
        "spec_folder": spec_folder,
        "overrides": list(overrides),
    }
