"""The suite `compile`: from text to generated source for every shipped spec, without torch; then in processes of
their own, with an empty cache and with the one that the first has left, to its loops in C."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.table import Row
from recdsl import driver
from recdsl.diagnostics import SpecError

SPECS = Path(__file__).resolve().parent.parent / "specs"
NATIVE = """
import json, os, sys, time
import torch
from recdsl import driver
from recdsl.backends.native import native_module

def clock():
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system

made = driver.analyse(sys.argv[1])
source = made.source
os.environ["XDG_CACHE_HOME"] = sys.argv[2]  # from here on: data sets are where they are
times = [clock()]
model = native_module(made.graph, made.plan, source).Model(0, torch.float32)
times.append(clock())
model.recdsl_prepare()
times.append(clock())
text = model.recdsl_code.library("plain").source
print(json.dumps([times[1] - times[0], times[2] - times[1], len(text), model.recdsl_runs]))
"""


def run(repeats: int) -> Iterator[Row]:
    """CPU seconds of analysis and of code, the least of `repeats`."""
    for path in sorted(SPECS.glob("*.yaml")):
        try:
            runs = [_timed(path) for _ in range(repeats)]
        except SpecError as error:  # a data set that says sizes is not here
            yield {"spec": path.stem, "native": str(error).partition("error")[2][:80]}
            continue
        compilation = driver.analyse(str(path))
        analysed, generated = [run[0] for run in runs], [run[1] for run in runs]
        yield {
            "spec": path.stem,
            "nodes": len(compilation.graph.nodes),
            "lines": compilation.source.count("\n"),
            "analyse_s": round(min(analysed), 3),
            "source_s": round(min(generated), 3),
            "total_s": round(min(analysed) + min(generated), 3),
            "first_s": round(analysed[0] + generated[0], 3),
            "torch_imported": str("torch" in sys.modules),
            **_native(path, repeats),
        }


def _native(path: Path, repeats: int) -> Row:
    """CPU seconds, the compiler's with them, of the C text of calls without mask and resets (`lower_s`), of its
    library where the cache is empty (`cold_s`) and where it is there (`warm_s`)."""
    cold, warm = list[list[float]](), list[list[float]]()
    size, runs = 0, ""
    for _ in range(repeats):
        with tempfile.TemporaryDirectory(prefix="recdsl-") as cache:
            for found in (cold, warm):
                lowered, loaded, size, runs = _in_process(path, cache)
                found.append([lowered, loaded])
    return {
        "c_kb": round(size / 1000),
        "lower_s": round(min(row[0] for row in cold + warm), 3),
        "cold_s": round(min(row[1] for row in cold), 3),
        "warm_s": round(min(row[1] for row in warm), 3),
        "native": runs,
    }


def _in_process(path: Path, cache: str) -> tuple[float, float, int, str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", NATIVE, str(path), cache]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, cwd=SPECS.parent)
    lowered, loaded, size, runs = json.loads(done.stdout.splitlines()[-1])
    return float(lowered), float(loaded), int(size), str(runs)


def _timed(path: Path) -> tuple[float, float]:
    """Seconds until the spec is analysed, and from there until the source is written."""
    start = time.process_time()
    compilation = driver.analyse(str(path))
    middle = time.process_time()
    assert compilation.source
    return middle - start, time.process_time() - middle
