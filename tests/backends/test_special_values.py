"""Infinities, not-a-number, zeros with a sign and the smallest numbers in every function: native, torch, definition."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from recdsl.backends.native import native_module
from recdsl.backends.native.ops import ELEMENTWISE
from recdsl.backends.reference import Reference
from recdsl.backends.torch import execute
from recdsl.backends.torch.module import generate
from recdsl.driver import Compilation, analyse
from recdsl.ops.maximum import Maximum
from recdsl.ops.relu import Relu

pytestmark = pytest.mark.compiler
PLAIN = (
    "exp", "expm1", "log", "log1p", "sqrt", "tanh", "sigmoid", "relu", "softplus", "abs", "sign", "sin", "cos",
    "floor", "erf", "tan", "gelu", "silu", "elu", "leaky_relu", "softsign", "hard_sigmoid", "hardtanh", "sinh", "cosh",
)  # fmt: skip
MADE = {
    **{name: f"{name}(x)" for name in PLAIN},
    "plus": "x + y", "minus": "x - y", "times": "x * y", "over": "x / y", "larger": "max(x, y)",
    "smaller": "min(x, y)", "rest": "x % y", "power": "x ** y", "square": "x ** 2", "cube": "x ** 3",
    "inverse": "x ** -1", "root": "x ** 0.5", "other": "x ** 2.5", "clamped": "clamp(x, -1, 1)",
    "chosen": "where(x > y, x, y)", "soft": "softmax(z)", "summed": "logsumexp(z)", "top": "max(z, axis=m)",
}  # fmt: skip
SUMS = ("hard_sigmoid",)
"""Their terms cancel."""
INF, NAN = math.inf, math.nan
NUMBERS = (0.0, -0.0, INF, -INF, NAN, 1.0, -1.0, 0.5, -3.0, 5e-324, -1e-310, 1e-40, 1e300, 710.0, -750.0, 88.9, 0.3)
PAIRS = list(itertools.product(NUMBERS, NUMBERS))
TRIPLES = [*itertools.product((0.5, INF, -INF, NAN), repeat=3), (0.0, 1.0, -5.0)]
HEAD = f"""\
recdsl: 1
sizes: {{n: {len(PAIRS)}, m: 3}}
inputs: {{x: "float[n]", y: "float[n]", z: "float[m]"}}
targets: {{w: "float[n]"}}
params: {{b: "float[n] = 0"}}
step: |
"""


@cache
def stages() -> Compilation:
    step = "".join(f"  {name} = {text}\n" for name, text in MADE.items())
    return analyse(HEAD + step + "  guess = b + 1\nloss: mse(guess, w)\n")


def numbers(dtype: torch.dtype) -> dict[str, Tensor]:
    pairs, triples = (torch.tensor(rows, dtype=torch.float64).to(dtype) for rows in (PAIRS, TRIPLES))
    wide = [pairs[:, k].expand(len(triples), 1, -1).contiguous() for k in (0, 1)]
    return {"x": wide[0], "y": wide[1], "z": triples[:, None], "w": torch.zeros_like(wide[0])}


def compiled(dtype: torch.dtype) -> Mapping[str, Tensor]:
    made = native_module(stages().graph, stages().plan, generate(stages().graph, stages().plan, "")).Model(0, dtype)
    assert made.recdsl_runs == "native"
    return outputs(made, dtype)


def by_torch(dtype: torch.dtype) -> Mapping[str, Tensor]:
    return outputs(execute(generate(stages().graph, stages().plan, "")).Model(0, dtype), dtype)


def outputs(made: Any, dtype: torch.dtype) -> Mapping[str, Tensor]:
    return {name: value.detach() for name, value in made(numbers(dtype)).outputs.items()}


def defined() -> Mapping[str, Tensor]:
    given = {"b": torch.zeros(len(PAIRS), dtype=torch.float64)}
    return Reference(stages().graph, stages().plan).run(given, numbers(torch.float64)).outputs


def known(x: float, y: float, dtype: torch.dtype) -> bool:
    """Whether torch's rest of a division is right: its vectors give none where the quotient overflows."""
    limits = torch.finfo(dtype)
    overflows = math.isfinite(x) and (abs(y) < limits.tiny or abs(x) > limits.max * min(abs(y), 1.0))
    return y == 0.0 or math.isnan(y) or not overflows


def check(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """Equal but for rounding: where numbers are not finite, the same of them."""
    share = 1e-12 if dtype == torch.float64 else 2e-6
    keep = torch.tensor([known(x, y, dtype) for x, y in PAIRS])
    for name in MADE:
        one, other = found[name].double(), expected[name].double()
        if name == "rest":
            one, other = one[..., keep], other[..., keep]
        same = torch.isclose(one, other, rtol=share, atol=share if name in SUMS else 1e-44, equal_nan=True)
        where = (~same).nonzero()
        assert not len(where), (name, float(one[tuple(where[0])]), float(other[tuple(where[0])]), where[0].tolist())


def test_every_function_is_here() -> None:
    used = {node.op for node in stages().graph.nodes}
    logic = {"lt", "le", "ge", "eq", "ne", "and", "or", "not", "to_float", "spike", "neg"}
    assert set(ELEMENTWISE) - used - logic == set()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_native_has_what_torch_has(dtype: torch.dtype) -> None:
    """With all optimisations of the compiler, which has to keep what is not finite."""
    check(compiled(dtype), by_torch(dtype), dtype)


def test_torch_has_what_is_defined() -> None:
    check(by_torch(torch.float64), defined(), torch.float64)


def test_what_is_no_number_stays_so() -> None:
    """Nothing that looks at one argument hides it."""
    found, hidden = compiled(torch.float64), {"sign", "chosen"}
    nan = torch.tensor([math.isnan(x) for x, _ in PAIRS])
    for name in {*MADE} - hidden - {"power", "soft", "summed", "top"}:
        assert bool(found[name][..., nan].isnan().all()), name


def test_faults_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(ELEMENTWISE, "maximum", ("{0} >= {1} ? {0} : {1}", 1))
        with pytest.raises(AssertionError, match="hard_sigmoid"):
            check(compiled(torch.float64), by_torch(torch.float64), torch.float64)
    for owner, wrong in ((Relu, "relu"), (Maximum, "hard_sigmoid")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, "value", hides)
            with pytest.raises(AssertionError, match=wrong):
                check(by_torch(torch.float64), defined(), torch.float64)


def hides(op: Any, xp: Any, args: Sequence[Any], *_: Any) -> Any:
    """The larger one, as comparisons alone find it."""
    other = args[1] if len(args) > 1 else 0 * args[0].nan_to_num()
    return xp.where(args[0] > other, args[0], other)


def test_a_product_with_the_number_zero_is_zero() -> None:
    """Of all x, since no path leads through it; the definition computes it."""
    found = analyse(HEAD + "  none = 0 * x\n  guess = b + none\nloss: mse(guess, w)\n")
    made = execute(generate(found.graph, found.plan, "")).Model(0, torch.float64)
    assert bool((outputs(made, torch.float64)["none"] == 0.0).all())
