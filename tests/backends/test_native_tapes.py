"""Stores without bound in C: searches and rows of tapes against the definition of the rule, with planted faults."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest
import torch
from backend_support import call_of
from native_support import QUICK, native
from test_tape_rules import SAB, TWO_READS

from recdsl.backends.native.lower import lower
from recdsl.backends.native.model import native_model
from recdsl.backends.native.variants import Variants
from recdsl.backends.torch import execute
from recdsl.backends.torch.module import generate, programs
from recdsl.driver import analyse
from recdsl.testing import Case, assert_close_gradients

pytestmark = pytest.mark.compiler
RULES = ("bptt", "sab(truncate=3)", "tbptt(window=4, every=2)")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("text", [SAB, TWO_READS], ids=["sab", "two reads"])
def test_gradients_are_those_of_the_definition(text: str, rule: str) -> None:
    """Seed 1: with a mask, resets and an incoming state."""
    for seed in (0, 1):
        assert_close_gradients(native, call_of(analyse(text.replace("credit: bptt", f"credit: {rule}")), seed))


FAULTS = {
    "a slot sees itself": (r"search\((t\d+),", r"search(\1 + 1,"),
    "the newest slot is missed": (r"search\((t\d+),", r"search(\1 - 1,"),
    "the best is another slot": (r"to\[at \* wide\] = s;", "to[at * wide] = s ? s - 1 : s;"),
    "the worst is kept": (r"!\(x > best\[size - 1\]\)", "x > best[size - 1]"),
    "slots of the sequence before are seen": (r"!\(stamp >= since\)", "0"),
    "slots that are not there are seen": (r"!\(stamp >= since\) \|\| stamp < R\(0\)", "0"),
    "samples see each other's slots": (r"(search\([^;]*?\w+) \+ l0, B,", r"\1, B,"),
    "the rows of another sample": (r"(k\d+ \* \d+ \* B) \+ l0 \* \d+ \+ i1", r"\1 + i1"),
}


def with_fault(case: Case, fault: str) -> Any:
    (old, new), changed = FAULTS[fault], 0
    lowered = {variant: lower(made) for variant, made in programs(case.graph, case.plan, optimise=True).items()}
    for variant, item in lowered.items():
        (text, count), (later, more) = (re.subn(old, new, part) for part in (item.source, item.later))
        lowered[variant], changed = replace(item, source=text, later=later), changed + count + more
    assert changed
    base, variants = execute(generate(case.graph, case.plan, "")).Model, Variants.of(lowered)
    made = native_model(base, variants, f"fault_{len(fault)}", QUICK)
    return made(0, torch.float64)


def in_calls(fault: str) -> None:
    """Of one sequence and of several."""
    stages = analyse(SAB.replace("credit: bptt", "credit: sab(truncate=3)"))
    for seed in (2, 1):
        assert_close_gradients(lambda case: with_fault(case, fault), call_of(stages, seed, steps=14))


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(fault: str) -> None:
    with pytest.raises(AssertionError):
        in_calls(fault)
