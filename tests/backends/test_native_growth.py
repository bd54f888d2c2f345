"""What is made of a large step grows with it, and no faster: counted, so that no machine is too slow for the test."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
from test_compile_time import chained, coupled, long_sum

from recdsl.backends.native import lower
from recdsl.driver import analyse
from recdsl.graph.ragged import ragged_map


class Calls:
    """Counts calls of Python functions, generators' steps among them, and of those that are written in C."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> Calls:
        sys.setprofile(self._event)
        return self

    def __exit__(self, *error: object) -> None:
        sys.setprofile(None)

    def _event(self, frame: FrameType, event: str, argument: Any) -> None:
        self.count += event in ("call", "c_call")


def work(shape: Callable[[int], str], cells: int) -> dict[str, float]:
    """By stage, for each operation of the step: calls, and characters of C."""
    found = dict[str, float]()
    made = analyse(shape(cells))
    count = len(made.graph.nodes)
    with Calls() as calls:
        ragged_map(made.graph)
        program = made.program
    found["program"] = calls.count / count
    with Calls() as calls:
        text = lower.lower(program).source
    found["lower"] = calls.count / count
    found["text"] = len(text) / count
    return found


@pytest.mark.parametrize("shape", [chained, coupled, long_sum])
def test_work_for_an_operation_does_not_grow(shape: Callable[[int], str]) -> None:
    small, large = work(shape, 15), work(shape, 60)
    assert {name: large[name] for name in large if large[name] > 1.35 * small[name]} == {}, small


def test_a_long_function_is_a_list() -> None:
    """Its text is a few lines for each layer: what a compiler reads of calls and pointers is numbers."""
    lines = list[int]()
    for cells in (60, 100):
        made = analyse(chained(cells))
        text = lower.lower(made.program).source
        entry = text[text.index("/* backward of") :].partition("\n}\n")[0]
        lines.append(entry.count("\n"))
    assert (lines[1] - lines[0]) / 40 < 10
