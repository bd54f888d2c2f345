"""Where data files are: the cache of fetched sets, and files that a spec names."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from recdsl.errors.runs import BadFile, DatasetMissing, RunError
from recdsl.training.batches import Place

LARGEST = 8 * 2**30
"""Bytes of the largest file that is read; a typing mistake should not fill the memory."""


def cache() -> Path:
    """The data cache: `$RECDSL_DATA`, else `$XDG_CACHE_HOME/recdsl/data`, else `~/.cache/recdsl/data`."""
    if own := os.environ.get("RECDSL_DATA"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "recdsl" / "data"


def dataset(name: str) -> Path:
    """The folder of a fetched data set. Raises RD0650, which names the command, if it is not there."""
    folder = cache() / name
    if not folder.is_dir():
        raise RunError(DatasetMissing(name, str(cache())))
    return folder


def named(text: str, place: Place) -> Path:
    """A file that a spec names, relative to the spec's folder. Only regular files: a pipe would hang. Raises RD0653."""
    if "\0" in text:
        raise RunError(BadFile(repr(text), "a path cannot hold a NUL character"))
    path = Path(place.folder, text)
    try:
        info = path.stat()
    except OSError as error:
        advice = f"paths are relative to the spec's folder, {Path(place.folder).absolute()}"
        raise RunError(BadFile(str(path), error.strerror or str(error), advice)) from None
    if not stat.S_ISREG(info.st_mode):
        raise RunError(BadFile(str(path), "it is not a regular file"))
    if info.st_size > LARGEST:
        raise RunError(BadFile(str(path), f"it has {info.st_size:,} bytes; the limit is {LARGEST:,}"))
    return path


def contents(path: Path) -> bytes:
    """The bytes of a file. Raises RD0653."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise RunError(BadFile(str(path), error.strerror or str(error))) from None


def fingerprint(*parts: bytes) -> str:
    """The first 16 hex digits of the SHA-256 of the parts."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()[:16]
