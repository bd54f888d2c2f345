"""gradcheck of forward rules and mixtures: claim beside measurement, and what is refused because it would take long."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_support import SPECS, run, tiny

import recdsl.training.gradcheck as measuring
from recdsl.driver import analyse
from recdsl.training import chance, enumeration
from recdsl.training.gradcheck import TooCostly

RULES = ("rtrl", "snap(1)", "columns", "rflo")
MIXED = """\
recdsl: 1
name: mixed
sizes: {n: 3}
inputs: {x: "float[n]"}
targets: {y: "float[n]"}
step: |
  low = gru(x, size=n)
  high = elman(low, size=n)
  out = linear(high, size=n)
loss: mse(out, y)
credit:
  low.*: snap(1)
  high.*: columns
  default: tbptt(window=3)
"""


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["adding_gru", "copy_lstm"])
def test_forward_rules_on_shipped_specs(name: str, rule: str) -> None:
    done = run("gradcheck", str(SPECS / f"{name}.yaml"), "sizes.hidden=3", f"credit={rule}", "--steps", "8", "--json")
    assert done.status == 0, done.out
    rows = done.json["rows"]
    assert {row["rule"].partition("(")[0] for row in rows} == {rule.partition("(")[0]}
    assert all(row["definition"] < 1e-10 for row in rows)
    assert all(row["full"] < 1e-10 for row in rows if row["verdict"] == "exact")
    biased = [row for row in rows if row["verdict"] == "biased"]
    assert bool(biased) == (rule != "rtrl")
    assert all(row["full"] > 1e-4 and row["cosine"] < 1 and not row["note"] for row in biased)


def test_mixtures_name_each_parameters_rule(tmp_path: Path) -> None:
    path = tiny(tmp_path, MIXED)
    rows = {row["parameter"]: row for row in run("gradcheck", path, "--json").json["rows"]}
    assert rows["low.Ur"]["rule"] == "snap(n=1)"
    assert rows["high.U"]["rule"] == "columns"
    assert rows["out.W"]["rule"] == "tbptt(window=3)"
    assert rows["out.W"]["verdict"] == "exact"
    assert rows["high.U"]["verdict"] == "biased"
    assert all(row["definition"] < 1e-10 for row in rows.values())
    shown = run("gradcheck", path)
    assert shown.status == 0
    assert "high.U     columns" in shown.out


def test_a_biased_parameter_that_loses_nothing_is_noted(tmp_path: Path) -> None:
    done = run("gradcheck", tiny(tmp_path), "credit=snap(1)", "--steps", "1")
    assert done.status == 0
    assert "nothing is lost in this batch" in done.out


STACK = MIXED[: MIXED.index("credit:")]


@pytest.mark.parametrize("rule", ["artbp(mean=3)", "uoro"])
def test_random_rules_are_compared_draw_by_draw_and_by_their_mean(
    rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chance, "DRAWS", 100)
    monkeypatch.setattr(enumeration, "MOST", 0)
    done = run("gradcheck", tiny(tmp_path, STACK), f"credit={rule}", "--steps", "6", "--json")
    assert done.status == 0, done.out
    rows = {row["parameter"]: row for row in done.json["rows"]}
    assert rows["low.Ur"]["verdict"] == "unbiased"
    assert rows["low.Ur"]["definition"] < 1e-8 < rows["low.Ur"]["full"]
    assert "mean of 100 draws" in rows["low.Ur"]["note"]
    assert rows["out.W"]["verdict"] == "exact"


@pytest.mark.parametrize("rule", ["artbp(mean=3)", "artbp(3, schedule=decreasing(4))", "uoro", "uoro(batch=joint)"])
def test_short_calls_have_the_mean_of_all_draws(rule: str, tmp_path: Path) -> None:
    """Signs of a state of two (jointly: of one) units, or cuts between eight steps."""
    joint = ["sizes.n=1"] if "joint" in rule else []
    done = run("gradcheck", tiny(tmp_path, RATE), f"credit={rule}", *joint, "--steps", "4", "--json")
    assert done.status == 0, done.out
    rows = {row["parameter"]: row for row in done.json["rows"]}
    count, steps = (128, 8) if "artbp" in rule else (256, 5)
    assert f"mean of all {count} draws in {steps} steps" in rows["W"]["note"]
    assert "e-1" in rows["W"]["note"]
    assert rows["V"]["verdict"] == "exact"


def test_wrong_chances_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enumeration, "cut", lambda cuts, pattern: (0.5 ** len(pattern), right(cuts, pattern)[1]))
    done = run("gradcheck", tiny(tmp_path, RATE), "credit=artbp(mean=3)", "--steps", "4", "--json")
    assert done.status != 0
    assert "said to be unbiased" in done.out


right = enumeration.cut
RATE = """\
recdsl: 1
sizes: {n: 2}
inputs: {x: "float[n]"}
targets: {y: float}
params:
  W: "float[n, n] ~ normal(0, 0.5)"
  V: "float[n] ~ normal(0, 0.5)"
