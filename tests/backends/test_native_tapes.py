"""Stores without bound have no C yet: the model runs on torch, says why, and has the same gradients."""

from __future__ import annotations

import pytest
from backend_support import call_of
from native_support import NEEDS_COMPILER, native
from test_tape_rules import SAB, TWO_READS

from recdsl.driver import analyse
from recdsl.testing import assert_close_gradients

pytestmark = NEEDS_COMPILER


@pytest.mark.parametrize("text", [SAB, TWO_READS], ids=["sab", "two reads"])
@pytest.mark.parametrize("seed", [0, 1])
def test_runs_on_torch(text: str, seed: int):
    case = call_of(analyse(text.replace("credit: bptt", "credit: tbptt(window=4, every=2)")), seed)
    model = native(case)
    assert "plain.forward on torch: no C for" in model.recdsl_runs
    assert_close_gradients(lambda _: model, case)
