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
from native_support import QUICK, native
from recdsl.testing import assert_close_gradients, random_case
flags = (*QUICK, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
cases = [seeded(seed) for seed in range({first}, {first} + 2)]
cases += [corpus({spec!r}, 1, "tbptt(window=3, every=2)"), random_case({first}, (("default", "snap(1)"),))]
for case in cases:
    assert_close_gradients(lambda c: native(c, flags=flags), case)
print("clean", len(cases))
"""
PIECES = """
import sys
sys.path.insert(0, sys.argv[1])
import torch
from test_replayed_calls import TEXTS, apart, call_of, called
from native_support import QUICK
from recdsl.backends.native import native_module, nests
from recdsl.driver import analyse
most = nests.Nests._most
{planted}
flags = (*QUICK, "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
for name in ("stores", "slots"):
    stages = analyse(TEXTS[name].replace("CREDIT", "sab(truncate=3, replay=always)"))
    model = native_module(stages.graph, stages.plan, stages.source, flags=flags).Model(0, torch.float64)
    case = call_of(stages, 0)
    assert apart(called(model, case, 10**6), called(model, case, 3)) < 1e-12
print("clean")
"""
ONLINE = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1]).parent.parent))
from recdsl.backends.native import build
from tests.training.test_online_native import SPEC, TD, check
build.FLAGS = ("-O0", "-march=native", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
check(TD % "columns", "train.optimizer=adam(lr=1e-3)", "train.batch=3", updates=40)
check(SPEC % "tbptt(window=6, every=3)", "train.every=3", "train.batch=2", "train.clip=0.5", updates=40)
print("clean")
"""
ROWS = """
import sys
from pathlib import Path
sys.path.insert(0, str(Path(sys.argv[1]).parent.parent))
from recdsl.backends.native import rows
from tests.memory.test_native_rows import SCORES, compare, drawn, search
{planted}
flags = ("-O0", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
for score in SCORES:
    compare(search(score, False, 270), drawn(270, False, 1, (2, 1), score == "mlp"), (2, 1), flags)
compare(search("mlp", True, 40), drawn(40, True, 1, (5, 14), True), (5, 14), flags)
compare(search("dot", True, 3), drawn(3, True, 1, (2, 2), False), (2, 2), flags)
print("clean")
"""
SHORT = "nests.Nests._most = lambda self, size: 'T' if 's0' in most(self, size) else most(self, size)"
"""Room for the rows of a piece, where what it reads goes back to the beginning of the call."""
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


def test_pieces_of_a_call():
    """Each value has room for the rows in front of a piece too; between the rooms lies forbidden memory."""
    done = run(PIECES.format(planted=""))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("clean")


def test_too_little_room_is_seen():
    done = run(PIECES.format(planted=SHORT))
    assert done.returncode != 0
    assert "use-after-poison" in done.stderr


def test_the_sanitizers_see_a_fault():
    done = run(PLANTED.format())
    assert done.returncode != 0
    assert "runtime error" in done.stderr or "AddressSanitizer" in done.stderr


def test_stores_for_all_samples_are_clean():
    done = run(ROWS.format(planted=""))
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("clean")


def test_too_little_room_for_scores_is_seen():
    done = run(ROWS.format(planted="rows.SLOTS = 255"))
    assert done.returncode != 0
    assert "use-after-poison" in done.stderr


def test_online_updates_are_clean():
    done = run(ONLINE)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith("clean")
