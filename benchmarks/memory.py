"""The suite `memory`: sparse attentive backtracking against the same model with dense attention and autograd."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.bptt import held, peak
from benchmarks.table import Row
from recdsl.driver import compile as compile_spec

INPUTS, TOP, TRUNCATE, EVERY = 10, 5, 5, 2
SIZES = {300: (32, 128), 1_000: (32, 128), 3_000: (1, 128)}
"""By length: sequences and hidden units. At 3,000 steps 32 sequences of dense attention would take 120 GiB."""
SPEC = f"""recdsl: 1
name: sab
sizes: {{inp: {INPUTS}, hidden: HID}}
inputs: {{x: "float[inp]"}}
targets: {{y: "float[inp]"}}
memory:
  past:
    slots: unbounded
    write: {{value: h, every: {EVERY}}}
    read: {{query: proposal, score: mlp(hidden), select: topk({TOP}), normalise: shifted_relu}}
step: |
  proposal, c = lstm_cell(x, h[t-1], c[t-1], size=hidden)
  h = proposal + past.read
  out = linear([h; past.read], size=inp)
loss: mse(out, y)
credit: sab(truncate={TRUNCATE})
"""


def run(only: list[str], repeats: int) -> Iterator[Row]:
    """One row a length: seconds and MiB of one call with its gradients, and the ratios."""
    torch.set_num_threads(1)
    agree()
    for steps, (batch, hidden) in SIZES.items():
        if only and str(steps) not in only:
            continue
        row: Row = {"cell": f"T={steps}", "config": f"B={batch} H={hidden}"}
        for name, make in MADE.items():
            call = make(steps, batch, hidden)
            call()
            row[f"{name}_s"] = round(min(seconds(call) for _ in range(min(repeats, 3))), 3)
            del call
            held()  # free memory goes back: what is measured next may need it
        for name, make in MADE.items():
            row[f"{name}_MiB"] = round(peak(make, steps, batch, hidden) / 2**20, 1)
        for unit in ("s", "MiB"):
            row[f"dense/ours {unit}"] = round(float(row[f"dense_{unit}"]) / float(row[f"ours_{unit}"]), 2)
            row[f"ours/native {unit}"] = round(float(row[f"ours_{unit}"]) / float(row[f"native_{unit}"]), 2)
        yield row


def seconds(call: Callable[[], object]) -> float:
    """CPU seconds of the process."""
    began = time.process_time()
    call()
    return time.process_time() - began


def data(steps: int, batch: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(0)
    x = torch.randn((steps, batch, INPUTS), generator=draws, dtype=dtype)
    return x, torch.randn((steps, batch, INPUTS), generator=draws, dtype=dtype)


def ours(steps: int, batch: int, hidden: int, backend: str = "torch") -> Callable[[], object]:
    model: Any = compile_spec(SPEC.replace("HID", str(hidden)), backend)
    x, y = data(steps, batch, torch.float32)
    model({"x": x[:2], "y": y[:2]}).loss.backward()  # libraries that load at the first call are not the model's memory

    def call() -> None:
        model.zero_grad()
        model({"x": x, "y": y}).loss.backward()

    return call


def native(steps: int, batch: int, hidden: int) -> Callable[[], object]:
    """The model with its loops in C."""
    return ours(steps, batch, hidden, "native")


def dense(steps: int, batch: int, hidden: int) -> Callable[[], object]:
    model = Dense(hidden, torch.float32)
    x, y = data(steps, batch, torch.float32)
    model(x[:2], y[:2]).backward()

    def call() -> None:
        model.zero_grad()
        model(x, y).backward()

    return call


MADE = {"ours": ours, "native": native, "dense": dense}


class Dense(nn.Module):
    """The model in plain torch: every slot is scored at every step, and autograd keeps what that makes.

    Attention as in Ke et al. 2018, with what a key contributes to its scores computed once.
    """

    def __init__(self, hidden: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.hidden = hidden
        shapes = {"W": (4 * hidden, INPUTS), "U": (4 * hidden, hidden), "b": (4 * hidden,), "Wq": (hidden, hidden),
                  "Wk": (hidden, hidden), "w": (hidden,), "V": (INPUTS, 2 * hidden), "d": (INPUTS,)}  # fmt: skip
        draws = torch.Generator().manual_seed(0)
        made = {n: 0.1 * torch.randn(shape, generator=draws, dtype=dtype) for n, shape in shapes.items()}
        self.p = nn.ParameterDict({name: nn.Parameter(value) for name, value in made.items()})

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        p, total = self.p, x.new_zeros(())
        h = c = x.new_zeros((x.shape[1], self.hidden))
        keys, values = list[Tensor](), list[Tensor]()
        for t in range(x.shape[0]):
            if t % TRUNCATE == 0:
                h, c = h.detach(), c.detach()
            i, f, g, o = (x[t] @ p["W"].T + h @ p["U"].T + p["b"]).chunk(4, 1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
            h = torch.sigmoid(o) * torch.tanh(c)
            read = self.read(h, keys, values)
            h = h + read
            out = torch.cat((h, read), 1) @ p["V"].T + p["d"]
            total = total + ((out - y[t]) ** 2).mean(1).sum()
            if (t + 1) % EVERY == 0:
                keys.append(h @ p["Wk"].T)
                values.append(h)
        return total / (x.shape[0] * x.shape[1])

    def read(self, query: Tensor, keys: list[Tensor], values: list[Tensor]) -> Tensor:
        """Weights in proportion to what scores have above the one behind the best."""
        if not keys:
            return torch.zeros_like(query)
        scores = torch.tanh(torch.stack(keys) + query @ self.p["Wq"].T) @ self.p["w"]
        best = scores.topk(min(TOP + 1, len(keys)), 0).values
        threshold = best[-1] if len(keys) > TOP else best[-1] - 1
        weights = torch.relu(scores - threshold)
        weights = weights / weights.sum(0)
        return torch.einsum("sb,sbh->bh", weights, torch.stack(values))


def agree() -> None:
    """Both models have one loss and one gradient."""
    model: Any = compile_spec(SPEC.replace("HID", "6"), dtype=torch.float64)
    other, (x, y) = Dense(6, torch.float64), data(23, 3, torch.float64)
    named = dict(model.named_parameters())
    pairs = {"past.score.Wq": "Wq", "past.score.Wk": "Wk", "past.score.w": "w", "out.W": "V", "out.b": "d"}
    with torch.no_grad():
        for name, source in pairs.items():
            named[name].copy_(other.p[source])
        for k, gate in enumerate("ifgo"):
            for kind, source in (("W", "W"), ("U", "U"), ("b", "b")):
                named[f"proposal.{kind}{gate}"].copy_(other.p[source][6 * k : 6 * (k + 1)])
    found, expected = model({"x": x, "y": y}).loss, other(x, y)
    found.backward()
    expected.backward()
    torch.testing.assert_close(found, expected)
    grads = {source: named[name].grad for name, source in pairs.items()}
    for kind in ("W", "U", "b"):
        grads[kind] = torch.cat([named[f"proposal.{kind}{gate}"].grad for gate in "ifgo"])
    for source, value in grads.items():
        torch.testing.assert_close(value, other.p[source].grad)
