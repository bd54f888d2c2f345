"""Which rows of a store for all samples have the highest scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Discrete, ShapeError, lead

FLOOR = 1e-8
"""As in `recdsl/graph/memory/scores.py`."""


class Lookup(Discrete):
    """`lookup(keys, count, [age], *others; axis, score, read, aged)`: the places of the rows with the highest scores,
    best first, [axis].

    keys: [slot, *key]; the first `count` slots hold an item. Of equal scores the older comes first: that of greater
    `age` where that is given (`aged`), else as a queue fills its slots. -1 stands where there are no more. `score`
    says how a query is compared with a key, up to what does not change the order; `others` are the query [*key] (dot,
    cosine, inverse_distance), Wk [hidden, *key], Wq q [hidden] and w [hidden] (mlp), or wk [*key] (separable). `read`:
    the read's name, by which a runtime knows its index.
    """

    name = "lookup"
    arity = -1

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        if types[1] != Type("float") or (dict(attrs)["aged"] and types[2].axes != types[0].axes[:1]):
            raise ShapeError(f"`lookup` of {types[0]} with {types[1]}")
        return Type("int", (dict(attrs)["axis"],))

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        named = dict(attrs)
        first = 3 if named["aged"] else 2
        scores = SCORES[named["score"]](xp, args[0], args[first:], types[0], types[first:])
        count, slots = args[1][..., None], xp.arange(types[0].axes[0].size, device=args[0].device)
        size = types[0].axes[0].size
        order = -args[2] if named["aged"] else count - 1 - (count - 1 - slots) % size
        held = slots < count
        mine, other = scores[..., :, None], scores[..., None, :]
        older = order[..., None, :] < order[..., :, None]
        before = ((other > mine) | ((other == mine) & older)) & held[..., None, :]
        ranks = before.sum(-1)
        found = [xp.where(held & (ranks == k), slots + 1, 0 * slots).sum(-1) - 1 for k in range(named["axis"].size)]
        return xp.stack(found, -1)

    def flops(self, types: Sequence[Type], result: Type, attrs: Attrs) -> int:
        named = dict(attrs)
        hidden = types[-1].numel if named["score"] == "mlp" else 1
        return 2 * types[0].numel * hidden


Others = Sequence[Any]
Kinds = Sequence[Type]


def _flat(xp: Any, value: Any, kind: Type, kept: int = 0) -> Any:
    """The own axes from number `kept` on as one."""
    front = len(lead(value, kind)) + kept
    return value.reshape((*value.shape[:front], -1))


def _dot(xp: Any, keys: Any, others: Others, kind: Type, kinds: Kinds) -> Any:
    query = _flat(xp, others[0], kinds[0])
    return (_flat(xp, keys, kind, 1) * query[..., None, :]).sum(-1)


def _cosine(xp: Any, keys: Any, others: Others, kind: Type, kinds: Kinds) -> Any:
    squares = (_flat(xp, keys, kind, 1) ** 2).sum(-1)
    floor = xp.ones_like(squares) * FLOOR * FLOOR
    return _dot(xp, keys, others, kind, kinds) / xp.sqrt(xp.maximum(squares, floor))


def _inverse_distance(xp: Any, keys: Any, others: Others, kind: Type, kinds: Kinds) -> Any:
    return -((_flat(xp, keys, kind, 1) - _flat(xp, others[0], kinds[0])[..., None, :]) ** 2).sum(-1)


def _mlp(xp: Any, keys: Any, others: Others, kind: Type, kinds: Kinds) -> Any:
    matrix, query, last = _flat(xp, others[0], kinds[0], 1), others[1], others[2]
    hidden = (_flat(xp, keys, kind, 1)[..., :, None, :] * matrix[..., None, :, :]).sum(-1)
    return (xp.tanh(hidden + query[..., None, :]) * last[..., None, :]).sum(-1)


def _separable(xp: Any, keys: Any, others: Others, kind: Type, kinds: Kinds) -> Any:
    weights = _flat(xp, others[0], kinds[0])
    return (xp.tanh(_flat(xp, keys, kind, 1)) * weights[..., None, :]).sum(-1)


SCORES: Mapping[str, Callable[[Any, Any, Others, Type, Kinds], Any]] = {
    "dot": _dot,
    "cosine": _cosine,
    "inverse_distance": _inverse_distance,
    "mlp": _mlp,
    "separable": _separable,
}
