"""What a forward pass keeps for the passes that go back over it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from recdsl.program.lower import Place
from recdsl.program.schedule import needed
from recdsl.program.timeline import TNode

VIEWS = ("slice", "rename", "transpose", "broadcast", "one_hot", "neg", "where", "pad")
COMPARISONS = ("lt", "le", "gt", "ge", "eq", "ne", "and", "or", "not", "to_float")


def kept(
    forward: Sequence[TNode],
    nodes: tuple[TNode, ...],
    roots: Sequence[int],
    places: Mapping[int, Place],
    sources: Set[int],
    made: Set[int],
) -> set[int]:
    """Forward sequences that an adjoint or the traces read and that are not cheap views of others.

    nodes: those of the forward timeline with others behind them; sources: what histories are kept of; made: sequences
    that a pass makes for itself before it begins.
    """
    found: set[int] = set()
    wanted = needed(nodes, roots, frozenset())
    stack = [arg for k in wanted if k >= len(forward) for arg in nodes[k].args if arg < len(forward)]
    stack += [root for root in roots if root < len(forward)]
    seen: set[int] = set()
    while stack:
        k = stack.pop()
        node = forward[k]
        if k in seen or not node.time or k in made:
            continue
        seen.add(k)
        if k in places:
            continue
        if node.op in VIEWS or node.op in COMPARISONS or _cheap(forward, node, places.keys() | sources):
            stack.extend(node.args)
        else:
            found.add(k)
    return found


def _cheap(forward: Sequence[TNode], node: TNode, known: Set[int]) -> bool:
    """Whether computing it again costs less than a sequence of its own: one sum of what is kept in any case."""
    if node.op in ("add", "sub", "mul") and any(forward[a].op == "constant" for a in node.args):
        return True
    return node.op in ("add", "sub") and known >= set(node.args)
