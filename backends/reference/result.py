"""What a call of the oracle takes and gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Call:
    """One call, sanitised and complete.

    batch: inputs and targets by name, [T, B, *axes]. valid and reset: bool [T, B]. start: steps before this call.
    state: carry name -> [B, *axes], or None for the initial values. cotangents: of outputs, [T, B, *axes].
    counted: bool [T, B], the pairs whose losses count (None: all that are valid).
    """

    batch: Mapping[str, Tensor]
    valid: Tensor
    reset: Tensor
    start: int
    state: Mapping[str, Tensor] | None
    cotangents: Mapping[str, Tensor]
    counted: Tensor | None = None

    @property
    def steps(self) -> int:
        return self.valid.shape[0]

    @property
    def samples(self) -> int:
        return self.valid.shape[1]


@dataclass(frozen=True)
class Result:
    """outputs: [T, B, *axes]. loss: the weighted sum. losses: unweighted. state: carry -> [B, *axes], "t" -> int64.

    gradients: of `loss` plus <cotangents, outputs>, by the names of trained parameters. All detached.
    """

    outputs: dict[str, Tensor]
    loss: Tensor
    losses: dict[str, Tensor]
    state: dict[str, Tensor]
    gradients: dict[str, Tensor]
