"""What a data source, optimizer, schedule or metric declares about itself: plain data, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

REQUIRED = "<required>"

Options = Mapping[str, Any]
"""The options of a call after checking: every declared name is there, with a value of its declared kind."""


@dataclass(frozen=True)
class Option:
    """A keyword option. `kind`: int, float, bool, word, text, words (a list of words), pair (two floats).

    `low` and `high` are inclusive bounds; `above` an exclusive lower one. `none` allows the word `none`.
    """

    name: str
    kind: str
    default: Any
    doc: str
    low: float | None = None
    high: float | None = None
    above: float | None = None
    choices: tuple[str, ...] = ()
    none: bool = False

    @property
    def required(self) -> bool:
        return self.default == REQUIRED

    def expected(self) -> str:
        """What may stand there, in words: "a whole number of at least 1"."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        nouns = {
            "int": "a whole number",
            "float": "a number",
            "bool": "true or false",
            "word": "a word",
            "text": "a text in quotes",
            "words": "a list of words",
            "pair": "a list of two numbers",
        }
        bounds = [
            f"{word} {bound:,}" if isinstance(bound, int) else f"{word} {bound:g}"
            for word, bound in (("of at least", self.low), ("above", self.above), ("and at most", self.high))
            if bound is not None
        ]
        return " ".join([nouns[self.kind], *bounds])


@dataclass(frozen=True)
class Declaration:
    """A call that may stand in a spec: its name, what it is for, and its options in order."""

    name: str
    doc: str
    options: tuple[Option, ...] = ()

    def option(self, name: str) -> Option | None:
        return next((option for option in self.options if option.name == name), None)


@dataclass(frozen=True)
class Field:
    """One array of a batch, as a source provides it.

    `kind` is "label" (integers below `size`, shaped [time, batch]), "float" or "bool" (shaped [time, batch, *shape]).
    `role` is "input" or "target".
    """

    name: str
    kind: str
    role: str
    size: int = 0
    shape: tuple[int, ...] = ()

    def __str__(self) -> str:
        if self.kind == "label":
            return f"labels below {self.size}"
        return self.kind + (f"[{', '.join(map(str, self.shape))}]" if self.shape else "")
