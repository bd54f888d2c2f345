"""Products whose way back is another matrix: feedback alignment (Lillicrap et al. 2016; semantics 4.6 and 7.1).

A product `W @ x` of a matrix of parameters keeps its value, and the gradient of the matrix; what goes back to x is
multiplied by a fixed random matrix of the same shape instead of W. The matrices are buffers that the rule owns.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from math import sqrt

from recdsl.credit.flow import Edge, flow_of
from recdsl.credit.influence import effective, states
from recdsl.graph.step import Node, Parameter, StepGraph

PREFIX = "credit.feedback."


def product(graph: StepGraph, edge: Edge) -> int | None:
    """The matrix that the edge's value is multiplied with; None if the edge leads into no such product."""
    source, target = edge
    node = graph.nodes[target]
    if node.op != "contract" or source not in graph.varying or node.args.count(source) != 1:
        return None
    (matrix,) = [arg for arg in node.args if arg != source]
    return None if matrix in graph.varying else matrix


def readouts(graph: StepGraph, spared: Collection[str] = ()) -> frozenset[Edge]:
    """Uses of values in products that lie between states and losses (or outputs), and on no way to a state.

    spared: states that count as part of the way to a loss.
    """
    flow, carries = flow_of(graph), [carry for carry in states(graph) if carry.name not in spared]
    start = {node for carry in carries for node in (carry.read, carry.write)}
    behind = flow.forward(start, across=False)
    recurrent = {k for carry in carries for k in _ancestors(graph, carry.write)}
    ends = {loss.root for loss in graph.losses} | {node for _, node in graph.outputs}
    return frozenset(
        (arg, node.id)
        for node in graph.nodes
        for arg in node.args
        if arg in behind
        and node.id not in recurrent
        and product(graph, (arg, node.id)) is not None
        and flow.forward([node.id], across=False) & ends
    )


def _ancestors(graph: StepGraph, start: int) -> set[int]:
    """What a node is computed from within a step, itself included."""
    found, stack = {start}, [start]
    while stack:
        for arg in graph.nodes[stack.pop()].args:
            if arg not in found:
                found.add(arg)
                stack.append(arg)
    return found


def buffers(graph: StepGraph, edges: Iterable[Edge]) -> dict[int, Parameter]:
    """By matrix: the random matrix that takes its place, one for all its products."""
    inside = effective(graph)
    taken: set[str] = set()
    found: dict[int, Parameter] = {}
    for matrix in sorted({k for edge in edges if (k := product(graph, edge)) is not None}):
        node = graph.nodes[matrix]
        base = PREFIX + (min(inside.get(matrix, {node.name})) or f"matrix{matrix}")
        name, number = base, 1
        while name in taken:
            number += 1
            name = f"{base}_{number}"
        taken.add(name)
        found[matrix] = Parameter(name, node.type, _scale(graph, node), (), True, node.span)
    return found


def _scale(graph: StepGraph, node: Node) -> tuple[str, tuple[float, ...]]:
    """The matrix's own initialiser; where that is no random number, normal with variance 1 / fan in."""
    own = next((p for p in graph.parameters if node.op == "parameter" and p.name == node.name), None)
    if own is not None and own.init[0] != "values":
        return own.init
    size = node.type.axes[-1].size if node.type.axes else 1
    return ("normal", (0.0, 1 / sqrt(size)))
