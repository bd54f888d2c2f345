"""Gate fusion: pre-activations that multiply one recurrent vector become one, and their activations with them.

In `z = sigmoid(Wz x + Uz h + bz)` and its like, everything that is not recurrent (`Wz x + bz`) is summed apart, so
that it leaves the loop; the recurrent products of one vector become one product with the matrices stacked; equal
activations of neighbouring gates become one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from recdsl.graph.types import Axis
from recdsl.program.forward import Forward
from recdsl.program.passes.rewrite import Recipe, recurrent, rewrite
from recdsl.program.timeline import TimelineBuilder, TNode

ACTIVATIONS = ("sigmoid", "tanh", "relu", "softplus", "sin", "cos", "exp", "abs")


@dataclass(frozen=True)
class Sum:
    """A pre-activation: `root` is the sum of `outside` (not recurrent), `inside` and, maybe, products `W v`."""

    root: int
    outside: tuple[int, ...]
    inside: tuple[int, ...]
    products: tuple[int, ...]


def pack(forward: Forward) -> Forward:
    """The forward timeline with gates fused. Sums are reassociated, so values differ in the last digit."""
    nodes = forward.nodes
    cycle = recurrent(nodes)
    users = _users(forward)
    sums = _sums(nodes, cycle, users)
    recipes: dict[int, Recipe] = {}
    spare = len(nodes)
    for members in _groups(nodes, sums):
        members = sorted(members, key=lambda s: (_activation(nodes, users, s.root), s.root))
        spare = _fuse(nodes, users, members, recipes, spare)
    for item in sums:
        if item.root not in recipes:
            recipes[item.root] = _reassociated(item)
    made, new = rewrite(nodes, recipes)
    return replace(
        forward,
        nodes=made,
        values=tuple(new[k] for k in forward.values),
        reads=tuple((name, new[k]) for name, k in forward.reads),
        histories=tuple(replace(h, source=new[h.source], init=new[h.init]) for h in forward.histories),
        losses=tuple(new[k] for k in forward.losses),
        outputs=tuple((name, new[k]) for name, k in forward.outputs),
    )


def _users(forward: Forward) -> list[list[int]]:
    users: list[list[int]] = [[] for _ in forward.nodes]
    for k, node in enumerate(forward.nodes):
        for arg in node.args:
            users[arg].append(k)
    for _, node in forward.outputs:
        users[node].append(-1)
    for node in forward.losses:
        users[node].append(-1)
    return users


def _sums(nodes: tuple[TNode, ...], cycle: dict[int, int], users: list[list[int]]) -> list[Sum]:
    """Every largest sum inside a cycle, taken apart."""
    found: list[Sum] = []
    for root in sorted(cycle):
        part = len(users[root]) == 1 and users[root][0] >= 0 and nodes[users[root][0]].op == "add"
        if nodes[root].op != "add" or part:
            continue
        terms = _terms(nodes, users, root)
        outside = tuple(k for k in terms if k not in cycle)
        inner = [k for k in terms if k in cycle]
        products = tuple(k for k in inner if _product(nodes, k) is not None and len(users[k]) == 1)
        if products or outside:
            found.append(Sum(root, outside, tuple(k for k in inner if k not in products), products))
    return found


def _terms(nodes: tuple[TNode, ...], users: list[list[int]], root: int) -> list[int]:
    """The terms of a sum, left to right; a sum with other readers is a term."""
    terms: list[int] = []
    stack = list(reversed(nodes[root].args))
    while stack:
        k = stack.pop()
        if nodes[k].op == "add" and len(users[k]) == 1:
            stack.extend(reversed(nodes[k].args))
        else:
            terms.append(k)
    return terms


def _product(nodes: tuple[TNode, ...], k: int) -> tuple[int, int] | None:
    """(matrix, vector) of `W v` with a matrix that does not vary; None for other nodes.

    A class's column of W, the product with its indicator, counts: the vector is then the index.
    """
    node = nodes[k]
    if node.op == "gather" and node.attr("at") == 1 and len(nodes[node.args[0]].type.axes) == 2:
        return None if nodes[node.args[0]].time else (node.args[0], node.args[1])
    if node.op != "contract":
        return None
    for matrix, vector, labels, others in ((0, 1, "x", "y"), (1, 0, "y", "x")):
        w, v, out = tuple(node.attr(labels)), tuple(node.attr(others)), tuple(node.attr("out"))
        if len(w) == 2 and len(v) == 1 and out == (w[0],) and w[1] == v[0] and not nodes[node.args[matrix]].time:
            return node.args[matrix], node.args[vector]
    return None


def _groups(nodes: tuple[TNode, ...], sums: Sequence[Sum]) -> list[list[Sum]]:
    """Sums with one recurrent product each, of one and the same vector."""
    groups: dict[int, list[Sum]] = {}
    for item in sums:
        product = _product(nodes, item.products[0]) if len(item.products) == 1 else None
        if product is not None:
            groups.setdefault(product[1], []).append(item)
    return [group for _, group in sorted(groups.items()) if len(group) > 1]


def _activation(nodes: tuple[TNode, ...], users: list[list[int]], root: int) -> str:
    """What is applied to a pre-activation, so that equal ones stand side by side."""
    if len(users[root]) == 1 and users[root][0] >= 0 and nodes[users[root][0]].op in ACTIVATIONS:
        return nodes[users[root][0]].op
    return "~"


def _fuse(
    nodes: tuple[TNode, ...],
    users: list[list[int]],
    members: list[Sum],
    recipes: dict[int, Recipe],
    spare: int,
) -> int:
    """Recipes for the stacked product, the slices of it, and the activations. Returns the next free recipe id."""
    stacked = spare
    recipes[stacked] = _stacked(nodes, members)
    spare += 1
    start = 0
    runs: list[tuple[str, int, list[Sum], list[int]]] = []
    for item in members:
        axis = nodes[item.root].type.axes[0]
        recipes[item.root] = _member(item, stacked, start, axis)
        kind = _activation(nodes, users, item.root) if not item.inside else "~"
        if kind != "~" and runs and runs[-1][0] == kind and runs[-1][1] + _size(nodes, runs[-1][2]) == start:
            runs[-1][2].append(item)
        else:
            runs.append((kind, start, [item], []))
        start += axis.size
    for kind, begin, run, _ in runs:
        if kind == "~" or len(run) < 2:
            continue
        activated = spare
        spare += 1
        recipes[activated] = _activated(kind, stacked, begin, _size(nodes, run))
        inner = 0
        for item in run:
            axis = nodes[item.root].type.axes[0]
            recipes[users[item.root][0]] = _slice(activated, inner, axis)
            inner += axis.size
    return spare


def _size(nodes: tuple[TNode, ...], run: list[Sum]) -> int:
    return sum(nodes[item.root].type.axes[0].size for item in run)


def _stacked(nodes: tuple[TNode, ...], members: list[Sum]) -> Recipe:
    """One product for all members, with what is not recurrent added to it."""
    matrices: list[int] = []
    vector = -1
    for item in members:
        product = _product(nodes, item.products[0])
        assert product is not None
        matrices.append(product[0])
        vector = product[1]
    shared = _shared_inputs(nodes, members)
    deps = [vector, *matrices]
    layout: list[tuple[str, int]] = []
    for source, weights in shared:
        layout.append(("product", len(deps)))
        deps += [source, *weights]
    rest = [_rest(nodes, item, shared) for item in members]
    starts: list[tuple[int, int]] = []
    for terms in rest:
        starts.append((len(deps), len(terms)))
        deps += terms
    axes = [nodes[item.root].type.axes[0] for item in members]
    whole = Axis(" + ".join(axis.name for axis in axes), sum(axis.size for axis in axes))
    count = len(members)

    def make(b: TimelineBuilder, args: Sequence[int]) -> int:
        total: int | None = None
        for _, at in layout:
            part = _times(b, args[at + 1 : at + 1 + count], args[at], whole)
            total = part if total is None else b.op("add", total, part)
        if any(size for _, size in starts):
            pieces = [_sum(b, args[at : at + size], axis) for (at, size), axis in zip(starts, axes, strict=True)]
            extra = b.op("concat", *pieces, at=0, axis=whole)
            total = extra if total is None else b.op("add", total, extra)
        product = _times(b, args[1 : 1 + count], args[0], whole)
        return product if total is None else b.op("add", total, product)

    return Recipe(tuple(deps), make)


def _shared_inputs(nodes: tuple[TNode, ...], members: list[Sum]) -> list[tuple[int, list[int]]]:
    """Vectors from outside the loop that every member multiplies exactly once, with the members' matrices."""
    tables: list[dict[int, list[int]]] = []
    for item in members:
        table: dict[int, list[int]] = {}
        for k in item.outside:
            product = _product(nodes, k)
            if product is not None:
                table.setdefault(product[1], []).append(product[0])
        tables.append(table)
    common = [v for v in tables[0] if all(len(table.get(v, [])) == 1 for table in tables)]
    return [(v, [table[v][0] for table in tables]) for v in common]


