"""Stop before an update that would spread a NaN or an infinity."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from recdsl.errors.runs import NonFinite, RunError


def wrong(tensor: Tensor) -> int:
    """How many entries are not finite."""
    return int((~torch.isfinite(tensor)).sum())


def check_output(loss: Tensor, outputs: Mapping[str, Tensor], step: int, checkpoint: str) -> float:
    """The loss as a number. Raises RD0701 naming the first output that is not finite, or the loss."""
    value = float(loss.detach())
    if abs(value) < float("inf"):
        return value
    for name, output in outputs.items():
        if output.is_floating_point() and (count := wrong(output.detach())):
            raise RunError(NonFinite(step, "output", name, count, output.numel(), checkpoint))
    raise RunError(NonFinite(step, "loss", "loss", 1, 1, checkpoint))


def clip(named: Iterable[tuple[str, nn.Parameter]], largest: float | None, step: int, checkpoint: str) -> float:
    """The norm of the whole gradient, which is scaled down to `largest` where it is more.

    Checked before scaling, which would spread one NaN over every gradient. Raises RD0701 naming the parameter.
    """
    found = [(name, parameter.grad) for name, parameter in named if parameter.grad is not None]
    gradients = [gradient for _, gradient in found]
    if not gradients:
        return 0.0
    total = torch.nn.utils.get_total_norm(gradients)
    norm = float(total)
    if not abs(norm) < float("inf"):
        for name, gradient in found:
            if count := wrong(gradient):
                raise RunError(NonFinite(step, "gradient", name, count, gradient.numel(), checkpoint))
        raise RunError(NonFinite(step, "gradient", "norm of all", 1, 1, checkpoint))
    if largest is not None and norm > largest:
        for gradient in gradients:
            gradient.mul_(largest / norm)
    return norm
