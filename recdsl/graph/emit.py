"""Where nodes are appended while a graph is built: types are inferred by the ops, places come along."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from recdsl.graph.step import LEAVES, Node
from recdsl.graph.types import FLOAT, Type
from recdsl.ops import primitive
from recdsl.source import Span

UNKNOWN = -1
"""A value whose type is not known yet, or that could not be built because of an error reported already."""


class Emitter:
    """A growing list of nodes; a `Builder` in the sense of `recdsl.ops.base`.

    `span` is the place of whatever is emitted next. An op of an UNKNOWN value is UNKNOWN.
    """

    def __init__(self, nodes: list[Node] | None = None) -> None:
        self.nodes: list[Node] = [] if nodes is None else nodes
        self.span: Span | None = None
        self._leaves: dict[tuple[str, str], int] = {}

    def type(self, value: int) -> Type:
        assert value != UNKNOWN
        return self.nodes[value].type

    def op(self, name: str, *args: int, **attrs: Any) -> int:
        """The primitive of that name. Raises ShapeError."""
        if UNKNOWN in args:
            return UNKNOWN
        ordered = tuple(sorted(attrs.items()))
        result = primitive(name).infer([self.nodes[arg].type for arg in args], ordered)
        return self.append(name, args, ordered, result)

    def append(
        self, op: str, args: tuple[int, ...], attrs: tuple[tuple[str, Any], ...], type: Type, name: str = ""
    ) -> int:
        """A node as given."""
        self.nodes.append(Node(len(self.nodes), op, args, attrs, type, name, self.span))
        return len(self.nodes) - 1

    def used(self, value: int, name: str = "") -> int:
        """A carried value as it is has a node of its own where it leaves the step, so that this use can be cut too."""
        if value == UNKNOWN or self.nodes[value].op != "carry" or self.nodes[value].type.dtype != "float":
            return value
        type = self.nodes[value].type
        return self.append("rename", (value,), (("axes", type.axes),), type, name)

    def leaf(self, op: str, name: str, type: Type) -> int:
        """The leaf of that kind and name, made at its first use (under inference: at its first use with that type)."""
        found = self._leaves.get((op, name))
        if found is None or self.nodes[found].type != type:
            found = self._leaves[op, name] = self.append(op, (), (), type, name)
        return found

    def constant(self, value: Any, type: Type = FLOAT) -> int:
        """A number for every entry, or nested tuples of the type's shape."""
        return self.append("constant", (), (("value", value),), type)

    def const(self, value: float, like: int) -> int:
        """A constant of `like`'s type, every entry `value`."""
        if like == UNKNOWN:
            return UNKNOWN
        return self.constant(float(value), Type("float", self.type(like).axes))

    def name(self, value: int, name: str) -> None:
        """Give a value the user's name, unless it has one (a name inside the block that it comes from gives way)."""
        if value == UNKNOWN:
            return
        node = self.nodes[value]
        if not node.name or (node.op not in LEAVES and node.name.startswith(f"{name}.")):
            self.nodes[value] = replace(self.nodes[value], name=name)
