"""What all tests of training share."""

from __future__ import annotations

import os

import pytest
import torch


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread; and no waiting for the disk, which only a loss of power would tell from waiting."""
    monkeypatch.setattr(os, "fsync", lambda _handle: None)  # type: ignore[arg-type]
    torch.set_num_threads(1)
