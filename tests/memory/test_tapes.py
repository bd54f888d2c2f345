"""Memories without bound: tapes against the definition of a store, against the oracle, and with planted faults."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import memory_support
import pytest
import torch
from memory_support import Options, check

from recdsl.backends.torch import execute, slots
from recdsl.diagnostics import SpecError
from recdsl.driver import analyse
from recdsl.ops import search
from recdsl.testing.properties import Checked, Example

TOP = Options(select="topk", chosen=2, slots=1_000)
SHIFTED = replace(TOP, normalise="shifted_relu")
READS = [
    TOP,
    SHIFTED,
    replace(TOP, score="cosine", number=10.0),
    replace(TOP, score="inverse_distance", number=0.1, normalise="sum"),
    replace(SHIFTED, score="mlp", every=2),
    replace(SHIFTED, score="separable"),
    replace(TOP, key=False, score="cosine", number=3.0),
    replace(SHIFTED, key=False, score="mlp", chosen=3, every=3),
    replace(SHIFTED, chosen=1),
    replace(SHIFTED, shift={"tau": "stop"}),
    replace(SHIFTED, shift={"threshold": "kth"}),
    *[replace(SHIFTED, chosen=3, shift={"underfull": how}) for how in ("raw", "softmax", "equal")],
    replace(TOP, read_every=3, when=True),
    replace(TOP, chosen=9),
]


@pytest.fixture(autouse=True)
def unbounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The models of this folder without bounds; the definition has more slots than calls have steps."""
    written = memory_support.spec
    monkeypatch.setattr(memory_support, "spec", lambda o: written(o).replace("slots: 1000", "slots: unbounded"))


def name(o: Options) -> str:
    own = {k: v for k, v in vars(o).items() if v != vars(TOP)[k]}
    return ",".join(f"{k}={v}" for k, v in own.items()) or "top"


@pytest.mark.parametrize("ragged", [False, True], ids=["whole", "ragged"])
@pytest.mark.parametrize("o", READS, ids=name)
def test_outputs_and_gradients_are_those_of_the_definition(o: Options, ragged: bool) -> None:
    check(o, ragged=ragged)


def test_a_short_sequence_and_one_sample() -> None:
    check(SHIFTED, steps=1, samples=1)
    check(replace(TOP, every=4), steps=3, samples=1)


def test_uses_of_a_tape_can_be_scaled() -> None:
    """What is fetched is scaled, once, however old it is; that slots stay where they are is no use."""
    call = Example(steps=6, samples=2, spread=0.1, mask="any", reset=True, state=False, outputs=False, seed=1)
    for credit in (
        "{recurrence: scale(0.5), default: bptt}",
        '{"past.key[t-1]": scale(-2), past: through, default: tbptt(2)}',
    ):
        Checked(memory_support.spec(replace(SHIFTED, credit=credit)), (), 1e-10).check(call)


def test_forward_rules_are_refused() -> None:
    with pytest.raises(SpecError, match=r"RD0510.*no bound"):
        analyse(memory_support.spec(replace(TOP, credit="rtrl")))


def test_equal_scores_go_to_the_older_slot() -> None:
    scores = torch.tensor([[1.0, 2.0], [1.0, 2.0], [0.0, 2.0], [1.0, 2.0]], dtype=torch.float64)
    stamps = torch.tensor([[0.0, 0.0], [1.0, -1.0], [2.0, 2.0], [3.0, 3.0]], dtype=torch.float64)
    since = torch.tensor([0.0, 1.0], dtype=torch.float64)
    expected = [[0, 1], [2, 3]]
    assert slots.places(scores, stamps, since, 2).tolist() == expected
    assert search.best(torch, scores, stamps, since, 2).tolist() == expected
    assert slots.places(scores, stamps, since, 5).tolist() == [[0, 1, 3, 2, -1], [2, 3, -1, -1, -1]]


# planted faults: comparison with the definition finds each of them
SINCE = "there = (stamps >= since)"
FAULTS: dict[str, tuple[str, str]] = {
    "a slot sees itself": ("_tape[:t]", "_tape[: t + 1]"),
    "the newest slot is missed": ("_tape[:t]", "_tape[: max(0, t - 1)]"),
    "credit is not sent back": ("add_rows(b", "(lambda *_: None)(b"),
    "credit is sent back twice": ("add_rows(b", "(lambda *x: (add_rows(*x), add_rows(*x)))(b"),
    "credit goes to the slot before": ("add_rows(b", "(lambda x, at, r: add_rows(x, (at - 1).clamp_min(-1), r))(b"),
    "slots of the sequence before are seen": (SINCE, "there = (stamps >= 0 * since)"),
    "slots at masked steps are seen": (SINCE, "there = (stamps >= since.clamp_max(-1)) | (stamps < 0)"),
    "samples see each other's slots": ("tape[place.clamp_min(0), samples]", "tape[place.clamp_min(0), samples * 0]"),
    "one slot too few": ("count = min(size, ", "count = min(size - 1, "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = FAULTS[fault]

    def faulty(text: str, seed: int = 0, backend: str = "torch") -> Any:
        source = analyse(text).source
        assert old in source
        assert backend == "torch"
        return execute(source.replace(old, new)).Model(seed, torch.float64)

    monkeypatch.setattr(memory_support, "module", faulty)
    with pytest.raises((AssertionError, IndexError, RuntimeError)):
        check(SHIFTED, ragged=True)
