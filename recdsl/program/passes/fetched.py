"""Products of what is fetched: fetched themselves, where the tape's own products are kept for a search anyway.

`W k` of the slots that a read selects is what was computed of each key when it was written. Taken from there, it costs
no product at a read; and credit, added up at the step it came from, needs one product of that step's sum in place of
one for each slot that is read.
"""

from __future__ import annotations

from dataclasses import replace

from recdsl.program.forward import Forward
from recdsl.program.timeline import TNode


def fetched(forward: Forward) -> Forward:
    """The forward timeline with such products fetched. The same sums in another order: values differ in the last digit.

    Not for rules that end credit between a slot and its reader: the weights of a product are then used by the reader.
    """
    nodes = forward.nodes
    stored = {_product(nodes, k): k for k, node in enumerate(nodes) if node.op == "contract"}
    made = list(nodes)
    for k, node in enumerate(nodes):
        place = next((arg for arg in node.args if nodes[arg].op == "fetch"), None)
        if node.op != "contract" or place is None:
            continue
        kept = stored.get(_product(nodes, k, place))
        if kept is not None and kept != k:
            move = nodes[place]
            made[k] = TNode("fetch", (kept, move.args[1]), move.attrs, node.type, True, node.name, node.span)
    return replace(forward, nodes=tuple(made))


def _product(nodes: tuple[TNode, ...], k: int, place: int | None = None) -> tuple[object, ...]:
    """What a product of a constant and a value is, whatever its labels are called and which factor stands first.

    place: a factor of it that fetches rows; then what the product of one row is.
    """
    node = nodes[k]
    args, labels = list(node.args), [tuple(node.attr("x")), tuple(node.attr("y"))]
    out = tuple(node.attr("out"))
    if place is not None:
        at = args.index(place)
        rank, args[at], labels[at] = labels[at][0], nodes[place].args[0], labels[at][1:]
        if out[:1] != (rank,) or rank in (*labels[0], *labels[1], *out[1:]):
            return (k,)
        out = out[1:]
    if nodes[args[0]].time:
        args.reverse()
        labels.reverse()
    if nodes[args[0]].time or not nodes[args[1]].time:
        return (k,)
    order = {label: n for n, label in enumerate(dict.fromkeys((*labels[0], *labels[1], *out)))}
    return (*args, *(tuple(order[label] for label in part) for part in (*labels, out)))
