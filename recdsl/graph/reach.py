"""Which parameters the losses reach along paths that carry gradient."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from recdsl.graph.step import LEAVES, Carry, Loss, Memory, Node
from recdsl.graph.types import Type
from recdsl.ops import primitive


class _Dry:
    """A builder that keeps nothing: a vjp run with it says which arguments get a gradient at all."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes
        self._made: list[Type] = []

    def op(self, name: str, *args: int, **attrs: Any) -> int:
        ordered = tuple(sorted(attrs.items()))
        self._made.append(primitive(name).infer([self.type(arg) for arg in args], ordered))
        return len(self._nodes) + len(self._made) - 1

    def const(self, value: float, like: int) -> int:
        self._made.append(Type("float", self.type(like).axes))
        return len(self._nodes) + len(self._made) - 1

    def type(self, value: int) -> Type:
        return self._nodes[value].type if value < len(self._nodes) else self._made[value - len(self._nodes)]


def differentiable(nodes: Sequence[Node], node: Node) -> tuple[bool, ...]:
    """For each argument of a node, whether its derivative is not declared zero."""
    op, dry = primitive(node.op), _Dry(nodes)
    cot = dry.const(1.0, node.id) if node.type.dtype == "float" else node.id
    return tuple(found is not None for found in op.vjp(dry, node.args, node.id, cot, node.attrs))


def reached(
    nodes: Sequence[Node], carries: Iterable[Carry], losses: Iterable[Loss], memories: Iterable[Memory] = ()
) -> frozenset[int]:
    """Nodes with a path that carries gradient to one of the losses, through any number of steps and stores."""
    back: dict[int, list[int]] = {}
    for made in (row for memory in memories for row in memory.rows):
        back.setdefault(made.slots, []).append(made.item)
    for carry in carries:
        back.setdefault(carry.read, []).extend((carry.write, carry.init))
    stack, seen = [loss.root for loss in losses], set[int]()
    while stack:
        place = stack.pop()
        if place in seen:
            continue
        seen.add(place)
        node = nodes[place]
        if node.op in LEAVES:
            stack.extend(back.get(place, ()))
        else:
            stack.extend(arg for arg, kept in zip(node.args, differentiable(nodes, node), strict=True) if kept)
    return frozenset(seen)
