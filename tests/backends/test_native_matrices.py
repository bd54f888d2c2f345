"""Matrix products of the native backend, by every way through them, against a sum written out."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy
import pytest

from recdsl.backends.native.build import library
from recdsl.backends.native.functions import gemm
from recdsl.backends.native.lower import head, prelude

pytestmark = pytest.mark.compiler
CALLS = """
#define MADE(name, function) __attribute__((visibility("default"))) void name(const long *n, const real *A, \\
    const real *B, real *C) { function(n[0], n[1], n[2], A, n[3], n[4], B, n[5], n[6], C, n[7], n[8], (int)n[9]); }
MADE(inside, product)
MADE(outside, product_once)
__attribute__((visibility("default"))) void turned_round(const long *n, const real *B, real *to) {
    pack(n[0], n[1], B, n[2], n[3], to);
}
"""
SIZES = (
    (1, 40, 1),
    (16, 8, 1),
    (5, 1, 1),
    (1, 33, 7),
    (20, 1, 9),
    (48, 16, 128),
    (48, 16, 127),
    (16, 48, 512),
    (33, 17, 200),
)
"""(48, 16, 128): longer than wide and summed over many steps, which is made as its transpose; 127 is not."""


@pytest.fixture(scope="module", params=["blas", "loops"])
def compiled(request: pytest.FixtureRequest) -> Any:
    made = library(head(single=False) + f"/* {request.param} */" + prelude() + CALLS)
    made.recdsl_blas.argtypes = (ctypes.c_void_p,)
    made.recdsl_blas(gemm(False) if request.param == "blas" else None)
    return made


def strides(rows: int, columns: int, turned: bool, extra: int) -> tuple[int, int]:
    return (1, rows + extra) if turned else (columns + extra, 1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("where", ["inside", "outside"])
def test_products(compiled: Any, size: tuple[int, int, int], where: str) -> None:
    m, n, k = size
    draws = numpy.random.default_rng(m * n + k)
    for case in range(16):
        turns = [bool(case >> bit & 1) for bit in range(3)]
        extra = case % 3
        shapes = ((m, k), (k, n), (m, n))
        steps = [strides(*shape, turn, extra) for shape, turn in zip(shapes, turns, strict=True)]
        room = [draws.standard_normal(rows * columns + 40 * (rows + columns)) for rows, columns in shapes]
        seen = [
            numpy.lib.stride_tricks.as_strided(x, shape, (8 * a, 8 * b))
            for x, shape, (a, b) in zip(room, shapes, steps, strict=True)
        ]
        before, rest = seen[2].copy(), room[2].copy()
        adds = case >= 8
        expected = (before if adds else 0) + numpy.einsum("mk,kn->mn", seen[0], seen[1])
        numbers = (ctypes.c_long * 10)(m, n, k, *(x for pair in steps for x in pair), adds)
        getattr(compiled, where)(numbers, *(ctypes.c_void_p(x.ctypes.data) for x in room))
        numpy.testing.assert_allclose(seen[2], expected, rtol=1e-11, atol=1e-11)
        seen[2][:] = numpy.lib.stride_tricks.as_strided(rest, shapes[2], (8 * steps[2][0], 8 * steps[2][1]))
        assert (room[2] == rest).all(), "something beside the result was written"


@pytest.mark.parametrize("shape", [(1, 1), (16, 16), (15, 33), (48, 17), (32, 64)])
def test_packed(compiled: Any, shape: tuple[int, int]) -> None:
    """Whole tiles and what is left of them, from rows and from columns."""
    k, n = shape
    given = numpy.random.default_rng(k).standard_normal((k, n))
    for matrix, by in ((given, (n, 1)), (numpy.ascontiguousarray(given.T), (1, k))):
        made = numpy.zeros((k, n))
        compiled.turned_round((ctypes.c_long * 4)(k, n, *by), matrix.ctypes, made.ctypes)
        assert (made == given).all()
