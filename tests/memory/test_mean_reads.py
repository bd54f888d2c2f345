"""`normalise: mean(hit)`: equal weights of the slots that are hit, or of all that are selected; by definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import recdsl

torch.set_num_threads(1)
SPEC = """
recdsl: 1
sizes: {inp: 2}
inputs: {x: "float[inp]"}
targets: {y: "float[inp]"}
params: {W: "float[inp, inp] ~ normal(0, 1)"}
memory:
  past:
    slots: SLOTS
    life: sequence
    write: {key: x, value: W @ x}
    read: {query: x, score: inverse_distance(delta=0.1), select: SELECT, normalise: MEAN}
step: r = past.read
loss: mse(r, y)
"""


def weights(x: Tensor, keys: list[Tensor], select: str, hit: float) -> list[float]:
    """Of the keys, the oldest first."""
    scores = [1 / (float((key - x).square().sum()) + 0.1) for key in keys]
    chosen = list(range(len(keys)))
    if select == "topk(2)":
        chosen = sorted(chosen, key=lambda k: (-scores[k], k))[:2]
    if select == "threshold(0.5)":
        chosen = [k for k in chosen if scores[k] >= 0.5]
    hits = [k for k in chosen if scores[k] >= hit]
    taken = hits or chosen
    return [1 / len(taken) if k in taken else 0.0 for k in range(len(keys))]


@pytest.mark.parametrize("hit", [None, 1.5], ids=["none", "hit"])
@pytest.mark.parametrize(
    ("slots", "select"), [("5", "all"), ("5", "topk(2)"), ("5", "threshold(0.5)"), ("unbounded", "topk(2)")]
)
def test_a_mean_is_its_definition(slots: str, select: str, hit: float | None) -> None:
    mean = "mean" if hit is None else f"mean(hit={hit})"
    torch.manual_seed(3)
    text = SPEC.replace("SLOTS", slots).replace("SELECT", select).replace("MEAN", mean)
    model: Any = recdsl.compile(text, dtype=torch.float64)
    batch = {name: torch.randn(9, 2, 2, dtype=torch.float64) for name in ("x", "y")}
    found = model(batch)
    found.loss.backward()
    w = model.W.detach().clone().requires_grad_()
    total, hits = torch.zeros((), dtype=torch.float64), 0
    for b in range(2):
        for t in range(9):
            keys = [batch["x"][s, b] for s in range(t)][-5 if slots == "5" else 0 :]
            shares = weights(batch["x"][t, b], keys, select, float("inf") if hit is None else hit)
            hits += len([share for share in shares if share])
            parts = [share * (w @ key) for share, key in zip(shares, keys, strict=True)]
            read = sum(parts, torch.zeros(2, dtype=torch.float64))
            assert torch.allclose(found.outputs["r"][t, b], read, atol=1e-12)
            total = total + (read - batch["y"][t, b]).square().mean() / 18
    assert hits
    total.backward()
    assert model.W.grad is not None
    assert w.grad is not None
    assert torch.allclose(model.W.grad, w.grad, atol=1e-12)
