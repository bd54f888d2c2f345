"""What `explain` says beside the table: remarks, and what each qualifier means."""

from __future__ import annotations

import pytest

from recdsl.credit.notes import QUALIFIERS
from recdsl.credit.report import Report
from recdsl.credit.rules import catalogue
from recdsl.driver import analyse

HEAD = """recdsl: 1
name: sparse
sizes: {i: 3, n: 4}
inputs: {x: "float[i]"}
targets: {y: float}
params: {w: "float[n] ~ normal(0, 1)"}
step: |
  h = elman(x, size=n)
  v = w @ abs(h)
"""


def shown(loss: str, credit: str) -> Report:
    made = analyse(f"{HEAD}loss: {loss}\ncredit: {credit}\n")
    return Report.of(made.plan)


@pytest.mark.parametrize(
    ("at", "credit", "said"),
    [
        ("last", "tbptt(window=10)", "at most the last 10 steps of a call get credit"),
        ("every(12)", "tbptt(window=10)", "at most the last 10 steps of them get credit"),
        ("every(12)", "none", "at most the last step of them get credit"),
        ("every(10)", "tbptt(window=10)", ""),
        ("last", "bptt", ""),
        ("last", "rtrl", ""),
    ],
)
def test_losses_that_are_rarer_than_windows_are_long(at: str, credit: str, said: str) -> None:
    made = shown(f'{{value: "mse(v, y)", at: {at}}}', credit)
    assert [item.line for item in made.remarks] == ([10] if said else [])
    assert said in str(made)


@pytest.mark.parametrize("name", catalogue())
def test_every_rule_uses_qualifiers_that_are_explained(name: str) -> None:
    rule = catalogue()[name]
    given = {"window": 2, "n": 1, "mean": 3, "truncate": 2, "hidden": 2}
    words = [f"{a.name}={given[a.name]}" for a in rule.arguments if a.name in given]
    made = shown("mse(v, y)", f"{name}({', '.join(words)})" if words else name)
    assert {word for row in made.rows for word in row.qualifiers} <= QUALIFIERS.keys()


def test_each_qualifier_is_explained_where_it_occurs() -> None:
    made = shown("mse(v, y)", "bptt")
    words = {word for row in made.rows for word in row.qualifiers}
    assert words == {"declared-jacobian"}
    assert f"declared-jacobian:  {QUALIFIERS['declared-jacobian']}" in str(made)
