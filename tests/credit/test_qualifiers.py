"""Each word that qualifies a verdict, on a model that shows it, with the verdict that it stands beside."""

from __future__ import annotations

import pytest

from recdsl.credit.notes import QUALIFIERS
from recdsl.driver import explain

MODEL = """recdsl: 1
sizes: {i: 3, n: 4}
inputs: {x: "float[i]"}
targets: {y: float}
params:
  W: float[n, n] ~ normal(0, 0.5)
  U: float[n, i] ~ normal(0, 0.5)
  w: float[n] ~ normal(0, 0.5)
step: |
  STEP
loss: mse(v, y)
credit: CREDIT
"""
ELMAN = "h = tanh(W @ h[t-1] + U @ x)\n  v = w @ h"
ROUGH = "h = tanh(W @ h[t-1] + U @ x)\n  v = w @ abs(h)"
DELAY = "h = U @ x\n  u = W @ h[t-1]\n  v = w @ u"
OWN = "h = tanh(0.5 * h[t-1] + U @ x) + 0 * sum(W)\n  v = w @ h"
STORE = """recdsl: 1
sizes: {i: 3, n: 4}
inputs: {x: "float[i]"}
targets: {y: "float[i]"}
params: {W: "float[n, i] ~ normal(0, 0.5)"}
memory: {past: {slots: 5, life: model, write: {key: e, value: y}, read: {query: stop(e), score: dot}}}
step: |
  e = W @ x
  guess = past.read
loss: mse(guess, y)
credit: {past: "CREDIT"}
"""
SELECTING = """recdsl: 1
sizes: {i: 3}
inputs: {x: "float[i]"}
targets: {y: "float[i]"}
params: {W: "float[i, i] ~ normal(0, 0.5)"}
memory: {past: {slots: unbounded, write: {value: e}, read: {query: x, score: dot, select: topk(2)}}}
step: e = W @ x
loss: mse(past.read, y)
credit: CREDIT
"""


def model(step: str, credit: str) -> str:
    return MODEL.replace("STEP", step).replace("CREDIT", credit)


CASES = {
    "declared-jacobian": (model(ROUGH, "bptt"), "W", "exact"),
    "decay": (model(ELMAN, "rtrl(drift=decay(0.5))"), "W", "biased"),
    "drift": (model(ELMAN, "rtrl"), "W", "exact"),
    "feedback": (model(ELMAN, "rflo(feedback=random)"), "W", "biased"),
    "if-selected": (SELECTING.replace("CREDIT", "bptt"), "W", "exact"),
    "late": (STORE.replace("CREDIT", "reinstate(exact, encode=e, decode=stored, every=2)"), "W", "biased"),
    "learned": (model(ELMAN, "synthetic(3, hidden=2)"), "W", "biased"),
    "no-credit": (model(DELAY, "none"), "U", "biased"),
    "random-signs": (model(ELMAN, "uoro"), "W", "unbiased"),
    "random-truncation": (model(ELMAN, "artbp(3)"), "W", "unbiased"),
    "predicted": (STORE.replace("CREDIT", "synthetic(hidden=2)"), "W", "biased"),
    "re-encoded": (STORE.replace("CREDIT", "reinstate(exact, encode=e, decode=stored)"), "W", "exact"),
    "rerun": (model(ELMAN, "rtrl(drift=rerun(4))"), "W", "exact"),
    "reset-at-call": (model(ELMAN, "rtrl(drift=reset)"), "W", "exact"),
    "scaled": (model(ELMAN, '{default: bptt, "h[t-1]": scale(0.5)}'), "W", "biased"),
    "unmasked": (model(DELAY, "tbptt(3, every=1)"), "U", "exact"),
}


def test_every_word_is_shown() -> None:
    assert CASES.keys() == QUALIFIERS.keys()


@pytest.mark.parametrize("word", CASES)
def test_a_word_stands_where_it_belongs(word: str) -> None:
    """And is explained below the table."""
    text, parameter, verdict = CASES[word]
    report = explain(text)
    row = next(row for row in report.rows if row.parameter == parameter)
    assert (word in row.qualifiers, row.verdict) == (True, verdict)
    assert f"{word}:" in str(report)


@pytest.mark.parametrize(("word", "parameter"), [("drift", "w"), ("random-signs", "w"), ("declared-jacobian", "w")])
def test_a_word_does_not_stand_where_nothing_of_it_is_met(word: str, parameter: str) -> None:
    """What only reads out carries nothing over steps; and behind the absolute value all is smooth."""
    plain = {"random-signs": model(ELMAN, "kf_rtrl")}.get(word, CASES[word][0])
    row = next(row for row in explain(plain).rows if row.parameter == parameter)
    assert word not in row.qualifiers


@pytest.mark.parametrize("steps", [1, 3])
def test_a_bounded_store_says_how_long_items_get_credit(steps: int) -> None:
    """Its cap: what has made room gets none."""
    text = CASES["re-encoded"][0].replace("slots: 5", f"slots: {steps}")
    assert f"an item gets credit until {steps} more are written, and none after that" in str(explain(text))
