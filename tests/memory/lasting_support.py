"""Stores that last as long as the model, by definition: one list of rows, read item by item, autograd through the rest.

Nothing here is shared with the compiler. The rows of a call keep the graph of the call that made them, so that a test
can say which of its paths count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import recdsl

torch.set_num_threads(1)
INP, HID = 3, 4
Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Kind:
    """A recurrent model around one store. evict, select, when and eval as the spec says them."""

    slots: int = 5
    evict: str = "oldest"
    select: str = "all"
    when: bool = False
    evaluated: bool = False
    null: bool = False
    credit: str = "stop"


@dataclass
class Row:
    key: Tensor
    value: Tensor
    born: int
    use: float = 1.0
    priority: float = 0.0


def spec(kind: Kind) -> str:
    more = ', when: "x[inp=0] > 0"' if kind.when else ""
    more += ", eval: true" if kind.evaluated else ""
    null = ", null_slot: true" if kind.null else ""
    return f"""
recdsl: 1
sizes: {{inp: {INP}, hid: {HID}}}
inputs: {{x: "float[inp]"}}
targets: {{y: "float[hid]"}}
params:
  U: float[hid, inp] ~ normal(0, 1)
  V: float[hid, hid] ~ normal(0, 0.7)
  K, Q: float[hid, hid] ~ normal(0, 1)
memory:
  past:
    slots: {kind.slots}
    evict: {kind.evict}
    write: {{key: K @ h, value: "h * x[inp=1]"{more}}}
    read: {{query: Q @ p, select: {kind.select}, score: cosine(sharpness=2), normalise: softmax{null}}}
step: |
  p = tanh(U @ x + V @ h[t-1])
  h = tanh(p + past.read)
  r = past.read
  worth = mean(p)
