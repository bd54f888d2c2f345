"""Whole gradients, which claims are measured against: those of no rule, whatever rule asks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from recdsl.driver import analyse
from recdsl.testing import Case, assert_matches, random_case, reference
from recdsl.testing.properties import Checked, Example
from recdsl.testing.whole import assert_differences, differentiable, whole_gradients

torch.set_num_threads(1)
TEXT = """
recdsl: 1
sizes: {n: 2}
inputs: {x: "float[n]"}
targets: {y: "float[n]"}
memory:
  past:
    slots: 3
    life: sequence
    write: {value: h}
    read: {query: x, select: topk(2), score: dot, normalise: softmax}
step: |
  k = elman(x, size=n)
  h = k + past.read
loss: mse(h, y)
credit: CREDIT
"""
CREDITS = (
    "none",
    "tbptt(2)",
    "{past: through, default: tbptt(2)}",
    "sab(2)",
    "sab(2, variant=sliding)",
    "artbp(2)",
    "snap(1, drift=decay(0.5))",
    "{recurrence: scale(0.5), default: bptt}",
    '{"k[t-1]": cut, default: bptt}',
)


@pytest.mark.parametrize("credit", CREDITS)
def test_no_rule_has_a_hand_in_the_whole_gradient(credit: str) -> None:
    """Neither in its windows, cuts and scales, nor in the memories that it spares."""
    text = TEXT.replace("CREDIT", credit)
    case = Checked(text, (), 1e-10).case(Example(7, 2, 0.1, "none", reset=False, state=False, outputs=False, seed=1))
    found, own = reference(case, full=True).gradients, whole_gradients(case)
    assert_matches({name: found[name] for name in own}, own, credit)


def smooth_cases() -> list[Case]:
    cases = [random_case(seed, (("default", "tbptt(window=2)"),)) for seed in range(16)]
    return [replace(case, cotangents={}) for case in cases if differentiable(case.graph)]


def test_differences_agree() -> None:
    assert sum(assert_differences(case, whole_gradients(case)) for case in smooth_cases()[:4]) > 30


def test_differences_find_a_wrong_gradient() -> None:
    """Of a rule that drops paths."""
    wrong = 0
    for case in smooth_cases():
        try:
            assert_differences(case, reference(case).gradients)
        except AssertionError:
            wrong += 1
    assert wrong


@pytest.mark.parametrize(("step", "smooth"), [("h = tanh(x + h[t-1])", True), ("h = abs(x) + stop(h[t-1])", False)])
def test_what_differences_measure(step: str, smooth: bool) -> None:
    head = TEXT.split("memory:")[0]
    graph = analyse(f"{head}step: {step}\nloss: mse(h, y)\n").graph
    assert differentiable(graph) == smooth
