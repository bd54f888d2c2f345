"""Ops whose declared derivative is not that of their value: a straight-through form with the slope written out."""

from __future__ import annotations

from collections.abc import Callable
from math import pi
from typing import Any

import torch
from torch import Tensor

from recdsl.graph.types import Type
from recdsl.ops import primitive
from recdsl.ops.base import Attrs

_SURROGATES: dict[str, Callable[[Tensor], Tensor]] = {
    "triangle": lambda s: torch.clamp(1 - abs(s), min=0),
    "fast_sigmoid": lambda s: 1 / (1 + abs(s)) ** 2,
    "arctan": lambda s: 1 / (1 + (pi * s) ** 2),
    "sigmoid": lambda s: 4 * torch.sigmoid(s) * (1 - torch.sigmoid(s)),
}


def value(op: str, args: list[Tensor], attrs: Attrs, types: list[Type], dtype: torch.dtype) -> Tensor:
    """The value of a primitive, differentiable by autograd as the op declares."""
    result: Tensor = primitive(op).value(torch, args, (*attrs, ("dtype", dtype)), types)
    if op == "softplus":
        return torch.logaddexp(args[0], torch.zeros_like(args[0]))  # autograd of |x| in the op's value fails at 0
    if op == "spike":
        named: dict[str, Any] = dict(attrs)
        slope = _SURROGATES[named["surrogate"]](args[0].detach() / named["width"])
        return result.detach() + slope * (args[0] - args[0].detach())
    return result
