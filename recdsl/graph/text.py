"""The text form of a step graph, for people and for golden files: the same under every hash seed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from recdsl.graph.step import Input, Loss, Node, Parameter, StepGraph
from recdsl.graph.types import Axis


def text(graph: StepGraph) -> str:
    """One line for each input, parameter, node, carry, output and loss."""
    return "\n".join(_lines(graph)) + "\n"


def _lines(graph: StepGraph) -> Iterator[str]:
    yield f"graph {graph.name}"
    yield from map(_input, graph.inputs)
    yield from map(_parameter, graph.parameters)
    yield from map(_node, graph.nodes)
    for carry in graph.carries:
        kind = f"{carry.kind}, kept" if not carry.resets else carry.kind
        yield f"carry {carry.name} ({kind}): %{carry.read} <- %{carry.write}, at first %{carry.init}"
    yield from (f"output {name} = %{place}" for name, place in graph.outputs)
    yield from map(_loss, graph.losses)
    yield f"reduce {graph.reduce}"


def _input(entry: Input) -> str:
    kind = f"{entry.kind}[{entry.size}]" if entry.size else str(entry.type)
    return f"{'target' if entry.target else 'input'} {entry.name}: {kind}"


def _parameter(entry: Parameter) -> str:
    name, values = entry.init
    if name == "values":
        made = "= [...]"
    elif name == "mask":
        made = f"~ mask({', '.join(_call(*mask) for mask in values)})"
    else:
        made = f"~ {_call(name, *values)}"
    masks = "".join(f" {_call(*mask)}" for mask in entry.masks)
    return f"parameter {entry.name}: {entry.type} {made}{masks}{' frozen' if entry.frozen else ''}"


def _call(name: str, *values: float) -> str:
    return f"{name}({', '.join(f'{value:g}' for value in values)})"


def _node(node: Node) -> str:
    args = ", ".join(f"%{arg}" for arg in node.args)
    attrs = ", ".join(f"{key}={_value(value)}" for key, value in node.attrs)
    inside = "; ".join(filter(None, (args, attrs)))
    named = f"  # {node.name}" if node.name else ""
    return f"%{node.id}: {node.type} = {node.op}({inside}){named}"


def _value(value: Any) -> str:
    """An attribute: a number, a word, an axis, or tuples of them (nested at most as deep as a type has axes)."""
    if isinstance(value, Axis):
        return str(value)
    if isinstance(value, tuple):
        items = [_value(item) for item in value[:16]]
        return f"({', '.join([*items, '...'] if len(value) > 16 else items)})"
    return repr(value) if isinstance(value, float) else str(value)


def _loss(loss: Loss) -> str:
    at = loss.at if isinstance(loss.at, str) else f"{loss.at[0]}({loss.at[1]})"
    trains = f", trains {' '.join(loss.trains)}" if loss.trains else ""
    td = loss.td
    made = "" if td is None else f", credit at %{td.value} by %{td.error}, factor %{td.factor}, trace {td.trace:g}"
    return f"loss {loss.name} = %{loss.node}, weight {loss.weight:g}, at {at}{trains}{made}"
