"""Who reads what of a scheduled timeline: what is never made, since all that is asked for is its sum, and what leaves a
loop."""

from __future__ import annotations

from collections.abc import Iterable

from recdsl.program.schedule import PRODUCTS, Item
from recdsl.program.timeline import TNode

VIEWS = ("slice", "rename", "transpose", "broadcast")
SUMMED = {"collect": PRODUCTS, "pool": PRODUCTS, "tally": ("contract",)}
"""Sums over steps or samples, with the products that are summed while they are made."""


def only_collected(nodes: tuple[TNode, ...], items: Iterable[Item]) -> set[int]:
    """Products that are summed over steps and samples and read by nothing else: never made for each step."""
    found: set[int] = set()
    others: set[int] = set()
    for item in items:
        for k in item.nodes:
            products = SUMMED.get(nodes[k].op, ())
            for arg in nodes[k].args:
                (found if nodes[arg].op in products and nodes[arg].time else others).add(arg)
    return found - others


def outside_uses(nodes: tuple[TNode, ...], items: tuple[Item, ...], extra: Iterable[int]) -> set[int]:
    """Nodes of loops that something outside their loop reads, or that are asked for in `extra`.

    A view is made anew outside, of what it looks at.
    """
    home = {k: i for i, item in enumerate(items) if item.direction for k in item.nodes}
    crossing = {nodes[k].args[0] for k in home if nodes[k].op == "next" and nodes[k].attr("lag") == 1}
    stack = list(extra)
    for i, item in enumerate(items):
        for k in item.nodes:
            node = nodes[k]
            for arg in node.args:
                early = node.op == "arrive" or (node.op == "first" and node.attr("lag") == 1)
                carried = early and arg in crossing
                if home.get(arg, i) != i and not carried:
                    stack.append(arg)
    found: set[int] = set()
    while stack:
        k = stack.pop()
        if k in home and nodes[k].op in VIEWS:
            stack.extend(nodes[k].args)
        else:
            found.add(k)
    return found
