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
        analysed: list[float] = []
        generated: list[float] = []
        for _ in range(repeats):
            start = time.process_time()
            compilation = driver.analyse(str(path))
            middle = time.process_time()
            source = compilation.source
            analysed.append(middle - start)
            generated.append(time.process_time() - middle)
            lines = source.count("\n")
        yield {
            "spec": path.stem,
            "nodes": len(compilation.graph.nodes),
            "lines": lines,
            "analyse_s": round(min(analysed), 3),
            "source_s": round(min(generated), 3),
            "total_s": round(min(analysed) + min(generated), 3),
            "first_s": round(analysed[0] + generated[0], 3),
            "torch_imported": str("torch" in sys.modules),
        }
