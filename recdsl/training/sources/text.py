"""Text as a sequence of characters: predict the next one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from recdsl.errors.runs import BadFile, RunError, TooShort
from recdsl.training.arrays import np
from recdsl.training.batches import Array, Batch, Place, Request, Source
from recdsl.training.declare import Declaration, Field, Option, Options
from recdsl.training.files import contents, dataset, fingerprint, named

DECLARATION = Declaration(
    "text",
    "characters of a text; `next` is the character after `x`. The vocabulary is every character of the text, sorted",
    (
        Option("source", "word", None, "a fetched text", choices=("shakespeare", "brown"), none=True),
        Option("path", "text", None, "a UTF-8 file instead; its last tenth is split into valid and test", none=True),
        Option("length", "int", 64, "steps of a window", low=1, high=10_000_000),
    ),
)
GENERATED = False


def texts(options: Options, place: Place) -> dict[str, str]:
    """The text of each split. Raises RD0650 or RD0653."""
    if (options["source"] is None) == (options["path"] is None):
        raise RunError(BadFile("`data: text`", "give either source or path", "such as text(source=shakespeare)"))
    if options["source"]:
        folder = dataset(options["source"])
        return {split: contents(folder / f"{split}.txt").decode() for split in ("train", "valid", "test")}
    path = named(options["path"], place)
    try:
        whole = contents(path).decode()
    except UnicodeDecodeError as error:
        raise RunError(BadFile(str(path), f"it is not UTF-8 (byte {error.start})", "convert it to UTF-8")) from None
    first, second = len(whole) * 90 // 100, len(whole) * 95 // 100
    return {"train": whole[:first], "valid": whole[first:second], "test": whole[second:]}


def points(text: str) -> Array:
    """Code points of a text, [characters] uint32."""
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


@dataclass
class Windows:
    """Windows at random places (training), or all in order, row by row (streams and evaluation).

    In order, each row is a contiguous part of the text; `reset` marks where a row starts over.
    """

    codes: Array
    length: int
    request: Request
    position: int = 0

    def __post_init__(self) -> None:
        need = self.rows * (self.length + 1)
        if len(self.codes) < need:
            raise RunError(TooShort(self.request.split, len(self.codes), need, "steps"))

    @property
    def rows(self) -> int:
        """Rows of a batch: as asked for, but a short text for evaluation is read in fewer rows rather than refused."""
        if self.request.split == "train":
            return self.request.batch
        return max(1, min(self.request.batch, len(self.codes) // (self.length + 1)))

    @property
    def passes(self) -> int:
        return (len(self.codes) // self.rows - 1) // self.length

    def next(self) -> Batch:
        ordered = self.request.stream or self.request.split != "train"
        index = self.position % self.passes
        if ordered:
            starts = np.arange(self.rows) * (len(self.codes) // self.rows) + index * self.length
        else:
            starts = self.request.rng(self.position).integers(0, len(self.codes) - self.length, self.rows)
        window = self.codes[starts[None, :] + np.arange(self.length + 1)[:, None]].astype(np.int64)
        self.position += 1
        reset = None
        if ordered:
            reset = np.zeros((self.length, self.rows), np.bool_)
            reset[0] = index == 0
        return Batch({"x": window[:-1], "next": window[1:]}, reset=reset)

    def state(self) -> dict[str, Any]:
        return {"position": self.position}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.position = int(state["position"])


def open_source(options: Options, place: Place) -> Source:
    """Fields `x` and `next`, labels below the number of characters, which is size `vocab`."""
    parts = texts(options, place)
    alphabet = sorted(set[str]().union(*map(set[str], parts.values())))

    @cache  # a check asks for the vocabulary only
    def codes(split: str) -> Array:
        table = np.zeros(ord(alphabet[-1]) + 1 if alphabet else 1, np.int32)
        table[[ord(char) for char in alphabet]] = np.arange(len(alphabet))
        return table[points(parts[split])]

    def draw(request: Request) -> Windows:
        return Windows(codes(request.split), options["length"], request)

    vocab = max(1, len(alphabet))
    fields = (Field("x", "label", "input", vocab), Field("next", "label", "target", vocab))
    return Source(
        fields,
        draw,
        lambda request: draw(request).passes if request.split != "train" else None,
        {"vocab": vocab},
        tuple(alphabet),
        lambda: fingerprint(*(text.encode() for text in parts.values())),
        continues=True,
    )
