"""Hansen's classifier (2017) by definition: a list of what was seen, and autograd through a graph over all calls.

Nothing here is shared with the compiler. Each item remembers its observation, its label, its code as it was stored, and
the parameters of the time, which every mechanism treats in its own way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import recdsl

torch.set_num_threads(1)
PIXELS, WIDTH, CODE, CLASSES = 6, 5, 3, 4
Batch = dict[str, Tensor]

ENCODER, DECODER, NET = ("U", "b", "A"), ("C", "D"), "credit.episodic"
UNUSED: Any = {"allow_unused": True, "materialize_grads": True}


def spec(credit: str, slots: int = 7, select: str = "all", query: str = "stop(e)", decoder: str = "") -> str:
    """The classifier under one credit. decoder: another equation for `rebuilt`."""
    return f"""
recdsl: 1
sizes: {{pixels: {PIXELS}, width: {WIDTH}, code: {CODE}, classes: {CLASSES}}}
inputs: {{x: "float[pixels]"}}
targets: {{y: "class[classes]"}}
params:
  U: float[width, pixels] ~ normal(0, 0.6)
  b: float[width] ~ normal(0, 0.5)
  A: float[code, width] ~ normal(0, 0.8)
  C: float[width, code] ~ normal(0, 0.8)
  D: float[pixels, width] ~ normal(0, 0.8)
memory:
  episodic:
    slots: {slots}
    write: {{key: e, value: onehot(y)}}
    read: {{query: {query}, score: cosine(sharpness=2), select: {select}, normalise: softmax}}
step: |
  e = A @ tanh(U @ x + b)
  guess = episodic.read
  rebuilt = {decoder or "D @ tanh(C @ stop(e))"}
loss:
  classify: {{value: "nll(guess, y)", trains: [U, b, A, episodic]}}
  rebuild: {{value: "mse(rebuilt, stop(x))", trains: [C, D]}}
credit:
  episodic: {credit}
