"""Generated modules stay importable, so that tracebacks can show them; hundreds of them are let go after each test."""

from __future__ import annotations

import linecache
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def forget_generated_modules() -> Iterator[None]:
    yield
    for name in [name for name in sys.modules if name.startswith(("recdsl_generated_", "recdsl_native_"))]:
        del sys.modules[name]
        linecache.cache.pop(f"<{name}>", None)


@pytest.fixture(autouse=True, scope="session")
def cache_of_the_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Compiled models of tests do not fill the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield
