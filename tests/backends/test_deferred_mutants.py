"""Faults planted in traces that go from window to window: the definition, or the traces of the step-by-step form, must
reject each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
from backend_support import corpus
from program_runs import assembled, played
from test_deferred_traces import Planned, planned
from test_forward_rule_window_mutants import mask_lets_go, moved
from torch import Tensor

import recdsl.program.assemble as assemble_stage
import recdsl.program.learning as learning_stage
import recdsl.program.rows as rows_stage
from recdsl.credit.plan import Window
from recdsl.program.adjoint import Credit
from recdsl.program.ir import Affine, Bound, Stmt, Store
from recdsl.program.lower import Domain
from recdsl.program.rows import Rows
from recdsl.testing import Case, assert_matches, random_case, reference

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Known:
    """A case with what is not under test: gradients by the definition, traces step by step."""

    case: Planned
    gradients: dict[str, Tensor]
    traces: dict[str, Tensor]


def known_case(case: Case, short: Case) -> Known:
    made = planned(case)
    assert made is not None
    return Known(made, dict(reference(case).gradients), played(short, assembled(short))[1])


@cache
def known() -> tuple[Known, ...]:
    """Made before anything is patched: windows that end with the call and such that do not, masks, resets, delay lines,
    learned starts."""
    found: list[Known] = []
    for name, seed, size in (("learned_start", 0, 3), ("skip_paths", 1, 2), ("stacked", 1, 4)):
        found.append(known_case(corpus(name, seed, f"rtrl(window={size})"), corpus(name, seed, "rtrl(window=1)")))
    for seed in (0, 2, 3, 4, 6, 7):
        rules = [(("default", f"rtrl(window={size})"),) for size in (2 + seed % 3, 1)]
        long, short = (random_case(seed, rule) for rule in rules)
        if planned(long) is not None:
            found.append(known_case(long, short))
    assert len(found) > 4
    return tuple(found)


@pytest.fixture(scope="module", autouse=True)
def make_cases() -> None:
    known()


def rejected(known: Known) -> bool:
    """Whether gradients or traces differ; a program that cannot be made or run does."""
    try:
        result, traces = played(known.case, assembled(known.case))
        assert_matches(result.gradients, known.gradients, "gradient of")
        assert_matches(traces, known.traces, "trace")
    except (AssertionError, RuntimeError, ValueError, KeyError, IndexError):
        return True
    return False


def pass_between(change: Callable[[Domain], Domain]) -> Plant:
    """The pass of the rows goes over other steps than the window's."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        between = vars(learning_stage)["between"]
        patch.setattr(learning_stage, "between", lambda window: change(between(window)))

    return plant


def other_rows(change: Callable[[Rows], Rows]) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        make = vars(assemble_stage)["rows_timeline"]
        patch.setattr(assemble_stage, "rows_timeline", lambda *given, **more: change(make(*given, **more)))

    return plant


def other_credit(change: Callable[[Credit], Credit]) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        make = vars(rows_stage)["adjoint_timeline"]
        patch.setattr(rows_stage, "adjoint_timeline", lambda nodes, credit: make(nodes, change(credit)))

    return plant


def other_moves(change: Callable[[list[Stmt]], Sequence[Stmt]]) -> Plant:
    """Another `J <- d s_u / d theta + (d s_u / d s_b) J`."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        kind = vars(rows_stage)["JumpEmitter"]
        moved = kind._moved
        patch.setattr(kind, "_moved", lambda self, *given: list(change(moved(self, *given))))

    return plant


def ends_early(made: Domain) -> Domain:
    """The last step of a call is in no window."""
    steps, *rest = made.hi.parts
    return replace(made, hi=Bound("min", (Affine(steps.const - 1, steps.terms), *rest)))


def before_moving(patch: pytest.MonkeyPatch) -> None:
    """What is older is read behind the window that it enters, not in front of it."""
    kind = vars(rows_stage)["JumpEmitter"]
    moved, read = kind._moved, kind._read
    held: dict[int, Any] = {}

    def late(self: Any, *given: Any) -> list[Stmt]:
        held[0] = given
        return []

    patch.setattr(kind, "_read", late)
    patch.setattr(kind, "_moved", lambda self, *given: [*moved(self, *given), *read(self, *held[0])])


def wrong_last_round(patch: pytest.MonkeyPatch) -> None:
    """A short last window is left out."""
    rounds = vars(rows_stage)["rounds"]

    def faulty(index: int, window: Window) -> tuple[Bound, int]:
        hi, extra = rounds(index, window)
        return Bound("min", tuple(Affine(part.const - 1, part.terms) for part in hi.parts)), extra

    patch.setattr(rows_stage, "rounds", faulty)


def swapped(rows: Rows) -> Rows:
    """The rows of two states change places."""
    names = sorted(rows.parts)
    sizes = {size for _, size in rows.parts.values()}
    if len(names) < 2 or len(sizes) > 1:
        return rows
    return replace(rows, parts={name: rows.parts[other] for name, other in zip(names, names[::-1], strict=True)})


def read_of_another(patch: pytest.MonkeyPatch) -> None:
    """What becomes of one state is taken for what becomes of another."""
    kind = vars(rows_stage)["RowEmitter"]
    leaf = kind.leaf

    def faulty(self: Any, *given: Any) -> Any:
        kept, self.rows = self.rows, swapped(self.rows)
        made = leaf(self, *given)
        self.rows = kept
        return made

    patch.setattr(kind, "leaf", faulty)


MUTANTS: dict[str, Plant] = {
    "traces stay as they were": other_moves(lambda body: [s for s in body if not isinstance(s, Store)]),
    "read behind the window": before_moving,
    "windows begin a step early": pass_between(lambda d: replace(d, lo=moved(d.lo, -1))),
    "windows begin a step late": pass_between(lambda d: replace(d, lo=moved(d.lo, 1))),
    "windows a step later": pass_between(lambda d: replace(d, lo=moved(d.lo, 1), hi=moved(d.hi, 1))),
    "windows a step shorter": pass_between(lambda d: replace(d, hi=moved(d.hi, -1))),
    "the call's last step left out": pass_between(ends_early),
    "a short last window left out": wrong_last_round,
    "older influence forgotten": other_rows(lambda rows: replace(rows, jumps={})),
    "influence inside forgotten": other_rows(lambda rows: replace(rows, fresh={})),
    "one state's older influence forgotten": other_rows(
        lambda rows: replace(rows, jumps=dict([*rows.jumps.items()][1:]))
    ),
    "rows of another state": read_of_another,
    "initial values in the window and in traces": other_credit(lambda c: replace(c, behind={}, links=c.behind)),
    "delay lines skip their links": other_credit(
        lambda c: replace(c, behind=dict.fromkeys(c.behind, min(c.behind.values())) if len(c.behind) > 1 else c.behind)
    ),
    "a mask lets go": mask_lets_go,
}


def first_rejected() -> Known | None:
    return next((case for case in known() if rejected(case)), None)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_rejected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        MUTANTS[name](patch)
        found = first_rejected()
    assert found is not None
    assert not rejected(found)


def test_without_a_mutant_none_is_rejected() -> None:
    assert first_rejected() is None
