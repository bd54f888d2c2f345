"""exp, tanh and sigmoid of the native backend: error in units in the last place, and what stands at the ends."""

from __future__ import annotations

import ctypes
import math
from functools import cache
from typing import Any

import numpy
import pytest

from recdsl.backends.native.build import library
from recdsl.backends.native.lower import head
from recdsl.resources import read_text

pytestmark = pytest.mark.compiler
NAMES = ("exp", "tanh", "sigmoid")
BOUNDS = {"exp": 2.0, "tanh": 4.0, "sigmoid": 3.0}
TYPES = {"float32": numpy.float32, "float64": numpy.float64}


@cache
def compiled(dtype: str) -> Any:
    loops = "".join(
        f'__attribute__((visibility("default"))) void a_{name}(const real *restrict x, real *restrict y, long n) '
        f"{{ SIMD for (long k = 0; k < n; k++) y[k] = r_{name}(x[k]); }}\n"
        for name in NAMES
    )
    return library(head(single=dtype == "float32") + read_text("backends", "native", "prelude.c") + loops)


def ours(name: str, x: Any) -> Any:
    y = numpy.empty_like(x)
    function = getattr(compiled(str(x.dtype)), f"a_{name}")
    function(ctypes.c_void_p(x.ctypes.data), ctypes.c_void_p(y.ctypes.data), ctypes.c_long(x.size))
    return y


def exact(name: str, x: Any) -> Any:
    """In long double (64 bits of mantissa on x86; where it is no wider than double the bounds have room for it)."""
    wide = x.astype(numpy.longdouble)
    if name == "sigmoid":
        small = numpy.exp(-abs(wide))
        return numpy.where(wide < 0, small, 1) / (1 + small)
    return getattr(numpy, name)(wide)


def points(dtype: str) -> Any:
    """Dense where the functions bend, and every magnitude."""
    rng = numpy.random.default_rng(1)
    spans = (0.3, 1.0, 10.0, 80.0, 700.0 if dtype == "float64" else 87.0)
    parts = [rng.uniform(-span, span, 40_000) for span in spans]
    tiny = 300 if dtype == "float64" else 37
    parts.append(rng.choice([-1.0, 1.0], 20_000) * 10.0 ** rng.uniform(-tiny, 1, 20_000))
    return numpy.concatenate(parts).astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", NAMES)
def test_error(name: str, dtype: str):
    """The stated bound, in units in the last place of the right value."""
    x = points(dtype)
    right = exact(name, x)
    unit = numpy.spacing(abs(right).astype(dtype)).astype(numpy.longdouble)
    keep = numpy.isfinite(right.astype(dtype))
    error = abs(ours(name, x).astype(numpy.longdouble) - right)[keep] / unit[keep]
    assert float(error.max()) <= BOUNDS[name], f"{name}: {float(error.max()):.2f} units at {x[keep][error.argmax()]!r}"


@pytest.mark.parametrize("dtype", TYPES)
def test_ends(dtype: str):
    """Infinities, not-a-number, zeros with their sign, and the smallest numbers; also where vectors end."""
    inf, nan = math.inf, math.nan
    small = float(numpy.finfo(TYPES[dtype]).smallest_subnormal)
    table = {
        "exp": {inf: inf, -inf: 0.0, nan: nan, -nan: nan, 0.0: 1.0, 1e4: inf, -1e4: 0.0, small: 1.0},
        "tanh": {inf: 1.0, -inf: -1.0, nan: nan, -nan: nan, 0.0: 0.0, 1e30: 1.0, -1e30: -1.0, small: small},
        "sigmoid": {inf: 1.0, -inf: 0.0, nan: nan, -nan: nan, 0.0: 0.5, 1e30: 1.0, -1e30: 0.0, small: 0.5},
    }
    for name, rows in table.items():
        for given, wanted in rows.items():
            x = numpy.full(37, given, dtype)
            found = ours(name, x)
            assert numpy.array_equal(found, numpy.full(37, wanted, dtype), equal_nan=True), (name, given, found[0])
    assert math.copysign(1.0, ours("tanh", numpy.full(3, -0.0, dtype))[0]) == -1.0


@pytest.mark.parametrize("dtype", TYPES)
def test_results_below_the_normal_range(dtype: str):
    """exp and sigmoid go down to the smallest number, to one of it."""
    ends = (-745.0, -709.0) if dtype == "float64" else (-103.0, -88.0)
    x = numpy.linspace(*ends, 1001).astype(dtype)
    smallest = numpy.finfo(TYPES[dtype]).smallest_subnormal
    for name in ("exp", "sigmoid"):
        right = exact(name, x)
        off = abs(ours(name, x).astype(numpy.longdouble) - right)
        bound = numpy.longdouble(smallest) * 1.01 + right * numpy.longdouble(4 * numpy.finfo(TYPES[dtype]).eps)
        assert bool((off <= bound).all()), name
