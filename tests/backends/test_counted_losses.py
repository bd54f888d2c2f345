"""Calls that say which pairs count: `torch` equals the oracle, and a replayed window is one of overlapping windows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from backend_support import corpus, generated, gradients, normal, seeded
from torch import Tensor

from recdsl.backends.reference import Reference
from recdsl.driver import compile as compile_spec
from recdsl.testing import Case, assert_close_gradients, assert_matches


class Counting(torch.nn.Module):
    """A module that is always called with the same pairs."""

    def __init__(self, inner: torch.nn.Module, counted: Tensor) -> None:
        super().__init__()
        self.inner, self.counted = inner, counted

    def forward(self, batch: Any, **given: Any) -> Any:
        return self.inner(batch, counted=self.counted, **given)


def pairs(case: Case, seed: int) -> Tensor:
    """Random pairs; now and then none at all."""
    steps, samples = next(iter(case.batch.values())).shape[:2]
    rate = 0.0 if seed % 10 == 9 else 0.4
    return torch.rand((steps, samples), generator=torch.Generator().manual_seed(seed)) < rate


def agrees(case: Case, counted: Tensor) -> None:
    oracle = Reference(case.graph, case.plan)
    expected = oracle.run(case.params, case.batch, case.mask, case.reset, case.state, case.cotangents, counted)
    named = replace(expected, gradients={f"inner.{name}": value for name, value in expected.gradients.items()})
    inner = replace(case, params={f"inner.{name}": value for name, value in case.params.items()})
    assert_close_gradients(lambda _: Counting(generated(case), counted), inner, expected=named)


@pytest.mark.parametrize("first", range(0, 80, 20))
def test_any_pairs(first: int):
    for seed in range(first, first + 20):
        agrees(seeded(seed), pairs(seeded(seed), seed))


@pytest.mark.parametrize(
    ("name", "rule"), [("columnar", ""), ("elman", "snap(1)"), ("gru_reset_after", "tbptt(window=3, every=2)")]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_pairs_under_rules(name: str, rule: str, seed: int):
    case = corpus(name, seed, rule)
    agrees(case, pairs(case, seed))


WINDOWED = """
recdsl: 1
sizes: {hid: 3}
inputs: {x: "float[hid]"}
targets: {y: "float[hid]"}
step: |
  h = elman(x, size=hid)
loss: mse(h, y)
credit: %s
"""


@pytest.mark.parametrize(("window", "every"), [(4, 2), (6, 3), (5, 1), (7, 7)])
def test_replayed_windows_are_overlapping_windows(window: int, every: int):
    """Calls on the last `window` steps with the newest `every` counted sum to what tbptt(window, every) does in one."""
    steps = 21 // every * every
    batch = {"x": normal(1, steps, 2, 3), "y": normal(2, steps, 2, 3)}
    whole: Any = compile_spec(WINDOWED % f"tbptt(window={window}, every={every})", dtype=torch.float64)
    whole(batch).loss.backward()
    part: Any = compile_spec(WINDOWED % "bptt", dtype=torch.float64)
    part.load_state_dict(whole.state_dict())
    total = {name: torch.zeros_like(p) for name, p in part.named_parameters()}
    for end in range(every, steps + 1, every):
        lo = max(0, end - window)
        counted = torch.zeros((end - lo, 2), dtype=torch.bool)
        counted[-every:] = True
        part.zero_grad()
        state = None if lo == 0 else part({n: v[:lo] for n, v in batch.items()}).state
        part({n: v[lo:end] for n, v in batch.items()}, state=state, counted=counted).loss.backward()
        share = every / steps
        total = {name: total[name] + share * g for name, g in gradients(part).items()}
    assert_matches(gradients(whole), total, "gradient of")


def test_misshapen_pairs_are_refused():
    model: Any = compile_spec(WINDOWED % "bptt")
    batch = {"x": torch.zeros(4, 2, 3), "y": torch.zeros(4, 2, 3)}
    for wrong in (torch.ones(3, 2, dtype=torch.bool), torch.ones(4, 2)):
        with pytest.raises(ValueError, match="counted is"):
            model(batch, counted=wrong)
