"""Places of the highest scores along time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Discrete


class Search(Discrete):
    """`search(scores, stamps, since; axis, every)`: what `nearest` says, of scores that are there. The first leading
    axis of scores and stamps counts slots and is lost (an op's `joint`)."""

    name = "search"
    arity = 3

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        return Type("int", (dict(attrs)["axis"],))

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        scores, stamps, since = args
        return best(xp, scores, stamps, since, _size(attrs))


def _size(attrs: Attrs) -> int:
    size: int = dict(attrs)["axis"].size
    return size


def best(xp: Any, scores: Any, stamps: Any, since: Any, size: int) -> Any:
    """scores and stamps: [slot, *lead]; since: [*lead]. int [*lead, size], -1 where slots are fewer."""
    there = (stamps >= since) & (stamps >= 0)
    place = xp.arange(scores.shape[0], device=scores.device).reshape(-1, *(1,) * (len(scores.shape) - 1))
    ranks = _ranks(xp, scores, there)
    found = [xp.where(there & (ranks == k), place + 1, 0 * place).sum(0) - 1 for k in range(size)]
    return xp.stack(found, -1)


def _ranks(xp: Any, scores: Any, there: Any) -> Any:
    """How many slots that are there come before each: of higher score, or of equal score and older."""
    place = xp.arange(scores.shape[0], device=scores.device)
    older = (place[:, None] > place[None, :]).reshape(len(place), len(place), *(1,) * (len(scores.shape) - 1))
    mine, other = scores[:, None], scores[None, :]
    return (((other > mine) | ((other == mine) & older)) & there[None, :]).sum(1)
