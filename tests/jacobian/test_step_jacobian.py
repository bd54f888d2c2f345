"""The Jacobian of a step, in pieces, against autograd on random steps."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from recdsl.backends.reference import declared
from recdsl.graph.ragged import ragged
from recdsl.graph.step import LEAVES, StepGraph
from recdsl.jacobian.pieces import Axes, Key, Piece, Tie, material
from recdsl.jacobian.rules import RULES
from recdsl.jacobian.step import StepJacobian
from recdsl.ops import catalogue
from recdsl.ops.base import Elementwise
from recdsl.testing.cases import Case, random_case
from recdsl.testing.evaluate import Evaluator


def leaves(case: Case, graph: StepGraph, seed: int) -> dict[int, Tensor]:
    """A value for each leaf of one step of one sample."""
    generator = torch.Generator().manual_seed(seed)
    found: dict[int, Tensor] = {}
    sizes = {i.name: i.size for i in graph.inputs}
    for node in graph.nodes:
        shape = node.type.shape
        if node.op == "parameter":
            found[node.id] = case.params[node.name]
        elif node.op == "constant":
            dtype = {"float": torch.float64, "bool": torch.bool, "int": torch.long}[node.type.dtype]
            found[node.id] = torch.tensor(node.attr("value"), dtype=dtype).expand(shape)
        elif node.op in LEAVES and node.type.dtype == "int":
            found[node.id] = torch.randint(max(sizes.get(node.name, 2), 1), (), generator=generator)
        elif node.op in LEAVES and node.type.dtype == "bool":
            found[node.id] = torch.rand(shape, generator=generator) < 0.5
        elif node.op in LEAVES:
            found[node.id] = torch.randn(shape, generator=generator, dtype=torch.float64)
    return found


def run(graph: StepGraph, given: dict[int, Tensor], seed: int | None = None) -> tuple[dict[int, Tensor], Tensor | None]:
    """All values of the step; `seed` stands as a leaf of its own behind its value."""
    values = dict(given)
    for node in graph.nodes:
        if node.id not in values:
            types = [graph.nodes[a].type for a in node.args]
            values[node.id] = declared.value(node.op, [values[a] for a in node.args], node.attrs, types, torch.float64)
        if node.id == seed:
            values[node.id] = values[node.id].detach().clone().requires_grad_()
    return values, None if seed is None else values[seed]


def dense(b: Evaluator, pieces: list[Piece], rows: Axes, seed: Axes) -> Tensor:
    """The sum of the pieces, written out."""
    shape = [*(a.size for a in rows), *(a.size for a in seed)]
    total = torch.zeros(shape, dtype=torch.float64)
    for piece in pieces:
        piece = material(b, piece, rows, seed)
        value = b.values[piece.value].expand(b.types[piece.value].shape)
        tied = {t.seed: t for t in piece.key}
        for entry in product(*[range(n) for n in value.shape]):
            row, lanes = list(entry[: len(rows)]), list(entry[len(rows) :])
            column: list[int] = []
            for k in range(len(seed)):
                if k in tied:
                    column.append(tied[k].column + row[tied[k].axis])
                else:
                    column.append(lanes.pop(0))
            for t in piece.key:
                row[t.axis] += t.row
            total[(*row, *column)] += value[entry]
    return total


def expected(values: dict[int, Tensor], target: int, leaf: Tensor) -> Tensor:
    out = values[target]
    if not out.requires_grad:
        return torch.zeros([*out.shape, *leaf.shape], dtype=torch.float64)
    rows = [
        torch.autograd.grad(entry, leaf, retain_graph=True, allow_unused=True, materialize_grads=True)[0]
        for entry in out.reshape(-1)
    ]
    return torch.stack(rows).reshape([*out.shape, *leaf.shape])


def seeds_and_targets(graph: StepGraph) -> tuple[list[int], list[int]]:
    parameters = [n.id for n in graph.nodes if n.op == "parameter" and n.type.dtype == "float"]
    reads = [c.read for c in graph.carries if graph.nodes[c.read].type.dtype == "float"]
    return [*parameters, *reads], sorted({c.write for c in graph.carries} | {loss.node for loss in graph.losses})


@pytest.mark.parametrize("seed", range(60))
def test_pieces_add_up_to_the_jacobian(seed: int) -> None:
    case = random_case(seed)
    for graph in (case.graph, ragged(case.graph)):
        given = leaves(case, graph, seed)
        plain, _ = run(graph, given)
        b = Evaluator()
        values = [b.put(plain[n.id], n.type) for n in graph.nodes]
        jacobian = StepJacobian(graph, b, values)
        seeds, targets = seeds_and_targets(graph)
        for source in seeds:
            made = jacobian.pieces(source, {k: () for k in targets if graph.nodes[k].type.dtype == "float"})
            traced, leaf = run(graph, given, source)
            assert leaf is not None
            for target in targets:
                if graph.nodes[target].type.dtype != "float":
                    continue
                want = expected(traced, target, leaf)
                have = dense(b, made.get(target, []), jacobian.axes(target), jacobian.axes(source))
                torch.testing.assert_close(have, want, rtol=1e-10, atol=1e-10)


def diagonal(rows: Axes, seed: Axes) -> Key:
    """A tie of the first axes of one extent, if there are any."""
    for a, row in enumerate(rows):
        for c, column in enumerate(seed):
            if row.size == column.size:
                return (Tie(a, c, 0, 0, row.size),)
    return ()


@pytest.mark.parametrize("seed", range(60))
def test_a_wanted_pattern_is_that_part_of_the_jacobian(seed: int) -> None:
    case = random_case(seed)
    graph = case.graph
    given = leaves(case, graph, seed)
    plain, _ = run(graph, given)
    b = Evaluator()
    values = [b.put(plain[n.id], n.type) for n in graph.nodes]
    jacobian = StepJacobian(graph, b, values)
    seeds, targets = seeds_and_targets(graph)
    for source in seeds:
        keys = {k: diagonal(jacobian.axes(k), jacobian.axes(source)) for k in targets}
        keys = {k: key for k, key in keys.items() if key and graph.nodes[k].type.dtype == "float"}
        made = jacobian.pieces(source, keys)
        traced, leaf = run(graph, given, source)
        assert leaf is not None
        for target, key in keys.items():
            want = expected(traced, target, leaf)
            have = dense(b, made.get(target, []), jacobian.axes(target), jacobian.axes(source))
            (tie,) = key
            eye = torch.eye(tie.size, dtype=torch.float64)
            shape = [1] * want.dim()
            shape[tie.axis] = tie.size
            shape[len(jacobian.axes(target)) + tie.seed] = tie.size
            torch.testing.assert_close(have, want * eye.reshape(shape), rtol=1e-10, atol=1e-10)


def test_every_op_of_a_step_passes_influence_on() -> None:
    """`reshape` and `collect` are made by the compiler behind the step graph; tapes refuse forward rules, and no
    influence of this call is in the rows that earlier calls have written."""
    for name, op in catalogue().items():
        known = name in RULES or isinstance(op, Elementwise) or op.structure == "zero"
        behind, tapes, rows = ("reshape", "collect"), ("append", "fetch"), ("gather_rows", "scatter_rows")
        assert known or name in (*behind, *tapes, *rows), name