def _rest(nodes: tuple[TNode, ...], item: Sum, shared: list[tuple[int, list[int]]]) -> list[int]:
    """A member's outside terms that no shared product covers."""
    vectors = {v for v, _ in shared}
    out: list[int] = []
    for k in item.outside:
        product = _product(nodes, k)
        if product is None or product[1] not in vectors:
            out.append(k)
    return out


def _times(b: TimelineBuilder, matrices: Sequence[int], vector: int, whole: Axis) -> int:
    stacked = b.op("concat", *matrices, at=0, axis=whole)
    if b.type(vector).dtype == "int":
        return b.op("gather", stacked, vector, at=1)
    return b.op("contract", stacked, vector, x=(0, 1), y=(1,), out=(0,))


def _sum(b: TimelineBuilder, terms: Sequence[int], axis: Axis) -> int:
    if not terms:
        return b.constant(0.0, type(b.type(0))("float", (axis,)))
    total = terms[0]
    for term in terms[1:]:
        total = b.op("add", total, term)
    return total


def _slice(source: int, start: int, axis: Axis) -> Recipe:
    return Recipe((source,), lambda b, args: b.op("slice", args[0], at=0, start=start, axis=axis))


def _member(item: Sum, stacked: int, start: int, axis: Axis) -> Recipe:
    """A member's own range of the stacked sum, with its remaining recurrent terms."""

    def make(b: TimelineBuilder, args: Sequence[int]) -> int:
        total = b.op("slice", args[0], at=0, start=start, axis=axis)
        for term in args[1:]:
            total = b.op("add", total, term)
        return total

    return Recipe((stacked, *item.inside), make)


def _activated(kind: str, stacked: int, start: int, size: int) -> Recipe:
    def make(b: TimelineBuilder, args: Sequence[int]) -> int:
        part = b.op("slice", args[0], at=0, start=start, axis=Axis(f"gates {start}:{start + size}", size))
        return b.op(kind, part)

    return Recipe((stacked,), make)


def _reassociated(item: Sum) -> Recipe:
    """What is not recurrent first, products last: the loop then adds while it multiplies."""
    terms = (*item.outside, *item.inside, *item.products)

    def make(b: TimelineBuilder, args: Sequence[int]) -> int:
        total = args[0]
        for term in args[1:]:
            total = b.op("add", total, term)
        return total

    return Recipe(terms, make)
