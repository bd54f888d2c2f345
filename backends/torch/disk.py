"""Rows of a store in files that are mapped into memory, and what stood in them before, so that they can be put back.

A folder holds a file of rows for each part, `committed` (how many records of changes are whole and acknowledged) and
`undo-N.log`, which says from record N on what rows held before they were changed. Rows are changed behind their record,
and a write counts when it is committed. So whoever opens the folder after a crash finds what was acknowledged, and can
go back to any number of records that the logs reach. The text of this file is part of every exported model.
"""

from __future__ import annotations

import errno
import fcntl
import math
import mmap
import os
import shutil
import struct
import tempfile
import weakref
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

HEAD = struct.Struct("<QIQQ")
"""Of a record: its number, which part, how many slots, the sum (CRC-32) of what follows."""


class StoreFailed(OSError):
    """A store's files cannot be made or written; nothing that was acknowledged is lost. needed: bytes."""

    def __init__(self, error: int, reason: str, path: Path, needed: int = 0) -> None:
        super().__init__(error, reason, str(path))
        self.recdsl_needed = needed


class Needing:
    """While a file is read or written: what goes wrong there is a store that failed. size: bytes that it needs."""

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path, self.size = path, size

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, place: Any) -> None:
        if isinstance(error, OSError) and not isinstance(error, StoreFailed):
            reason = error.strerror or str(error)
            raise StoreFailed(error.errno or errno.EIO, reason, self.path, self.size) from None


