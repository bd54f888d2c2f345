"""Writing files so that a crash, a kill or a full disk leaves either the old or the new, never a mixture."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from recdsl.errors.runs import DiskFull, RunError, RunInUse, WriteFailed

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def sync(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write(path: Path, data: bytes) -> None:
    """Write a new file and make its contents durable."""
    with open(path, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def guarded(path: Path, needed: int = 0, kept: str = "none") -> Generator[None]:
    """Turn a failed write into RD0702 (no room, with the bytes needed and free) or RD0706."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno in FULL:
            raise RunError(DiskFull(str(path), needed, free(path), reason, kept)) from None
        raise RunError(WriteFailed(str(path), reason)) from None


def free(path: Path) -> int:
    """Bytes free where `path` is or would be."""
    for folder in (path, *path.absolute().parents):
        with suppress(OSError):
            return shutil.disk_usage(folder).free
    return 0


def replace(path: Path, data: bytes) -> None:
    """Replace a file's contents at once. Raises RD0702, RD0706."""
    temporary = path.with_name(f".tmp-{path.name}-{os.getpid()}")
    with guarded(path, len(data)):
        try:
            write(temporary, data)
            os.replace(temporary, path)
            sync(path.parent)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


def commit(folder: Path, files: Mapping[str, bytes], kept: str = "none") -> None:
    """Make a folder with these files appear at once, durably: temporary name, fsync of files and folder, rename.

    Raises RD0702 or RD0706 and leaves nothing behind.
    """
    temporary = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
    with guarded(folder, sum(map(len, files.values())), kept):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            for name, data in files.items():
                write(temporary / name, data)
            sync(temporary)
            if folder.exists():
                remove(folder)
            os.rename(temporary, folder)
            sync(folder.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def remove(folder: Path) -> None:
    """Delete a folder so that a crash half-way leaves no half of it under its name."""
    doomed = folder.with_name(f".tmp-old-{folder.name}-{os.getpid()}")
    os.rename(folder, doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def tidy(folder: Path) -> None:
    """Remove what a killed process left under temporary names. Only for a folder that this process has locked."""
    for path in folder.glob(".tmp-*"):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path) -> Generator[None]:
    """Hold a folder's lock; the system releases it when the process ends, however it ends. Raises RD0708."""
    with guarded(folder):
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError(RunInUse(str(folder))) from None
        yield
    finally:
        os.close(handle)
