"""Sizes known when compiling, and the canonical text that names an axis made of several.

`[x; h]` has the axis `inp + hid`, and `float[hid, inp + hid]` names the same one: terms keep their order (it is the
order of the entries), neighbours that are equal or numbers are added up.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

from recdsl.graph.types import Axis

LIMIT = 2**48


@dataclass(frozen=True)
class Size:
    """A whole number and how it is written: `inp + hid`, `2 * hid`, `half`, `10`."""

    text: str
    value: int

    @property
    def axis(self) -> Axis:
        return Axis(self.text, self.value)


@dataclass(frozen=True)
class Number:
    """A number known when compiling; `size` is set where it may name an axis."""

    value: int | float
    size: Size | None = None


def literal(value: int | float) -> Number:
    """A number as written; whole ones can be sizes."""
    return Number(value, Size(str(value), value)) if isinstance(value, int) else Number(value)


def terms(text: str) -> list[tuple[int, str]]:
    """The (factor, atom) terms of a canonical sum; a plain number has the atom ""."""
    found: list[tuple[int, str]] = []
    for piece in split(text):
        head, star, rest = piece.partition(" * ")
        if piece.isdigit():
            found.append((int(piece), ""))
        elif star and head.isdigit():
            found.append((int(head), rest))
        else:
            found.append((1, piece))
    return found


def split(text: str) -> list[str]:
    """The summands of a sum, at the top level of its parentheses."""
    pieces, depth, start = list[str](), 0, 0
    for place, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if depth == 0 and text.startswith(" + ", place):
            pieces.append(text[start:place])
            start = place + 3
    return [*pieces, text[start:]]


def join(texts: Iterable[str]) -> str:
    """The canonical text of a sum of canonical texts."""
    merged: list[tuple[int, str]] = []
    for text in texts:
        for factor, atom in terms(text):
            if merged and merged[-1][1] == atom:
                merged[-1] = (merged[-1][0] + factor, atom)
            else:
                merged.append((factor, atom))
    return " + ".join(_term(factor, atom) for factor, atom in merged)


def _term(factor: int, atom: str) -> str:
    return str(factor) if not atom else atom if factor == 1 else f"{factor} * {atom}"


def concatenated(axes: Iterable[Axis]) -> Axis:
    """The axis of entries one after another."""
    all_axes = list(axes)
    return Axis(join(axis.name for axis in all_axes), sum(axis.size for axis in all_axes))


def _factor(text: str) -> str:
    return f"({text})" if " " in text else text


def _product(a: Size, b: Size) -> str:
    if b.text.isdigit() and not a.text.isdigit():
        return _product(b, a)
    if a.text.isdigit():
        (only, *more) = terms(b.text)
        if not more:
            return _term(a.value * only[0], only[1])
    return f"{_factor(a.text)} * {_factor(b.text)}"


def _text(op: str, a: Size, b: Size, value: int) -> str:
    if a.text.isdigit() and b.text.isdigit():
        return str(value)
    if op == "+":
        return join((a.text, b.text))
    if op == "*":
        return _product(a, b)
    return f"{_factor(a.text)} {op} {_factor(b.text)}"


def fold(op: str, a: Number, b: Number) -> Number:
    """`a op b`. Raises ArithmeticError where there is no finite result."""
    value = _value(op, a.value, b.value)
    if isinstance(value, complex) or not isfinite(value):
        raise ArithmeticError("not a finite number")
    whole = int(value) if value == int(value) and abs(value) < LIMIT else None
    if a.size and b.size and op in "+-*/**" and whole is not None and whole > 0:
        size = Size(_text(op, a.size, b.size, whole), whole)
        return Number(whole if op != "/" else value, size)
    return Number(value)


def _value(op: str, a: int | float, b: int | float) -> int | float | complex:
    """Python's arithmetic, in floats where whole numbers would grow without bound."""
    if max(abs(a), abs(b)) > 2**53:
        a, b = float(a), float(b)
    if op == "+":
        return a + b
    if op == "-":
        return a - b
    if op == "*":
        return a * b
    if op == "/":
        return a / b
    if op == "%":
        return a % b
    if isinstance(a, int) and isinstance(b, int) and (b < 0 or b * a.bit_length() > 64):
        a = float(a)
    return a**b
