"""Tapes, taken literally: a list of what every step left, looked through slot by slot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from recdsl.backends.reference import declared
from recdsl.graph.step import Node
from recdsl.graph.types import Type
from recdsl.ops import primitive


def value(node: Node, args: Sequence[Tensor], types: Sequence[Type], dtype: torch.dtype) -> Tensor:
    """An op of tapes. A tape is [B, slot, *axes]."""
    if node.op == "append":
        new = args[1].expand(args[0].shape[0], *args[0].shape[2:])
        return torch.cat((args[0], new.unsqueeze(1)), 1)
    if node.op == "fetch":
        return torch.stack([_fetched(tape, places) for tape, places in zip(args[0], args[1], strict=True)])
    samples = range(args[0].shape[0])
    found = [_nearest(node, [_of(arg, b, kind, k < 2) for k, (arg, kind) in enumerate(zip(args, types, strict=True))],
                      types, dtype) for b in samples]  # fmt: skip
    return torch.tensor(found, dtype=torch.int64).reshape(len(samples), *node.type.shape)


def _of(value: Tensor, sample: int, kind: Type, tape: bool) -> Tensor:
    """What one sample has of a value, which may be the same for all."""
    return value[sample] if value.dim() == len(kind.axes) + 1 + tape else value


def _fetched(tape: Tensor, places: Tensor) -> Tensor:
    """[rank, *axes] of one sample."""
    rows = [tape[int(place)] if place >= 0 else tape.new_zeros(tape.shape[1:]) for place in places]
    return torch.stack(rows)


def _nearest(node: Node, args: Sequence[Tensor], types: Sequence[Type], dtype: torch.dtype) -> list[int]:
    """Places of the best slots of one sample."""
    keys, stamps, since, *others = (arg.detach() for arg in args)
    known = {1 + k: (other, kind) for k, (other, kind) in enumerate(zip(others, types[3:], strict=True))}
    scored: list[tuple[float, int]] = []
    for slot in range(keys.shape[0]):
        if stamps[slot] >= 0 and stamps[slot] >= since:
            scored.append((-_score(node, {0: (keys[slot], types[0]), **known}, dtype), slot))
    best = [slot for _, slot in sorted(scored)][: node.type.axes[0].size]
    return best + [-1] * (node.type.axes[0].size - len(best))


def _score(node: Node, known: Mapping[int, tuple[Tensor, Type]], dtype: torch.dtype) -> float:
    values = dict(known)
    for op, args, attrs in node.attr("body"):
        kinds = [values[arg][1] for arg in args]
        made = declared.value(op, [values[arg][0] for arg in args], attrs, kinds, dtype)
        values[len(values)] = made, primitive(op).infer(kinds, attrs)
    return float(values[len(values) - 1][0])
