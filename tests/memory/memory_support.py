"""Memories by definition: lists of items, one store for each sample, loops over items, autograd through all of it.

Nothing here is shared with the compiler. `Options` say what a spec says; `spec` writes it, `Literal` computes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import recdsl
from recdsl.backends.native import native_module
from recdsl.driver import analyse

torch.set_num_threads(1)
INP, HID, KEY = 3, 4, 3


@dataclass(frozen=True)
class Options:
    """One memory of the model below. `number` belongs to the score; shift: options of shifted_relu.

    credit: as the spec says it; by definition it means that the uses `stopped` ("value", "key", "query") have no
    gradient, and that h is cut on entering every `grid`-th step (0: never).
    """

    slots: int = 3
    life: str = "sequence"
    evict: str = "oldest"
    score: str = "dot"
    number: float = 1.0
    select: str = "all"
    chosen: float = 0
    normalise: str = "softmax"
    every: int = 1
    read_every: int = 1
    when: bool = False
    key: bool = True
    shift: dict[str, str] = field(default_factory=dict[str, str])
    release: bool = False
    null: bool = False
    credit: str = "bptt"
    stopped: tuple[str, ...] = ()
    grid: int = 0


SCORES = {
    "dot": "dot",
    "cosine": "cosine(sharpness={number})",
    "inverse_distance": "inverse_distance(delta={number})",
    "mlp": "mlp(5)",
    "separable": "separable",
}


def spec(o: Options) -> str:
    """A recurrent model around one memory: what is read depends on the past, and so does what is written."""
    select = {"all": "all", "topk": f"topk({int(o.chosen)})", "threshold": f"threshold({o.chosen})"}[o.select]
    options = "".join(f"\n      {key}: {word}" for key, word in o.shift.items())
    options += "\n      compat: release" if o.release else ""
    options += "\n      null_slot: true" if o.null and not o.release else ""
    write = ("\n      key: K @ h" if o.key else "") + (f"\n      every: {o.every}" if o.every > 1 else "")
    write += "\n      when: x[inp=0] > 0" if o.when else ""
    normalise = "" if o.release else f"\n      normalise: {o.normalise}"
    read_every = f"\n      every: {o.read_every}" if o.read_every > 1 else ""
    score = "" if o.release else f"\n      score: {SCORES[o.score].format(number=o.number)}"
    query = "Q @ p" if o.key else "p"
    return f"""
recdsl: 1
sizes: {{inp: {INP}, hid: {HID}, keys: {KEY}}}
inputs: {{x: "float[inp]"}}
targets: {{y: "float[hid]"}}
params:
  U: float[hid, inp] ~ normal(0, 1)
  V: float[hid, hid] ~ normal(0, 0.7)
  {"K, Q: float[keys, hid] ~ normal(0, 1)" if o.key else "unused: float = 1 frozen"}
memory:
  past:
    slots: {o.slots}
    life: {o.life}
    evict: {o.evict}
    write:
      value: h{write}
    read:
      query: {query}
      select: {select}{score}{normalise}{read_every}{options}
step: |
  p = tanh(U @ x + V @ h[t-1])
  h = tanh(p + past.read)
  g = mean(p)
  r = past.read
