"""Influence on a unit's own column takes the diagonal of a product without writing the product out."""

from __future__ import annotations

from recdsl.driver import analyse
from recdsl.program.assemble import assemble
from recdsl.program.derive import own
from recdsl.program.ir import For, Op

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
    """The reset gate acts through a matrix; of its influence only each unit's own row is kept."""
    made = analyse(SPEC)
    body = dict(assemble(made.graph, made.plan).program.entries)["traces"]
    loop = next(statement for statement in body if isinstance(statement, For))
    varying = [op.types[0] for op in loop.body if isinstance(op, Op) and op.types[0].lead]
    sizes = [own(kind).numel for kind in varying]
    stack = 8 * (3 * 5 + 3 * 8 + 3)
    assert max(sizes) == stack
    assert sum(size > 8 * 8 for size in sizes) < 10
