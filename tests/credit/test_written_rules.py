"""Rules written out: every preset has a written form with the same plan, and what makes no sense is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from recdsl.credit.plan import CreditPlan
from recdsl.credit.rules import catalogue
from recdsl.diagnostics import SpecError
from recdsl.driver import analyse
from recdsl.testing import check_rule, random_case

SPEC = """\
recdsl: 1
name: rate
sizes: {i: 3, n: 4, o: 2}
inputs: {x: "float[i]"}
targets: {y: "float[o]"}
params:
  W: "float[n, n] ~ normal(0, 0.5)"
  U: "float[n, i] ~ normal(0, 0.5)"
  V: "float[o, n] ~ normal(0, 0.5)"
step: |
  h = 0.8 * h[t-1] + 0.2 * tanh(W @ h[t-1] + U @ x)
  v = V @ h
loss: mse(v, y)
credit: RULE
"""
WRITTEN = {
    "bptt": "rule",
    "none": "rule(window=1)",
    "tbptt(5)": "rule(window=5)",
    "tbptt(5, every=2)": "rule(window=5, every=2)",
    "rtrl": "rule(scope=all)",
    "rtrl(drift=reset)": "rule(scope=all, drift=reset)",
    "rtrl(drift=rerun(8))": "rule(scope=all, drift=rerun(8))",
    "snap(2)": "rule(scope=support(2), read=post)",
    "columns": "rule(scope=column)",
    "columns(4, every=2)": "rule(scope=column, window=4, every=2)",
    "snap(2, window=3)": "rule(scope=support(2), window=3)",
    "columns(axis=n, drift=decay(0.5))": "rule(scope=column(n), drift=decay(0.5))",
    "rflo": "rule(scope=column, cuts=products, read=post)",
    "rflo(feedback=random)": "rule(scope=column, cuts=products, read=post, feedback=random)",
    "eprop": "rule(scope=column, cuts=spikes, read=post, filter=readout)",
    "eprop(filter=none)": "rule(scope=column, cuts=spikes, read=post)",
    "uoro": "rule(scope=rank)",
    "uoro(batch=joint)": "rule(scope=rank(joint))",
    "kf_rtrl": "rule(scope=kronecker)",
    "artbp(5)": "rule(weights=truncation(5))",
    "artbp(5, schedule=decreasing(3))": "rule(weights=truncation(5, 3))",
}


def planned(rule: str) -> CreditPlan:
    """Without the rule's name, and without places in a text that differs by it."""
    made = analyse(SPEC.replace("RULE", rule)).plan
    dropped = [tuple(replace(item, span=None) for item in row.dropped) for row in made.rows]
    rows = tuple(replace(row, rule="", dropped=found) for row, found in zip(made.rows, dropped, strict=True))
    return replace(made, rows=rows, buffers=tuple(replace(item, span=None) for item in made.buffers))


@pytest.mark.parametrize("preset", WRITTEN)
def test_a_preset_is_its_written_form(preset: str) -> None:
    assert planned(preset) == planned(WRITTEN[preset])


def test_every_rule_has_a_written_form() -> None:
    assert {preset.partition("(")[0] for preset in WRITTEN} | {"rule"} >= set(catalogue()) - LACKING


LACKING = {"synthetic", "sab"}
"""What `rule(...)` has no words for yet."""


@pytest.mark.parametrize("seed", range(6))
def test_what_has_no_name_equals_its_definition(seed: int) -> None:
    """Traces on all states past the recurrent products; columns read late."""
    for rule in ("rule(scope=all, cuts=products)", "rule(scope=support(1), drift=decay(0.5))"):
        check_rule(random_case(seed, (("default", rule),)))


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("rule(boundary=synthetic(128))", "not supported yet"),
        ("rule(scope=row)", "`scope` is `none`, `all`"),
        ("rule(scope=support(0))", "`scope` is `none`, `all`"),
        ("rule(window=0)", "at least 1"),
        ("rule(every=2)", "needs a `window`"),
        ("rule(window=3, every=4)", "more than the window"),
        ("rule(read=post)", "is about traces"),
        ("rule(cuts=products)", "is about traces"),
        ("rule(scope=all, weights=truncation(3))", "look back"),
        ("rule(weights=truncation(1))", "at least 2 steps"),
        ("rule(weights=truncation(3, 1))", "above 1"),
        ("rule(scope=rank, window=5)", "a window of several steps"),
        ("rule(scope=all, read=late)", "one of `pre`, `post`"),
        ("rule(scope=rank, read=post)", "takes no `read`"),
        ("rule(scope=all, drift=rerun)", "needs one whole number"),
        ("rule(scope=rank(all))", "`rank(joint)`"),
        ("rule(window=many)", "a whole number"),
        ("rule(size=3)", "no argument `size`"),
    ],
)
def test_what_makes_no_sense_is_refused(rule: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        planned(rule)
    assert [problem.code for problem in caught.value.problems] == ["RD0503"]
    assert words in caught.value.problems[0].text()
