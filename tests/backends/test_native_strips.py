"""Strips: what is made of some steps at a time, and what must not be. All tests of the native backend run in strips of
two steps (`native_support.QUICK`), so those against the definition are elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from backend_support import seeded
from native_support import SPEC, native
from test_native_programs import compare

from recdsl.backends.native import strips
from recdsl.backends.native.lower import lower, tape_of
from recdsl.backends.native.strips import Strips, stripped
from recdsl.driver import analyse
from recdsl.program.ir import For, Program, Stmt
from recdsl.program.parse import parse
from recdsl.testing import assert_close_gradients

LAYERS = """recdsl: 1
sizes: {n: 3}
inputs: {x: "float[n]"}
targets: {y: "float[n]"}
step: |
  h1 = gru(x, size=n)
  h2, c2 = lstm(h1, size=n)
loss: mse(h2, y)
"""
HEAD = """program p

storage x: input float[t=T, B; n=2] call
storage a: buffer float[t=T, B; n=2] call
storage b: buffer float[t=T + 2, B; n=2] call
storage c: carry float[B; n=2] call
storage s: accumulate float[n=2] call
storage o: output float[n=2] call
storage y: output float[t=T, B; n=2] call

entry forward {
"""


def entry(lines: str) -> tuple[Stmt, ...]:
    """The statements of an entry with strips."""
    program: Program = parse(HEAD + lines + "}\n")
    return stripped(program, "forward", frozenset())


def found(body: tuple[Stmt, ...]) -> list[tuple[int, int, tuple[tuple[str, int], ...]]]:
    """Of the strips in an entry: number of statements, direction, and buffers of their own."""
    return [(len(stmt.body), stmt.step, stmt.own) for stmt in body if isinstance(stmt, Strips)]


LOOP = """  for t in 0..T {
    v = load a[t] : float[B; n=2]
    store b[t + 1] v
  }
"""
BACK = """  for t in 0..T by -1 {
    w = load a[t] : float[B; n=2]
    g = load c : float[B; n=2]
    e = add(g, w) : float[B; n=2]
    store c e
    store y[t] e
  }
"""
START = """  q = constant() {value=0.0} : float[n=2]
  store c q
"""
TOTAL = """  k = collect(u) sum (t, B) : float[n=2]
  add s k
  r = load s : float[n=2]
  store o r
"""
FILL = """  u = load x[0..min(T)] : float[t=T, B; n=2]
  store a[0..min(T)] u
"""


def test_a_sequence_and_the_loop_that_reads_it_share_strips() -> None:
    assert found(entry(FILL + LOOP)) == [(3, 1, (("a", 0), ("b", 1)))]
    assert found(entry(FILL + BACK)) == [(3, -1, (("a", 0),))]


def test_loops_of_both_directions_do_not() -> None:
    assert found(entry(FILL + LOOP + BACK)) == [(3, 1, (("b", 1),))]


@pytest.mark.parametrize(("row", "shared"), [(0, True), (1, True), (2, False)])
def test_rows_of_later_steps_are_waited_for(row: int, shared: bool) -> None:
    """The loop leaves row t + 1 at step t."""
    last = "min(T)" if row == 0 else f"min(T + {row})"
    read = f"  z = load b[{row}..{last}] : float[t=T, B; n=2]\n  store y[0..min(T)] z\n"
    assert [number for number, _, _ in found(entry(FILL + LOOP + read))] == ([5] if shared else [3])


def test_sums_are_sums_of_sums() -> None:
    """A total is added to strip by strip and read behind all of them."""
    body = entry(FILL + TOTAL)
    assert [type(stmt).__name__ for stmt in body] == ["Strips", "Load", "Store"]
    assert found(body)[0][0] == 4


def test_a_total_that_is_worked_with_leaves_the_entry_as_it_is() -> None:
    lines = FILL + "  k = collect(u) sum (t, B) : float[n=2]\n  r = neg(k) : float[n=2]\n  store o r\n"
    assert found(entry(lines)) == []


def test_what_varies_with_no_step_stands_in_front() -> None:
    assert [type(stmt).__name__ for stmt in entry(FILL + START + LOOP)] == ["Op", "Store", "Strips"]


def test_what_a_loop_leaves_is_read_behind() -> None:
    lines = FILL + LOOP + "  l = load b[T] : float[B; n=2]\n  store c l\n"
    assert [type(stmt).__name__ for stmt in entry(lines)] == ["Strips", "Load", "Store"]


def test_layers_share_strips() -> None:
    """All steps of both layers, on the way forward and back."""
    program = analyse(LAYERS).program.program
    for name in ("forward", "backward"):
        body = stripped(program, name, tape_of(program))
        (made,) = [stmt for stmt in body if isinstance(stmt, Strips)]
        assert sum(isinstance(stmt, For) for stmt in made.body) == 2


def test_what_only_strips_touch_has_their_room() -> None:
    text = lower(analyse(SPEC).program).source
    backward = text[text.index("/* backward of") :].partition("\n}\n")[0]
    assert backward.count("room += SIZED(T * B") == 0
    assert backward.count("room += SIZED(k") > 1


narrowed = strips._Walker._narrowed  # pyright: ignore[reportPrivateUsage]


# -- planted faults ---------------------------------------------------------------------------------------------------
def _together(*_: Any) -> bool:
    """Everything that is local stands in one strip."""
    return True


def _never(*_: Any) -> bool:
    """Nothing meets anything."""
    return False


def _all_own(self: Any, touched: Any, counts: Any, tape: Any) -> list[tuple[str, int]]:
    """Buffers that later strips read take the room of one."""
    names = dict.fromkeys(name for name, _, row in touched if row is not None)
    return [(name, 0) for name in names if self.storages[name].kind == "buffer" and name not in tape]


def _whole_loops(self: Any, stmt: Stmt) -> Stmt:
    """Loops run over all steps in each strip."""
    return stmt if isinstance(stmt, For) else narrowed(self, stmt)


def several() -> None:
    for seed in range(12):
        assert_close_gradients(native, seeded(seed))


FAULTS: dict[str, tuple[str, Callable[..., Any]]] = {
    "all_own": ("_own", _all_own),
    "nothing_meets": ("_meets", _never),
    "whole_loops": ("_narrowed", _whole_loops),
}


PROGRAMS = {"forward": FILL + LOOP + TOTAL, "backward": START + FILL + BACK, "both": START + FILL + LOOP + BACK + TOTAL}


@pytest.mark.compiler
@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_equals_the_interpreter(name: str) -> None:
    compare(HEAD + PROGRAMS[name] + "}\n")


@pytest.mark.compiler
def test_loops_of_both_directions_in_one_strip_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips._Walker, "_joins", _together)  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(AssertionError):
        compare(HEAD + PROGRAMS["both"] + "}\n")


@pytest.mark.compiler
@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_faults_are_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, change = FAULTS[fault]
    monkeypatch.setattr(strips._Walker, name, change)  # pyright: ignore[reportPrivateUsage]
    with pytest.raises((AssertionError, KeyError)):
        several()
