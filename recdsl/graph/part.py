"""A part of a step as a graph of its own: what some value is computed from, with inputs and parameters as leaves."""

from __future__ import annotations

from collections.abc import Sequence

from recdsl.graph.emit import Emitter
from recdsl.graph.step import Input, Node, StepGraph


class PartError(Exception):
    """The part needs something that only the step has: the leaf is in `node`."""

    def __init__(self, node: Node) -> None:
        super().__init__(node.name)
        self.node = node


def part(graph: StepGraph, end: int, name: str, given: int | None = None) -> StepGraph:
    """The graph of one value, its only output, called `name`. given: a value that is an input of the part, called
    "given". Raises PartError where the value needs a state, a target, the step number or rows of a store."""
    emit, new = Emitter(), dict[int, int]()
    if given is not None:
        new[given] = emit.leaf("input", "given", graph.nodes[given].type)
    for place in sorted(_needed(graph, end, given)):
        node = graph.nodes[place]
        _check(graph, node)
        emit.span = node.span
        new[place] = emit.append(node.op, tuple(new[arg] for arg in node.args), node.attrs, node.type, node.name)
    leaves = {(node.op, node.name) for node in emit.nodes}
    inputs = [item for item in graph.inputs if ("input", item.name) in leaves and not item.target]
    if given is not None:
        inputs = [Input("given", "float", graph.nodes[given].type, 0, False, None)]
    parameters = tuple(item for item in graph.parameters if ("parameter", item.name) in leaves)
    return StepGraph(name, tuple(emit.nodes), tuple(inputs), parameters, (), ((name, new[end]),), ())


def _needed(graph: StepGraph, end: int, given: int | None) -> set[int]:
    """Everything behind a value, up to what is given."""
    found, stack = set[int](), [end]
    while stack:
        place = stack.pop()
        if place not in found and place != given:
            found.add(place)
            stack.extend(graph.nodes[place].args)
    return found


def _check(graph: StepGraph, node: Node) -> None:
    rows = {name for memory in graph.memories if memory.common for name in shared(graph, memory.name)}
    if node.op in ("carry", "target", "step_number") or (node.op == "parameter" and node.name in rows):
        raise PartError(node)


def shared(graph: StepGraph, memory: str) -> Sequence[str]:
    """The leaves of a store that lasts as long as the model: its rows, and what says which of them hold something."""
    return tuple(p.name for p in graph.parameters if p.span is None and p.name.startswith(f"{memory}."))
