"""The checks that are not tests: style, types, and who may import whom. They see the project as it is on disk."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

CHECKS = {
    "ruff": ["-m", "ruff", "check", "--no-cache", "."],
    "pyright": ["-m", "pyright", "--pythonpath", sys.executable],
    "imports": [
        "-c",
        "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))",
    ],
}


@pytest.mark.parametrize("name", CHECKS)
def test_check(name: str) -> None:
    done = subprocess.run(
        [sys.executable, *CHECKS[name]], cwd=ROOT, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, f"\n{done.stdout[-8000:]}\n{done.stderr[-2000:]}"
