"""What of a scheduled timeline is never made, since all that is asked for is its sum."""

from __future__ import annotations

from collections.abc import Iterable

from recdsl.program.schedule import PRODUCTS, Item
from recdsl.program.timeline import TNode

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
