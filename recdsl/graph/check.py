"""What must hold of every step graph; checked in tests after each pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from recdsl.graph.step import LEAVES, Carry, Node, StepGraph
from recdsl.graph.types import Type
from recdsl.ops import catalogue, primitive
from recdsl.ops.base import ShapeError

NO_VALUE = ("collect",)
"""Ops of adjoints, which no step has."""


class GraphError(Exception):
    """A step graph that breaks its invariant: a bug in the compiler, never in a spec."""


def verify(graph: StepGraph) -> StepGraph:
    """The graph itself. Raises GraphError with all that is wrong."""
    wrong = list(_nodes(graph))
    if not wrong:  # the rest looks nodes up
        wrong = [*_leaves(graph), *_carries(graph), *_ends(graph)]
    if wrong:
        raise GraphError("\n".join(wrong))
    return graph


def _nodes(graph: StepGraph) -> Iterator[str]:
    for place, node in enumerate(graph.nodes):
        if node.id != place:
            yield f"node {place} has id {node.id}"
        if any(not 0 <= arg < place for arg in node.args):
            yield f"node {place} uses {node.args}, not all before it"
            continue
        if list(node.attrs) != sorted(node.attrs, key=lambda item: item[0]):
            yield f"node {place}: attributes are not sorted"
        if any(axis.size < 1 for axis in node.type.axes):
            yield f"node {place} has an empty axis: {node.type}"
        yield from _typed(graph, node)


def _typed(graph: StepGraph, node: Node) -> Iterator[str]:
    if node.op in LEAVES:
        if node.args:
            yield f"leaf {node.id} has arguments"
        if node.op == "constant":
            yield from _constant(node)
        elif not node.name:
            yield f"leaf {node.id} has no name"
        return
    if node.op not in catalogue() or node.op in NO_VALUE:
        yield f"node {node.id}: no op `{node.op}` in a step"
        return
    arity = primitive(node.op).arity
    if arity not in (len(node.args), -1):
        yield f"node {node.id}: `{node.op}` of {len(node.args)} arguments"
        return
    try:
        found = primitive(node.op).infer([graph.nodes[arg].type for arg in node.args], node.attrs)
    except ShapeError as error:
        yield f"node {node.id}: {error.message}"
        return
    if found != node.type:
        yield f"node {node.id} is {node.type}, but `{node.op}` gives {found}"


def _constant(node: Node) -> Iterator[str]:
    """A number, or nested tuples of the type's shape."""
    level = [node.attr("value")]
    if not isinstance(level[0], tuple):
        return
    for axis in node.type.axes:
        if any(not isinstance(part, tuple) or len(part) != axis.size for part in level):
            yield f"constant {node.id} has not the shape of {node.type}"
            return
        level = [inner for part in level for inner in part]
    if any(isinstance(part, tuple) for part in level):
        yield f"constant {node.id} has not the shape of {node.type}"


def _leaves(graph: StepGraph) -> Iterator[str]:
    """Leaves and what is declared agree, one to one."""
    declared: dict[tuple[str, str], Type] = {}
    for entry in graph.inputs:
        declared["target" if entry.target else "input", entry.name] = entry.type
    declared.update({("parameter", entry.name): entry.type for entry in graph.parameters})
    declared.update({("carry", entry.name): graph.nodes[entry.read].type for entry in graph.carries})
    found = [(node.op, node.name) for node in graph.nodes if node.op in ("input", "target", "parameter", "carry")]
    for key, count in Counter(found).items():
        if count > 1:
            yield f"{count} leaves {key}"
        if key not in declared:
            yield f"leaf {key} is not declared"
        elif declared[key] != graph.nodes[graph.leaf[f"{key[0]}:{key[1]}"]].type:
            yield f"leaf {key} has not its declared type"
    for key in declared.keys() - set(found):
        yield f"{key} has no leaf"


def _carries(graph: StepGraph) -> Iterator[str]:
    names = Counter(carry.name for carry in graph.carries)
    yield from (f"{count} carries named {name}" for name, count in names.items() if count > 1)
    for carry in graph.carries:
        yield from _carry(graph, carry)


def _carry(graph: StepGraph, carry: Carry) -> Iterator[str]:
    if carry.kind not in ("state", "delay", "input", "held", "tape", "stamp"):
        yield f"carry {carry.name} is a {carry.kind}"
    read = graph.nodes[carry.read]
    if (read.op, read.name) != ("carry", carry.name):
        yield f"carry {carry.name} is read from {read.op} {read.name}"
    for what, place in (("write", carry.write), ("init", carry.init)):
        if graph.nodes[place].type != read.type:
            yield f"carry {carry.name} is {read.type}, its {what} is {graph.nodes[place].type}"
    if carry.init in graph.varying:
        yield f"carry {carry.name} starts from a value that varies"


def _ends(graph: StepGraph) -> Iterator[str]:
    count = len(graph.nodes)
    yield from (f"output {name} is no node" for name, place in graph.outputs if not 0 <= place < count)
    names = Counter(name for name, _ in graph.outputs)
    yield from (f"{times} outputs named {name}" for name, times in names.items() if times > 1)
    for loss in graph.losses:
        if not 0 <= loss.node < count:
            yield f"loss {loss.name} is no node"
        elif graph.nodes[loss.node].type != Type("float"):
            yield f"loss {loss.name} is {graph.nodes[loss.node].type}, not a number"
    if graph.reduce not in ("mean", "sum"):
        yield f"losses reduce by {graph.reduce}"
