"""Rules whose windows end together share a reverse pass: against the definition, with planted faults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from program_runs import assembled, run

from recdsl import compile as compile_spec
from recdsl import explain
from recdsl.backends.reference import Result
from recdsl.credit.plan import CreditPlan, RoutingClass
from recdsl.diagnostics import SpecError
from recdsl.program import sharing
from recdsl.program.adjoint import Share
from recdsl.program.checker import verify
from recdsl.program.lower import Domain, Emitter
from recdsl.testing import Case, assert_close_gradients, assert_matches, random_case, reference

torch.set_num_threads(1)
Rules = tuple[tuple[str, str], ...]
MIXTURES: tuple[Rules, ...] = (
    (("p1", "tbptt(window=2)"), ("p2", "tbptt(window=3, every=2)"), ("default", "tbptt(window=5, every=2)")),
    (("s1", "tbptt(window=4, every=3)"), ("p3", "tbptt(window=3)"), ("default", "tbptt(window=7, every=3)")),
    (("p1", "columns(window=3)"), ("p2", "tbptt(window=3)"), ("default", "snap(1, window=5, every=3)")),
    (
        ("p1", "rule(scope=all, window=4, every=2)"),
        ("p3", "snap(1, window=2)"),
        ("default", "tbptt(window=3, every=2)"),
    ),
)
SEEDS = range(12)


@cache
def mixed(seed: int, rules: Rules) -> Case | None:
    """A case of which some rules share a pass."""
    have = {p.name for p in random_case(seed, rules).graph.parameters}
    case = random_case(seed, tuple(rule for rule in rules if rule[0] in have or rule[0] == "default"))
    try:
        return case if case.plan.shared else None
    except SpecError:
        return None


@cache
def definition(seed: int, rules: Rules) -> Result | None:
    """Computed before anything is patched."""
    case = mixed(seed, rules)
    return None if case is None else reference(case)


def cases(rules: Rules) -> list[int]:
    return [seed for seed in SEEDS if mixed(seed, rules) is not None]


@pytest.mark.parametrize("rules", MIXTURES, ids=["reverse", "starts", "columns", "traces"])
def test_programs_equal_the_definition(rules: Rules) -> None:
    found = cases(rules)
    assert len(found) > 3
    for seed in found:
        case, expected = mixed(seed, rules), definition(seed, rules)
        assert case is not None
        assert expected is not None
        made = assembled(case)
        verify(made.program)
        assert_matches(run(case, made).gradients, expected.gradients, f"{seed}: gradient of")


@pytest.mark.parametrize("rules", MIXTURES, ids=["reverse", "starts", "columns", "traces"])
def test_modules_equal_the_definition(rules: Rules) -> None:
    for seed in cases(rules)[:5]:
        case, expected = mixed(seed, rules), definition(seed, rules)
        assert case is not None
        assert_close_gradients(lambda c: compile_spec(c.text, dtype=torch.float64), case, expected=expected)


# planted faults: comparison with the definition finds each of them
SHORTENED, SHARES, SHORT = Emitter._shortened, sharing.shares, sharing.short  # pyright: ignore[reportPrivateUsage]


def steps_behind_are_kept(plan: CreditPlan, index: int) -> tuple[Share, ...]:
    return tuple(Share(0, share.parameters, share.starts) for share in SHARES(plan, index))


def cut_moved(by: int) -> Callable[[Emitter, int], Domain]:
    return lambda self, short: SHORTENED(self, max(0, short + by))


def starts_for_all(plan: CreditPlan, index: int) -> tuple[Share, ...]:
    return tuple(Share(share.short, share.parameters, starts=True) for share in SHARES(plan, index))


def starts_for_none(plan: CreditPlan, index: int) -> tuple[Share, ...]:
    return tuple(Share(share.short, share.parameters, starts=False) for share in SHARES(plan, index))


def read_where_the_pass_begins(plan: CreditPlan, index: int, made: RoutingClass) -> int:
    """Traces of a shorter window meet the cotangents of the longest one's boundary."""
    return 0 if made.tracing is not None else SHORT(plan, index, made)


