"""What searches and products of a store without bound leave out, and that nothing else goes with it."""

from __future__ import annotations

import pytest
import torch
from backend_support import call_of

from recdsl.backends.torch import execute
from recdsl.driver import analyse
from recdsl.testing import assert_close_gradients, reference

EVERY = """recdsl: 1
name: sparse
sizes: {inp: 3, hidden: 4, attention: 3}
inputs: {x: "float[inp]"}
targets: {y: "float[hidden]"}
memory:
  past:
    slots: unbounded
    write: {value: h, every: 2}
    read: {query: proposal, score: mlp(attention), select: topk(2), normalise: shifted_relu}
step: |
  proposal, c = lstm_cell(x, h[t-1], c[t-1], size=hidden)
  h = proposal + past.read
  out = linear(h, size=hidden)
loss: mse(out, y)
credit: sab(truncate=2)
"""
FAULTS = {
    "": ("", ""),
    "the first slot is looked for a step late": ("first_2 = int(-1 -", "first_2 = int(-"),
    "the first slot is not counted over calls": ("in_t[0, 0]) % 2", "in_t[0, 0] * 0) % 2"),
    "places count slots": (", 3, first_2, 2)", ", 3)"),
    "rows of another slot": ("tape[place.clamp_min(0)", "tape[(place - 1).clamp_min(0)"),
}


def forward_of(source: str) -> str:
    return source.split("def forward(")[1].split("\ndef ")[0]


def test_searches_look_at_steps_that_write_and_reads_make_no_products() -> None:
    text = forward_of(analyse(EVERY).source)
    assert text.count("[first_2:t:2]") == 2
    assert text.count("rows_at(") == 2
    assert text.count("@ p_past_score_Wk") == 0


def test_rules_that_end_credit_to_slots_make_products_at_reads() -> None:
    """Where a slot has no credit, the weights of its product belong to the reader."""
    text = forward_of(analyse(EVERY.replace("sab(truncate=2)", "tbptt(2)")).source)
    assert text.count("rows_at(") == 1
    assert text.count("@ p_past_score_Wk_T") == 1


@pytest.mark.parametrize("fault", FAULTS)
def test_calls_that_begin_at_any_step(fault: str) -> None:
    """With incoming states, so that the step that a call begins with varies."""
    source, (old, new) = analyse(EVERY).source, FAULTS[fault]
    assert old in source
    assert all(map(agrees, (source,) * 3, (1, 2, 3)))
    if fault:
        faulty = source.replace(old, new)
        assert not all(map(agrees, (faulty,) * 3, (1, 2, 3)))


def agrees(source: str, seed: int) -> bool:
    case = call_of(analyse(EVERY), seed)
    module = execute(source).Model(0, torch.float64)
    try:
        assert_close_gradients(lambda _: module, case, expected=reference(case))
    except (AssertionError, IndexError, RuntimeError):
        return False
    return True
