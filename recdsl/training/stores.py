"""Stores with rows on disk: their files in a run's folder, and what goes wrong with them as errors of the run."""

from __future__ import annotations

import errno
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from recdsl.errors.runs import CheckpointMismatch, DiskFull, RunError, RunInUse, WriteFailed
from recdsl.training.store import FULL, free

FOLDER = "stores"


def keepers(module: nn.Module) -> Mapping[str, Any]:
    """Of the memories whose rows are on disk, by name."""
    found: Mapping[str, Any] = getattr(module, "recdsl_keepers", {})
    return {name: keeper for name, keeper in found.items() if keeper.info["disk"]}


def open_stores(module: nn.Module, run: Path, *, private: bool = False) -> None:
    """Map the files of a run's stores, as the module's state knows them. Raises RD0702, RD0705, RD0706, RD0708."""
    for name, keeper in keepers(module).items():
        folder = run / FOLDER / name
        with guarded(folder, "none"):
            try:
                keeper.open(module, folder, private=private)
            except ValueError as error:
                raise RunError(CheckpointMismatch(str(folder), str(error))) from None


def mark(module: nn.Module, keep: int) -> None:
    """A checkpoint was made, and the `keep` last ones are kept."""
    for keeper in keepers(module).values():
        with guarded(keeper.disk.folder, "none"):
            keeper.disk.mark(keep)


def recalls(module: nn.Module) -> dict[str, float]:
    """What each index has found of the best rows when it was built, as `recall.past.read`."""
    found: Mapping[str, Any] = getattr(module, "recdsl_keepers", {})
    indexes = [index for keeper in found.values() for index in keeper.indexes.values() if index.ready]
    return {f"recall.{index.read}": index.recall for index in indexes}


def hand_over(old: nn.Module, new: nn.Module) -> None:
    """A module takes the place of another one of the same model."""
    mine = keepers(old)
    for name, keeper in keepers(new).items():
        keeper.disk = mine[name].disk
        keeper.show(new)


@contextmanager
def guarded(folder: Path, kept: str) -> Generator[None]:
    """Turn what a store's files fail by into an error of the run; other errors pass."""
    try:
        yield
    except OSError as error:
        needed = getattr(error, "recdsl_needed", None)
        if needed is None:
            raise
        path, reason = str(error.filename), error.strerror or str(error)
        if error.errno == errno.EAGAIN:
            raise RunError(RunInUse(path)) from None
        if error.errno in FULL:
            raise RunError(DiskFull(path, needed, free(folder), reason, kept)) from None
        raise RunError(WriteFailed(path, reason)) from None