class Disk:
    """The files of one store, which one process may write: `rows` by part, [slot, *item].

    folder: None: a temporary one, which goes with the store. private: changes stay in this process, and others that do
    so may read too. owner: what names the run whose rows these are; the files of another are refused.
    """

    def __init__(
        self,
        folder: Path | None,
        parts: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
        *,
        private: bool = False,
        owner: str = "",
    ) -> None:
        self.parts, self.private = list(parts), private
        if folder is None:
            folder = Path(tempfile.mkdtemp(prefix="recdsl-store-"))
            weakref.finalize(self, shutil.rmtree, folder, ignore_errors=True)
        self.folder = folder
        self.lock = self._locked()
        weakref.finalize(self, os.close, self.lock)
        self._owned(owner)
        self.rows = {part: self._mapped(part, shape, dtype) for part, (shape, dtype) in parts.items()}
        self.committed = self._committed()
        self.number = self.committed
        self.log: int | None = None
        self.back(self.committed)

    def __deepcopy__(self, memo: Any) -> None:
        return None  # a copy of a model has its rows in memory

    # -- files ----------------------------------------------------------------------------------------------------
    def _locked(self) -> int:
        with Needing(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, (fcntl.LOCK_SH if self.private else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except OSError:
            os.close(handle)
            raise StoreFailed(errno.EAGAIN, "another process writes this store", self.folder) from None
        return handle

    def _owned(self, owner: str) -> None:
        """The files are those of one owner, if it says who it is."""
        path, new = self.folder / "owner", self.folder / ".new-owner"
        with Needing(path):
            found = path.read_bytes() if path.exists() else b""
            if owner and found != owner.encode() and (found or self.logs() or (self.folder / "committed").exists()):
                raise StoreFailed(errno.EEXIST, "there is a store of another run", self.folder)
            if owner and not found and not self.private:
                new.write_bytes(owner.encode())
                os.replace(new, path)

    def _mapped(self, part: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A file of rows, with all its room taken at once: a full disk is an error here, and no signal later."""
        path, size = self.folder / f"{part}.rows", max(1, math.prod(shape)) * dtype.itemsize
        with Needing(path, size):
            if not path.exists():
                self._made(path, size)
            if path.stat().st_size != size:
                raise ValueError(f"{path} has {path.stat().st_size} bytes; the spec's store needs {size}")
            handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                access = mmap.ACCESS_COPY if self.private else mmap.ACCESS_WRITE
                room = mmap.mmap(handle, size, access=access)
            finally:
                os.close(handle)
        return torch.frombuffer(room, dtype=dtype)[: math.prod(shape)].view(shape)

    def _made(self, path: Path, size: int) -> None:
        new = path.with_name(f".new-{path.name}")
        handle = os.open(new, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(handle, 0, size)
            os.fsync(handle)
            os.replace(new, path)
        except OSError:
            new.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)

    def _committed(self) -> int:
        """0 where a process ended before it wrote the first number."""
        path = self.folder / "committed"
        with Needing(path):
            found = path.read_bytes().strip() if path.exists() else b""
        if found and not found.isdigit():
            raise StoreFailed(errno.EBADMSG, "it does not say how many changes were made", path)
        return int(found or b"0")

    def logs(self) -> list[tuple[int, Path]]:
        """(first record, file) of each log, the oldest first."""
        return sorted((int(path.name[5:-4]), path) for path in self.folder.glob("undo-*.log"))

    # -- writing --------------------------------------------------------------------------------------------------
    def change(self, part: str, slots: Tensor, rows: Tensor) -> None:
        """Write rows, behind a record of what stands there. Raises StoreFailed; then nothing of them has changed."""
        place, old = slots.cpu(), self.rows[part]
        if self.private:
            old[place] = rows.to(old.dtype)
            return
        body = raw(place) + raw(old[place])
        head = HEAD.pack(self.number, self.parts.index(part), len(place), zlib.crc32(body))
        self._append(head + body)
        old[place] = rows.to(old.dtype)
        self.number += 1

    def _append(self, data: bytes) -> None:
        if self.log is None:
            first = self.logs()[-1][0] if self.logs() else self.number
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            with Needing(self.folder, len(data)):
                self.log = os.open(self.folder / f"undo-{first}.log", flags, 0o600)
            weakref.finalize(self, close, self.log)
        before = os.fstat(self.log).st_size
        try:
            written = 0
            while written < len(data):
                written += os.write(self.log, data[written:])
        except OSError as error:
            os.ftruncate(self.log, before)
            path = self.logs()[-1][1]
            raise StoreFailed(error.errno or errno.EIO, error.strerror or str(error), path, len(data)) from None

    def commit(self) -> int:
        """All that was changed is acknowledged; how many records that makes."""
        path = self.folder / "committed"
        with Needing(path, 21):
            if not self.private and self.number != self.committed:
                handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    os.pwrite(handle, b"%020d\n" % self.number, 0)
                finally:
                    os.close(handle)
        self.committed = self.number
        return self.committed

    def mark(self, keep: int) -> None:
        """A checkpoint was made: from here a new log begins; those are dropped that the `keep` last ones do without."""
        with Needing(self.folder):
            if self.log is not None:
                os.fsync(self.log)
                self._close()
            if self.committed not in [first for first, _ in self.logs()]:
                (self.folder / f"undo-{self.committed}.log").touch(0o600)
            for _, path in self.logs()[: -max(1, keep)]:
                path.unlink()

    def _close(self) -> None:
        if self.log is not None:
            handle, self.log = self.log, None
            close(handle)

    # -- going back -----------------------------------------------------------------------------------------------
    def back(self, number: int) -> None:
        """Put back what rows held when there were so many records. Raises ValueError where the logs do not reach,
        StoreFailed where they are damaged; then nothing has changed."""
        reach = min([first for first, _ in self.logs()], default=self.committed)
        if not reach <= number <= self.committed:
            raise ValueError(
                f"the store in {self.folder} can go back to any of its records {reach} to {self.committed}, but not to"
                f" {number}"
            )
        with Needing(self.folder):
            self._checked(number)
            self._close()
            self.number = number
            self.commit()  # first: who opens the folder after a crash goes back again, as far as there are records
            for first, path in reversed(self.logs()):
                self._undo(first, path, number)

    def _checked(self, number: int) -> None:
        """The records from a number on are there, as far as they were acknowledged."""
        if number < self.committed:
            found = {at for _, path in self.logs() for at, *_ in self._records(path)}
            for lost in (at for at in range(number, self.committed) if at not in found):
                raise StoreFailed(errno.EBADMSG, f"what was changed by record {lost} cannot be read", self.folder)

    def _undo(self, first: int, path: Path, number: int) -> None:
        """Put back what the records of one log say, from a number on, and drop these."""
        records = list(self._records(path))
        for at, part, slots, old, _ in reversed(records):
            if at >= number:
                self.rows[part][slots] = old
        if self.private:
            return
        if first > number:
            path.unlink()
            return
        os.truncate(path, min([place for at, *_, place in records if at >= number], default=self._whole(path)))

    def _whole(self, path: Path) -> int:
        """Bytes of a log's whole records: what follows was being written when its process ended."""
        return max((end for *_, end in self._records(path, ends=True)), default=0)

    def _records(self, path: Path, *, ends: bool = False) -> Iterator[tuple[int, str, Tensor, Tensor, int]]:
        """(number, part, slots, what they held, where it begins or ends) of each whole record."""
        data, place = path.read_bytes(), 0
        while place + HEAD.size <= len(data):
            number, kind, count, total = HEAD.unpack_from(data, place)
            if kind >= len(self.parts):
                return
            rows = self.rows[self.parts[kind]]
            size = count * rows[:1].numel() * rows.element_size()
            start = place + HEAD.size
            body = data[start : start + 8 * count + size]
            if len(body) < 8 * count + size or zlib.crc32(body) != total:
                return
            slots = torch.frombuffer(bytearray(body[: 8 * count]), dtype=torch.long) if count else torch.zeros(0).long()
            shape = (count, *rows.shape[1:])
            old = torch.frombuffer(bytearray(body[8 * count :]), dtype=rows.dtype).view(shape) if size else rows[:0]
            end = start + len(body)
            yield number, self.parts[kind], slots, old, end if ends else place
            place = end


def raw(value: Tensor) -> bytes:
    """The bytes of a tensor in memory."""
    return value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""


def close(handle: int) -> None:
    with suppress(OSError):
        os.close(handle)
