"""Metrics as sums and counts, so that batches of any size combine exactly."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add

import torch
from torch import Tensor

from recdsl.training.settings import Metric


@dataclass
class Tally:
    """Weighted means by name."""

    sums: dict[str, float] = field(default_factory=dict[str, float])
    counts: dict[str, float] = field(default_factory=dict[str, float])

    def add(self, name: str, total: float, count: float) -> None:
        self.sums[name] = self.sums.get(name, 0.0) + total
        self.counts[name] = self.counts.get(name, 0.0) + count

    def extend(self, name: str, values: Sequence[float]) -> None:
        """As `add` for each value, one after the other, so that the sum has the same bits."""
        if values:
            self.add(name, 0.0, len(values))
            self.sums[name] = reduce(add, values, self.sums[name])

    def means(self) -> dict[str, float]:
        return {name: total / self.counts[name] for name, total in self.sums.items() if self.counts[name]}


def counted(mask: Tensor | None, shape: tuple[int, int], last: int | None) -> Tensor:
    """bool [time, batch]: the valid steps, or each sample's last `last` of them."""
    valid = torch.ones(shape, dtype=torch.bool) if mask is None else mask
    if last is None:
        return valid
    later = valid.long().flip(0).cumsum(0).flip(0)
    return valid & (later <= last)


def measure(
    metrics: Sequence[Metric],
    outputs: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    mask: Tensor | None,
    tally: Tally,
) -> None:
    """Add a call's metrics to a tally. Outputs are [time, batch, ...]; labels [time, batch]."""
    for metric in metrics:
        output, target = outputs[metric.output].detach(), targets[metric.target]
        steps = counted(mask, (int(target.shape[0]), int(target.shape[1])), metric.last).to(output.device)
        values = each(metric, output, target)[steps]
        tally.add(metric.name, float(values.double().sum()), values.numel())


def each(metric: Metric, output: Tensor, target: Tensor) -> Tensor:
    """The metric of every step and sample, [time, batch]."""
    if metric.kind == "accuracy":
        return (output.argmax(-1) == target).double()
    if metric.kind == "bits":
        logs = output.clamp_min(1e-6).log() if metric.probabilities else output.log_softmax(-1)
        return -logs.gather(-1, target.unsqueeze(-1)).squeeze(-1) / math.log(2.0)
    gap = (output - target.reshape(output.shape)).flatten(2) if output.dim() > 2 else (output - target).unsqueeze(-1)
    return (gap.square() if metric.kind == "mse" else gap.abs()).mean(-1)
