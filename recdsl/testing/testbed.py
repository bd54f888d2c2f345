"""The test-bed for gradients of columnar networks (Javed, White and Sutton 2021, arXiv 2103.05787, and its code).

Columns of one integrating unit, each on features of its own (two layers of rectified units), with edges between columns
at random: a column's features of the same step and states of the step before. Inputs are fair coins and targets uniform
noise. `edges` is the expected number of neighbours that a column reads, in units of all of a neighbour's edges: each
single edge is there with probability `edges * width / (width * (columns - 1) + columns)`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from recdsl.backends import find
from recdsl.training.gradcheck import analysed

Tensors = dict[str, Tensor]
SMALLEST = 1e-10
"""Products of two gradients' entries below this are left out of the share of equal signs."""


@dataclass(frozen=True)
class Bed:
    """Sizes; as published by default."""

    columns: int = 20
    width: int = 5
    inputs: int = 50
    steps: int = 50

    def probability(self, edges: float) -> float:
        """Of each single edge between columns."""
        return min(1.0, edges * self.width / (self.width * (self.columns - 1) + self.columns))

    def text(self, credit: str, *, cut: bool = False) -> str:
        """The spec. cut: no credit crosses between columns, not even within a step, which is the published rule; the
        rule `columns` of this project keeps what crosses in the step of the loss, since it costs no trace."""
        others = {"SEEN": "rename(f, column=near)", "FELT": "rename(h[t-1], column=near)"}
        sizes = {"COLUMN": self.columns, "WIDTH": self.width, "INPUT": self.inputs, "CREDIT": credit}
        found = TEXT
        for name, value in {**{k: f"stop({v})" if cut else v for k, v in others.items()}, **sizes}.items():
            found = found.replace(name, str(value))
        return found

    def module(self, credit: str, *, cut: bool = False) -> torch.nn.Module:
        """Compiled, in float64."""
        return find("torch").module(analysed(self.text(credit, cut=cut)), torch.float64)

    def draw(self, seed: int, edges: float) -> tuple[Tensors, Tensors]:
        """(parameters and masks, batch of one sample), float64: weights as torch.nn.Linear draws them, readout
        normal(0, 0.1)."""
        draws = Generator().manual_seed(seed)

        def coins(p: float, *shape: int) -> Tensor:
            return (torch.rand(shape, generator=draws, dtype=torch.float64) < p).double()

        def weights(fan: int, *shape: int) -> Tensor:
            return (2 * torch.rand(shape, generator=draws, dtype=torch.float64) - 1) / fan**0.5

        n, k, m = self.columns, self.width, self.inputs
        p, fan = self.probability(edges), n * (k + 1)
        others = 1 - torch.eye(n, dtype=torch.float64)
        params = {
            "A": weights(m, n, k, m), "a": weights(m, n, k), "B": weights(k, n, k, k), "b": weights(k, n, k),
            "V": weights(fan, n, k), "L": weights(fan, n, n, k), "U": weights(fan, n, n),
            "u": weights(fan, n), "d": weights(fan, n),
            "w": 0.1 * torch.randn(n, generator=draws, dtype=torch.float64),
            "seen": coins(p, n, n, k) * others[:, :, None], "felt": coins(p, n, n) * others, "own": coins(p, n),
        }  # fmt: skip
        y = 100 * torch.rand((self.steps, 1), generator=draws, dtype=torch.float64) - 50
        return params, {"x": coins(0.5, self.steps, 1, m), "y": y}


def gradient(module: torch.nn.Module, params: Tensors, batch: Tensors) -> Tensors:
    """Of every parameter."""
    module.load_state_dict(params)
    module.zero_grad()
    module(batch).loss.backward()
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def agreement(got: Tensors, whole: Tensors) -> tuple[float, float]:
    """(share of entries with the same sign, cosine), over all parameters at once."""
    one, other = (torch.cat([found[name].reshape(-1) for name in sorted(whole)]) for found in (got, whole))
    product = one * other
    counted = product[product.abs() > SMALLEST]
    return float((counted > 0).double().mean()), float(one @ other / (one.norm() * other.norm()))


TEXT = """\
recdsl: 1
name: columns-testbed
sizes: {obs: INPUT, column: COLUMN, near: COLUMN, hidden: WIDTH, feature: WIDTH}
inputs: {x: "float[obs]"}
targets: {y: float}
params:
  A: float[column, hidden, obs] ~ uniform(-0.1, 0.1)
  a: float[column, hidden] ~ uniform(-0.1, 0.1)
  B: float[column, feature, hidden] ~ uniform(-0.1, 0.1)
  b: float[column, feature] ~ uniform(-0.1, 0.1)
  V: float[column, feature] ~ uniform(-0.1, 0.1)
  L: float[column, near, feature] ~ uniform(-0.1, 0.1)
  U: float[column, near] ~ uniform(-0.1, 0.1)
  u, d: float[column] ~ uniform(-0.1, 0.1)
  w: float[column] ~ normal(0, 0.1)
  seen: float[column, near, feature] = 0 frozen
  felt: float[column, near] = 0 frozen
  own: float[column] = 0 frozen
step: |
  e = relu(A @ x + a)
  f = relu(dot(B, e, over=hidden) + b)
  inside = dot(V, f, over=feature) + own * u * h[t-1] + d
  lateral = dot(seen * L, SEEN, over=[near, feature]) + (felt * U) @ FELT
  h = h[t-1] + tanh(inside + lateral)
  v = w @ h
loss: {value: "mse(v, y)", weight: 0.5, reduce: sum}
credit: CREDIT
"""