FAULTS: dict[str, tuple[Any, str, Any, Sequence[int]]] = {
    "uses behind a shorter window are kept": (sharing, "shares", steps_behind_are_kept, (0, 1, 2, 3)),
    "the cut of a shorter window is a step late": (Emitter, "_shortened", cut_moved(1), (0, 1, 2, 3)),
    "the cut of a shorter window is a step early": (Emitter, "_shortened", cut_moved(-1), (0, 1, 2, 3)),
    "initial values have what traces give them": (sharing, "shares", starts_for_all, (2, 3)),
    "initial values have nothing": (sharing, "shares", starts_for_none, (0, 1)),
    "traces are read where the longest window begins": (sharing, "short", read_where_the_pass_begins, (2, 3)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, mutant, places = FAULTS[fault]
    known = [(seed, MIXTURES[k], definition(seed, MIXTURES[k])) for k in places for seed in cases(MIXTURES[k])]
    monkeypatch.setattr(owner, name, mutant)
    assert any(differs(seed, rules, expected) for seed, rules, expected in known)


def differs(seed: int, rules: Rules, expected: Result | None) -> bool:
    case = mixed(seed, rules)
    if case is None or expected is None:
        return False
    try:
        assert_matches(run(case, assembled(case)).gradients, expected.gradients)
    except AssertionError:
        return True
    return False


# what is shared
TWO = """
recdsl: 1
sizes: {n: 3}
inputs: {x: "float[n]"}
targets: {y: "float[n]"}
step: |
  a = gru(x, size=n)
  b = gru(a, size=n)
  c = linear(b, size=n)
loss:
  far: mse(c, y)
  near: {value: "mse(a, y)", trains: NEAR}
credit: CREDIT
"""


@pytest.mark.parametrize(
    ("credit", "near", "passes"),
    [
        ('{a.*: tbptt(window=10), default: "tbptt(window=40, every=10)"}', "a.*", 1),
        ("{a.*: columns(window=10), default: tbptt(window=10)}", "a.*", 1),
        ("{a.*: tbptt(window=10), default: tbptt(window=40)}", "a.*", 2),
        ("{a.*: tbptt(window=10), default: bptt}", "a.*", 2),
        ("{a.*: tbptt(window=10), default: rtrl}", "a.*", 1),
        ('{a.*: tbptt(window=10), default: "tbptt(window=40, every=10)"}', "a.Wz", 2),
    ],
)
def test_passes_are_shared_where_windows_end_together_and_losses_agree(credit: str, near: str, passes: int) -> None:
    """Losses of one window are not those of another unless they end together; what must not train is kept out."""
    report = explain(TWO.replace("CREDIT", credit).replace("NEAR", near))
    assert len(report.passes) == passes
    assert sorted(name for names in report.passes for name in names) == sorted(
        row.parameter for row in report.rows if row.rule != "rtrl"
    )


def test_explain_names_the_rules_that_share_a_pass() -> None:
    shown = str(
        explain(TWO.replace("CREDIT", '{a.Wz: tbptt(2), default: "tbptt(window=4, every=2)"}').replace("NEAR", "a.*"))
    )
    assert "1 reverse pass\n  tbptt(window=4, every=2) for a.Wr, a.Wn" in shown
    assert "with tbptt(window=2) for a.Wz\n" in shown
    assert "reverse pass" not in str(explain(TWO.replace("CREDIT", "tbptt(4)").replace("NEAR", "a.*")))


def test_explain_names_losses_where_passes_differ_by_them() -> None:
    shown = str(explain(TWO.replace("CREDIT", "bptt").replace("NEAR", "a.Wz")))
    assert "2 reverse passes\n" in shown
    assert "  bptt for a.Wz, " in shown
    assert "; from far, near\n  bptt for a.Wr, " in shown
    assert shown.count("; from far") == 2
    both = explain(TWO.replace("CREDIT", "{a.*: tbptt(window=10), default: bptt}").replace("NEAR", "a.*"))
    assert len(both.passes) == 2


STORED = """
recdsl: 1
sizes: {n: 2}
inputs: {x: "float[n]"}
targets: {y: "float[n]"}
params: {K: "float[n, n] ~ normal(0, 1)", V: "float[n, n] ~ normal(0, 1)"}
memory:
  past:
    slots: 4
    write: {key: code, value: x}
    read: {query: x, select: all, score: dot, normalise: softmax}
step: |
  code = tanh(K @ x)
  h = tanh(V @ h[t-1] + x + past.read)
loss: mse(h, y)
credit: {past: through, V: tbptt(20), default: bptt}
"""


def test_rows_of_a_store_have_a_pass() -> None:
    """They have no rule of their own, and no line in the table."""
    shown = str(explain(STORED))
    assert "2 reverse passes\n" in shown
    assert "credit for past.key\n" in shown


@pytest.mark.parametrize("rules", MIXTURES)
def test_as_many_passes_are_named_as_programs_have(rules: Rules) -> None:
    for case in [case for seed in SEEDS if (case := mixed(seed, rules)) is not None]:
        plan = case.plan
        assert len(plan.passes) == len(sharing.reverse(plan)) + len(sharing.hybrid(plan))
        traced = {name for c in plan.classes if c.tracing and c.window.size == 1 for name in c.parameters}
        named = [name for names in plan.passes for name in names]
        assert sorted([*named, *traced]) == sorted(name for c in plan.classes for name in c.parameters)
