"""Values while C is written: memory with strides, or an expression for one entry at a given index."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recdsl.program.ir import Affine

if TYPE_CHECKING:
    from recdsl.backends.native.kernel import Kernel


class NotLoweredError(Exception):
    """What this backend has no C for; the entry then runs on torch."""


Region = tuple[str, Affine | None]
"""Memory by name, and the row of its first axis where it is one row."""


def overlap(one: Region, other: Region) -> bool:
    """Whether two regions may share an entry. Rows that differ by a number are apart."""
    if one[0] != other[0]:
        return False
    first, second = one[1], other[1]
    return first is None or second is None or first.terms != second.terms or first.const == second.const


@dataclass(frozen=True)
class Ix:
    """An index along an own axis: C text, `variable + shift` with values in lo..hi where that is known."""

    text: str
    variable: str = ""
    lo: int = 0
    hi: int = 0

    def shifted(self, by: int) -> Ix:
        if by == 0:
            return self
        return Ix(plus(self.text, by), self.variable, self.lo + by, self.hi + by)


def plus(text: str, by: int) -> str:
    """`text + by`; a number at the end of the text is added to."""
    if text.lstrip("-").isdigit():
        return str(int(text) + by)
    head, sign, tail = text[1:-1].rpartition(" + ") if text.startswith("(") and text.endswith(")") else ("", "", "")
    if sign and head.isidentifier() and tail.lstrip("-").isdigit():
        return plus(head, int(tail) + by)
    return text if by == 0 else f"({text} + {by})"


def fixed(index: int) -> Ix:
    return Ix(str(index), "", index, index + 1)


@dataclass(frozen=True)
class Stride:
    """`count` entries, times the batch's size where `batch`."""

    count: int
    batch: bool = False

    @property
    def text(self) -> str:
        return f"{self.count} * B" if self.batch and self.count != 1 else "B" if self.batch else str(self.count)


@dataclass(frozen=True)
class Ref:
    """Entries in memory: `base[offset + sum(index * stride)]`; lead strides by name, own strides in order."""

    region: Region
    base: str
    offset: str
    lead: Mapping[str, Stride]
    own: tuple[int, ...]

    def address(self, lead: Mapping[str, str], own: tuple[Ix, ...]) -> str:
        parts = [self.offset] if self.offset != "0" else []
        parts += [product(lead[name], stride.text) for name, stride in self.lead.items() if stride.count]
        parts += [product(ix.text, str(stride)) for ix, stride in zip(own, self.own, strict=True) if stride]
        kept = [part for part in parts if part != "0"]
        return " + ".join(kept) or "0"

    def moved(self, by: int) -> Ref:
        """Starting some entries later."""
        return self if by == 0 else Ref(self.region, self.base, plus_text(self.offset, str(by)), self.lead, self.own)


def plus_text(one: str, other: str) -> str:
    return other if one == "0" else one if other == "0" else f"{one} + {other}"


def product(one: str, other: str) -> str:
    if "0" in (one, other):
        return "0"
    if other == "1":
        return one
    if one == "1":
        return other
    return f"{one} * {other}" if one.isidentifier() or one.isdigit() else f"({one}) * {other}"


At = Callable[["Kernel", Mapping[str, str], tuple[Ix, ...]], str]


@dataclass(eq=False)
class Value:
    """`at` writes one entry; `reads` are the regions that this takes; `cost` counts arithmetic, about.

    parts: values that the text is made of, wherever these lie by then; `reads` follows them (`Live.place`).
    lead: names of leading axes with their extents as C text. axes: sizes of own axes. ref: where it lies, if it does.
    """

    dtype: str
    lead: dict[str, str]
    axes: tuple[int, ...]
    at: At
    reads: frozenset[Region] = frozenset()
    cost: float = 0.0
    ref: Ref | None = None
    number: float | int | bool | None = None
    depth: int = 0
    parts: tuple[Value, ...] = ()

    def entry(self, kernel: Kernel, lead: Mapping[str, str], own: tuple[Ix, ...]) -> str:
        """The entry as text, a variable where it was computed before in this loop body."""
        if self.number is not None:
            return literal(self.number, self.dtype)
        key = (id(self), tuple(lead[name] for name in self.lead), tuple(ix.text for ix in own))
        if key not in kernel.memo:
            kernel.keep.append(self)
            kernel.memo[key] = kernel.let(self.dtype, self.at(kernel, lead, own))
        return kernel.memo[key]

    def place(self, ref: Ref) -> None:
        """From now on it is read from memory."""
        self.ref, self.reads, self.cost = ref, frozenset({ref.region}), 0.25
        self.at = loader(ref)


def loader(ref: Ref) -> At:
    def at(kernel: Kernel, lead: Mapping[str, str], own: tuple[Ix, ...]) -> str:
        address = ref.address(lead, own)
        kernel.reads.add((ref.region, address))
        kernel.mixed |= of_sample(ref) and lead["B"] != kernel.sample
        return f"{ref.base}[{address}]"

    return at


def of_sample(ref: Ref) -> bool:
    """Whether each sample has entries of its own."""
    return "B" in ref.lead and ref.lead["B"].count > 0


def memory(dtype: str, lead: dict[str, str], axes: tuple[int, ...], ref: Ref, depth: int = 0) -> Value:
    """A value that lies in memory."""
    return Value(dtype, lead, axes, loader(ref), frozenset({ref.region}), 0.25, ref, None, depth)


def literal(value: float | int | bool, dtype: str) -> str:
    """A number in C, to the bit."""
    if dtype == "bool":
        return "1" if value else "0"
    if dtype == "int":
        return f"((integer){int(value)})"
    number = float(value)
    if number != number:
        return "R(NAN)"
    if number in (float("inf"), float("-inf")):
        return "R(INFINITY)" if number > 0 else "R(-INFINITY)"
    return f"R({number!r})" if number == int(number) and abs(number) < 1e6 else f"R({number.hex()})"


def contiguous(axes: tuple[int, ...], order: tuple[int, ...] | None = None) -> tuple[int, ...]:
    """Strides of own axes, the last of `order` innermost."""
    found, step = [0] * len(axes), 1
    for k in reversed(order if order is not None else tuple(range(len(axes)))):
        found[k] = step
        step *= axes[k]
    return tuple(found)


def numel(axes: tuple[int, ...]) -> int:
    count = 1
    for size in axes:
        count *= size
    return count


def flat(value: Any) -> list[float]:
    """Numbers of nested lists, in order."""
    return [x for item in value for x in flat(item)] if isinstance(value, list | tuple) else [value]
