"""Generated C under the address and undefined-behaviour sanitizers, in a process that loads them first."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from recdsl.backends.native import build

pytestmark = pytest.mark.compiler
HERE = Path(__file__).parent
SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
from backend_support import corpus, seeded
from native_support import native
from recdsl.testing import assert_close_gradients, random_case
flags = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
cases = [seeded(seed) for seed in range({first}, {first} + 2)]
cases += [corpus({spec!r}, 1, "tbptt(window=3, every=2)"), random_case({first}, (("default", "snap(1)"),))]
for case in cases:
    assert_close_gradients(lambda c: native(c, flags=flags), case)
print("clean", len(cases))
"""
PLANTED = """
import ctypes, sys
from recdsl.backends.native import build
text = '__attribute__((visibility("default"))) int f(int n) {{ int a[4] = {{0}}; return a[n]; }}'
build.library(text, ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")).f(5)
print("clean")
"""


def libraries() -> str:
    """The sanitizers' runtimes, which must be loaded before everything else."""
    found: list[str] = []
    for name in ("libasan.so", "libubsan.so", "libstdc++.so.6"):
        asked = subprocess.run(
            [build.compiler().path, f"-print-file-name={name}"], capture_output=True, text=True, check=True
        )
        path = Path(asked.stdout.strip())
        if not path.is_absolute() or not path.exists():
            pytest.skip(f"the compiler has no {name}")
        found.append(str(path.resolve()))
    return " ".join(found)


def run(text: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "LD_PRELOAD": libraries(),
        "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0",
        "PYTHONPATH": str(Path(build.__file__).parents[3]),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, "-c", text, str(HERE)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.parametrize(("first", "spec"), [(0, "stacked"), (40, "slices")])
def test_clean(first: int, spec: str):
    done = run(SCRIPT.format(first=first, spec=spec))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("clean")


def test_the_sanitizers_see_a_fault():
    done = run(PLANTED.format())
    assert done.returncode != 0
    assert "runtime error" in done.stderr or "AddressSanitizer" in done.stderr
