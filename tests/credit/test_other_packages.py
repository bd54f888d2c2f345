"""Rules of other packages: found by an entry point, tested by the public helpers, refused with one clear error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import recdsl.program.traces as traces_stage
from recdsl import compile as compile_spec
from recdsl import explain
from recdsl.credit.rules import find, names
from recdsl.diagnostics import SpecError
from recdsl.jacobian.pieces import Piece
from recdsl.testing import Case, check_rule, random_case, rule_conforms

PLUGIN = Path(__file__).parent.parent / "plugin"
SPEC = """\
recdsl: 1
name: unit
sizes: {n: 3}
inputs: {x: "float[n]"}
targets: {y: "float[n]"}
params: {U: "float[n, n] ~ normal(0, 0.5)", k: "float[n] = 0.5"}
step: |
  h = tanh(k * h[t-1] + U @ x)
loss: mse(h, y)
credit: RULE
"""


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package as installed: its module and its metadata on the path."""
    monkeypatch.syspath_prepend(str(PLUGIN))
    yield
    sys.modules.pop("decayed_snap", None)


def announce(folder: Path, package: str, line: str) -> None:
    """Metadata of a package with one entry point."""
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[recdsl.rules]\n{line}\n")


test_a_rule_of_another_package_conforms = rule_conforms("decayed_snap(rho=0.5)", examples=15)


@pytest.mark.parametrize("seed", range(12))
def test_on_known_cases(seed: int) -> None:
    check_rule(random_case(seed, (("default", "decayed_snap(0.7)"),)))


def test_it_is_listed_and_explained() -> None:
    assert "decayed_snap" in names()
    rows = {row.parameter: row for row in explain(SPEC.replace("RULE", "decayed_snap(0.9)")).rows}
    assert {(row.verdict, row.first_dropped_lag, row.longest_kept_lag) for row in rows.values()} == {
        ("biased", 1, None)
    }
    assert all("decay" in row.qualifiers and row.dropped[0].edge == "h[t-1] -> h" for row in rows.values())
    assert all(row.verdict == "exact" for row in explain(SPEC.replace("RULE", "decayed_snap(1)")).rows)


def test_what_it_computes() -> None:
    """By hand: J <- rho (1 - h^2) k J + (1 - h^2) h_before for the gains of separate units."""
    model = compile_spec(SPEC.replace("RULE", "decayed_snap(0.6)"), dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(6, 1, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    model({"x": x, "y": y}).loss.backward()
    k, matrix = model.get_parameter("k").detach(), model.get_parameter("U").detach()
    h, trace, total = torch.zeros(3).double(), torch.zeros(3).double(), torch.zeros(3).double()
    for t in range(6):
        new = torch.tanh(k * h + matrix @ x[t, 0])
        trace = (1 - new**2) * (0.6 * k * trace + h)
        total += 2 * (new - y[t, 0]) / 3 / 6 * trace
        h = new
    assert torch.allclose(model.get_parameter("k").grad, total, atol=1e-14)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("line", "rule", "words"),
    [
        ("snap = decayed_snap:RULE", "snap(1)", "recdsl itself has a rule of that name too"),
        ("decayed_snap = decayed_snap:RULE", "decayed_snap(1)", "has a rule of that name too"),
        ("fades = nowhere.to_be_found:RULE", "fades", "No module named 'nowhere'"),
        ("fades = decayed_snap:NOTHING", "fades", "AttributeError"),
        ("fades = decayed_snap:Tracing", "fades", "is of type `type`"),
        ("fades = decayed_snap:RULE", "fades", "calls itself `decayed_snap`"),
        ("lost = faulty_rules:LOST", "lost", "has no scope `elsewhere`"),
        ("torn = faulty_rules:TORN", "torn", "has no cuts `anywhere`"),
    ],
)
def test_one_error_for_a_package_that_is_amiss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, rule: str, words: str
) -> None:
    announce(tmp_path, "amiss", line)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(SpecError) as caught:
        explain(SPEC.replace("RULE", rule))
    (problem,) = caught.value.problems
    assert problem.code == "RD0511"
    assert words in problem.text()
    assert problem.span.line == 10
    assert find("bptt") is not None


@pytest.mark.parametrize("rho", ["0", "1.5", "-0.5", "much", "true"])
def test_a_factor_out_of_range(rho: str) -> None:
    with pytest.raises(SpecError) as caught:
        explain(SPEC.replace("RULE", f"decayed_snap({rho})"))
    assert [problem.code for problem in caught.value.problems] == ["RD0503"]


def passes(case: Case) -> bool:
    try:
        check_rule(case)
    except AssertionError:
        return False
    return True


def twice(decayed: Any) -> Any:
    return lambda self, pair, piece: decayed(self, pair, decayed(self, pair, piece))


def never(_: Any) -> Any:
    return lambda self, pair, piece: piece


def through_masks(_: Any) -> Any:
    """A step that is left out takes its toll too."""

    def faulty(self: Any, pair: Any, piece: Piece) -> Piece:
        rho = self.routing.tracing.decay
        return replace(piece, value=self.b.op("mul", piece.value, self.b.const(rho, piece.value)))

    return faulty


@pytest.mark.parametrize("fault", [twice, never, through_masks])
def test_a_faulty_decay_is_found(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tracing = vars(traces_stage)["_Tracing"]
    cases = [random_case(seed, (("default", "decayed_snap(0.7)"),)) for seed in (*range(6), 49, 54)]
    assert all(case.plan for case in cases)
    monkeypatch.setattr(tracing, "_decayed", fault(tracing._decayed))
    assert not all(passes(case) for case in cases)
