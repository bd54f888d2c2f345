"""Slots of tapes, for generated code. The text of this file is part of every exported model."""

from __future__ import annotations

import torch
from torch import Tensor


def places(scores: Tensor, stamps: Tensor, since: Tensor, size: int) -> Tensor:
    """The best slots of each sample, best first, of equal ones the older first; -1 where there are no more.

    scores, stamps: [slot, batch]; since: [batch], the least stamp that counts. Returns int64 [batch, size].
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
    found = torch.where(there.t().gather(1, found), found, -1).gather(1, order)
    return torch.nn.functional.pad(found, (0, size - count), value=-1)


def rows_at(tape: Tensor, place: Tensor) -> Tensor:
    """Rows of [slot, batch, *axes] at [batch, rank]; zeros at -1. Returns [batch, rank, *axes]."""
    samples = torch.arange(place.shape[0], device=place.device)[:, None]
    hit = (place >= 0).reshape(*place.shape, *(1,) * (tape.dim() - 2))
    return torch.where(hit, tape[place.clamp_min(0), samples], 0.0)


def add_rows(tape: Tensor, place: Tensor, rows: Tensor) -> None:
    """Add rows [batch, rank, *axes] to [slot, batch, *axes] at the places [batch, rank]; -1: nowhere."""
    samples = torch.arange(place.shape[0], device=place.device)[:, None].expand_as(place)
    hit = (place >= 0).reshape(*place.shape, *(1,) * (tape.dim() - 2))
    tape.index_put_((place.clamp_min(0), samples), torch.where(hit, rows, 0.0), accumulate=True)
