"""Bounds and numbers as Python text."""

from __future__ import annotations

from recdsl.backends.torch.operations import Operand
from recdsl.program.ir import Affine, Bound, Storage


def affine_text(value: Affine) -> str:
    """Python text of an affine expression."""
    parts = [name if k == 1 else f"{k} * {name}" for name, k in value.terms if k]
    if value.const or not parts:
        parts.append(str(value.const))
    return " + ".join(parts).replace("+ -", "- ")


def bound_text(bound: Bound) -> str:
    parts = [affine_text(part) for part in bound.parts]
    return parts[0] if len(parts) == 1 else f"{bound.kind}({', '.join(parts)})"


def full_text(storage: Storage, value: Operand) -> str:
    """A constant as a tensor of the storage's kind."""
    dtype = {"int": ", dtype=torch.long", "bool": ", dtype=torch.bool"}.get(storage.type.dtype, "")
    sizes = "".join(f"{axis.size}, " for axis in storage.type.axes)
    return f"like.new_full(({sizes}), {value.text}{dtype})"


def number_text(value: float) -> str:
    """A literal that Python reads back exactly; infinities and nan by name."""
    if isinstance(value, bool | int):
        return repr(value)
    if value != value:
        return "math.nan"
    if value in (float("inf"), float("-inf")):
        return "math.inf" if value > 0 else "-math.inf"
    return repr(float(value))


def nested_text(value: object) -> str:
    """A nested tuple of numbers as a list literal."""
    if isinstance(value, tuple):
        return "[" + ", ".join(nested_text(item) for item in value) + "]"
    assert isinstance(value, bool | int | float)
    return number_text(value)