loss: mse(h, y)
credit: {o.credit}
"""


@dataclass
class Item:
    key: Tensor
    value: Tensor
    born: int
    use: float = 1.0
    priority: float = 0.0


class Literal:
    """The same model by definition."""

    def __init__(self, o: Options, params: dict[str, Tensor]) -> None:
        self.o, self.p = o, params
        self.release = o.release
        self.score_kind = "separable" if o.release else o.score
        self.normalise = "shifted_relu" if o.release else o.normalise
        self.null = o.null or o.release

    def run(self, batch: dict[str, Tensor], mask: Tensor, reset: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(loss, h, what was read), the latter [time, batch, hid]."""
        (steps, samples), o_grid = mask.shape, self.o.grid
        states: list[list[Tensor]] = []
        reads: list[list[Tensor]] = []
        total = torch.zeros((), dtype=torch.float64)
        for b in range(samples):
            h, items, seen, shown = torch.zeros(HID, dtype=torch.float64), list[Item](), [], []
            for t in range(steps):
                h = h.detach() if o_grid and t % o_grid == 0 else h
                if reset[t, b]:
                    h = torch.zeros(HID, dtype=torch.float64)
                    items = items if self.o.life == "stream" else []
                if mask[t, b]:
                    h, read, items = self.step(batch["x"][t, b], h, items, t)
                    total = total + ((h - batch["y"][t, b]) ** 2).mean()
                else:
                    read = torch.full((HID,), torch.nan, dtype=torch.float64)
                seen.append(h)
                shown.append(read)
            states.append(seen)
            reads.append(shown)
        both = [torch.stack([torch.stack(column) for column in rows], 1) for rows in (states, reads)]
        return total / max(1, int(mask.sum())), both[0], both[1]

    def step(self, x: Tensor, h: Tensor, items: list[Item], t: int) -> tuple[Tensor, Tensor, list[Item]]:
        o, p = self.o, self.p
        first = torch.tanh(p["U"] @ x + p["V"] @ h)
        query = p["Q"] @ first if o.key else first
        read, weights = self.read(items, query)
        if (t + 1) % o.read_every:
            read, weights = torch.zeros_like(first), [0.0] * len(items)
        h = torch.tanh(first + read)
        priority = num(first.mean())
        return h, read, self.write(items, weights, h, x, t, priority)

    # -- reading
    def read(self, items: list[Item], query: Tensor) -> tuple[Tensor, list[float]]:
        zero = torch.zeros(KEY if self.o.key else HID, dtype=torch.float64)
        pool = sorted(items, key=lambda item: item.born)
        if self.null:
            pool = [Item(zero, torch.zeros(HID, dtype=torch.float64), -1), *pool]
        total = torch.zeros(HID, dtype=torch.float64)
        query = query.detach() if "query" in self.o.stopped else query
        keys = [item.key.detach() if "key" in self.o.stopped else item.key for item in pool]
        weights = self.weights([self.score(query, key) for key in keys])
        for weight, item in zip(weights, pool, strict=True):
            total = total + weight * (item.value.detach() if "value" in self.o.stopped else item.value)
        by_item = {id(item): num(weight) for item, weight in zip(pool, weights, strict=True)}
        return total, [by_item[id(item)] for item in items]

    def score(self, q: Tensor, k: Tensor) -> Tensor:
        p, number = self.p, self.o.number
        if self.score_kind == "dot":
            return (q * k).sum()
        if self.score_kind == "cosine":
            return number * (q * k).sum() / (self.norm(q) * self.norm(k))
        if self.score_kind == "inverse_distance":
            return 1 / (((q - k) ** 2).sum() + number)
        if self.score_kind == "mlp":
            return p["past.score.w"] @ torch.tanh(p["past.score.Wk"] @ k + p["past.score.Wq"] @ q)
        return p["past.score.wk"] @ torch.tanh(k) + p["past.score.wq"] @ torch.tanh(q)

    def norm(self, v: Tensor) -> Tensor:
        return torch.linalg.vector_norm(v) if num(v.norm()) > 1e-8 else torch.tensor(1e-8, dtype=torch.float64)

    def weights(self, s: list[Tensor]) -> list[Tensor]:
        """One weight for each item, items from the oldest on."""
        n, k = len(s), int(self.o.chosen)
        if n == 0:
            return []
        ranked = sorted(range(n), key=lambda i: (-num(s[i]), i))
        chosen = list(range(n))
        if self.o.select == "topk":
            chosen = ranked[:k]
        if self.o.select == "threshold":
            chosen = [i for i in range(n) if num(s[i]) >= self.o.chosen]
        if self.normalise == "softmax":
            found = self.softmax(s, chosen)
        elif self.normalise == "sum":
            found = self.share({i: s[i] for i in chosen}, signed=True)
        else:
            found = self.shifted(s, ranked, chosen)
        return [found.get(i, torch.zeros((), dtype=torch.float64)) for i in range(n)]

    def softmax(self, s: list[Tensor], chosen: list[int]) -> dict[int, Tensor]:
        top = max((num(s[i]) for i in chosen), default=0.0)
        parts = {i: torch.exp(s[i] - top) for i in chosen}
        return {i: part / sum(parts.values()) for i, part in parts.items()}

    def share(self, parts: dict[int, Tensor], *, signed: bool) -> dict[int, Tensor]:
        total = sum(parts.values(), torch.zeros((), dtype=torch.float64))
        if (abs(num(total)) if signed else num(total)) < 1e-7:
            return {i: torch.tensor(1 / len(parts), dtype=torch.float64) for i in parts}
        return {i: part / total for i, part in parts.items()}

    def shifted(self, s: list[Tensor], ranked: list[int], chosen: list[int]) -> dict[int, Tensor]:
        n, k, shift = len(s), int(self.o.chosen), self.o.shift
        topk = self.o.select == "topk"
        if topk and n <= k:
            how = shift.get("underfull", "raw" if self.release else "shift")
            if how == "raw":
                return {i: s[i] for i in chosen}
            if how == "softmax":
                return self.softmax(s, chosen)
            if how == "equal":
                return {i: torch.tensor(1 / n, dtype=torch.float64) for i in chosen}
        if self.o.select == "threshold":
            threshold = torch.tensor(self.o.chosen, dtype=torch.float64)
        elif topk and n > k:
            kth = shift.get("threshold", "kth" if self.release else "next") == "kth"
            threshold = s[ranked[k - 1 if kth else k]]
        else:
            threshold = s[ranked[-1]] - 1
        threshold = threshold.detach() if shift.get("tau") == "stop" else threshold
        floor = 1e-7 if self.release else 0.0
        parts = {i: torch.relu(s[i] - (threshold + floor)) for i in chosen}
        if self.release:
            total = sum(parts.values(), torch.zeros((), dtype=torch.float64)) + floor
            return {i: part / total for i, part in parts.items()}
        return self.share(parts, signed=False)

    # -- writing
    def write(
        self, items: list[Item], weights: list[float], h: Tensor, x: Tensor, t: int, priority: float
    ) -> list[Item]:
        o = self.o
        decay = float(o.evict.partition("=")[2].rstrip(")") or 0.95)
        old = [replace(i, use=decay * i.use + w) for i, w in zip(items, weights, strict=True)]
        if (t + 1) % o.every or (o.when and not num(x[0]) > 0):
            return old
        new = Item(self.p["K"] @ h if o.key else h, h, t, 1.0, priority)
        if len(items) < o.slots:
            return [*old, new]
        if o.evict == "oldest":
            gone = min(range(len(items)), key=lambda i: items[i].born)
        elif o.evict.startswith("least_used"):
            gone = min(range(len(items)), key=lambda i: (items[i].use, items[i].born))
        else:
            gone = min(range(len(items)), key=lambda i: (items[i].priority, items[i].born))
            if priority < items[gone].priority:
                return old
        return [*(item for i, item in enumerate(old) if i != gone), new]


