"""The canonical text of sizes made of several."""

from __future__ import annotations

import pytest

from recdsl.diagnostics import SpecError
from recdsl.driver import analyse
from recdsl.graph.sizes import Number, Size, concatenated, fold, join, literal
from recdsl.graph.types import Axis

INP, HID = Number(3, Size("inp", 3)), Number(4, Size("hid", 4))


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["inp", "hid"], "inp + hid"),
        (["hid", "inp"], "hid + inp"),
        (["hid", "hid"], "2 * hid"),
        (["2 * hid", "hid", "1", "1"], "3 * hid + 2"),
        (["1", "1"], "2"),
        (["inp + 1", "1 + hid"], "inp + 2 + hid"),
        (["hid / 2", "hid / 2"], "2 * hid / 2"),
    ],
)
def test_sums(pieces: list[str], text: str) -> None:
    assert join(pieces) == text


def test_concatenated() -> None:
    assert concatenated([Axis("inp", 3), Axis("1", 1)]) == Axis("inp + 1", 4)


@pytest.mark.parametrize(
    ("op", "left", "right", "size"),
    [
        ("+", INP, HID, Size("inp + hid", 7)),
        ("*", literal(2), HID, Size("2 * hid", 8)),
        ("*", HID, literal(2), Size("2 * hid", 8)),
        ("*", INP, HID, Size("inp * hid", 12)),
        ("/", HID, literal(2), Size("hid / 2", 2)),
        ("-", HID, literal(1), Size("hid - 1", 3)),
        ("+", literal(1), literal(2), Size("3", 3)),
        ("-", INP, HID, None),
        ("/", INP, literal(2), None),
        ("*", Number(0.5), HID, None),
    ],
)
def test_fold(op: str, left: Number, right: Number, size: Size | None) -> None:
    assert fold(op, left, right).size == size


def test_sum_of_doubled_is_the_same_axis_as_a_concatenation() -> None:
    doubled = fold("*", literal(2), HID).size
    assert doubled is not None
    assert doubled.axis == concatenated([Axis("hid", 4), Axis("hid", 4)])


@pytest.mark.parametrize(("op", "left", "right"), [("/", 1, 0), ("%", 1, 0), ("**", 10, 400), ("**", -8, 0.5)])
def test_no_result(op: str, left: float, right: float) -> None:
    with pytest.raises(ArithmeticError):
        fold(op, Number(left), Number(right))


def test_towers_of_powers_end_at_once() -> None:
    with pytest.raises(ArithmeticError):
        fold("**", literal(9), fold("**", literal(9), literal(9)))


@pytest.mark.parametrize(
    ("size", "words"),
    [
        ("0", "size `n` is 0"),
        ("2 - 1_000_000", "size `n` is -999,998"),
        ("5 / 2", "size `n` is 2.5"),
        ("9" * 390, "size `n` is more than 10**389"),
        ("-1e20", "size `n` is less than -10**20"),
        ("1e300", "size `n` is more than 10**300"),
    ],
)
def test_sizes_that_are_none(size: str, words: str) -> None:
    text = f"recdsl: 1\nsizes: {{n: {size}}}\ninputs: {{x: 'float[n]'}}\nstep: h = x\nloss: mse(h, x)\n"
    with pytest.raises(SpecError) as caught:
        analyse(text)
    (problem,) = caught.value.problems
    assert problem.text() == words
