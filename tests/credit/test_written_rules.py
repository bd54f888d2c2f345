"""Rules written out: every preset has a written form with the same plan, and what makes no sense is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from recdsl.credit.plan import CreditPlan
from recdsl.credit.rules import catalogue
from recdsl.diagnostics import SpecError
from recdsl.driver import analyse
from recdsl.driver import compile as compile_spec
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
    "snap(2, drift=reset)": "rule(scope=support(2), read=post, drift=reset)",
    "snap(2, window=4, every=2)": "rule(scope=support(2), window=4, every=2)",
    "columns": "rule(scope=column)",
    "columns(4, every=2)": "rule(scope=column, window=4, every=2)",
    "snap(2, window=3)": "rule(scope=support(2), window=3)",
    "columns(axis=n, drift=decay(0.5))": "rule(scope=column(n), drift=decay(0.5))",
    "rflo": "rule(scope=column, cuts=products, read=post)",
    "rflo(feedback=random)": "rule(scope=column, cuts=products, read=post, feedback=random)",
    "eprop": "rule(scope=column, cuts=spikes, read=post, filter=readout)",
    "eprop(filter=none)": "rule(scope=column, cuts=spikes, read=post)",
    "eprop(drift=decay(0.7))": "rule(scope=column, cuts=spikes, read=post, filter=readout, drift=decay(0.7))",
    "uoro": "rule(scope=rank)",
    "uoro(batch=joint)": "rule(scope=rank(joint))",
    "kf_rtrl": "rule(scope=kronecker)",
    "artbp(5)": "rule(weights=truncation(5))",
    "artbp(5, schedule=decreasing(3))": "rule(weights=truncation(5, 3))",
    "artbp(5, schedule=decreasing)": "rule(weights=truncation(5, 4))",
    "rtrl(window=1)": "rule(scope=all, window=1)",
    "rtrl(window=4, every=2)": "rule(scope=all, window=4, every=2)",
    "rflo(axis=n, drift=reset)": "rule(scope=column(n), cuts=products, read=post, drift=reset)",
    "eprop(axis=n, feedback=random)": "rule(scope=column(n), cuts=spikes, read=post, filter=readout, feedback=random)",
    "uoro(drift=decay(0.9))": "rule(scope=rank, drift=decay(0.9))",
    "kf_rtrl(drift=reset)": "rule(scope=kronecker, drift=reset)",
    "synthetic(3, hidden=8)": "rule(window=3, boundary=synthetic(8))",
    "synthetic(3, hidden=0)": "rule(window=3, boundary=synthetic(hidden=0))",
    "synthetic(3, hidden=8, condition=y, scale=0.5, learn=bp_lambda(0.3), lr=0.01)": (
        "rule(window=3, boundary=synthetic(8, y, scale=0.5, learn=bp_lambda(0.3), lr=0.01))"
    ),
    "synthetic(3, hidden=2, learn=bootstrap)": "rule(window=3, boundary=synthetic(2, learn=bootstrap))",
    "sab(3)": "rule(window=3, boundary=memories)",
    "sab(3, variant=sliding)": "rule(window=3, boundary=memories(sliding))",
    "sab(3, replay=always)": "rule(window=3, boundary=memories(replay=always))",
    "sab(3, variant=sliding, replay=never)": "rule(window=3, boundary=memories(sliding, replay=never))",
}


def planned(rule: str, spec: str = SPEC) -> CreditPlan:
    """Without the rule's name, and without places in a text that differs by it."""
    made = analyse(spec.replace("RULE", rule)).plan
    dropped = [tuple(replace(item, span=None) for item in row.dropped) for row in made.rows]
    rows = tuple(replace(row, rule="", dropped=found) for row, found in zip(made.rows, dropped, strict=True))
    return replace(made, rows=rows, buffers=tuple(replace(item, span=None) for item in made.buffers))


@pytest.mark.parametrize("preset", WRITTEN)
def test_a_preset_is_its_written_form(preset: str) -> None:
    assert planned(preset) == planned(WRITTEN[preset])


def test_every_rule_has_a_written_form() -> None:
    """And each argument of each rule is in one of them."""
    assert {preset.partition("(")[0] for preset in WRITTEN} | {"rule"} == set(catalogue())
    for name, rule in catalogue().items():
        own = " ".join(preset for preset in WRITTEN if preset.partition("(")[0] == name)
        told = [a.name for a in rule.arguments if a.name not in ("n", "mean", "truncate", "window") and name != "rule"]
        assert [argument for argument in told if f"{argument}=" not in own] == []