loss: mse(h, y)
credit: {{past: {kind.credit}}}
"""


class Literal:
    """The model and its store by definition."""

    def __init__(self, kind: Kind, params: Batch) -> None:
        self.kind, self.p = kind, params
        self.rows: list[Row] = []
        self.born = 0
        self.allowed: set[int] = set()

    def call(self, batch: Batch, mask: Tensor, reset: Tensor, *, write: bool = True) -> tuple[Tensor, Tensor, Tensor]:
        """(loss, h, what was read): everyone reads the rows as they are, then everything is written."""
        steps, samples = mask.shape
        rows = list(self.rows)
        self.allowed = {row.born for row in rows}
        total, shown, reads = torch.zeros((), dtype=torch.float64), [], []
        offered: list[Row] = []
        used = [0.0] * len(rows)
        state = [torch.zeros(HID, dtype=torch.float64)] * samples
        for t in range(steps):
            read_now: list[Tensor] = []
            for b in range(samples):
                h = torch.zeros(HID, dtype=torch.float64) if reset[t, b] else state[b]
                read = torch.full((HID,), torch.nan, dtype=torch.float64)
                if mask[t, b]:
                    x = batch["x"][t, b]
                    first = torch.tanh(self.p["U"] @ x + self.p["V"] @ h)
                    read, weights = self.read(rows, self.p["Q"] @ first)
                    used = [u + float(w.detach()) for u, w in zip(used, weights, strict=True)]
                    h = torch.tanh(first + read)
                    total = total + ((h - batch["y"][t, b]) ** 2).mean()
                    if not self.kind.when or float(x[0]) > 0:
                        offered.append(Row(self.p["K"] @ h, h * x[1], 0, 1.0, float(first.mean().detach())))
                state[b] = h
                read_now.append(read)
            shown.append(torch.stack(state))
            reads.append(torch.stack(read_now))
        if write:
            self.write(offered, used)
        return total / max(1, int(mask.sum())), torch.stack(shown), torch.stack(reads)

    def read(self, rows: list[Row], query: Tensor) -> tuple[Tensor, list[Tensor]]:
        pool = sorted(rows, key=lambda row: row.born)
        zero = torch.zeros(HID, dtype=torch.float64)
        if self.kind.null:
            pool = [Row(zero, zero, -1), *pool]
        if not pool:
            return zero, []
        keys = [self.passing(row.key) for row in pool]
        scores = [2 * (query @ key) / (self.norm(query) * self.norm(key)) for key in keys]
        chosen = list(range(len(pool)))
        if self.kind.select.startswith("topk"):
            count = int(self.kind.select[5:-1])
            chosen = sorted(chosen, key=lambda k: (-float(scores[k].detach()), k))[:count]
        top = max(float(scores[k].detach()) for k in chosen)
        parts = {k: torch.exp(scores[k] - top) for k in chosen}
        whole = sum(parts.values(), torch.zeros((), dtype=torch.float64))
        weights = {id(pool[k]): part / whole for k, part in parts.items()}
        none = torch.zeros((), dtype=torch.float64)
        read = sum((weights.get(id(row), none) * self.passing(row.value) for row in pool), zero)
        return read, [weights.get(id(row), none) for row in rows]

    def passing(self, value: Tensor) -> Tensor:
        """What of a row carries credit."""
        return value.detach() if self.kind.credit == "stop" else value

    def counted(self, value: Tensor, born: int) -> Tensor:
        """What passes credit on in calls that began while it was stored."""
        made = value.clone()
        made.register_hook(lambda g: g if born in self.allowed else torch.zeros_like(g))
        return made

    def norm(self, v: Tensor) -> Tensor:
        return torch.sqrt(torch.clamp((v * v).sum(), min=1e-16))

    def write(self, offered: list[Row], used: list[float]) -> None:
        worth = {id(row): (row.use if self.kind.evict.startswith("least") else row.priority) for row in self.rows}
        decay = 0.5 if "0.5" in self.kind.evict else 0.95
        for row, more in zip(self.rows, used, strict=True):
            row.use = decay * row.use + more
        for row in offered:
            if len(self.rows) >= self.kind.slots:
                if self.kind.evict == "oldest":
                    gone = min(self.rows, key=lambda r: r.born)
                else:
                    gone = min(self.rows, key=lambda r: (worth[id(r)], r.born))
                    if self.kind.evict.startswith("lowest") and row.priority < worth[id(gone)]:
                        continue
                self.rows = [other for other in self.rows if other is not gone]
            self.born += 1
            row.born = self.born
            if row.key.requires_grad and self.kind.credit == "through":
                row.key, row.value = self.counted(row.key, row.born), self.counted(row.value, row.born)
            worth[id(row)] = row.priority if self.kind.evict.startswith("lowest") else 1.0
            self.rows.append(row)


def draw(steps: int, samples: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    sizes = {"x": INP, "y": HID}
    return {n: torch.randn(steps, samples, size, generator=generator, dtype=torch.float64) for n, size in sizes.items()}


def module(text: str, backend: str = "torch", seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return recdsl.compile(text, backend=backend, dtype=torch.float64)


def flags(steps: int, samples: int, seed: int, *, ragged: bool) -> tuple[Tensor, Tensor]:
    """(mask, reset)."""
    mask, reset = torch.ones(steps, samples, dtype=torch.bool), torch.zeros(steps, samples, dtype=torch.bool)
    if ragged:
        generator = torch.Generator().manual_seed(seed + 1)
        mask = torch.rand(steps, samples, generator=generator) < 0.7
        reset = torch.rand(steps, samples, generator=generator) < 0.2
    return mask, reset


def holds(model: Any, rows: list[Row]) -> bool:
    """Whether a store holds these rows, wherever they are, with the age that their order says."""
    held = int((model.past.serial > 0).sum())
    place = {int(serial): k for k, serial in enumerate(model.past.serial) if serial > 0}
    if held != len(rows) or sorted(place) != sorted(row.born for row in rows):
        return False
    values, keys = model.past.value, model.past.key
    return all(close(values[place[r.born]], r.value) and close(keys[place[r.born]], r.key) for r in rows)


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> bool:
    a, b = a.detach(), b.detach()
    return bool(((a - b).abs() <= tolerance * (1 + b.abs())).all())
