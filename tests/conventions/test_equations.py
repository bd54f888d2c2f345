"""Section 3, equations: each line's value and gradient against the same line written in torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from conventions_support import agree
from torch import Tensor

Values = Mapping[str, Tensor]
Formula = Callable[[Values, Values, int], Tensor]

SPEC = """
recdsl: 1
sizes: {n: 3, m: 2, k: 4}
inputs: {x: "float[n]", u: "float[m]", X: "float[n, m]", r: float, o: "onehot[k]", c: "token[k]", go: bool}
params:
  a: float[n] ~ normal(0, 1)
  s: float = 0.5
  W: float[k, n] ~ normal(0, 1)
  Q: float[n, n] ~ normal(0, 1)
  G: float[m, k, n] ~ normal(0, 1)
  C: float[k, n + m] ~ normal(0, 1)
step: |
  out = EXPRESSION
  keep = sum(a) * s + sum(W, axis=[k, n]) + sum(Q @ a) + sum(G, axis=[m, k, n]) + sum(C @ [x; u])
loss: {first: {value: "mse(out, 0)"}, second: {value: "mse(keep, 0)"}}
"""


def hot(index: Tensor) -> Tensor:
    return F.one_hot(index, 4).double()


PRECEDENCE: dict[str, Formula] = {
    "-a ** 2 * x": lambda p, x, t: -(p["a"] ** 2) * x["x"],
    "a * 2 ** 3 ** 2 + x": lambda p, x, t: p["a"] * 512 + x["x"],
    "(2 + abs(a)) ** -x": lambda p, x, t: (2 + p["a"].abs()) ** -x["x"],
    "a / 2 * x - a - 1": lambda p, x, t: p["a"] / 2 * x["x"] - p["a"] - 1,
    "a * x % 2": lambda p, x, t: torch.remainder(p["a"] * x["x"], 2),
    "a * (-7 % 3) + x % -2": lambda p, x, t: p["a"] * (-7 % 3) + torch.remainder(x["x"], -2),
    "2 * x @ a": lambda p, x, t: (2 * x["x"]) @ p["a"],
    "x @ Q @ x": lambda p, x, t: torch.einsum("bi,ij,bj->b", x["x"], p["Q"], x["x"]),
    "where(not x > 0 and a < 1 or x > 1, a, x)": lambda p, x, t: torch.where(
        (~(x["x"] > 0) & (p["a"] < 1)) | (x["x"] > 1), p["a"], x["x"]
    ),
    "a * (x >= 0) + (x != 0) * a": lambda p, x, t: p["a"] * (x["x"] >= 0) + (x["x"] != 0) * p["a"],
}

ALIGNMENT: dict[str, Formula] = {
    "u * x * s": lambda p, x, t: torch.einsum("bm,bn->bmn", x["u"], x["x"]) * p["s"],
    "x * u * s": lambda p, x, t: torch.einsum("bm,bn->bnm", x["u"], x["x"]) * p["s"],
    "X + a + u": lambda p, x, t: x["X"] + p["a"][:, None] + x["u"][:, None, :],
    "u * a - X": lambda p, x, t: x["u"][:, :, None] * p["a"] - x["X"].transpose(1, 2),
    "r * a": lambda p, x, t: x["r"][:, None] * p["a"],
    "go * a + 1": lambda p, x, t: x["go"].double()[:, None] * p["a"] + 1,
    "max(X, a)": lambda p, x, t: torch.maximum(x["X"], p["a"][:, None].expand(3, 2)),
    "where(x > 0, u, a)": lambda p, x, t: torch.where((x["x"] > 0)[:, :, None], x["u"][:, None, :], p["a"][:, None]),
    "(Q + Q.T) @ x": lambda p, x, t: x["x"] @ (p["Q"] + p["Q"].T).T,
    "(Q * s + 1) @ x": lambda p, x, t: x["x"] @ (p["Q"] * p["s"] + 1).T,
    "x * rename(a * x, n=twin)": lambda p, x, t: torch.einsum("bi,bj->bij", x["x"], p["a"] * x["x"]),
}

CONTRACTIONS: dict[str, Formula] = {
    "W.T @ o": lambda p, x, t: p["W"][x["o"]],
    "X.T @ a": lambda p, x, t: torch.einsum("bnm,n->bm", x["X"], p["a"]),
    "G @ x": lambda p, x, t: torch.einsum("mkn,bn->bmk", p["G"], x["x"]),
    "dot(G, x * u, over=n)": lambda p, x, t: torch.einsum("mkn,bm,bn->bmk", p["G"], x["u"], x["x"]),
    "dot(G, X, over=[m, n])": lambda p, x, t: torch.einsum("mkn,bnm->bk", p["G"], x["X"]),
    "C @ [x; u]": lambda p, x, t: torch.cat([x["x"], x["u"]], 1) @ p["C"].T,
    "[a * x; u; r; 1]": lambda p, x, t: torch.cat(
        [p["a"] * x["x"], x["u"], x["r"][:, None], torch.ones(3, 1).double()], 1
    ),
}

PARTS: dict[str, Formula] = {
    "X[m=1] * a": lambda p, x, t: x["X"][:, :, 1] * p["a"],
    "W[k=c]": lambda p, x, t: p["W"][x["c"]],
    "W[k=o] + 0 * x": lambda p, x, t: p["W"][x["o"]],
    "slice(W @ x, axis=k, start=1, size=m) * u": lambda p, x, t: (x["x"] @ p["W"].T)[:, 1:3] * x["u"],
    "slice(W @ x, axis=k, start=m, size=k / 2)": lambda p, x, t: (x["x"] @ p["W"].T)[:, 2:4],
    "slice(W @ x, axis=k, start=0, size=3) @ slice(W @ x, axis=k, start=1, size=3)": lambda p, x, t: torch.einsum(
        "bi,bi->b", (x["x"] @ p["W"].T)[:, 0:3], (x["x"] @ p["W"].T)[:, 1:4]
    ),
    "sum(slice(W @ x, axis=k, start=0, size=m)) + sum(slice(W @ x, axis=k, start=0, size=2))": lambda p, x, t: (
        2 * (x["x"] @ p["W"].T)[:, :2].sum(1)
    ),
}

REDUCTIONS: dict[str, Formula] = {
    "sum(X * a, axis=n)": lambda p, x, t: (x["X"] * p["a"][:, None]).sum(1),
    "mean(X * a, axis=[n, m])": lambda p, x, t: (x["X"] * p["a"][:, None]).mean((1, 2)),
    "max(X * a, axis=m)": lambda p, x, t: (x["X"] * p["a"][:, None]).amax(2),
    "min(x * a)": lambda p, x, t: (x["x"] * p["a"]).amin(1),
    "logsumexp(X * a, axis=n)": lambda p, x, t: (x["X"] * p["a"][:, None]).logsumexp(1),
    "norm(X * a, axis=m)": lambda p, x, t: (x["X"] * p["a"][:, None]).norm(dim=2),
    "softmax(X * a)": lambda p, x, t: (x["X"] * p["a"][:, None]).softmax(2),
    "softmax(X * a, axis=n)": lambda p, x, t: (x["X"] * p["a"][:, None]).softmax(1),
}

NUMBERS: dict[str, Formula] = {
    "a / sqrt(n) + m * x": lambda p, x, t: p["a"] / 3**0.5 + 2 * x["x"],
    "a * t + x": lambda p, x, t: p["a"] * t + x["x"],
    "where(t % 2 == 0, a, x)": lambda p, x, t: p["a"].expand(3, 3) if t % 2 == 0 else x["x"],
    "(eye(n) * s) @ x": lambda p, x, t: x["x"] * p["s"],
    "onehot(c) * a": lambda p, x, t: hot(x["c"])[:, :, None] * p["a"],
    "stop(a * x) * a": lambda p, x, t: (p["a"] * x["x"]).detach() * p["a"],
    "straight_through(floor(a * x), a * x)": lambda p, x, t: (
        p["a"] * x["x"] + ((p["a"] * x["x"]).floor() - p["a"] * x["x"]).detach()
    ),
    "(a * x) ** floor(2 * abs(x))": lambda p, x, t: (p["a"] * x["x"]) ** (2 * x["x"].abs()).floor(),
    "exp(x) ** s + log1p(a * a)": lambda p, x, t: x["x"].exp() ** p["s"] + (p["a"] ** 2).log1p(),
    "s * x * (stop(2 + 0 * s) + erf(0 * s + 1))": lambda p, x, t: p["s"] * x["x"] * (2 + math.erf(1)),
    "x * straight_through(2, a * 0) * s": lambda p, x, t: 2 * x["x"] * p["s"],
    "a * x * (spike(0 * a + 1) + stop(3))": lambda p, x, t: 4 * p["a"] * x["x"],
    "clamp(a * x, -s, 0.5)": lambda p, x, t: torch.maximum(p["a"] * x["x"], -p["s"]).clamp_max(0.5),
    "min(a * x, s, 0)": lambda p, x, t: torch.minimum(p["a"] * x["x"], p["s"]).clamp_max(0),
}

FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp, "tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu, "softplus": F.softplus,
    "abs": torch.abs, "sign": torch.sign, "sin": torch.sin, "cos": torch.cos, "floor": torch.floor, "erf": torch.erf,
    "gelu": F.gelu, "silu": F.silu, "elu": F.elu, "leaky_relu": F.leaky_relu, "softsign": F.softsign,
    "hardtanh": F.hardtanh, "expm1": torch.expm1, "square": torch.square, "sinh": torch.sinh, "cosh": torch.cosh,
}  # fmt: skip


def check(expression: str, formula: Formula) -> None:
    text = SPEC.replace("EXPRESSION", expression)
    agree(text, lambda p, x, past, t: {"out": formula(p, x, t)})


@pytest.mark.parametrize("expression", PRECEDENCE)
def test_precedence_as_in_python(expression: str) -> None:
    check(expression, PRECEDENCE[expression])


@pytest.mark.parametrize("expression", ALIGNMENT)
def test_axes_align_by_name_the_left_ones_first(expression: str) -> None:
    check(expression, ALIGNMENT[expression])


@pytest.mark.parametrize("expression", CONTRACTIONS)
def test_contractions_and_concatenation(expression: str) -> None:
    check(expression, CONTRACTIONS[expression])


@pytest.mark.parametrize("expression", PARTS)
def test_picks_and_slices(expression: str) -> None:
    check(expression, PARTS[expression])


@pytest.mark.parametrize("expression", REDUCTIONS)
def test_reductions_name_their_axis(expression: str) -> None:
    check(expression, REDUCTIONS[expression])


@pytest.mark.parametrize("expression", NUMBERS)
def test_step_number_sizes_and_cuts(expression: str) -> None:
    check(expression, NUMBERS[expression])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_elementwise_functions(name: str) -> None:
    check(f"{name}(a * x)", lambda p, x, t: FUNCTIONS[name](p["a"] * x["x"]))


SURROGATES: dict[str, Callable[[Tensor], Tensor]] = {
    "triangle": lambda s: (1 - s.abs()).clamp_min(0),
    "fast_sigmoid": lambda s: (1 + s.abs()) ** -2,
    "arctan": lambda s: 1 / (1 + (torch.pi * s) ** 2),
    "sigmoid": lambda s: 4 * s.sigmoid() * (1 - s.sigmoid()),
}


@pytest.mark.parametrize("name", SURROGATES)
def test_spikes_have_the_declared_derivative(name: str) -> None:
    def spike(p: Values, x: Values, t: int) -> Tensor:
        z = p["a"] * x["x"]
        slope = SURROGATES[name]((z / 2).detach())
        return (z > 0).double() + slope * (z - z.detach())

    check(f"spike(a * x, surrogate={name}, width=2)", spike)