def draw(steps: int, samples: int, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = {"x": INP, "y": HID}
    return {
        name: torch.randn(steps, samples, size, generator=generator, dtype=torch.float64)
        for name, size in sizes.items()
    }


def module(text: str, seed: int = 0, backend: str = "torch") -> Any:
    """On `native` without optimisation: C is compiled faster, and does the same."""
    torch.manual_seed(seed)
    if backend == "torch":
        return recdsl.compile(text, dtype=torch.float64)
    found = analyse(text)
    made: Any = native_module(found.graph, found.plan, found.source, flags=("-O0",)).Model(0, torch.float64)
    assert made.recdsl_runs == "native"
    return made


def check(
    o: Options, steps: int = 9, samples: int = 2, *, ragged: bool = False, seed: int = 0, backend: str = "torch"
) -> None:
    """The module has the outputs and gradients of the definition. Raises AssertionError."""
    model, batch = module(spec(o), seed, backend), draw(steps, samples, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    mask, reset = torch.ones(steps, samples, dtype=torch.bool), torch.zeros(steps, samples, dtype=torch.bool)
    if ragged:
        mask = torch.rand(steps, samples, generator=generator) < 0.8
        reset = torch.rand(steps, samples, generator=generator) < 0.15
    found = model(batch, mask=mask, reset=reset) if ragged else model(batch)
    found.loss.backward()
    params = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    loss, h, read = Literal(o, params).run(batch, mask, reset)
    loss.backward()
    assert close(found.outputs["h"], h)
    assert close(found.outputs["r"][mask], read[mask])
    assert close(found.loss, loss)
    for name, p in model.named_parameters():
        gradient = params[name].grad
        wanted = torch.zeros_like(p) if gradient is None else gradient
        assert p.grad is not None
        assert close(p.grad, wanted), f"{name}: {float((p.grad - wanted).abs().max()):.2e}"


def num(value: Tensor) -> float:
    return float(value.detach())


def close(a: Tensor, b: Tensor, tolerance: float = 1e-10) -> bool:
    a, b = a.detach(), b.detach()
    return bool(((a - b).abs() <= tolerance * (1 + b.abs())).all())
