"""Nodes evaluated with torch as they are made: for trying an op's vjp and jvp without a graph."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recdsl.graph.types import Type
from recdsl.ops import primitive


class Evaluator:
    """A `Builder` whose values are indices of float64 tensors."""

    def __init__(self) -> None:
        self.values: list[Tensor] = []
        self.types: list[Type] = []

    def put(self, value: Tensor, type: Type) -> int:
        """A given value."""
        self.values.append(value)
        self.types.append(type)
        return len(self.values) - 1

    def op(self, name: str, *args: int, **attrs: Any) -> int:
        ordered = tuple(sorted(attrs.items()))
        types = [self.types[k] for k in args]
        result = primitive(name).infer(types, ordered)
        value: Tensor = primitive(name).value(torch, [self.values[k] for k in args], ordered, types)
        assert tuple(value.shape[value.dim() - len(result.axes) :]) == result.shape, f"{name}: {value.shape}, {result}"
        return self.put(value, result)

    def const(self, value: float, like: int) -> int:
        type = Type("float", self.types[like].axes)
        return self.put(torch.full(type.shape, value, dtype=torch.float64), type)

    def type(self, value: int) -> Type:
        return self.types[value]
