"""Optimizers of online learning. Their state is ordinary optimizer state, so checkpoints hold it."""

# The operations of torch on lists of tensors have no public names, but every optimizer of torch is made of them.
# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class TDLambda(torch.optim.Optimizer):
    """theta += lr * mean of delta * e; the gradient of a `td` loss with traces is the mean of -delta * e.

    The compiled model keeps the traces e. normalise: each update is divided by the root of its running mean square
    (Javed et al., JMLR 24(256), 2023, who keep 0.9999): v <- keep v + (1 - keep) (delta e)^2;
    theta += lr * delta * e / (sqrt(v) + 1e-8). With `initial` v begins there: 1 in the paper, whose stages are of
    millions of updates; an update is far smaller than 1, so nothing much is learned before v has fallen, in some
    1 / (1 - keep) updates. With 0, v is the mean of the updates so far, v / (1 - keep^n) (Kingma & Ba 2015).
    """

    SMALL = 1e-8

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        trace: float = 0.0,
        normalise: bool = False,
        keep: float = 0.9999,
        initial: float = 0.0,
    ) -> None:
        """trace: lambda of the traces; it is for the compiler."""
        options = {"lr": lr, "trace": trace, "normalise": normalise, "keep": keep, "initial": initial}
        super().__init__(params, options)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            parameters: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            moves = [p.grad for p in parameters if p.grad is not None]
            if group["normalise"] and parameters:
                moves = self._normalised(parameters, moves, group)
            if parameters:
                torch._foreach_add_(parameters, moves, alpha=-group["lr"])

    def _normalised(self, parameters: list[Tensor], gradients: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
        keep, initial = group["keep"], group["initial"]
        states = [self.state[p] for p in parameters]
        for p, state in zip(parameters, states, strict=True):
            if "square" not in state:
                state["square"], state["updates"] = torch.full_like(p, initial), 0
            state["updates"] += 1
        squares = [state["square"] for state in states]
        shares = [1.0 - keep if initial else newest(keep, state["updates"]) for state in states]
        torch._foreach_mul_(squares, [1.0 - share for share in shares])
        torch._foreach_addcmul_(squares, gradients, gradients, shares)
        roots: Any = torch._foreach_sqrt(squares)
        torch._foreach_add_(roots, self.SMALL)
        return list(torch._foreach_div(gradients, roots))


def newest(keep: float, count: int) -> float:
    """The weight of the newest of `count` values in their mean, where each counts `keep` times its successor."""
    return (1.0 - keep) / (1.0 - keep**count) if keep < 1.0 else 1.0 / count


class IDBD(torch.optim.Optimizer):
    """Incremental delta-bar-delta (Sutton 1992), where x is the gradient of the prediction by each parameter.

    beta += meta * delta * x * h; alpha = exp(beta); theta += alpha * delta * x;
    h <- h * max(0, 1 - alpha * x^2) + alpha * delta * x. A schedule multiplies alpha.

    From the loss L of one prediction and its gradient g: delta * x = -g / c and x^2 = (g / c)^2 / (2 L / c), with c = 1
    for delta^2 / 2 (`td`) and 2 for delta^2 (`mse`).
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, meta: float) -> None:
        super().__init__(params, {"lr": lr, "first": lr, "meta": meta})
        self.loss, self.scale = 0.0, 1.0

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """`loss` holds the loss of the update."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._one(p, -p.grad / self.scale, group)

    def _one(self, p: Tensor, move: Tensor, group: dict[str, Any]) -> None:
        """move: delta * x."""
        state = self.state[p]
        if not state:
            state["beta"] = torch.full_like(p, math.log(group["first"]))
            state["h"] = torch.zeros_like(p)
        state["beta"].addcmul_(move, state["h"], value=group["meta"])
        alpha = state["beta"].exp() * (group["lr"] / group["first"])
        error = 2.0 * self.loss / self.scale  # delta^2
        square = move.square() / error if error > 0.0 else torch.zeros_like(p)
        p.addcmul_(alpha, move)
        state["h"].mul_((1.0 - alpha * square).clamp_min_(0.0)).addcmul_(alpha, move)
