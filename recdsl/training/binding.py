"""From a source's batch to the tensors of a module call, checked against the spec's types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from recdsl.diagnostics import Problems
from recdsl.errors.runs import BadBatch, NonFinite, RunError
from recdsl.errors.training import DoesNotFit, NotProvided
from recdsl.graph.step import Input
from recdsl.source import Source as Text
from recdsl.source import Span
from recdsl.training.batches import Batch, Source
from recdsl.training.declare import Field
from recdsl.training.matching import KINDS, match

AnyArray: TypeAlias = np.ndarray[Any, Any] | Tensor
Arrays = Mapping[str, AnyArray]


@dataclass(frozen=True)
class Call:
    """The arguments of a module call. `tensors` are by the spec's names; `mask` and `reset` bool [time, batch]."""

    tensors: dict[str, Tensor]
    mask: Tensor | None
    reset: Tensor | None

    @property
    def shape(self) -> tuple[int, int]:
        """(time, batch)."""
        first = next(iter(self.tensors.values()))
        return int(first.shape[0]), int(first.shape[1])


@dataclass(frozen=True)
class Binding:
    """Which field fills which input; `dtype` and `device` are the model's."""

    inputs: tuple[Input, ...]
    fields: Mapping[str, Field]
    dtype: torch.dtype = torch.float32
    device: str = "cpu"

    def call(self, batch: Batch, position: str) -> Call:
        """Check a batch and make its tensors. Raises RD0654, or RD0701 for numbers that are not finite."""
        arrays = {item.name: batch.arrays[self.fields[item.name].name] for item in self.inputs}
        return checked(self.inputs, arrays, batch.mask, batch.reset, position, self.dtype, self.device)


def bind_data(inputs: Sequence[Input], name: str, source: Source, spans: Mapping[str, Span | None]) -> dict[str, Field]:
    """The field of each input and target. Raises SpecError (RD0607, RD0608) if one is missing or does not fit."""
    problems = Problems()
    plain = [(item.name, item.kind) for item in inputs if not item.target]
    found = match(plain, [(item.name, item.kind) for item in inputs if item.target], source)
    known = ", ".join(f"{field.name} ({field})" for field in source.fields)
    for item in inputs:
        span = spans.get(item.name) or item.span or Span(Text("<spec>", ""), 0, 0)
        field = found.get(item.name)
        if field is None:
            problems.add(NotProvided(span, item.name, name, known))
        elif not fits(field, item):
            problems.add(DoesNotFit(span, item.name, describe(item), field.name, str(field)))
    problems.check()
    return found


def fits(field: Field, item: Input) -> bool:
    """Whether a field's batches have the type of an input."""
    if field.kind != KINDS[item.kind]:
        return False
    if field.kind == "label":
        return field.size <= item.size or item.size == 0
    # A lone number and an axis of one element are the same data.
    return tuple(n for n in field.shape if n != 1) == tuple(n for n in item.type.shape if n != 1)


def describe(item: Input) -> str:
    """The type as a user writes it: `onehot[10]`."""
    sizes = [item.size] if KINDS[item.kind] == "label" else list(item.type.shape)
    return item.kind + (f"[{', '.join(map(str, sizes))}]" if sizes else "")


def layout(item: Input) -> str:
    """What a batch holds for an input, in words."""
    if KINDS[item.kind] == "label":
        return f"integers [time, batch] from 0 to {item.size - 1}"
    axes = ", ".join(["time", "batch", *(str(axis) for axis in item.type.axes)])
    return f"{'booleans' if item.kind == 'bool' else 'numbers'} [{axes}]"


def checked(
    inputs: Sequence[Input],
    arrays: Arrays,
    mask: AnyArray | None,
    reset: AnyArray | None,
    position: str,
    dtype: torch.dtype,
    device: str,
) -> Call:
    """The tensors of a call, every one checked. Numbers at masked steps may be anything.

    Raises RD0654 for a missing, misshapen, empty or mistyped array and for labels out of range, RD0701 for
    numbers that are not finite.
    """
    tensors: dict[str, Tensor] = {}
    shape: tuple[int, int] | None = None
    valid = None if mask is None else torch.as_tensor(mask)
    for item in inputs:
        if item.name not in arrays:
            raise _bad(item, position, "is missing")
        array = arrays[item.name]
        tensor = torch.as_tensor(np.ascontiguousarray(array) if isinstance(array, np.ndarray) else array)
        tensor = _shaped(item, tensor, position, shape)
        shape = (int(tensor.shape[0]), int(tensor.shape[1]))
        _flag("mask", valid, shape, position, "cpu")
        tensors[item.name] = _typed(item, tensor, valid, position, dtype).to(device)
    flags = [_flag(name, value, shape, position, device) for name, value in (("mask", mask), ("reset", reset))]
    return Call(tensors, flags[0], flags[1])


def _bad(item: Input, position: str, reason: str) -> RunError:
    return RunError(BadBatch(position, item.name, reason, describe(item), layout(item)))


def _shaped(item: Input, tensor: Tensor, position: str, first: tuple[int, int] | None) -> Tensor:
    own = () if KINDS[item.kind] == "label" else item.type.shape
    got = list(tensor.shape)
    if len(got) < 2 or [n for n in got[2:] if n != 1] != [n for n in own if n != 1]:
        raise _bad(item, position, f"has the shape {got}")
    if first is not None and tuple(got[:2]) != first:
        raise _bad(item, position, f"has [time, batch] = {got[:2]}, but the array before it {list(first)}")
    if 0 in got:
        raise _bad(item, position, f"is empty: its shape is {got}")
    return tensor.reshape(got[0], got[1], *own)


def _typed(item: Input, tensor: Tensor, valid: Tensor | None, position: str, dtype: torch.dtype) -> Tensor:
    if item.kind == "bool":
        if tensor.dtype != torch.bool:
            raise _bad(item, position, f"has the dtype {tensor.dtype}")
        return tensor
    if KINDS[item.kind] == "label":
        return _labels(item, tensor, valid, position)
    if tensor.dtype == torch.bool or tensor.is_complex():
        raise _bad(item, position, f"has the dtype {tensor.dtype}")
    tensor = tensor.to(dtype)
    counted = tensor if valid is None else tensor[valid]
    wrong = int((~torch.isfinite(counted)).sum())
    if wrong:
        step = int(position) if position.isdigit() else 0
        raise RunError(NonFinite(step, "input", item.name, wrong, counted.numel(), "none"))
    return tensor


def _labels(item: Input, tensor: Tensor, valid: Tensor | None, position: str) -> Tensor:
    if tensor.dtype == torch.bool or tensor.is_floating_point() or tensor.is_complex():
        raise _bad(item, position, f"has the dtype {tensor.dtype}")
    tensor = tensor.to(torch.int64)
    counted = tensor if valid is None else tensor[valid]
    if counted.numel() and item.size:
        low, high = int(counted.min()), int(counted.max())
        if low < 0 or high >= item.size:
            raise _bad(item, position, f"has the label {low if low < 0 else high}")
    # A masked step's label is never used, but a gather would still read it.
    return tensor if valid is None else torch.where(valid, tensor, torch.zeros_like(tensor))


def _flag(
    name: str, value: AnyArray | None, shape: tuple[int, int] | None, position: str, device: str
) -> Tensor | None:
    if value is None:
        return None
    tensor = torch.as_tensor(value)
    if tensor.dtype != torch.bool or tuple(tensor.shape) != shape:
        reason = f"is {tensor.dtype} {list(tensor.shape)}"
        raise RunError(BadBatch(position, name, reason, "bool", f"booleans {list(shape or ())}"))
    return tensor.to(device)
