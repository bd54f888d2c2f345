"""Which (step, sample) pairs a loss counts."""

from __future__ import annotations

import torch
from torch import Tensor

from recdsl.graph.step import Loss, StepGraph


def counted(loss: Loss, valid: Tensor, wanted: Tensor | None = None) -> Tensor:
    """bool [T, B]: the pairs in the sum. valid: False at masked steps. wanted: False at what the caller leaves out
    (which may still be a sample's last step)."""
    due = _due(loss, valid)
    return due if wanted is None else due & wanted


def _due(loss: Loss, valid: Tensor) -> Tensor:
    """The pairs that the loss's own schedule names."""
    steps = torch.arange(valid.shape[0])[:, None]
    if loss.at == "all":
        return valid
    if loss.at == "last":
        last = torch.where(valid, steps, torch.full_like(steps, -1)).max(0).values
        return valid & (steps == last)
    every = int(loss.at[1])
    return valid & ((steps + 1) % every == 0)


def divisors(graph: StepGraph, chosen: list[Tensor]) -> list[float]:
    """What each loss's sum is divided by: the number of its pairs in the call (1 if there are none, or for `sum`)."""
    if graph.reduce == "sum":
        return [1.0] * len(chosen)
    return [float(max(1, int(pairs.sum()))) for pairs in chosen]
