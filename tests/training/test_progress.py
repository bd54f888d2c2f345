"""What a run says while it works."""

from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from recdsl.training.progress import Bar

VALUES = {"loss": 0.1234, "norm": 1.5, "lr": 1e-3, "accuracy": 0.9876, "accuracy_last5": 0.4321}


@pytest.mark.parametrize(
    ("width", "shown", "left_out"),
    [(60, "loss 0.1234", "norm"), (120, "lr 0.001", "last5"), (200, "last5 0.4321", "none")],
)
def test_values_leave_room_for_the_count(width: int, shown: str, left_out: str) -> None:
    said = StringIO()
    bar = Bar(Console(file=said, width=width, force_terminal=True, color_system=None, markup=False))
    bar.start(20_000, 0)
    bar.advance(7)
    bar.values(7, "train", VALUES)
    bar.close()
    last = said.getvalue().replace("\r", "\n").replace("\x1b[2K", "").split("training")[-1]
    assert "7/20000" in last
    assert shown in last
    assert left_out not in last


def test_paths_are_not_broken() -> None:
    said = StringIO()
    path = "runs/a-model/20260101-120000-ab12"
    Bar(Console(file=said, width=40, force_terminal=True, color_system=None)).note(f"go on with --resume {path}")
    assert f"--resume {path}" in said.getvalue()
