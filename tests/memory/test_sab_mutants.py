"""Faults of the list of pitfalls of sparse attentive backtracking: each is seen in a gradient."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from sab_support import SPEC, TOP, Plain, learnt, model, plain, same

from recdsl.backends.torch import execute
from recdsl.driver import analyse

torch.set_num_threads(1)
FAULTS = {
    "values are stored without credit": replace(Plain(3), stored_detached=True),
    "the stored state is the detached one": replace(Plain(2), stored_alias=True),
    "only h is detached": replace(Plain(3), only_h=True),
    "the step before a boundary is detached": replace(Plain(3), behind=True),
    "one slot too few": replace(Plain(3), top=TOP - 1),
    "one slot too many": replace(Plain(3), top=TOP + 1),
    "a step sees itself": replace(Plain(3), itself=True),
    "the threshold of another sample": replace(Plain(3), across=True),
    "the threshold is the k-th score": replace(Plain(3), kth=True),
    "no credit to the threshold": replace(Plain(3), tau=False),
    "no credit to keys and query": replace(Plain(3), block=True),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_pitfalls_are_other_models(fault: str) -> None:
    """Each of the list's faults, made in the plain model, is seen in a gradient."""
    which = FAULTS[fault]
    made = model(f"sab(truncate={which.grid})", "all")
    found = learnt(made)
    assert same(found, plain(Plain(which.grid), made, last=False)[0])
    assert not same(found, plain(which, made, last=False)[0])


# the same faults in generated code
SOURCE = {
    "the stored state is the detached one": (
        r"_held\(rows, place\)",
        "_held(rows, torch.where((place + 1) % 3 == 0, -1, place))",
    ),
    "one slot too few": (r"< 2\.0", "< 1.0"),
    "a step sees itself": (r"\[first_2:t:2\]", "[first_2 : t + 1 : 2]"),
    "the threshold of another sample": (r"(\w+) = (v\d+)\.unsqueeze\(1\)\.expand\(-1, 3\)(\n +torch\.sub)",
                                        r"\1 = \2.roll(1, 0).unsqueeze(1).expand(-1, 3)\3"),
    "the threshold is the k-th score": (r"(torch\.where\(v\d+), 2\.0,", r"\1, 1.0,"),
    "places are those of slots": (r", first_2, 2\)", ")"),
}  # fmt: skip


@pytest.mark.parametrize("fault", SOURCE)
def test_pitfalls_in_generated_code_are_seen(fault: str) -> None:
    text = SPEC.replace("CREDIT", "sab(truncate=3)").replace("LOSS", "all").replace("TAU", "through")
    source, (old, new) = analyse(text).source, SOURCE[fault]
    changed, count = re.subn(old, new, source)
    assert count
    made = model("sab(truncate=3)", "all")
    faulty = execute(changed).Model(0, torch.float64)
    faulty.load_state_dict(made.state_dict())
    expected = plain(Plain(3), made, last=False)[0]
    try:
        assert not same(learnt(faulty), expected)
    except (IndexError, RuntimeError):
        return
