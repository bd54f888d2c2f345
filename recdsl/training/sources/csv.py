"""A table of numbers over time in a CSV file with a header."""

from __future__ import annotations

import csv
from pathlib import Path

from recdsl.errors.runs import BadFile, RunError
from recdsl.training.arrays import np
from recdsl.training.batches import Array, Batch, Place, Request, Source
from recdsl.training.declare import Declaration, Field, Option, Options
from recdsl.training.files import contents, fingerprint, named
from recdsl.training.sources.text import Windows

DECLARATION = Declaration(
    "csv",
    "a row a step; windows of a table. The last fifth is split into valid and test",
    (
        Option("path", "text", "<required>", "the file, UTF-8, first row the names"),
        Option("inputs", "words", (), "columns that make `x` (default: all but the targets)"),
        Option("targets", "words", (), "columns that make `y` (default: all of `x`)"),
        Option("ahead", "int", 1, "`y` is this many steps later than `x`", low=0, high=1_000_000),
        Option("length", "int", 64, "steps of a window", low=1, high=10_000_000),
        Option("delimiter", "text", ",", "the character between columns"),
        Option("standardise", "bool", True, "subtract the mean and divide by the deviation of the training part"),
    ),
)
GENERATED = False


def table(path: Path, delimiter: str) -> dict[str, Array]:
    """Columns by name, float32. Raises RD0653 with the line of the first cell that is not a number."""
    if len(delimiter) != 1:
        raise RunError(BadFile(str(path), f"the delimiter {delimiter!r} is not one character"))
    try:
        rows = list(csv.reader(contents(path).decode("utf-8-sig").splitlines(), delimiter=delimiter))
    except (UnicodeDecodeError, csv.Error) as error:
        raise RunError(BadFile(str(path), str(error))) from None
    if len(rows) < 2 or len(set(rows[0])) != len(rows[0]):
        raise RunError(BadFile(str(path), "it needs a first row of different names, then numbers"))
    names = [name.strip() for name in rows[0]]
    values = np.empty((len(rows) - 1, len(names)), np.float32)
    for number, row in enumerate(rows[1:]):
        try:
            if len(row) != len(names):
                raise ValueError
            values[number] = [float(cell) for cell in row]
        except ValueError:
            reason = f"line {number + 2} does not hold {len(names)} numbers: {delimiter.join(row)[:60]}"
            raise RunError(BadFile(str(path), reason)) from None
    return {name: values[:, index] for index, name in enumerate(names)}


def _pick(columns: dict[str, Array], names: tuple[str, ...], path: str) -> Array:
    missing = [name for name in names if name not in columns]
    if missing or not names:
        advice = f"its columns: {', '.join(columns)}"
        raise RunError(BadFile(path, f"it has no column {missing[0]!r}" if missing else "no columns are left", advice))
    return np.stack([columns[name] for name in names], axis=1)


def open_source(options: Options, place: Place) -> Source:
    """Fields `x` float[inputs] and `y` float[targets] (float if there is one)."""
    path = named(options["path"], place)
    columns = table(path, options["delimiter"])
    inputs = options["inputs"] or tuple(name for name in columns if name not in options["targets"])
    x = _pick(columns, inputs, str(path))
    y = _pick(columns, options["targets"] or inputs, str(path))
    rows = len(x) - options["ahead"]
    first, second = rows * 80 // 100, rows * 90 // 100
    if options["standardise"] and first > 0:
        x, y = ((part - part[:first].mean(0)) / np.maximum(part[:first].std(0), 1e-8) for part in (x, y))
    y = y[options["ahead"] :]
    bounds = {"train": (0, first), "valid": (first, second), "test": (second, rows)}

    def draw(request: Request) -> Steps:
        start, stop = bounds[request.split]
        return Steps(np.arange(start, stop + 1), options["length"], request, x=x, y=y)

    shape = () if y.shape[1] == 1 else (y.shape[1],)
    fields = (Field("x", "float", "input", shape=(x.shape[1],)), Field("y", "float", "target", shape=shape))
    sizes = {"columns": x.shape[1], "targets": y.shape[1]}

    def passes(request: Request) -> int | None:
        return draw(request).passes if request.split != "train" else None

    return Source(fields, draw, passes, sizes, fingerprint=lambda: fingerprint(contents(path)))


class Steps(Windows):
    """Windows over row numbers, looked up in the table."""

    def __init__(self, rows: Array, length: int, request: Request, *, x: Array, y: Array) -> None:
        self.x, self.y = x, y
        Windows.__init__(self, rows, length, request)

    def next(self) -> Batch:
        batch = Windows.next(self)
        rows = batch.arrays["x"]
        y = self.y[rows]
        return Batch({"x": self.x[rows], "y": y[..., 0] if y.shape[-1] == 1 else y}, reset=batch.reset)
