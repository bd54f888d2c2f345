"""Standard normal numbers beside the data, for models that draw: a variational autoencoder, say."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from recdsl.training.arrays import np
from recdsl.training.batches import Batch, Request, Sampler, Source
from recdsl.training.declare import Field, Option

NOISE = Option("noise", "int", 0, "numbers of a further field `noise`, standard normal, drawn anew each time", low=0)
KEY = 2017
"""Sets the numbers apart from what a source draws itself."""


@dataclass
class Noisy:
    """The batches of a sampler, with `noise` float[size] at every step."""

    inner: Sampler
    request: Request
    size: int
    position: int = 0

    def next(self) -> Batch:
        batch = self.inner.next()
        shape = next(iter(batch.arrays.values())).shape[:2]
        drawn = self.request.rng(KEY, self.position).standard_normal((*shape, self.size), np.float32)
        self.position += 1
        return replace(batch, arrays={**batch.arrays, "noise": drawn})

    def state(self) -> dict[str, Any]:
        return {"inner": self.inner.state(), "position": self.position}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.inner.restore(state["inner"])
        self.position = int(state["position"])


def noisy(source: Source, size: int) -> Source:
    """A source with the field `noise`; the same source where the size is 0."""
    if not size:
        return source
    draw: Callable[[Request], Sampler] = source.draw
    fields = (*source.fields, Field("noise", "float", "input", shape=(size,)))
    return replace(source, fields=fields, draw=lambda request: Noisy(draw(request), request, size))
