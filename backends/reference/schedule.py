"""Which (step, sample) pairs a loss counts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recdsl.graph.step import TD, Loss, StepGraph


def counted(
    loss: Loss, valid: Tensor, wanted: Tensor | None = None, state: Mapping[str, Tensor] | None = None
) -> Tensor:
    """bool [T, B]: the pairs in the sum. valid: False at masked steps. wanted: False at what the caller leaves out
    (which may still be a sample's last step). state: what the call begins with; a temporal difference needs an earlier
    valid step."""
    due = _due(loss, valid)
    due = due if wanted is None else due & wanted
    return due if loss.td is None else due & preceded(loss.td, valid, state)


def preceded(td: TD, valid: Tensor, state: Mapping[str, Tensor] | None) -> Tensor:
    """bool [T, B]: whether there was a valid step before, in this call or an earlier one."""
    found = torch.zeros_like(valid)
    for b in range(valid.shape[1]):
        seen = state is not None and bool(state[td.seen][b])
        for t in range(valid.shape[0]):
            found[t, b] = seen
            seen = seen or bool(valid[t, b])
    return found


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
