"""Images in MNIST's IDX files, read whole, by rows or by pixels. Format: yann.lecun.com/exdb/mnist."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable
from pathlib import Path

from recdsl.errors.runs import BadFile, RunError
from recdsl.training.arrays import np
from recdsl.training.batches import Array, Batch, Place, Source, epochs
from recdsl.training.declare import Declaration, Field, Option, Options
from recdsl.training.files import LARGEST, contents, dataset, fingerprint
from recdsl.training.noise import NOISE, noisy

DECLARATION = Declaration(
    "images",
    "classify grey images; the label is given at every step (score the last). The last twelfth of train is `valid`",
    (
        Option("source", "word", None, "a fetched set", choices=("fashion-mnist", "mnist"), none=True),
        Option("path", "text", None, "a folder with the four IDX files of MNIST's names, .gz or not", none=True),
        Option(
            "as",
            "word",
            "flat",
            "flat: 1 step of all pixels; rows: a step a row; pixels: a step a pixel",
            choices=("flat", "rows", "pixels"),
        ),
        Option("permute", "int", None, "seed of a fixed shuffle of the pixels", low=0, none=True),
        NOISE,
    ),
)
GENERATED = False
FILES = {"train": "train", "test": "t10k"}


def parse(data: bytes, path: str) -> Array:
    """An IDX file of bytes as an array. Raises RD0653 on anything else."""
    if len(data) < 4 or data[:3] != b"\0\0\x08" or not 1 <= data[3] <= 4 or len(data) < 4 + 4 * data[3]:
        raise RunError(BadFile(path, "it is not an IDX file of bytes"))
    shape = [int(size) for size in np.frombuffer(data, ">u4", data[3], 4)]
    start = 4 + 4 * data[3]
    needed = start
    count = 1
    for size in shape:
        count *= size
    needed += count
    if len(data) != needed:
        raise RunError(BadFile(path, f"it has {len(data)} bytes, but its header says {needed}"))
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read(folder: Path, name: str) -> tuple[Array, bytes]:
    """The array of `folder/name` or `folder/name.gz`, and the file's bytes."""
    plain, packed = folder / name, folder / f"{name}.gz"
    if plain.is_file() or not packed.is_file():
        raw = contents(plain)
        return parse(raw, str(plain)), raw
    raw = contents(packed)
    try:
        with gzip.open(packed) as stream:
            data = stream.read(LARGEST)
    except (OSError, EOFError, zlib.error) as error:
        raise RunError(BadFile(str(packed), f"it cannot be unpacked ({error})")) from None
    return parse(data, str(packed)), raw


def pairs(folder: Path) -> tuple[dict[str, tuple[Array, Array]], Callable[[], str]]:
    """Images and labels of "train" and "test", and their fingerprint. Raises RD0653."""
    found: dict[str, tuple[Array, Array]] = {}
    raws: list[bytes] = []
    for split, prefix in FILES.items():
        images, raw = read(folder, f"{prefix}-images-idx3-ubyte")
        labels, raw_labels = read(folder, f"{prefix}-labels-idx1-ubyte")
        if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels) or not len(images):
            reason = f"{split}: images {list(images.shape)} and labels {list(labels.shape)} do not go together"
            raise RunError(BadFile(str(folder), reason))
        found[split] = images, labels
        raws += [raw, raw_labels]
    return found, lambda: fingerprint(*raws)


def _folder(options: Options, place: Place) -> Path:
    if (options["source"] is None) == (options["path"] is None):
        advice = "such as images(source=fashion-mnist)"
        raise RunError(BadFile("`data: images`", "give either source or path", advice))
    return dataset(options["source"]) if options["source"] else Path(place.folder, options["path"])


def open_source(options: Options, place: Place) -> Source:
    """Fields `x` float[pixels], float[columns] or float (0..1), `y` labels, and `noise`, where it is asked for."""
    found, mark = pairs(_folder(options, place))
    height, width = found["train"][0].shape[1:]
    pixels = height * width
    order = np.arange(pixels)
    if options["permute"] is not None:
        order = np.random.Generator(np.random.PCG64(options["permute"])).permutation(pixels)
    steps, shape = {"flat": (1, (pixels,)), "rows": (height, (width,)), "pixels": (pixels, ())}[options["as"]]
    cut = len(found["train"][0]) - len(found["train"][0]) // 12
    images, labels = found["train"]
    parts = {"train": (images[:cut], labels[:cut]), "valid": (images[cut:], labels[cut:]), "test": found["test"]}

    def gather(split: str, chosen: Array) -> Batch:
        flat = parts[split][0][chosen].reshape(len(chosen), pixels)[:, order].astype(np.float32) / np.float32(255)
        x = np.ascontiguousarray(flat.reshape(len(chosen), steps, *shape).swapaxes(0, 1))
        y = np.broadcast_to(parts[split][1][chosen].astype(np.int64), (steps, len(chosen))).copy()
        return Batch({"x": x, "y": y})

    classes = 1 + max(int(labels.max()) for _, labels in found.values())
    fields = (Field("x", "float", "input", shape=shape), Field("y", "label", "target", classes))
    sizes = {"pixels": pixels, "rows": height, "columns": width, "classes": classes}
    counts = {split: len(part[0]) for split, part in parts.items()}
    return noisy(Source(fields, *epochs(counts, gather), sizes, fingerprint=mark), options["noise"])