REMEMBERING = """\
recdsl: 1
name: rate
sizes: {i: 3, n: 4, o: 2}
inputs: {x: "float[i]"}
targets: {y: "float[o]"}
params:
  W: "float[n, n] ~ normal(0, 0.5)"
  U: "float[n, i] ~ normal(0, 0.5)"
  V: "float[o, n] ~ normal(0, 0.5)"
memory:
  past: {slots: unbounded, read: {query: p, score: dot, select: topk(2)}, write: {value: h, every: 2}}
step: |
  p = tanh(W @ h[t-1] + U @ x)
  h = p + past.read
  v = V @ h
loss: mse(v, y)
credit: RULE
"""


@pytest.mark.parametrize("preset", ["sab(3)", "sab(3, variant=sliding)"])
def test_presets_for_memories_are_their_written_forms(preset: str) -> None:
    """`tbptt` is another rule there."""
    assert planned(preset, REMEMBERING) == planned(WRITTEN[preset], REMEMBERING)
    one, other, plain = (gradients(rule, REMEMBERING) for rule in (preset, WRITTEN[preset], "tbptt(3)"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert not all(torch.equal(value, plain[name]) for name, value in one.items())


def gradients(rule: str, spec: str = SPEC) -> dict[str, Tensor]:
    """Of two calls in a row, with draws from one seed."""
    torch.manual_seed(3)
    model = compile_spec(spec.replace("RULE", rule), dtype=torch.float64)
    draws = torch.Generator().manual_seed(5)
    sizes = {"x": 3, "y": 2}
    state, found = None, dict[str, Tensor]()
    for call in range(2):
        batch = {name: torch.randn(7, 2, n, generator=draws, dtype=torch.float64) for name, n in sizes.items()}
        made = model(batch, state=state)
        model.zero_grad()
        made.loss.backward()
        found |= {f"{call} {name}": p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        state = made.state
    return found


@pytest.mark.parametrize("preset", WRITTEN)
def test_a_preset_has_the_gradient_of_its_written_form(preset: str) -> None:
    """Draw for draw, and bit for bit."""
    one, other = gradients(preset), gradients(WRITTEN[preset])
    assert one.keys() == other.keys()
    assert sum(float(value.abs().sum()) for value in one.values()) > 0
    assert all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("seed", range(6))
def test_what_has_no_name_equals_its_definition(seed: int) -> None:
    """Traces on all states past the recurrent products; columns read late."""
    for rule in ("rule(scope=all, cuts=products)", "rule(scope=support(1), drift=decay(0.5))"):
        check_rule(random_case(seed, (("default", rule),)))


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("rule(boundary=synthetic(128))", "needs a `window`"),
        ("rule(window=4, every=2, boundary=synthetic(8))", "do not overlap"),
        ("rule(window=4, scope=column, boundary=synthetic(8))", "leave one of them out"),
        ("rule(window=4, weights=truncation(5), boundary=memories)", "leave one of them out"),
        ("rule(window=4, read=post, boundary=memories)", "is about traces"),
        ("rule(window=4, boundary=synthetic)", "needs `hidden`"),
        ("rule(window=4, boundary=synthetic(-1))", "at least 0"),
        ("rule(window=4, boundary=synthetic(8, hidden=8))", "given twice"),
        ("rule(window=4, boundary=synthetic(8, width=8))", "none of `hidden`"),
        ("rule(window=4, boundary=synthetic(many))", "a whole number"),
        ("rule(window=4, boundary=synthetic(8, learn=slowly))", "no way to learn"),
        ("rule(window=4, boundary=synthetic(8, learn=3))", "`bp_lambda(share)`"),
        ("rule(window=4, boundary=memories(fixed))", "`boundary` is `zero`"),
        ("rule(window=4, boundary=memories(replay=often))", "`auto` or `always` or `never`"),
        ("rule(window=4, boundary=mirror)", "`boundary` is `zero`"),
        ("rule(window=4, boundary=7)", "a word, or one with arguments"),
        ("rule(scope=support(n=2))", "a word, or one with values"),
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


@pytest.mark.parametrize("boundary", ["memories(replay=often)", "synthetic(-1)", "mirror"])
def test_an_error_behind_boundary_is_shown_there(boundary: str) -> None:
    with pytest.raises(SpecError) as caught:
        planned(f"rule(window=4, boundary={boundary})")
    assert caught.value.problems[0].span.text == boundary
