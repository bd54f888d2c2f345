"""What a primitive operation declares. One file per op; the set is closed.

Own axes of a value are its trailing axes; any axes in front of them (batch, time, lanes) are mapped over, by
broadcasting of leading axes. Elementwise ops take operands whose own axes are equal: the graph inserts
`broadcast` where the language aligns by name.
"""

from __future__ import annotations

from collections.abc import Sequence
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


class Primitive:
    """Base of every op; stateless. Abstract: subclasses are final but for the small families below.

    structure: how the result depends on its arguments, for verdicts and trace storage: "diag" (same index on
    same index), "map" (an index map: each entry of the result is an entry of one argument, or 0), "dense", or "zero"
    (no derivative).
    smooth: whether finite differences agree with the declared derivative everywhere.
    """

    name: ClassVar[str]
    arity: ClassVar[int]
    smooth: ClassVar[bool] = True
    structure: ClassVar[str] = "dense"

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

    def flops(self, types: Sequence[Type], result: Type, attrs: Attrs) -> int:
        """Floating point operations of one sample."""
        return result.numel


class Elementwise(Primitive):
    """Ops whose Jacobian is diagonal: vjp and jvp are the same multiplication by the partial derivative."""

    structure: ClassVar[str] = "diag"

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        for other in types[1:]:
            if other.axes != types[0].axes:
                raise ShapeError(f"`{self.name}` of {types[0]} and {other}")
        return Type("float", types[0].axes)

    def scale(self, b: Builder, args: Sequence[int], out: int, attrs: Attrs, argument: int, v: int) -> int | None:
        """`v` times the partial derivative with respect to the argument (None: zero)."""
        raise NotImplementedError

    def vjp(self, b: Builder, args: Sequence[int], out: int, cot: int, attrs: Attrs) -> tuple[int | None, ...]:
        return tuple(self.scale(b, args, out, attrs, k, cot) for k in range(len(args)))

    def jvp(
        self, b: Builder, args: Sequence[int], out: int, tangents: Sequence[int | None], attrs: Attrs
    ) -> int | None:
        terms = [self.scale(b, args, out, attrs, k, v) for k, v in enumerate(tangents) if v is not None]
        return add_all(b, terms)


class Linear(Primitive):
    """Ops linear in each float argument with the others held: the tangent applies the op to the tangent."""

    def jvp(
        self, b: Builder, args: Sequence[int], out: int, tangents: Sequence[int | None], attrs: Attrs
    ) -> int | None:
        terms = [
            b.op(self.name, *args[:k], v, *args[k + 1 :], **dict(attrs))
            for k, v in enumerate(tangents)
            if v is not None
        ]
        return add_all(b, terms)


class Discrete(Primitive):
    """Ops without a derivative."""

    smooth: ClassVar[bool] = False
    structure: ClassVar[str] = "zero"

    def vjp(self, b: Builder, args: Sequence[int], out: int, cot: int, attrs: Attrs) -> tuple[int | None, ...]:
        return (None,) * len(args)

    def jvp(
        self, b: Builder, args: Sequence[int], out: int, tangents: Sequence[int | None], attrs: Attrs
    ) -> int | None:
        return None


class Comparison(Discrete):
    """Two numbers of one shape to a bool."""

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        if types[0].axes != types[1].axes:
            raise ShapeError(f"comparison of {types[0]} and {types[1]}")
        return Type("bool", types[0].axes)


class Logical(Discrete):
    """Bools to a bool."""

    def infer(self, types: Sequence[Type], attrs: Attrs) -> Type:
        for type in types:
            if type.dtype != "bool" or type.axes != types[0].axes:
                raise ShapeError(f"`{self.name}` of {type}", "compare first, as in `x > 0`")
        return types[0]


def add_all(b: Builder, terms: Sequence[int | None]) -> int | None:
    """Sum of the terms that are there; None if none is."""
    found = [term for term in terms if term is not None]
    total = found[0] if found else None
    for term in found[1:]:
        assert total is not None
        total = b.op("add", total, term)
    return total


def lead(array: Any, type: Type) -> tuple[int, ...]:
    """The extents of an array in front of its own axes."""
    return tuple(array.shape[: len(array.shape) - len(type.axes)])
