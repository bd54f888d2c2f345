"""A stream of observations, handed out a few steps at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recdsl.training.batches import Batch, Sampler
from recdsl.training.binding import Binding, Call


@dataclass(frozen=True)
class Steps:
    """Some steps of a stream. `reset` is None where no row begins anew, `mask` where every step is valid."""

    tensors: dict[str, Tensor]
    mask: Tensor | None
    reset: Tensor | None

    @property
    def shape(self) -> tuple[int, int]:
        """(time, batch)."""
        first = next(iter(self.tensors.values()))
        return int(first.shape[0]), int(first.shape[1])


@dataclass
class Feed:
    """The steps of a source in order, one batch after the other; a batch is checked and converted as a whole.

    continues: whether the rows of a batch go on where those of the one before ended; otherwise each begins anew, unless
    the batch says itself where rows begin. used: batches that are used up. A position is the sampler's state before
    the batch in work, and how many of its steps are used up.
    """

    sampler: Sampler
    binding: Binding
    continues: bool

    def __post_init__(self) -> None:
        self.before = self.sampler.state()
        self.batch: Batch | None = None
        self.call: Call | None = None
        self.offset, self.length, self.used = 0, 0, 0

    def take(self, count: int) -> Steps:
        """The next steps. Raises RD0654 and RD0701 for a batch that does not fit."""
        parts: list[Steps] = []
        while count:
            if self.offset == self.length:
                self._draw()
            found = min(count, self.length - self.offset)
            parts.append(self._slice(self.offset, self.offset + found))
            self.offset += found
            count -= found
            self.used += self.offset == self.length
        return parts[0] if len(parts) == 1 else joined(parts)

    @property
    def left(self) -> int:
        """Steps of the batch in work."""
        return self.length - self.offset

    def masked(self) -> bool:
        """Whether the next steps have a mask."""
        if not self.left:
            self._draw()
        return self.call is not None and self.call.mask is not None

    def _draw(self) -> None:
        self.before = self.sampler.state()
        self._load()
        self.offset = 0

    def _load(self) -> None:
        self.batch = self.sampler.next()
        self.call = self.binding.call(self.batch, "the stream")
        self.length = self.call.shape[0]
        reset = self.call.reset
        if reset is None and not self.continues:
            reset = torch.zeros(self.call.shape, dtype=torch.bool, device=self.binding.device)
            reset[0] = True
        self.reset = reset
        self.resets = [] if reset is None else reset.any(1).tolist()

    def _slice(self, start: int, stop: int) -> Steps:
        call = self.call
        assert call is not None
        tensors = {name: value[start:stop] for name, value in call.tensors.items()}
        mask = None if call.mask is None else call.mask[start:stop]
        reset = self.reset[start:stop] if self.reset is not None and any(self.resets[start:stop]) else None
        return Steps(tensors, mask, reset)

    def state(self) -> dict[str, Any]:
        """Plain JSON; a batch that is used up is not drawn again."""
        if self.offset == self.length:
            return {"sampler": self.sampler.state(), "offset": 0}
        return {"sampler": self.before, "offset": self.offset}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.sampler.restore(state["sampler"])
        self.before, self.offset, self.length = self.sampler.state(), 0, 0
        if state["offset"]:
            self._load()
            self.offset = int(state["offset"])


def part(steps: Steps, start: int, stop: int) -> Steps:
    """Some of the steps; resets that are none are left out."""
    reset = None if steps.reset is None else steps.reset[start:stop]
    mask = None if steps.mask is None else steps.mask[start:stop]
    tensors = {name: value[start:stop] for name, value in steps.tensors.items()}
    return Steps(tensors, mask, reset if reset is not None and bool(reset.any()) else None)


def joined(parts: Sequence[Steps]) -> Steps:
    """Steps behind each other."""
    tensors = {name: torch.cat([part.tensors[name] for part in parts]) for name in parts[0].tensors}
    flags = {"mask": True, "reset": False}
    found = {name: _flags([getattr(part, name) for part in parts], parts, rest) for name, rest in flags.items()}
    return Steps(tensors, found["mask"], found["reset"])


def _flags(values: Sequence[Tensor | None], parts: Sequence[Steps], rest: bool) -> Tensor | None:
    if all(value is None for value in values):
        return None
    device = next(value.device for value in values if value is not None)
    full = [
        torch.full(part.shape, rest, device=device) if value is None else value
        for part, value in zip(parts, values, strict=True)
    ]
    return torch.cat(full)
