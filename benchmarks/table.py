"""Rows as an aligned table."""

from __future__ import annotations

from collections.abc import Sequence

Row = dict[str, str | int | float]


def table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    """Text columns to the left, numbers to the right; a dash where a row has no such entry."""
    cells = [[str(row.get(column, "-")) for column in columns] for row in rows]
    widths = [max(len(column), *(len(line[k]) for line in cells)) for k, column in enumerate(columns)]
    texts = [any(isinstance(row.get(column), str) for row in rows) for column in columns]
    lines = [list(columns), ["-" * width for width in widths], *cells]
    return "\n".join(
        "  ".join(
            text.ljust(width) if left else text.rjust(width)
            for text, width, left in zip(line, widths, texts, strict=True)
        ).rstrip()
        for line in lines
    )
