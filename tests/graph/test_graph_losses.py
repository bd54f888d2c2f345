"""Every loss against torch's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from graph_support import step_of, unroll
from torch import Tensor

from recdsl.graph.losses import LOSSES

HEAD = """sizes: {n: 4, m: 3}
inputs: {x: "float[n]", A: "float[m, n]", q: "float[n]", s: float}
targets: {y: "float[n]", B: "float[n, m]", c: "class[n]", o: "onehot[n]", b: bool}"""
GENERATOR = torch.Generator().manual_seed(3)


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR, dtype=torch.float64)


X, A, Y, B, S = _normal(4), _normal(3, 4), _normal(4), _normal(4, 3), _normal()
Q = _normal(4).softmax(0)
GIVEN = {"x": X, "A": A, "q": Q, "s": S, "y": Y, "B": B, "c": 2, "o": 1, "b": True}
TRUE, TWO, ONE = torch.ones((), dtype=torch.float64), torch.tensor(2), torch.tensor(1)
CASES: dict[str, Callable[[], Tensor]] = {
    "mse(x, y)": lambda: F.mse_loss(X, Y),
    "mse(A, B)": lambda: F.mse_loss(A, B.T),
    "mse(x, 1)": lambda: F.mse_loss(X, torch.ones_like(X)),
    "mae(x, y)": lambda: F.l1_loss(X, Y),
    "huber(3 * x, y, delta=0.7)": lambda: F.huber_loss(3 * X, Y, delta=0.7),
    "cross_entropy(x, c)": lambda: F.cross_entropy(X, TWO),
    "cross_entropy(A, c)": lambda: F.cross_entropy(A, torch.tensor([2, 2, 2])),
    "cross_entropy(x, o)": lambda: F.cross_entropy(X, ONE),
    "cross_entropy(x, q)": lambda: F.cross_entropy(X, Q),
    "binary_cross_entropy(s, b)": lambda: F.binary_cross_entropy_with_logits(S, TRUE),
    "binary_cross_entropy(x, q)": lambda: F.binary_cross_entropy_with_logits(X, Q),
    "nll(q, c)": lambda: -Q[2].log(),
    "nll(0 * q, c)": lambda: -torch.tensor(1e-6, dtype=torch.float64).log(),
    "kl(q, softmax(x))": lambda: F.kl_div(X.log_softmax(0), Q, reduction="sum"),
}


@pytest.mark.parametrize("text", CASES)
def test_value(text: str) -> None:
    (found,) = unroll(step_of("z = x", HEAD, text), {}, [GIVEN])
    assert torch.allclose(found["loss:loss"], CASES[text](), rtol=1e-12)


def test_every_loss_is_tried() -> None:
    assert {text.split("(")[0] for text in CASES} == set(LOSSES)
