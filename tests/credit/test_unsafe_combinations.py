"""What is rejected or flagged (semantics, section 9), item by item: the error with its code, or the remark.

Three items cannot be written: an op across samples (there is no batch axis, and rows that calls share are constants of
a call), random signs of the user's own, and an update inside a window (the online trainer runs the steps of a window
again, with the parameters of now: `tests/training/test_online_rerun.py`).
"""

from __future__ import annotations

import re

import pytest

from recdsl.diagnostics import SpecError
from recdsl.driver import analyse, explain

SPEC = """recdsl: 1
sizes: {i: 3, m: 5, n: 4}
inputs: {x: "float[i]"}
targets: {y: float}
params:
PARAMS
step: |
  STEP
loss: mse(w @ h, y)
credit: CREDIT
train: {batch: 1}
"""
ELMAN = "h = tanh(W @ h[t-1] + U @ x)"
PARAMS = {"W": "n, n", "C": "m, i", "D": "n, m", "U": "n, i", "w": "n", "g": "n"}
REINSTATED = """recdsl: 1
sizes: {i: 3, n: 4}
inputs: {x: "float[i]"}
targets: {y: "float[i]"}
params: {A: "float[n, i] ~ normal(0, 0.5)"}
memory: {past: {slots: 5, life: model, write: {key: e, value: y}, read: {query: stop(e), score: dot}}}
step: |
  e = A @ x + 0.5 * e[t-1]
  guess = past.read
loss: mse(guess, y)
credit: {past: "reinstate(exact, encode=e, decode=stored)"}
"""


def spec(credit: str, step: str = ELMAN) -> str:
    """With the parameters that the step names."""
    used = set(re.findall(r"[A-Za-z]+", step)) | {"w"}
    lines = [f"  {name}: float[{axes}] ~ normal(0, 0.5)" for name, axes in PARAMS.items() if name in used]
    return SPEC.replace("PARAMS", "\n".join(lines)).replace("STEP", step).replace("CREDIT", credit)


@pytest.mark.parametrize(
    ("text", "code", "words"),
    [
        pytest.param(spec("tbptt(2, every=5)"), "RD0503", "more than the window", id="k2 < k1"),
        pytest.param(
            spec("columns", "h = tanh(D @ (C @ x) + g * h[t-1])"),
            "RD0510",
            "no column owns `C`",
            id="columns of what is not row-structured",
        ),
        pytest.param(spec("columns(axis=i)"), "RD0510", "`i` is no axis of all of the states `h`", id="no such axis"),
        pytest.param(spec("sab(300, variant=sliding)"), "RD0503", "at most 256 if it slides", id="300 passes"),
        pytest.param(spec("kf_rtrl", "h = tanh(g * h[t-1] + U @ x)"), "RD0510", "no product of a matrix", id="KF"),
        pytest.param(spec("artbp(1)"), "RD0503", "cut every step", id="ARTBP with c = 1"),
        pytest.param(spec("rule(weights=truncation(1))"), "RD0503", "at least 2", id="ARTBP with c = 1, written out"),
        pytest.param(
            spec("snap(2)").replace("n: 4", "n: 600"), "RD0510", "more than 512 MiB", id="SnAp above the budget"
        ),
        pytest.param(REINSTATED, "RD0532", "reads the state `e`", id="an encoder that reads a state"),
        pytest.param(spec("{default: none, require: exact}"), "RD0508", "exact is required", id="exact required"),
    ],
)
def test_it_is_refused(text: str, code: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        analyse(text)
    assert [problem.code for problem in caught.value.problems] == [code]
    assert words in caught.value.problems[0].text()
    assert caught.value.problems[0].span.line > 1


def said(text: str) -> str:
    return "\n".join(remark.text for remark in explain(text).remarks)


@pytest.mark.parametrize("rule", ["snap(1)", "rflo", "rule(scope=all, read=post)"])
def test_a_loss_past_the_state_that_is_read_is_flagged(rule: str) -> None:
    past = spec(rule).replace("w @ h", "w @ (h + h[t-1])")
    assert "also sees `h` as it enters a step" in said(past)
    assert "also sees" not in said(spec(rule))
    assert "also sees" not in said(past.replace(rule, "columns"))


def test_what_a_sparse_rule_holds_as_a_whole_is_flagged() -> None:
    """The reset gate of a GRU reaches every unit within a step (semantics 4.4)."""
    assert "within a step `h.Wr`, `h.Ur`, `h.br` reach every entry" in said(spec("snap(1)", "h = gru(x, size=n)"))
    assert "within 2 steps" in said(spec("snap(2)"))
    assert "reach every entry" not in said(spec("snap(1)"))
    assert "reach every entry" not in said(spec("rtrl"))


def test_traces_of_a_large_batch_are_flagged() -> None:
    """One sample is within the budget, and the batch is not."""
    large = spec("snap(2)").replace("n: 4", "n: 200")
    assert "traces of a batch" not in said(large)
    assert "traces of a batch of 64 take" in said(large.replace("batch: 1", "batch: 64"))


@pytest.mark.parametrize(
    ("credit", "override", "found"),
    [
        ("{default: columns, require: exact}", "credit.default=none", [("RD0508", 12)]),
        ("{default: bptt, require: exact}", "credit.default=uoro", [("RD0508", 12)]),
        ("{default: bptt, require: exact}", "credit.W=none", [("RD0508", 12)]),
        ("{default: bptt, require: exact for U}", "credit.W=none", []),
        ("{default: bptt, require: exact for U}", "credit.U=tbptt(3)", [("RD0508", 12)]),
        ("{W: snap(1), default: bptt, require: exact}", "credit.U=none", [("RD0508", 12), ("RD0508", 12)]),
        ("bptt", "credit.require=exact", []),
        ("{default: none}", "credit.require=exact", [("RD0508", 1)]),
        ("{default: bptt, require: exact}", "credit.require=exactly", [("RD0509", 1)]),
        ("{default: bptt, require: exact}", "credit=none", []),  # in place of the whole section
    ],
)
def test_require_under_overrides(credit: str, override: str, found: list[tuple[str, int]]) -> None:
    """One error for each rule that is too weak, at the requirement, in the file or in the override."""
    try:
        analyse(spec(credit), [override])
        problems = []
    except SpecError as error:
        problems = error.problems
    assert [(problem.code, problem.span.line) for problem in problems] == found
