"""The suite `compile`: from text to generated source for every shipped spec. torch is not imported."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.table import Row
from recdsl import driver

SPECS = Path(__file__).resolve().parent.parent / "specs"


def run(repeats: int) -> Iterator[Row]:
    """CPU seconds of analysis and of code, the least of `repeats`."""
    for path in sorted(SPECS.glob("*.yaml")):
        runs = [_timed(path) for _ in range(repeats)]
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
        }


def _timed(path: Path) -> tuple[float, float]:
    """Seconds until the spec is analysed, and from there until the source is written."""
    start = time.process_time()
    compilation = driver.analyse(str(path))
    middle = time.process_time()
    assert compilation.source
    return middle - start, time.process_time() - middle
