"""Rows of stores for all samples, found by their scores. The text of this file is part of every exported model.

Scores are made of some slots at a time and thrown away: `PIECE` of them, whatever the number of slots.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

PIECE = 1 << 19
"""How many scores there are at once."""


class Lookups:
    """What one call has for its rows, each known by the address where they begin, which is theirs while the call runs.
    indexes: of a read of these keys, by its name too (`index.py`); anew: what stands for rows (`replay.py`).

    A call in pieces may be run again when rows have been written (`chunks.py`): kept: what searches find, by read;
    again: what they are to find, since the rows that they found are no longer there."""

    def __init__(self) -> None:
        self.indexes: dict[tuple[int, str], Any] = {}
        self.anew: dict[int, Any] = {}
        self.kept: dict[str, list[Tensor]] | None = None
        self.again: dict[str, Iterator[Tensor]] | None = None

    @property
    def busy(self) -> bool:
        """Whether searches and rows are not those of what is stored alone."""
        ready = any(index.ready for index in self.indexes.values())
        return ready or bool(self.anew) or self.kept is not None or self.again is not None


def lookup(
    score: str,
    keys: Tensor,
    count: Tensor,
    age: Tensor | None,
    others: tuple[Tensor, ...],
    size: int,
    read: str,
    call: Lookups | None = None,
) -> Tensor:
    """The slots of the highest scores, best first, of equal ones the older first; -1 where there are no more.

    keys: [slot, *key]; count: how many slots hold an item, as a queue counts (`lasting.py`); age: of each slot, unless
    they are a queue; others: of these the query has leading axes; call: what it has beside them. Returns int64
    [*lead, size].
    """
    if call is not None and call.again is not None:
        return next(call.again[read])
    found = searched(score, keys, count, age, others, size, read, call)
    if call is not None and call.kept is not None:
        call.kept.setdefault(read, []).append(found)
    return found


def searched(
    score: str,
    keys: Tensor,
    count: Tensor,
    age: Tensor | None,
    others: tuple[Tensor, ...],
    size: int,
    read: str,
    call: Lookups | None,
) -> Tensor:
    """`lookup` in the rows as they are."""
    query = others[QUERY.get(score, 0)]
    own = keys.dim() - 1 if score in ("dot", "cosine", "inverse_distance") else 1
    lead = query.shape[: query.dim() - own] if score != "separable" else ()
    asked = query.reshape(-1, query.shape[len(lead) :].numel())
    others = tuple(asked if k == QUERY.get(score, 0) else other for k, other in enumerate(others))
    index = None if call is None else call.indexes.get((keys.data_ptr(), read))
    flat, held = keys.reshape(len(keys), -1), min(int(count), len(keys))
    if index is not None and index.ready:
        return index.search(asked, size).reshape(*lead, size)
    return exact(score, flat, held, order_of(len(keys), count, age), others, size).reshape(*lead, size)


QUERY = {"mlp": 1}
"""Which of the operands beside the keys depends on the sample."""


def order_of(size: int, count: Tensor, age: Tensor | None) -> Callable[[Tensor], Tensor]:
    """Numbers that grow from older slots to newer ones."""
    if age is not None:
        return lambda slots: -age[slots]
    last = int(count) - 1
    return lambda slots: last - (last - slots) % size


def exact(
    score: str,
    keys: Tensor,
    held: int,
    order: Callable[[Tensor], Tensor],
    others: tuple[Tensor, ...],
    size: int,
) -> Tensor:
    """Slots of the highest scores among the first `held`, [query, size]. keys: [slot, numbers]."""
    number = 1 if score == "separable" else len(others[QUERY.get(score, 0)])
    width = len(others[2]) if score == "mlp" else keys.shape[1] if score == "inverse_distance" else 1
    step = max(size, PIECE // max(1, number * width))
    best = keys.new_full((number, size), -torch.inf)
    found = torch.full((number, size), -1, device=keys.device)
    for start in range(0, held, step):
        piece = keys[start : min(start + step, held)]
        scores = SCORES[score](piece, others)
        hot = (~(scores.amax(1) < best[:, -1])).nonzero().squeeze(1)  # what is no number goes on as it is
        if len(hot):
            known = best[hot], found[hot]
            best[hot], found[hot] = merged_best(known, entrants(scores[hot], known[0], start, order), size, order)
    return torch.where(best == -torch.inf, torch.full_like(found, -1), found)


def entrants(scores: Tensor, best: Tensor, start: int, order: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Of one piece the (scores, slots), [query, any], that may be among the best. best: [query, size], so far."""
    size = best.shape[1]
    rows, columns = (~(scores < best[:, -1:])).nonzero(as_tuple=True)
    most = int(torch.bincount(rows).max())
    if most <= 4 * size + 64:
        return ragged(scores, rows, columns, most, start)
    columns = contenders(scores, size, start, order)  # many compete: as at the beginning
    return scores.gather(1, columns), columns + start