step: |
  h = 0.8 * h[t-1] + 0.2 * tanh(W @ h[t-1] + x)
  v = V @ h
loss: mse(v, y)
credit: bptt
"""


def test_a_false_claim_of_no_bias_is_contradicted(tmp_path: Path) -> None:
    made = analyse(tiny(tmp_path), ["credit=tbptt(window=2)"])
    rows = tuple(replace(row, verdict="unbiased") for row in made.plan.rows)
    (found,) = measuring.gradcheck(replace(made, plan=replace(made.plan, rows=rows))).rows
    assert "said to be unbiased" in found.problem


def test_means_of_draws() -> None:
    """Noise around the gradient passes; the same noise around a tenth less does not."""
    whole = {"w": torch.arange(1.0, 6.0, dtype=torch.float64)}

    def mean(scale: float) -> chance.Mean:
        return chance.means(lambda: {"w": scale * whole["w"] + torch.randn(5, dtype=torch.float64)}, whole, ["w"], 3)[
            "w"
        ]

    assert not mean(1.0).contradicted
    assert mean(1.0).share == pytest.approx(1, abs=5 * mean(1.0).error)
    assert mean(0.9).contradicted


def test_a_parameter_without_credit_is_noted(tmp_path: Path) -> None:
    rows = run("gradcheck", tiny(tmp_path, STACK), "credit=rflo", "--json").json["rows"]
    low = [row for row in rows if row["parameter"].startswith("low")]
    assert {row["note"] for row in low} == {"gets no gradient at all"}
    assert {row["ratio"] for row in low} == {0.0}


def test_a_forward_rule_that_is_not_its_definition(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = measuring.gradients
    monkeypatch.setattr(measuring, "gradients", lambda m, d: {k: v * 1.001 for k, v in original(m, d).items()})
    done = run("gradcheck", tiny(tmp_path), "credit=columns")
    assert done.status == 1
    assert "differs from the rule's definition" in done.out


@pytest.mark.parametrize("rule", RULES)
def test_what_takes_long_is_refused_at_once(rule: str) -> None:
    done = run("gradcheck", str(SPECS / "copy_lstm.yaml"), f"credit={rule}")
    assert done.status == 2
    assert "operations, more than" in done.err
    assert "smaller sizes (sizes.NAME=...)" in done.err


def test_bounds_count_copies_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    made = analyse(str(SPECS / "copy_lstm.yaml"), ["sizes.hidden=8", "credit=snap(1)"])
    (routing,) = made.plan.classes
    runs = measuring.definition_runs(made.graph, routing, 12)
    assert sum(lanes for _, lanes in runs) == sum(p.type.numel for p in made.graph.parameters)
    measuring.bounded(made.graph, made.plan, 12, 2)
    for name in ("LARGEST_WORK", "LARGEST_BYTES"):
        with monkeypatch.context() as patch:
            patch.setattr(measuring, name, 10_000)
            _refused(made, "GiB" if name == "LARGEST_BYTES" else "operations")


def _refused(made: Any, word: str) -> None:
    with pytest.raises(TooCostly, match=word):
        measuring.bounded(made.graph, made.plan, 12, 2)


@pytest.mark.parametrize("command", ["gradcheck", "compare"])
def test_a_model_without_inputs_has_nothing_to_measure(command: str) -> None:
    done = run(command, str(SPECS.parent / "tests" / "good" / "minimal.yaml"))
    assert done.status == 2
    assert "neither inputs nor targets" in done.err
