"""Places in an ordering, for generated code. The text of this file is part of every exported model."""

from __future__ import annotations

import torch
from torch import Tensor


def ranks(x: Tensor, age: Tensor, at: int) -> Tensor:
    """How many entries along an axis come before each: larger ones, of equal ones those of smaller age, then index.

    x, age: float [*lead, *axes], one broadcast to the other's shape. Returns the same shape and dtype of x. Two stable
    sorts, by age and then by value; where each entry has gone is the inverse of that order.
    """
    x, age = torch.broadcast_tensors(x, age)
    by_age = torch.argsort(age, dim=at, stable=True)
    by_value = torch.argsort(x.gather(at, by_age), dim=at, descending=True, stable=True)
    order = by_age.gather(at, by_value)
    places = torch.arange(x.shape[at], device=x.device, dtype=x.dtype)
    places = places.reshape(-1, *(1,) * (x.dim() - 1 - at)).expand_as(x)
    return torch.empty_like(places, memory_format=torch.contiguous_format).scatter_(at, order, places)
