"""The command that compares backends: all kinds of rules on `native`; what differs is found, what is elsewhere said."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from recdsl.backends.native.ops import ELEMENTWISE
from recdsl.testing import agreement, claims

pytestmark = pytest.mark.compiler
torch.set_num_threads(1)
QUICK = agreement.maker("native", ("-O0",))
CASES = (
    (301, "uoro"), (302, "uoro(drift=reset)"), (301, "uoro(batch=joint)"), (305, "kf_rtrl"), (302, "artbp(mean=2)"),
    (301, "artbp(mean=3, schedule=decreasing(4))"), (302, "synthetic(window=2, hidden=3)"),
    (305, "synthetic(window=3, hidden=0)"), (301, "synthetic(window=2, hidden=3, learn=bp_lambda(0.7))"),
    (302, "eprop(feedback=random)"), (308, "rflo(feedback=random)"), (302, "eprop(filter=none)"),
    (304, "sab(truncate=2)"), (303, "sab(truncate=2, variant=sliding)"), (302, "columns(drift=rerun(2))"),
    (308, "rtrl(drift=accept)"), (302, "rule(scope=support(2), cuts=products)"),
    (301, "rule(scope=column, read=post, filter=readout)"), (302, "rule(weights=truncation(2))"),
    (304, "columns(window=3) / tbptt(window=3) / tbptt(window=5, every=3)"),
    (302, "rtrl / snap(1) / columns / tbptt(window=12)"),
)  # fmt: skip
"""Together they have masks, resets, incoming states, gradients at outputs, slots that are evicted, and top-k reads."""
STORES = (
    (301, "through & bptt"), (304, "reinstate(exact, encode=code, decode=stored) & tbptt(window=2)"),
    (303, "synthetic(hidden=2) & bptt"), (308, "param(lr=0.1) & bptt"),
)  # fmt: skip


@pytest.fixture(autouse=True)
def apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    yield
    for name in [name for name in sys.modules if name.startswith(("recdsl_generated_", "recdsl_native_"))]:
        del sys.modules[name]


@cache
def model(seed: int) -> claims.Drawn:
    return claims.model(seed)


@pytest.mark.parametrize(("seed", "rule"), [*CASES, *STORES])
def test_native_is_torch(seed: int, rule: str) -> None:
    tally = agreement.Tally()
    agreement.check(model(seed), rule, QUICK, tally)
    assert (tally.modules, tally.refused) == (1, 0)
    assert tally.calls >= 3
    assert not tally.elsewhere


def test_a_fault_is_found_and_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(ELEMENTWISE, "tanh", ("r_tanh({0}) * R(1.00000001)", 15))
    assert agreement.main(["--seeds", "302:303", "--rules", "snap(1)"]) == 1
    said = capsys.readouterr().out
    assert '--seeds 302:303 --rules "snap(1)": AssertionError' in said
    assert "1 modules, 0 rules refused" in said


def test_rules_that_do_not_fit_are_counted() -> None:
    tally = agreement.run(range(304, 305), ["rtrl"], QUICK)
    assert (tally.modules, tally.refused, tally.failures) == (0, 1, [])


def test_traces_are_compared_too() -> None:
    """Of a call in pieces."""
    seen: list[set[str]] = []

    def watch(found: Any, expected: Any) -> None:
        seen.append(set(expected))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(agreement, "agree", watch)
        agreement.check(model(308), "rtrl", agreement.maker("torch"), agreement.Tally())
    assert any("piece 0 state credit." in name for names in seen for name in names)
