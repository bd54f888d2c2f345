"""Python's garbage collection, paused while something is compiled: what a compiler makes stays in use until it is done,
and looking through all of it again and again takes a third of the time."""

from __future__ import annotations

import gc
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def paused() -> Generator[None]:
    """No collection inside; as before behind it."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()
