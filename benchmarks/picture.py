"""The picture of the suite `bptt`: how many times as long others take as the native backend, by cell."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.table import Row
from recdsl.cli.figure import Lines, Panel, Series, figure

PEERS = {"naive": "eager loop", "nn": "torch.nn", "compile": "torch.compile of the cell", "jax": "jax.jit(lax.scan)"}


def drawn(rows: Sequence[Row]) -> str:
    """A panel a batch size and cell; over the hidden size, at the longest length that was measured for it."""
    there = [name for name in PEERS if any(f"{name}/native_median" in row for row in rows)]
    longest = max(int(row["steps"]) for row in rows)
    kept = [row for row in rows if row["steps"] == longest]
    batches = sorted({int(row["batch"]) for row in kept})
    cells = list(dict.fromkeys(str(row["cell"]) for row in kept))
    panels: list[Panel] = [
        _panel(f"{cell}, batch {batch}", [r for r in kept if r["cell"] == cell and r["batch"] == batch], there)
        for cell in cells
        for batch in batches
    ]
    about = f"forward and backward of {longest} steps, time over that of the native backend, medians"
    legend = [PEERS[name] for name in there]
    return figure("Times of others over ours", about, legend, panels, columns=max(2, len(batches)))


def _panel(title: str, rows: Sequence[Row], there: Sequence[str]) -> Panel:
    lines = tuple(
        Series(
            k,
            tuple((float(r["size"]), float(r[f"{name}/native_median"])) for r in rows if f"{name}/native_median" in r),
        )
        for k, name in enumerate(there)
        if any(f"{name}/native_median" in r for r in rows)
    )
    return Lines(title, "hidden units", "times as long", lines, log=True, log_x=True)