def contenders(scores: Tensor, size: int, start: int, order: Callable[[Tensor], Tensor]) -> Tensor:
    """Columns of the highest scores of each row, with the older of equal ones."""
    size = min(size, scores.shape[1])
    values, columns = scores.topk(size, dim=1)
    if bool(((scores >= values[:, -1:]).sum(1) > size).any()):  # some equal ones were left out
        ages = order(torch.arange(start, start + scores.shape[1], device=scores.device)).argsort(stable=True)
        columns = ages[scores[:, ages].argsort(dim=1, descending=True, stable=True)[:, :size]]
    return columns


def ragged(scores: Tensor, rows: Tensor, columns: Tensor, most: int, start: int) -> tuple[Tensor, Tensor]:
    """Chosen entries of each row side by side, as (scores, slots), with -inf and -1 behind them."""
    first = torch.searchsorted(rows, torch.arange(len(scores), device=rows.device))
    place = torch.arange(len(rows), device=rows.device) - first[rows]
    fresh = scores.new_full((len(scores), most), -torch.inf)
    slots = torch.full((len(scores), most), -1, device=rows.device)
    fresh[rows, place], slots[rows, place] = scores[rows, columns], columns + start
    return fresh, slots


def merged_best(
    one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor], size: int, order: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """The best of two sets of (scores, slots), [query, any], of equal ones the older first."""
    scores, slots = torch.cat((one[0], two[0]), 1), torch.cat((one[1], two[1]), 1)
    by_age = order(slots.clamp_min(0)).argsort(dim=1, stable=True)
    scores, slots = scores.gather(1, by_age), slots.gather(1, by_age)
    by_score = scores.argsort(dim=1, descending=True, stable=True)[:, :size]
    return scores.gather(1, by_score), slots.gather(1, by_score)


def _cosine(keys: Tensor, others: tuple[Tensor, ...]) -> Tensor:
    return (others[0] @ keys.t()) / torch.linalg.vector_norm(keys, dim=1).clamp_min(1e-8)


def _distance(keys: Tensor, others: tuple[Tensor, ...]) -> Tensor:
    """Minus the square of the distance, as it is in the score: sums of products would round otherwise."""
    return -(others[0][:, None, :] - keys).square().sum(2)


def _mlp(keys: Tensor, others: tuple[Tensor, ...]) -> Tensor:
    matrix, query, last = others
    return torch.tanh((keys @ matrix.reshape(len(last), -1).t()) + query[:, None, :]) @ last


SCORES: Mapping[str, Callable[[Tensor, tuple[Tensor, ...]], Tensor]] = {
    "dot": lambda keys, others: others[0] @ keys.t(),
    "cosine": _cosine,
    "inverse_distance": _distance,
    "mlp": _mlp,
    "separable": lambda keys, others: (torch.tanh(keys) @ others[0].reshape(-1))[None],
}


def gather_rows(table: Tensor, place: Tensor, call: Lookups | None = None) -> Tensor:
    """Rows of [slot, *axes] at [*lead, rank]; zeros at -1. Returns [*lead, rank, *axes]."""
    anew, hit = None if call is None else call.anew.get(table.data_ptr()), place >= 0
    found = table[place.clamp_min(0)] if anew is None else anew.rows(table, place)
    return found if bool(hit.all()) else torch.where(hit.reshape(*place.shape, *(1,) * (table.dim() - 1)), found, 0.0)


def scatter_rows(rows: Tensor, place: Tensor, size: int) -> Tensor:
    """The sum of rows [*lead, rank, *axes] at places [*lead, rank] (-1: nowhere), sparse, [size, *axes]."""
    chosen = (place.reshape(-1) >= 0).nonzero().squeeze(1)
    lead = place.dim()
    rows = rows.expand(*place.shape, *rows.shape[lead:]).reshape(place.numel(), *rows.shape[lead:])
    where = place.reshape(-1)[chosen][None]
    return torch.sparse_coo_tensor(where, rows[chosen], (size, *rows.shape[1:]), check_invariants=False)
