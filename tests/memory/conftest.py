"""Fixtures of the tests of memories."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest
from sab_support import Chosen


@pytest.fixture(params=["torch", "native"])
def each_backend(request: pytest.FixtureRequest) -> Iterator[None]:
    """The models of `sab_support` run on this backend."""
    if request.param == "native" and not any(shutil.which(name) for name in ("cc", "gcc", "clang")):
        pytest.skip("there is no C compiler")
    Chosen.backend = request.param
    yield
    Chosen.backend = "torch"
