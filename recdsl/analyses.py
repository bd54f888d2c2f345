"""Analyses that were made before, kept beside the libraries of the native backend (`backends/native/store.py`).

An analysis is named by the spec's text, path and overrides, and by recdsl's own files. With it stands what else it has
seen: block files beside the spec, or that there are none, and sizes that the data says. Problems are not kept, and
nothing is where rules of other packages are installed.
"""

from __future__ import annotations

import os
import pickle
import stat
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import entry_points
from typing import Any

from recdsl.backends.native.store import Store
from recdsl.source import Source
from recdsl.syntax.limits import FILE_BYTES

NAME = "analysis"
BROKEN = (pickle.PickleError, AttributeError, EOFError, ImportError, IndexError, KeyError, TypeError, ValueError)


@dataclass(frozen=True)
class Found:
    """A kept analysis. about: plain values. sizes: those that the data said. data: the frozen parts."""

    about: dict[str, Any]
    sizes: dict[str, int]
    data: bytes

    def parts(self) -> tuple[Any, ...] | None:
        """As they were given to `keep`; None where they cannot be read."""
        with suppress(*BROKEN):
            return pickle.loads(self.data)
        return None


class Analyses:
    """What is known of one spec."""

    def __init__(self, source: Source, overrides: Sequence[str], update: int) -> None:
        others = bool(entry_points(group="recdsl.rules"))
        asked = (NAME, source.path, source.text, tuple(overrides), update)
        self.store = Store.none() if others else Store(*asked)

    def find(self) -> Found | None:
        """What was kept, if the files that were seen are as they were."""
        kept = self.store.find(NAME)
        if kept is None or any(_state(path) != state for path, state in kept[0]):
            return None
        return Found(*kept[1:])

    @contextmanager
    def noted(self) -> Generator[set[str]]:
        """The block files that are looked for inside."""
        from recdsl.syntax.blocks import looked

        found = set[str]()
        token = looked.set(found)
        try:
            yield found
        finally:
            looked.reset(token)

    def keep(self, about: dict[str, Any], parts: tuple[Any, ...], looked: Iterable[str], sizes: dict[str, int]) -> None:
        """looked: where block files were looked for. See `Found`."""
        if self.store.key:
            seen = tuple((path, _state(path)) for path in sorted(looked))
            with suppress(*BROKEN):
                self.store.keep(NAME, (seen, about, sizes, pickle.dumps(parts, protocol=5)))


def _state(path: str) -> str:
    """What stands at a path: the checksum of a file, else only of which kind it is."""
    try:
        kind = os.lstat(path).st_mode
        if not stat.S_ISREG(kind):
            return f"{stat.S_IFMT(kind):o}"
        with open(path, "rb") as file:
            return sha256(file.read(FILE_BYTES + 1)).hexdigest()
    except (OSError, ValueError) as error:
        return type(error).__name__
