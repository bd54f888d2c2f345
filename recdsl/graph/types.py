"""Value types: a kind of number over ordered, named axes. Batch and time are implicit."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod


@dataclass(frozen=True, order=True)
class Axis:
    """A named axis with its extent."""

    name: str
    size: int

    def __str__(self) -> str:
        return self.name if self.name == str(self.size) else f"{self.name}={self.size}"


@dataclass(frozen=True)
class Type:
    """`dtype` is "float", "int" or "bool"; `axes` are a value's own axes, batch and time not among them."""

    dtype: str
    axes: tuple[Axis, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(axis.size for axis in self.axes)

    @property
    def numel(self) -> int:
        return prod(self.shape)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(axis.name for axis in self.axes)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.axes))}]" if self.axes else self.dtype


FLOAT = Type("float")
BOOL = Type("bool")
INT = Type("int")
