"""How leading axes lie in memory: only the batch's size is not known when C is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recdsl.backends.native.values import NotLoweredError, Stride
from recdsl.program.ir import Affine


def lead_strides(lead: Mapping[str, str], inner: int) -> dict[str, Stride]:
    """Strides of leading axes in front of `inner` entries. Only the batch's size is not a number."""
    found, step = dict[str, Stride](), Stride(inner)
    for name in reversed(list(lead)):
        found[name] = step
        step = grown(step, lead[name], name == next(iter(lead)))
    return {name: found[name] for name in lead}


def grown(step: Stride, extent: str, last: bool) -> Stride:
    if last:
        return step
    if extent == "B" and not step.batch:
        return Stride(step.count, True)
    if extent.isdigit():
        return Stride(step.count * int(extent), step.batch)
    raise NotLoweredError("a leading axis behind another one of unknown extent")


def storage_strides(lead: Sequence[tuple[str, Affine]], inner: int) -> list[Stride]:
    names = {
        name: "B" if size == Affine(0, (("B", 1),)) else str(size.const) if not size.terms else "?"
        for name, size in lead
    }
    return list(lead_strides(names, inner).values())
