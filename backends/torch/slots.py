"""Slots of tapes, for generated code. The text of this file is part of every exported model."""

from __future__ import annotations

import torch
from torch import Tensor


def places(scores: Tensor, stamps: Tensor, since: Tensor, size: int, first: int = 0, every: int = 1) -> Tensor:
    """The best slots of each sample, best first, of equal ones the older first; -1 where there are no more.

    scores, stamps: [slot, batch], of the steps first, first + every, ...; since: [batch], the least stamp that counts.
    Returns steps, int64 [batch, size].
    """
    there = (stamps >= since) & (stamps >= 0)
    count = min(size, scores.shape[0])
    shown = torch.where(there, scores, -torch.inf).t()
    values, found = shown.topk(count, sorted=True)
    if count and bool(((shown >= values[:, -1:]).sum(1) > count).any()):  # some equal ones were left out
        values, found = (x[:, :count] for x in shown.sort(dim=1, descending=True, stable=True))
    order = found.argsort(dim=1)
    values, found = values.gather(1, order), found.gather(1, order)
    order = values.argsort(dim=1, descending=True, stable=True)
    found = torch.where(there.t().gather(1, found), first + every * found, -1).gather(1, order)
    return torch.nn.functional.pad(found, (0, size - count), value=-1)


def rows_at(tape: Tensor, place: Tensor) -> Tensor:
    """Rows of [slot, batch, *axes] at [batch, rank]; zeros at -1. Returns [batch, rank, *axes]."""
    samples = torch.arange(place.shape[0], device=place.device)[:, None]
    return _held(tape[place.clamp_min(0), samples], place)


def add_rows(tape: Tensor, place: Tensor, rows: Tensor) -> None:
    """Add rows [batch, rank, *axes] to [slot, batch, *axes] at the places [batch, rank]; -1: nowhere."""
    samples = torch.arange(place.shape[0], device=place.device)[:, None].expand_as(place)
    tape.index_put_((place.clamp_min(0), samples), _held(rows, place), accumulate=True)


def _held(rows: Tensor, place: Tensor) -> Tensor:
    """Rows [batch, rank, *axes] with zeros where the place is -1. Most calls have none such: stores fill up."""
    hit = place >= 0
    return rows if bool(hit.all()) else torch.where(hit.reshape(*place.shape, *(1,) * (rows.dim() - 2)), rows, 0.0)
