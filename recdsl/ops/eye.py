"""Identity matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops.base import Attrs, Discrete


class Eye(Discrete):
    """`eye(; axes)`: 1 where both indices agree."""

    name = "eye"
    arity = 0

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        return Type("float", tuple(dict(attrs)["axes"]))

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        return xp.eye(dict(attrs)["axes"][0].size, dtype=dict(attrs).get("dtype", xp.float64))
