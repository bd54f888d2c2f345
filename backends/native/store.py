"""What was generated for a model, kept beside the libraries: its module's text and C, so that neither is written again.

An artefact is named by everything that it follows from: step graph and plan, the files of the compiler, and Python's
version. It is trusted as libraries are (`build.py`): the user's own file in a folder that nobody else may write to. The
file begins with the checksum of the rest.
"""

from __future__ import annotations

import marshal
import os
import stat
import sys
import warnings
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from recdsl import canonical
from recdsl.backends.native import build
from recdsl.backends.native.build import BuildError, NativeWarning

COMPILER = (
    "backends", "credit", "grammars", "graph", "jacobian", "ops", "program", "specs/blocks", "syntax", "training",
)  # fmt: skip
"""Folders of recdsl whose files decide what is made of a spec."""
SUM = 64
enabled = True
"""Whether anything is kept: tests with faults planted in the compiler may not leave them there."""


@cache
def compiler_files() -> str:
    """The checksum of the compiler's own files."""
    root = os.path.dirname(canonical.__file__)
    found = sha256()
    for folder in COMPILER:
        for place, folders, files in os.walk(os.path.join(root, folder), followlinks=True):
            folders.sort()
            for name in sorted(files):
                if not name.endswith((".pyc", ".pyo")):
                    with open(os.path.join(place, name), "rb") as file:
                        data = file.read()
                    found.update(f"{folder}/{name} {len(data)}\0".encode())
                    found.update(data)
    return found.hexdigest()


class Store:
    """The artefacts of one model, each with a name of its own. Whatever goes wrong, they are made anew."""

    def __init__(self, *model: object) -> None:
        self.key = ""
        with suppress(TypeError, OSError):
            if enabled:
                self.key = canonical.digest(compiler_files(), sys.version, sys.implementation.cache_tag, *model)[:40]

    @classmethod
    def none(cls) -> Store:
        """One that keeps nothing."""
        made = cls.__new__(cls)
        made.key = ""
        return made

    def find(self, name: str) -> Any:
        """The artefact, or None."""
        with suppress(BuildError, OSError, ValueError, EOFError, TypeError):
            data = _checked(self._path(name)) if self.key else None
            return None if data is None else marshal.loads(data)
        return None

    def keep(self, name: str, value: Any) -> None:
        """Write it down, whole or not at all."""
        with suppress(BuildError, OSError):
            if self.key:
                data = marshal.dumps(value)
                build.replace(self._path(name), sha256(data).hexdigest().encode() + data)

    def _path(self, name: str) -> Path:
        build.check_folder(build.folder())
        return build.folder() / f"{self.key}-{name}.model"


def _checked(path: Path) -> bytes | None:
    """What a file of this user holds behind its checksum. One that is not as it was made is warned about."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    wrong = "belongs to others"
    if stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o022:
        data = path.read_bytes()
        if sha256(data[SUM:]).hexdigest().encode() == data[:SUM]:
            return data[SUM:]
        wrong = "is damaged"
    warnings.warn(f"N5: {path.name} in the cache {wrong}; it is made anew", NativeWarning, stacklevel=2)
    return None
