"""Fixtures of the tests of memories."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sab_support import Chosen


@pytest.fixture(params=["torch", pytest.param("native", marks=pytest.mark.compiler)])
def each_backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """The models of `sab_support` run on this backend."""
    Chosen.backend = request.param
    yield
    Chosen.backend = "torch"
