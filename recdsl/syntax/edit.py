"""Changing one keyword of a call, as overrides do."""

from __future__ import annotations

from recdsl.syntax.ast import Expression, Node


def shifted(node: Node, start: int, by: int) -> Node:
    """The node with `by` added to its references from `start` on."""
    args = tuple(index + by if index >= start else index for index in node.args)
    keywords = tuple((name, index + by if index >= start else index) for name, index in node.keywords)
    return Node(node.kind, node.value, args, keywords, node.span)


def set_keyword(call: Expression, keyword: str, value: Expression) -> Expression | None:
    """The call with `keyword=value`, in place of the keyword's old value or added; None if it is no call."""
    root = call.root
    if root.kind == "name":
        root = Node("call", root.value, (), (), root.span)
    if root.kind != "call":
        return None
    last = len(call.nodes) - 1
    old = dict(root.keywords).get(keyword)
    first = last if old is None else _first(call, old)
    end = last if old is None else old + 1
    inserted = [shifted(node, 0, first) for node in value.nodes]
    by = len(inserted) - (end - first)
    new = first + len(inserted) - 1
    after = [shifted(node, end, by) for node in call.nodes[end:last]]
    args = tuple(index + by if index >= end else index for index in root.args)
    others = tuple((name, index + by if index >= end else index) for name, index in root.keywords)
    keywords = tuple((name, new if name == keyword else index) for name, index in others)
    if old is None:
        keywords = (*keywords, (keyword, new))
    return Expression((*call.nodes[:first], *inserted, *after, Node("call", root.value, args, keywords, root.span)))


def _first(expression: Expression, root: int) -> int:
    """The first node of the subtree at `root`; in post-order a subtree is one run of nodes."""
    first = root
    while True:
        node = expression.nodes[first]
        inner = [*node.args, *(index for _, index in node.keywords)]
        if not inner:
            return first
        first = min(inner)
