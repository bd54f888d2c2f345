"""Checkpoints: a folder of one safetensors file, one JSON file and a manifest of SHA-256 sums.

    step-0000500/tensors.safetensors   all tensors, by path-like names
    step-0000500/state.json            everything else: plain JSON
    step-0000500/manifest.json         line 1: SHA-256 of line 2; line 2: format, step, size and sum of each file

A folder appears whole (see `store.commit`). Sums are verified before a tensor is used: neither safetensors nor
torch.load notices a flipped bit. Nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from recdsl.errors.runs import CheckpointCorrupt, NoCheckpoint, RunError
from recdsl.training.store import commit, remove

FORMAT = 1
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
NAME = re.compile(r"step-(\d{7,})$")


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint holds after verification."""

    path: Path
    step: int
    tensors: Mapping[str, Tensor]
    state: Mapping[str, Any]


def save(folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = 3) -> Path:
    """Commit `folder/step-N` and drop all but the newest `keep`. Raises RD0702, RD0706; then nothing has changed."""
    path = folder / f"step-{step:07d}"
    own = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in sorted(tensors.items())}
    files = {
        TENSORS: safetensors.torch.save(own),
        STATE: json.dumps(state, sort_keys=True, allow_nan=False).encode(),
    }
    sums = {name: [len(data), hashlib.sha256(data).hexdigest()] for name, data in files.items()}
    body = json.dumps({"format": FORMAT, "step": step, "files": sums}, sort_keys=True).encode()
    files[MANIFEST] = hashlib.sha256(body).hexdigest().encode() + b"\n" + body + b"\n"
    before = listed(folder)
    commit(path, files, str(before[-1]) if before else "none")
    for old in listed(folder)[:-keep]:
        remove(old)
    return path


def listed(folder: Path) -> list[Path]:
    """Checkpoints of a folder in the order of their steps, whole or not."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if NAME.match(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name[5:]))


def load(path: Path) -> Checkpoint:
    """Verify and read a checkpoint. Raises RD0703 with the file and what is wrong with it."""
    manifest = _manifest(path)
    data: dict[str, bytes] = {}
    for name, (size, digest) in manifest["files"].items():
        data[name] = _bytes(path, name)
        if len(data[name]) != size:
            raise _corrupt(path, f"{name} has {len(data[name])} bytes instead of {size}")
        got = hashlib.sha256(data[name]).hexdigest()
        if got != digest:
            raise _corrupt(path, f"{name} has SHA-256 {got[:16]}..., the manifest says {digest[:16]}...")
    try:
        return Checkpoint(path, manifest["step"], safetensors.torch.load(data[TENSORS]), json.loads(data[STATE]))
    except (SafetensorError, ValueError, KeyError) as error:
        raise _corrupt(path, f"it cannot be read ({error})") from None


def _manifest(path: Path) -> dict[str, Any]:
    raw = _bytes(path, MANIFEST)
    digest, _, rest = raw.partition(b"\n")
    body = rest.removesuffix(b"\n")
    if hashlib.sha256(body).hexdigest().encode() != digest or not rest.endswith(b"\n"):
        raise _corrupt(path, f"{MANIFEST} does not match its own sum")
    manifest: dict[str, Any] = json.loads(body)
    if manifest["format"] != FORMAT:
        raise _corrupt(path, f"it has format {manifest['format']}; this version reads {FORMAT}")
    if path.name != f"step-{manifest['step']:07d}":
        raise _corrupt(path, f"it holds step {manifest['step']}, which its name does not say")
    if set(manifest["files"]) != {TENSORS, STATE}:
        raise _corrupt(path, "its manifest lists other files than a checkpoint has")
    return manifest


def _bytes(path: Path, name: str) -> bytes:
    try:
        return (path / name).read_bytes()
    except OSError as error:
        raise _corrupt(path, f"{name}: {error.strerror or error}") from None


def _corrupt(path: Path, reason: str) -> RunError:
    return RunError(CheckpointCorrupt(str(path), reason))


def newest(folder: Path, note: Callable[[str], None]) -> Checkpoint:
    """The newest checkpoint that is whole; each one passed over is told to `note`. Raises RD0704."""
    for path in reversed(listed(folder)):
        try:
            return load(path)
        except RunError as error:
            note(f"{error.problem.text()}; trying the one before")
    damaged = "all of its checkpoints are damaged" if listed(folder) else "it ended before the first one"
    advice = f"{damaged}; start a new run"
    raise RunError(NoCheckpoint(str(folder), advice))
