"""Every function against torch's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from graph_support import step_of, unroll
from torch import Tensor

from recdsl.graph.functions import FUNCTIONS

HEAD = 'sizes: {n: 4, m: 3}\ninputs: {x: "float[n]", y: "float[n]", A: "float[n, m]", c: "token[n]"}'
X = torch.tensor([-1.7, -0.2, 0.4, 2.3], dtype=torch.float64)
Y = torch.tensor([0.5, -0.7, 1.2, 0.4], dtype=torch.float64)
A = torch.randn(4, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
CASES: dict[str, tuple[str, Callable[[], Tensor]]] = {
    "exp": ("exp(x)", lambda: X.exp()),
    "log": ("log(abs(x))", lambda: X.abs().log()),
    "sqrt": ("sqrt(abs(x))", lambda: X.abs().sqrt()),
    "tanh": ("tanh(x)", lambda: X.tanh()),
    "sigmoid": ("sigmoid(x)", lambda: X.sigmoid()),
    "relu": ("relu(x)", lambda: X.relu()),
    "softplus": ("softplus(x)", lambda: F.softplus(X)),
    "abs": ("abs(x)", lambda: X.abs()),
    "sign": ("sign(x)", lambda: X.sign()),
    "sin": ("sin(x)", lambda: X.sin()),
    "cos": ("cos(x)", lambda: X.cos()),
    "tan": ("tan(x)", lambda: X.tan()),
    "floor": ("floor(x)", lambda: X.floor()),
    "erf": ("erf(x)", lambda: torch.erf(X)),
    "gelu": ("gelu(x)", lambda: F.gelu(X)),
    "silu": ("silu(x)", lambda: F.silu(X)),
    "elu": ("elu(x, alpha=0.7)", lambda: F.elu(X, alpha=0.7)),
    "leaky_relu": ("leaky_relu(x)", lambda: F.leaky_relu(X)),
    "softsign": ("softsign(x)", lambda: F.softsign(X)),
    "hard_sigmoid": ("hard_sigmoid(2 * x)", lambda: F.hardsigmoid(2 * X)),
    "hardtanh": ("hardtanh(x)", lambda: F.hardtanh(X)),
    "log1p": ("log1p(abs(x))", lambda: X.abs().log1p()),
    "expm1": ("expm1(x)", lambda: X.expm1()),
    "square": ("square(x)", lambda: X.square()),
    "reciprocal": ("reciprocal(x)", lambda: X.reciprocal()),
    "sinh": ("sinh(x)", lambda: X.sinh()),
    "cosh": ("cosh(x)", lambda: X.cosh()),
    "clamp": ("clamp(x, -0.5, 1)", lambda: X.clamp(-0.5, 1)),
    "max": ("max(x, y, 0.1)", lambda: torch.maximum(X, Y).clamp(min=0.1)),
    "min": ("min(x, y)", lambda: torch.minimum(X, Y)),
    "where": ("where(x > y, x, 2)", lambda: torch.where(X > Y, X, 2.0)),
    "sum": ("sum(A, axis=n)", lambda: A.sum(0)),
    "mean": ("mean(A, axis=[n, m])", lambda: A.mean()),
    "logsumexp": ("logsumexp(A, axis=m)", lambda: A.logsumexp(1)),
    "norm": ("norm(A, axis=m)", lambda: (A * A).sum(1).sqrt()),
    "softmax": ("softmax(A)", lambda: A.softmax(1)),
    "log_softmax": ("log_softmax(A, axis=n)", lambda: A.log_softmax(0)),
    "dot": ("dot(x, A, over=n)", lambda: X @ A),
    "rename": ("x * rename(y, n=other)", lambda: torch.outer(X, Y)),
    "slice": ("slice(x, axis=n, start=1, size=m)", lambda: X[1:]),
    "onehot": ("onehot(c)", lambda: torch.eye(4, dtype=torch.float64)[2]),
    "stop": ("stop(x)", lambda: X),
    "spike": ("spike(x, surrogate=sigmoid)", lambda: (X > 0).double()),
    "straight_through": ("straight_through(floor(x), x)", lambda: X.floor()),
    "eye": ("eye(m)", lambda: torch.eye(3, dtype=torch.float64)),
    "transpose": ("transpose(A)", lambda: A.T),
}
MORE: dict[str, tuple[str, Callable[[], Tensor]]] = {
    "square power": ("x ** 2", lambda: X**2),
    "negative power": ("x ** -2", lambda: X**-2),
    "general power": ("abs(x) ** y", lambda: X.abs() ** Y),
    "cube of any sign": ("x ** (3 + 0 * y)", lambda: X**3),
    "small logarithm": ("1e9 * log1p(1e-9 * x)", lambda: 1e9 * (1e-9 * X).log1p()),
    "small exponential": ("1e9 * expm1(1e-9 * x) + 1e9 * sinh(1e-9 * x)", lambda: 1e9 * (1e-9 * X).expm1() + X),
    "power of a number": ("2 ** x", lambda: 2**X),
    "modulo": ("x % 1.5", lambda: X % 1.5),
    "largest": ("max(A, axis=m)", lambda: A.amax(1)),
    "least": ("min(A, axis=[n, m])", lambda: A.amin()),
    "joint softmax": ("softmax(A, axis=[n, m])", lambda: A.flatten().softmax(0).reshape(4, 3)),
    "outer": ("x * A", lambda: X[:, None] * A),
    "left order": ("A * x", lambda: A * X[:, None]),
    "matrix": ("A.T @ x", lambda: A.T @ X),
    "gram": ("A.T @ A", lambda: A.T @ A),
    "concat": ("[x; 1; y]", lambda: torch.cat([X, torch.ones(1, dtype=torch.float64), Y])),
    "concat of matrices": ("[A; A]", lambda: torch.cat([A, A], 1)),
    "pick": ("A[n=2]", lambda: A[2]),
    "pick by token": ("A[n=c]", lambda: A[2]),
    "size as number": ("x / sqrt(n)", lambda: X / 2),
    "logic": ("where(x > 0 and not y > 1 or c == 1, 1, 0) + 0 * x", lambda: ((X > 0) & ~(Y > 1)).double()),
    "bool as number": ("(x > 0) + (x <= y) * 2", lambda: (X > 0).double() + 2.0 * (X <= Y)),
    "precedence": ("-x ** 2 + 3 * x - 1 / 2", lambda: -(X**2) + 3 * X - 0.5),
}


@pytest.mark.parametrize("name", [*CASES, *MORE])
def test_value(name: str) -> None:
    text, expected = {**CASES, **MORE}[name]
    (found,) = unroll(step_of(f"z = {text}", HEAD), {}, [{"x": X, "y": Y, "A": A, "c": 2}])
    assert torch.allclose(found["z"], expected(), rtol=1e-12, atol=1e-12)
    assert found["z"].shape == expected().shape


def test_every_function_is_tried() -> None:
    assert set(CASES) == set(FUNCTIONS)


@pytest.mark.parametrize("name", ["exp", "log", "sqrt", "tanh", "sin", "softplus", "sigmoid", "erf", "floor", "relu"])
def test_functions_of_numbers_are_computed_when_compiling(name: str) -> None:
    graph = step_of(f"z = {name}(0.7)")
    (found,) = unroll(graph, {}, [{}])
    assert {node.op for node in graph.nodes if node.type.dtype == "float" and node.name == "z"} == {"constant"}
    wide = step_of(f"z = {name}(x)", 'inputs: {x: "float"}')
    (other,) = unroll(wide, {}, [{"x": 0.7}])
    assert torch.allclose(found["z"], other["z"], rtol=1e-14, atol=1e-15)
