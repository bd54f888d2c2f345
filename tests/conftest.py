"""What all tests share."""

from __future__ import annotations

import pytest

from recdsl.backends.native import store
from recdsl.backends.native.build import BuildError, compiler
from recdsl.graph import facts


def pytest_configure() -> None:
    """What a test plants in the compiler stays out of the cache."""
    store.enabled = False


def pytest_runtest_setup(item: pytest.Function) -> None:
    """Where a test changes functions, graphs that other tests have used forget what these found."""
    facts.kept = "monkeypatch" not in item.fixturenames


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests marked `compiler` are skipped where no C compiler is found."""
    try:
        compiler()
    except BuildError:
        skipped = pytest.mark.skip(reason="there is no C compiler")
        for item in items:
            if item.get_closest_marker("compiler"):
                item.add_marker(skipped)
