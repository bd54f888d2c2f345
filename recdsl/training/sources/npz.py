"""Sequences in a NumPy .npz file; nothing in it is unpickled."""

from __future__ import annotations

import zipfile
from pathlib import Path

from recdsl.errors.runs import BadFile, RunError, TooShort
from recdsl.training.arrays import np
from recdsl.training.batches import Array, Batch, Place, Source, epochs
from recdsl.training.declare import Declaration, Field, Option, Options
from recdsl.training.files import contents, fingerprint, named

DECLARATION = Declaration(
    "npz",
    "arrays [example, time, ...] by name; integers are labels. `lengths` [example] makes a mask, and `mask` is one",
    (
        Option("path", "text", "<required>", "the file"),
        Option("inputs", "words", (), "which arrays are inputs (default: the spec's, by name)"),
        Option("test", "float", 0.1, "the last part of the examples, for testing", low=0.0, high=0.9),
        Option("valid", "float", 0.1, "the part before it, for validation", low=0.0, high=0.9),
    ),
)
GENERATED = False


def arrays(path: Path) -> dict[str, Array]:
    """All arrays of a file. Raises RD0653, also for arrays of objects, which would have to be unpickled."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: np.asarray(archive[name]) for name in archive.files}
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile, AttributeError) as error:
        raise RunError(BadFile(str(path), f"it is not a .npz of plain arrays ({error})")) from None


def _check(found: dict[str, Array], path: str) -> tuple[int, int]:
    """(examples, steps) that all arrays share. Raises RD0653."""
    if not found:
        raise RunError(BadFile(path, "it holds no arrays"))
    shapes = {name: array.shape[:2] for name, array in found.items()}
    short = [name for name, shape in shapes.items() if len(shape) < 2]
    if short or len(set(shapes.values())) != 1:
        text = ", ".join(f"{name} {list(array.shape)}" for name, array in found.items())
        raise RunError(BadFile(path, f"arrays must share [example, time, ...]: {text}"))
    return next(iter(shapes.values()))


def describe(name: str, array: Array, inputs: tuple[str, ...], path: str) -> Field:
    """The field of an array. Raises RD0653 for a dtype that has no place in a batch."""
    role = "input" if name in inputs or (not inputs and name.startswith("x")) else "target"
    if array.dtype.kind in "iu" and array.ndim == 2:
        if array.size and int(array.min()) < 0:
            raise RunError(BadFile(path, f"`{name}` holds the negative label {int(array.min())}"))
        return Field(name, "label", role, size=int(array.max()) + 1 if array.size else 1)
    if array.dtype.kind in "iuf" or array.dtype.kind == "b":
        return Field(name, "bool" if array.dtype.kind == "b" else "float", role, shape=array.shape[2:])
    raise RunError(BadFile(path, f"`{name}` has dtype {array.dtype}"))


def open_source(options: Options, place: Place) -> Source:
    """One field an array; sizes: the largest label + 1 of `name` as `name`."""
    path = named(options["path"], place)
    found = arrays(path)
    lengths, mask = found.pop("lengths", None), found.pop("mask", None)
    count, steps = _check(found, str(path))
    if lengths is not None:
        mask = np.arange(steps)[None, :] < lengths.reshape(-1, 1)
    if mask is not None and mask.shape != (count, steps):
        raise RunError(BadFile(str(path), f"the mask is {list(mask.shape)}, the arrays {[count, steps]}"))
    fields = tuple(describe(name, array, options["inputs"], str(path)) for name, array in found.items())
    cut = count - round(count * options["test"])
    bounds = {"valid": (cut - round(count * options["valid"]), cut), "test": (cut, count)}
    bounds["train"] = (0, bounds["valid"][0])
    if bounds["train"][1] <= 0:
        raise RunError(TooShort("train", 0, 1, "examples"))

    def gather(split: str, chosen: Array) -> Batch:
        rows = chosen + bounds[split][0]
        picked = {field.name: _time_major(found[field.name][rows], field) for field in fields}
        return Batch(picked, None if mask is None else np.ascontiguousarray(mask[rows].astype(np.bool_).T))

    sizes = {field.name: field.size for field in fields if field.kind == "label"}
    counts = {split: stop - start for split, (start, stop) in bounds.items()}
    return Source(fields, *epochs(counts, gather), sizes, fingerprint=lambda: fingerprint(contents(path)))


def _time_major(array: Array, field: Field) -> Array:
    swapped = np.ascontiguousarray(array.swapaxes(0, 1))
    return swapped.astype({"label": np.int64, "bool": np.bool_, "float": np.float32}[field.kind])