"""


@dataclass
class Item:
    x: Tensor
    y: int
    code: Tensor
    theta: Batch


def encode(p: Mapping[str, Tensor], x: Tensor) -> Tensor:
    return p["A"] @ torch.tanh(p["U"] @ x + p["b"])


def decode(p: Mapping[str, Tensor], code: Tensor) -> Tensor:
    return p["D"] @ torch.tanh(p["C"] @ code)


class Literal:
    """The classifier by definition. kind: "stop" | "through" | "exact" | "approximate"; stored: no decoder."""

    def __init__(self, kind: str, *, slots: int = 7, topk: int = 0, stored: bool = False) -> None:
        self.kind, self.slots, self.topk, self.stored = kind, slots, topk, stored
        self.items: list[Item] = []

    def call(self, params: Batch, batch: Batch) -> tuple[Tensor, Batch]:
        """(loss, gradients) of one call, whose items are then stored."""
        p = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
        x, y = batch["x"].flatten(0, 1), batch["y"].flatten().tolist()
        codes = [encode(p, one) for one in x]
        keys = [self.key(p, item) for item in self.items]
        guesses = [self.read(code.detach(), keys) for code in codes]
        losses = [-torch.log(guess[label].clamp_min(1e-6)) for guess, label in zip(guesses, y, strict=True)]
        classify = torch.stack(losses).mean()
        rebuilt = [((decode(p, code.detach()) - one) ** 2).mean() for code, one in zip(codes, x, strict=True)]
        rebuild = torch.stack(rebuilt).mean()
        gradients = self.gradients(p, classify, rebuild, keys)
        for one, label, code in zip(x, y, codes, strict=True):
            self.items.append(Item(one, label, code.detach(), params))
        self.items = self.items[-self.slots :]
        return (classify + rebuild).detach(), gradients

    def key(self, p: Batch, item: Item) -> Tensor:
        """What stands for an item in a read."""
        if self.kind == "exact":
            return encode(p, self.observation(p, item))
        if self.kind == "through":  # the parameters of the time, moved by what moves those of today
            then = {name: item.theta[name].detach() + (p[name] - p[name].detach()) for name in ENCODER}
            return encode(then, item.x)
        return item.code.clone().requires_grad_(self.kind == "approximate")

    def observation(self, p: Batch, item: Item) -> Tensor:
        return item.x if self.stored else decode(p, item.code).detach()

    def read(self, query: Tensor, keys: list[Tensor]) -> Tensor:
        total = torch.zeros(CLASSES, dtype=torch.float64)
        if not keys:
            return total
        scores = [2 * (query @ key) / (query.norm() * key.norm()) for key in keys]
        stored = [float(query.detach() @ item.code / item.code.norm()) for item in self.items]  # what a search compares
        ranked = sorted(range(len(keys)), key=lambda k: (-stored[k], k))
        chosen = ranked[: self.topk or len(keys)]
        weights = torch.softmax(torch.stack([scores[k] for k in chosen]), 0)
        for weight, k in zip(weights, chosen, strict=True):
            one = torch.zeros(CLASSES, dtype=torch.float64)
            one[self.items[k].y] = 1.0
            total = total + weight * one
        return total

    def gradients(self, p: Batch, classify: Tensor, rebuild: Tensor, keys: list[Tensor]) -> Batch:
        """Each loss trains what it owns; under "approximate" the gradient of the stored codes is put on new ones."""
        found = {name: torch.zeros_like(value) for name, value in p.items()}
        self.add(found, DECODER, p, rebuild)
        if self.kind == "approximate" and classify.requires_grad:
            given = torch.autograd.grad(classify, keys, allow_unused=True, materialize_grads=True)
            again = [encode(p, self.observation(p, item)) for item in self.items]
            parts = [(g.detach() * e).sum() for g, e in zip(given, again, strict=True)]
            self.add(found, ENCODER, p, torch.stack(parts).sum())
        elif classify.requires_grad:
            self.add(found, ENCODER, p, classify)
        return found

    def add(self, found: Batch, names: tuple[str, ...], p: Batch, loss: Tensor) -> None:
        leaves = [p[name] for name in names]
        parts = torch.autograd.grad(loss, leaves, retain_graph=True, allow_unused=True, materialize_grads=True)
        for name, part in zip(names, parts, strict=True):
            found[name] = found[name] + part


class Waiting(Literal):
    """Gradients of items wait: `owed` is what an item has been given and its encoder has not. every: calls after which
    all that waits is applied (0: only what an item is owed when it leaves). tangent: without what lies along it."""

    def __init__(self, kind: str, *, every: int, tangent: bool = False, **options: Any) -> None:
        super().__init__(kind, **options)
        self.every, self.tangent = every, tangent
        self.owed: dict[int, Tensor] = {}
        self.calls = 0

    def call(self, params: Batch, batch: Batch) -> tuple[Tensor, Batch]:
        p = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
        before = list(self.items)
        given = self.given(p, batch, before)
        loss, found = super().call(params, batch)
        found |= {name: torch.zeros_like(found[name]) for name in ENCODER}
        self.calls += 1
        for item, g in zip(before, given, strict=True):
            self.owed[id(item)] = self.owed.get(id(item), torch.zeros_like(g)) + g
        now = self.every > 0 and self.calls % self.every == 0
        for item in before:
            if now or not any(other is item for other in self.items):
                self.apply(found, p, item, self.owed.pop(id(item)))
        return loss, found

    def given(self, p: Batch, batch: Batch, items: list[Item]) -> tuple[Tensor, ...]:
        """What each stored item gets from the losses of a call."""
        keys = [self.key(p, item).detach().requires_grad_() for item in items]
        x, y = batch["x"].flatten(0, 1), batch["y"].flatten().tolist()
        guesses = [self.read(encode(p, one).detach(), keys) for one in x]
        losses = [-torch.log(guess[label].clamp_min(1e-6)) for guess, label in zip(guesses, y, strict=True)]
        return torch.autograd.grad(torch.stack(losses).mean(), keys, **UNUSED) if keys else ()

    def apply(self, found: Batch, p: Batch, item: Item, gradient: Tensor) -> None:
        again = encode(p, self.observation(p, item))
        if self.tangent:
            direction = (again / again.norm()).detach()
            gradient = gradient - (gradient @ direction) * direction
        self.add(found, ENCODER, p, (gradient.detach() * again).sum())


class Lesson:
    """The classifier under predicted credit, by definition: what each item has been given in all is its lesson."""

    def __init__(self) -> None:
        self.store = Literal("approximate")
        self.gathered: list[Tensor] = []

    def call(self, params: Batch, batch: Batch) -> Batch:
        p = {name: value.detach().clone().requires_grad_() for name, value in params.items()}
        x, y = batch["x"].flatten(0, 1), batch["y"].flatten().tolist()
        codes, items = [encode(p, one) for one in x], list(self.store.items)
        keys = [self.store.key(p, item).detach().requires_grad_() for item in items]
        guesses = [self.store.read(code.detach(), keys) for code in codes]
        total = torch.stack([-torch.log(g[k].clamp_min(1e-6)) for g, k in zip(guesses, y, strict=True)]).sum()
        given = torch.autograd.grad(total, keys, **UNUSED) if keys else ()
        gathered = [old + new for old, new in zip(self.gathered, given, strict=True)]
        sent = [self.says(p, code.detach(), k).detach() / len(x) for code, k in zip(codes, y, strict=True)]
        parts = torch.stack([(s * code).sum() for s, code in zip(sent, codes, strict=True)])
        found = {name: torch.zeros_like(value) for name, value in p.items()}
        self.store.add(found, ENCODER, p, parts.sum())
        rebuilt = [((decode(p, c.detach()) - one) ** 2).mean() for c, one in zip(codes, x, strict=True)]
        self.store.add(found, DECODER, p, torch.stack(rebuilt).mean())
        gone = max(0, len(items) + len(x) - self.store.slots)
        if gone:
            said = torch.stack([self.says(p, item.code, item.y) for item in items[:gone]])
            loss = ((said - torch.stack(gathered[:gone])) ** 2).mean()
            self.store.add(found, tuple(name for name in p if name.startswith(NET)), p, loss)
        new = [Item(one, k, c.detach(), params) for one, k, c in zip(x, y, codes, strict=True)]
        self.store.items = [*items, *new][-self.store.slots :]
        self.gathered = [*gathered, *(torch.zeros_like(item.code) for item in new)][-self.store.slots :]
        return found

    def says(self, p: Batch, code: Tensor, label: int) -> Tensor:
        one = torch.zeros(CLASSES, dtype=torch.float64)
        one[label] = 1.0
        hidden = torch.relu(p[f"{NET}.W1"] @ torch.cat((code, one)) + p[f"{NET}.b1"])
        return p[f"{NET}.W2"] @ hidden + p[f"{NET}.b2"]


def draw(samples: int, seed: int, steps: int = 1) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(steps, samples, PIXELS, generator=generator, dtype=torch.float64)
    return {"x": x, "y": torch.randint(CLASSES, (steps, samples), generator=generator)}


def module(text: str, backend: str = "torch", seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return recdsl.compile(text, backend=backend, dtype=torch.float64)


def gradients(model: Any, loss: Tensor) -> Batch:
    model.zero_grad()
    loss.backward()
    zero = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    return {name: zero[name] if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def apart(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> float:
    """The largest difference."""
    return max(float((found[name] - value).abs().max()) for name, value in wanted.items())


def follow(
    text: str, literal: Literal, *, calls: int = 5, drift: float = 0.05, backend: str = "torch",
    made: Callable[[Any], None] = lambda _model: None,
) -> Any:  # fmt: skip
    """Run a module and a definition side by side, over calls between which the parameters change. Raises AssertionError
    where loss or gradients differ."""
    model = module(text, backend)
    made(model)
    generator = torch.Generator().manual_seed(9)
    for number in range(calls):
        batch = draw(3, number, steps=1 + number % 2)
        params = {name: p.detach().clone() for name, p in model.named_parameters()}
        loss, wanted = literal.call(params, batch)
        found = model(batch).loss
        assert abs(float(found.detach() - loss)) < 1e-10, f"call {number}: {float(found.detach() - loss):.1e}"
        assert apart(gradients(model, found), wanted) < 1e-10, f"call {number}"
        with torch.no_grad():
            for p in model.parameters():
                p.add_(drift * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    return model
