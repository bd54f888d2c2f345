"""Influence on a unit's own column takes the diagonal of a product without writing the product out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from recdsl.driver import analyse
from recdsl.graph.types import Axis, Type
from recdsl.ops import primitive
from recdsl.program.assemble import assemble
from recdsl.program.derive import own
from recdsl.program.diagonals import entries
from recdsl.program.ir import For, Op, Stmt
from recdsl.program.timeline import TimelineBuilder, TNode

SPEC = """
recdsl: 1
sizes: {d: 5, n: 8}
inputs: {x: "float[d]"}
targets: {y: "float[n]"}
step: h = gru(x, size=n)
loss: mse(h, y)
credit: columns
"""


def test_no_value_of_a_dense_gru_has_three_axes_of_units() -> None:
    """The reset gate acts through a matrix; of its influence only each unit's own row is kept, and what multiplies an
    influence is made for all steps at once, in the size of a state."""
    made = analyse(SPEC)
    body = dict(assemble(made.graph, made.plan).program.entries)["traces"]
    assert all(numel == 8 for loop in body if isinstance(loop, For) for numel in sizes(loop.body))
    stack = 8 * (3 * 5 + 3 * 8 + 3)
    assert max(sizes(body)) == stack
    assert max(own(op.types[0]).numel for op in body if isinstance(op, Op) and "t" in dict(op.types[0].lead)) == 8


def sizes(body: Sequence[Stmt]) -> list[int]:
    """The entries of what varies, of each sample."""
    return [own(op.types[0]).numel for op in body if isinstance(op, Op) and op.types[0].lead]


N, M = Axis("n", 4), Axis("m", 4)
MATRIX, VECTOR = Type("float", (N, M)), Type("float", (N,))


def written_out(b: TimelineBuilder, x: int, kept: int, dropped: int) -> int:
    """The diagonal as a contraction with the identity, whatever x is made of."""
    labels = tuple(range(len(b.type(x).axes)))
    axes = b.type(x).axes
    attrs = {"x": labels, "y": (kept, dropped), "out": tuple(k for k in labels if k != dropped)}
    eye = b.op("eye", axes=(axes[kept], Axis("again", axes[dropped].size)))
    type = primitive("contract").infer([b.type(x), b.type(eye)], tuple(sorted(attrs.items())))
    return b.add(TNode("contract", (x, eye), tuple(sorted(attrs.items())), type, True))


def value(b: TimelineBuilder, k: int, leaves: dict[int, NDArray[np.float64]]) -> NDArray[np.float64]:
    node = b.nodes[k]
    if k in leaves:
        return leaves[k]
    args = [value(b, arg, leaves) for arg in node.args]
    if node.op == "constant":
        return np.full([axis.size for axis in node.type.axes], float(node.attr("value")))
    return np.asarray(primitive(node.op).value(np, args, node.attrs, [b.type(arg) for arg in node.args]))


def grown(b: TimelineBuilder, rng: np.random.Generator, leaves: dict[int, NDArray[np.float64]]) -> int:
    """A matrix made of others by sums, products, repetitions, renamings and contractions."""
    parts = list(leaves)
    for _ in range(5):
        matrices = [k for k in parts if len(b.type(k).axes) == 2]
        one, other = (int(rng.choice(matrices)) for _ in range(2))
        kind = int(rng.integers(6))
        if kind == 0:
            found = b.op("broadcast", parts[int(rng.integers(2))], axes=(N, M), at=(int(rng.integers(2)),))
        elif kind == 1:
            found = b.op("contract", one, other, x=(0, 1), y=(1, 2), out=[(0, 2), (2, 0)][int(rng.integers(2))])
        elif kind == 2:
            found = b.op("neg", one)
        else:
            found = b.op(("mul", "add", "sub")[kind - 3], one, other)
        parts.append(b.op("rename", found, axes=(N, M)))
    return parts[-1]


@pytest.mark.parametrize("seed", range(30))
def test_diagonals_are_those_of_the_matrix(seed: int) -> None:
    rng, b = np.random.default_rng(seed), TimelineBuilder()
    leaves = {
        b.leaf("input" if k % 2 else "parameter", f"x{k}", type, time=bool(k % 2)): rng.normal(
            size=[axis.size for axis in type.axes]
        )
        for k, type in enumerate((VECTOR, VECTOR, MATRIX, MATRIX))
    }
    x = grown(b, rng, leaves)
    for kept in (0, 1):
        plain, taken = value(b, written_out(b, x, kept, 1 - kept), leaves), entries(b, x, kept, 1 - kept)
        np.testing.assert_allclose(value(b, taken, leaves), plain, rtol=1e-12, atol=1e-12)
        assert b.type(taken).axes == ((N, M)[kept],)


def test_fixed_weights_of_a_contraction_are_multiplied_once() -> None:
    """`sum_c F[c, a] s[c] G[a, c]` is one matrix that does not vary, times s."""
    rng, b = np.random.default_rng(0), TimelineBuilder()
    leaves: dict[int, NDArray[np.float64]] = {}
    for name, type, time in (("F", MATRIX, False), ("G", MATRIX, False), ("s", VECTOR, True)):
        leaves[b.leaf("input", name, type, time=time)] = rng.normal(size=[axis.size for axis in type.axes])
    first, second, vector = leaves
    moved = b.op("mul", first, b.op("broadcast", vector, axes=(N, M), at=(0,)))
    made = b.op("contract", moved, second, x=(0, 1), y=(1, 0), out=(1,))
    assert not any(b.nodes[arg].time and len(b.type(arg).axes) > 1 for arg in b.nodes[made].args)
    np.testing.assert_allclose(value(b, made, leaves), np.einsum("ca,c,ac->a", *ordered(leaves)))


def ordered(leaves: dict[int, NDArray[np.float64]]) -> list[NDArray[np.float64]]:
    first, second, vector = leaves.values()
    return [first, vector, second]
