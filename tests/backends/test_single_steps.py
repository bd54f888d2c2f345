"""Entries of a call of one step, written as one straight line: the interpreter finds in it what the loops make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from backend_support import corpus
from torch import Tensor

import recdsl.program.passes.single as single_stage
from recdsl.backends.torch.module import ragged_pair
from recdsl.diagnostics import SpecError
from recdsl.program.assemble import assemble
from recdsl.program.interface import Assembled
from recdsl.program.interpreter import Machine
from recdsl.program.ir import For, Op, Program
from recdsl.program.parse import parse
from recdsl.program.passes.single import single
from recdsl.testing import Case, random_case

RULES = ("columns", "snap(1)", "rtrl", "columns(window=3)", "rflo", "tbptt(window=4)")
ENTRIES = ("forward", "windows", "traces", "backward")
Plant = Callable[[pytest.MonkeyPatch], None]


def made(case: Case, *, ragged: bool) -> Assembled:
    return assemble(*ragged_pair(case.graph, case.plan)) if ragged else assemble(case.graph, case.plan)


def cases(rule: str) -> list[Case]:
    found: list[Case] = []
    for key in ("slices", "stacked", *range(3)):
        try:
            found.append(corpus(key, 1, rule) if isinstance(key, str) else random_case(key, (("default", rule),)))
        except SpecError:
            continue
    return found


def sizes_of(case: Case, batch: int) -> dict[str, int]:
    return {"T": 1, "B": batch, **{f"windows{k}": 1 for k in range(len(case.plan.classes))}}


def drawn(program: Program, machine: Machine) -> dict[str, Tensor]:
    """Numbers for everything that comes from outside."""
    generator = torch.Generator().manual_seed(7)
    found: dict[str, Tensor] = {}
    for storage in program.storages:
        if storage.kind in ("input", "parameter"):
            shape = machine.cells[storage.name].array.shape
            x = torch.randn(shape, generator=generator, dtype=torch.float64)
            kind = storage.type.dtype
            found[storage.name] = x if kind == "float" else (x > 0) if kind == "bool" else torch.zeros_like(x).long()
    return found


def left(program: Program, entries: tuple[str, ...], sizes: dict[str, int]) -> dict[str, Tensor]:
    """What the entries write for the caller."""
    machine = Machine(program, torch, sizes)
    for name, value in drawn(program, machine).items():
        machine.put(name, value)
    for entry in entries:
        assert machine.run(entry)
    return {s.name: machine.get(s.name) for s in program.storages if s.kind == "output"}


def line_of(program: Program, entries: tuple[str, ...], sizes: dict[str, int]) -> Program:
    unread = {storage.name for storage in program.storages if storage.name.removeprefix("out").isdigit()}
    return single(program, entries, sizes, unread)


def agrees(case: Case, batch: int, *, ragged: bool) -> bool:
    """Whether there is a line; if there is, it leaves the same numbers."""
    program = made(case, ragged=ragged).program
    names = dict(program.entries)
    entries, sizes = tuple(name for name in ENTRIES if name in names), sizes_of(case, batch)
    line = line_of(program, entries, sizes)
    if line is program:
        return False
    (body,) = (body for _, body in line.entries)
    assert not any(isinstance(stmt, For) for stmt in body)
    mine, expected = left(line, ("forward",), sizes), left(program, entries, sizes)
    for name, value in expected.items():
        if not name.removeprefix("out").isdigit():
            assert torch.allclose(mine[name], value, rtol=1e-10, atol=1e-10, equal_nan=True), name
    return True


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("batch", [1, 2])
def test_a_line_leaves_what_loops_leave(rule: str, batch: int) -> None:
    found = [agrees(case, batch, ragged=ragged) for case in cases(rule) for ragged in (False, True)]
    assert sum(found) >= len(found) // 2 > 0


def test_values_have_no_axis_of_one_entry_and_products_with_zero_are_left_out() -> None:
    case = random_case(0, (("default", "columns"),))
    program = made(case, ragged=False).program
    line = line_of(program, ("forward", "traces"), sizes_of(case, 1))
    ops = [stmt for stmt in dict(line.entries)["forward"] if isinstance(stmt, Op)]
    assert ops
    assert not any(kind.lead for op in ops for kind in op.types)
    assert not any(op.joint for op in ops)


LOOPS = """
program rows

storage x: input float[T, B; a=2] call
storage kept: buffer float[t=T + 1, B; a=2] call
storage total: accumulate float[a=2] call
storage y: output float[B; a=2] call
storage z: output float[a=2] call

entry forward {
  x0 = load x[0] : float[B; a=2]
  store kept[0] x0
  old = load kept[0] : float[B; a=2]
  both = add(old, old) : float[B; a=2]
  store kept[0..min(T + 1)] both
  new = load kept[0] : float[B; a=2]
  store y new
  one = collect(new) : float[a=2]
  add total one
  add total one
  sum = load total : float[a=2]
  store z sum
}
"""


def check_rows() -> None:
    """Rows that are overwritten as part of a range, and a sum of two values."""
    program = parse(LOOPS)
    for batch in (1, 3):
        sizes = {"T": 1, "B": batch}
        line = single(program, ("forward",), sizes, ())
        assert line is not program
        mine, expected = (left(which, ("forward",), sizes) for which in (line, program))
        for name, value in expected.items():
            assert torch.equal(mine[name], value), name


def test_what_is_overwritten_is_not_read() -> None:
    check_rows()


def test_what_needs_many_runs_of_a_loop_stays_as_it_is() -> None:
    program = made(random_case(0, (("default", "columns"),)), ragged=False).program
    assert single(program, ("forward",), {"T": 9, "B": 1}, ()) is program


def _change(name: str, new: Any) -> Plant:
    return lambda patch: patch.setattr(vars(single_stage)["_Line"], name, new)


def _products(line: Any, op: Op, args: Any) -> float | None:
    return 0.0 if op.op in ("mul", "constant") else None


def _zero_times(line: Any, op: Op, args: Any, kind: Any, *, summed: bool) -> str | None:
    found = [other for one, other in (args, args[::-1]) if line.numbers.get(one) == 0.0] if op.op == "mul" else []
    return found[0] if found and line.types[found[0]] == kind else None


def _never(line: Any, name: str, place: Any) -> None:
    return None


MUTANTS: dict[str, Plant] = {
    "what is overwritten is still read": _change("_write", _never),
    "rows of a range are apart from others": lambda patch: patch.setattr(single_stage, "_apart", lambda a, b: True),
    "every product is zero": _change("_constant", _products),
    "zero times a value is the value": _change("_same", _zero_times),
}


def check_all() -> None:
    check_rows()
    test_a_line_leaves_what_loops_leave("columns", 2)
    test_a_line_leaves_what_loops_leave("tbptt(window=4)", 2)


@pytest.mark.parametrize("name", MUTANTS)
def test_faults_are_rejected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    MUTANTS[name](monkeypatch)
    with pytest.raises(AssertionError):
        check_all()
