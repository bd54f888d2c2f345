"""Gradients of columnar rules against full BPTT as edges between columns grow (`recdsl.testing.testbed`)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import mean, stdev

import torch

from benchmarks.table import Row
from recdsl.cli.figure import Lines, Panel, Series, figure
from recdsl.testing.testbed import Bed, agreement, gradient

EDGES = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
RULES = {"published": ("columns", True), "columns": ("columns", False), "snap(1)": ("snap(1)", False)}
"""By name: credit, and whether paths between columns within a step are cut too."""
FIRST = 90
"""The first seed, as in the published code."""
EARLIER = {
    0.0: (1.000, 1.000), 0.1: (0.945, 0.939), 0.5: (0.797, 0.875), 1.0: (0.686, 0.820),
    2.0: (0.603, 0.711), 5.0: (0.560, 0.607), 10.0: (0.541, 0.570), 20.0: (0.532, 0.539),
}  # fmt: skip
"""(alignment, cosine) of the published rule in a plain PyTorch implementation of the test-bed, of 20 seeds; no table
was published. The initial weights of the original are not known, so it is a figure to be near, not to be equal to."""


def run(seeds: int) -> Iterator[Row]:
    """One row a number of edges: mean and standard error of alignment and cosine of each rule."""
    torch.set_num_threads(1)
    bed = Bed()
    whole = bed.module("bptt")
    modules = {name: bed.module(credit, cut=cut) for name, (credit, cut) in RULES.items()}
    for edges in EDGES:
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in modules}
        for seed in range(FIRST, FIRST + seeds):
            params, batch = bed.draw(seed, edges)
            full = gradient(whole, params, batch)
            for name, module in modules.items():
                found[name].append(agreement(gradient(module, params, batch), full))
        yield _row(edges, bed.probability(edges), found)


def _row(edges: float, probability: float, found: dict[str, list[tuple[float, float]]]) -> Row:
    row: Row = {"edges": edges, "p": round(probability, 4)}
    for name, pairs in found.items():
        for kind, values in zip(("alignment", "cosine"), zip(*pairs, strict=True), strict=True):
            row[f"{name} {kind}"] = round(mean(values), 4)
            row[f"{name} {kind} se"] = round(stdev(values) / len(values) ** 0.5, 4) if len(values) > 1 else 0.0
    row["earlier alignment"], row["earlier cosine"] = EARLIER[edges]
    return row


def drawn(rows: Sequence[Row], seeds: int) -> str:
    """The picture: alignment and cosine over the number of edges."""
    names = [*RULES, "earlier"]
    legend = ["published rule", "columns", "snap(1)", "published rule, plain PyTorch"]
    across = "neighbours that a column reads, expected"

    def panel(title: str, kind: str, low: float) -> Panel:
        lines = tuple(
            Series(k, tuple((float(row["edges"]), float(row[f"{name} {kind}"])) for row in rows if row["edges"]))
            for k, name in enumerate(names)
        )
        return Lines(title, across, kind, lines, low, 1.02, log_x=True)

    panels = [panel("Share of entries with the right sign", "alignment", 0.45), panel("Cosine", "cosine", 0.45)]
    about = f"against full BPTT; 50 steps, mean of {seeds} seeds"
    return figure("Gradients of columns that read each other", about, legend, panels, columns=2)
