"""Stores with rows on disk: their files in a run's folder, and what goes wrong with them as errors of the run."""

from __future__ import annotations

import errno
import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from torch import nn

from recdsl.errors.runs import (
    CheckpointMismatch,
    DiskFull,
    RunError,
    RunInUse,
    StoreDamaged,
    StoreExists,
    WriteFailed,
)
from recdsl.training.folder import Folder
from recdsl.training.store import FULL, free, replace
from recdsl.training.store import guarded as writing

FOLDER = "stores"
NOTED = ("owner", "place", "folder")
"""What a run has noted of a store that is somewhere else."""
OTHER = "choose another place: --run-dir for runs, or `storage: disk(PATH)` for the rows of a memory"


def keepers(module: nn.Module) -> Mapping[str, Any]:
    """Of the memories whose rows are on disk, by name."""
    found: Mapping[str, Any] = getattr(module, "recdsl_keepers", {})
    return {name: keeper for name, keeper in found.items() if keeper.info["disk"]}


def open_stores(module: nn.Module, run: Path, *, private: bool = False) -> None:
    """Map the files of a run's stores, as the module's state knows them. Raises RD0702, RD0705 to RD0708, RD0716,
    RD0717."""
    for name, keeper in keepers(module).items():
        folder, owner = located(run, name, keeper.info["place"])
        with guarded(folder, "none"):
            try:
                keeper.open(module, folder, private=private, owner=owner)
            except ValueError as error:
                raise RunError(CheckpointMismatch(str(folder), str(error))) from None


def located(path: Path, name: str, place: str) -> tuple[Path, str]:
    """The folder of a run's store, and who owns it: in the run, or where the spec says. Then the run has a note of
    where that is from anywhere, and of what names the run there. Raises RD0702, RD0706, RD0707."""
    if not place:
        return path / FOLDER / name, ""
    note, run = f"{FOLDER}/{name}.json", Folder(path)
    known = {part: run.entry(note, part, str) for part in NOTED} if (run.path / note).exists() else {}
    if known.get("place") != place:
        owner = known.get("owner", uuid4().hex)
        known = {"owner": owner, "place": place, "folder": str(Path(place).expanduser().absolute() / name)}
        with writing(run.path):
            (run.path / FOLDER).mkdir(parents=True, exist_ok=True)
        replace(run.path / note, json.dumps(known).encode())
    return Path(known["folder"]), known["owner"]


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
        if error.errno == errno.EEXIST:
            raise RunError(StoreExists(path)) from None
        if error.errno == errno.EAGAIN:
            raise RunError(RunInUse(path)) from None
        if error.errno == errno.EBADMSG:
            raise RunError(StoreDamaged(path, reason)) from None
        if error.errno in FULL:
            raise RunError(DiskFull(path, needed, free(folder), reason, kept)) from None
        raise RunError(WriteFailed(path, reason, OTHER)) from None
