"""What a primitive operation declares. One file per op (or per family of one shape); the set is closed.

Own axes of a value are its trailing axes; any axes in front of them (batch, time, lanes) are mapped over, by
broadcasting of leading axes. Elementwise ops take operands whose own axes are equal: the graph inserts
`broadcast` where the language aligns by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from recdsl.graph.types import Type

Attrs = tuple[tuple[str, Any], ...]


class ShapeError(Exception):
    """Operand types that an op refuses; the graph builder adds the place and reports it.

    `hint` says what to write instead.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


class Builder(Protocol):
    """Where vjp and jvp put their nodes. Values are integers; types are asked for by value."""

    def op(self, name: str, *args: int, **attrs: Any) -> int: ...
    def const(self, value: float, like: int) -> int:
        """A constant of `like`'s type, every entry `value`."""
        ...

    def type(self, value: int) -> Type: ...


@dataclass(frozen=True)
class Primitive:
    """Base of every op. Subclasses are stateless; `attrs` is the node's attribute tuple.

    factors: how the result's dependence on an argument is structured, for verdicts and trace storage:
    "diag" (same index), "dense" (every index on every index), "zero" (no gradient), or "map" (an index map:
    see `support`).
    """

    name: ClassVar[str]
    arity: ClassVar[int]
    smooth: ClassVar[bool] = True

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        """The result's type. Raises ShapeError."""
        raise NotImplementedError

    def value(self, xp: Any, args: Sequence[Any], attrs: Attrs, types: Sequence[Type]) -> Any:
        """The value, in the array namespace `xp` (torch or numpy), `types` being the arguments' types."""
        raise NotImplementedError

    def vjp(self, b: Builder, args: Sequence[int], out: int, cot: int, attrs: Attrs) -> tuple[int | None, ...]:
        """Cotangents of the arguments (None: no gradient), as nodes of the same op set."""
        raise NotImplementedError

    def jvp(
        self, b: Builder, args: Sequence[int], out: int, tangents: Sequence[int | None], attrs: Attrs
    ) -> int | None:
        """Tangent of the result, as nodes of the same op set (None: zero)."""
        raise NotImplementedError

    def support(self, types: Sequence[Type], attrs: Attrs, argument: int) -> list[tuple[int, int]] | str:
        """Which flat result index may depend on which flat argument index: "diag", "dense", "zero" or pairs."""
        raise NotImplementedError

    def flops(self, types: Sequence[Type], result: Type, attrs: Attrs) -> int:
        """Floating point operations of one sample."""
        return result.numel
