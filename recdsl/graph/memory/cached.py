"""What a score needs of a key, computed once when it is written, and the rest of the score, for a search.

A search has no derivative, so it may compare in any way that gives the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from recdsl.graph.memory.scores import Compared, norm
from recdsl.graph.types import Axis, Type
from recdsl.ops.nearest import Body

Step = tuple[str, tuple[int, ...], dict[str, Any]]


@dataclass(frozen=True)
class Cache:
    """`key`: from a key, [*key], what is kept of it. `rest`: from a query, the further operands and the ops of a score
    (operand 0 is what was kept, 1, 2, ... the others, then results)."""

    key: Callable[[Compared], int]
    rest: Callable[[Compared, Type], tuple[tuple[int, ...], tuple[Step, ...]]]


def cached(made: Compared) -> int:
    """What is kept of a key (`made.keys`, here of one slot, [*key])."""
    return CACHES[made.read.score.kind].key(made)


def compared(made: Compared, key: Type) -> tuple[tuple[int, ...], Body]:
    """Operands and ops of a search. key: the type of a key."""
    others, steps = CACHES[made.read.score.kind].rest(made, key)
    return others, tuple((op, args, tuple(sorted(attrs.items()))) for op, args, attrs in steps)


def _labels(axes: tuple[Axis, ...]) -> tuple[int, ...]:
    return tuple(range(len(axes)))


def _dot_rest(made: Compared, key: Type) -> tuple[tuple[int, ...], tuple[Step, ...]]:
    labels = _labels(key.axes)
    return (made.matched_to(key.axes),), (("contract", (0, 1), {"x": labels, "y": labels, "out": ()}),)


def _unit(made: Compared) -> int:
    b, axes = made.b, made.b.type(made.keys).axes
    length = norm(b, made.keys, 0)
    return b.op("div", made.keys, b.op("broadcast", length, axes=axes, at=()) if axes else length)


def _distance_rest(made: Compared, key: Type) -> tuple[tuple[int, ...], tuple[Step, ...]]:
    steps: list[Step] = [("sub", (0, 1), {}), ("mul", (2, 2), {})]
    if key.axes:
        steps.append(("sum", (3,), {"over": _labels(key.axes)}))
    steps.append(("neg", (len(steps) + 1,), {}))
    return (made.matched_to(key.axes),), tuple(steps)


def _mlp_key(made: Compared) -> int:
    from_key, axes = made.key_matrix(made.b.type(made.keys).axes), made.b.type(made.keys).axes
    own = tuple(range(1, 1 + len(axes)))
    return made.b.op("contract", from_key, made.keys, x=(0, *own), y=own, out=(0,))


def _mlp_rest(made: Compared, key: Type) -> tuple[tuple[int, ...], tuple[Step, ...]]:
    steps: tuple[Step, ...] = (
        ("add", (0, 1), {}),
        ("tanh", (3,), {}),
        ("contract", (2, 4), {"x": (0,), "y": (0,), "out": ()}),
    )
    return (made.mixed_query(), made.last_weights()), steps


def _separable_key(made: Compared) -> int:
    b, axes = made.b, made.b.type(made.keys).axes
    labels = _labels(axes)
    return b.op("contract", b.op("tanh", made.keys), made.key_weights(axes), x=labels, y=labels, out=())


CACHES: Mapping[str, Cache] = {
    "dot": Cache(lambda made: made.keys, _dot_rest),
    "cosine": Cache(_unit, _dot_rest),
    "inverse_distance": Cache(lambda made: made.keys, _distance_rest),
    "mlp": Cache(_mlp_key, _mlp_rest),
    "separable": Cache(_separable_key, lambda made, key: ((), ())),
}
