"""Adjoint of a forward timeline, for one routing class: reverse mode written out as nodes of the same op set.

A cotangent is built only where it matters: on nodes that a parameter of the class reaches and that reach a loss of
the class, over edges that keep gradient. Crossing a step backwards is `next`; what arrives at the first steps flows
to the initial value through `first`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from recdsl.ops import primitive
from recdsl.ops.base import add_all
from recdsl.program.timeline import LEAVES, TimelineBuilder, TNode, here


@dataclass(frozen=True)
class Share:
    """Parameters with the window of a pass, or a shorter one: what they get of its first `short` steps is left out.

    Cotangents are the same for all: what a shorter window cuts lies behind everything that it keeps. starts: whether
    initial values get their part; traces have it otherwise.
    """

    short: int
    parameters: frozenset[str]
    starts: bool = True


@dataclass(frozen=True)
class Credit:
    """What a reverse pass keeps, on the timeline: seeds (node, cotangent node) and, by share, wanted leaves.

    severed: `prev` nodes whose crossing of a step is cut at every step (the initial value still gets its share).
    weights: by lag, nodes by which what crosses so many steps is multiplied, but at `prev` nodes that are spared.
    behind: empty, or where traces carry what is older than a window: for each `prev` what it held a step before (its
    source, or the link of a delay line before it). Credit then crosses steps one by one, and none goes to initial
    values: the traces have them. entering: carries with the `prev` whose cotangent is asked for.
    links: the same where initial values have their part. answered: a `prev` node of `links` ->
    the `behind` leaf whose cotangent it has from behind a window.
    """

    seeds: tuple[tuple[int, int], ...]
    severed: frozenset[int]
    shares: tuple[Share, ...]
    weights: Mapping[int, int] = field(default_factory=dict[int, int])
    spared: frozenset[int] = frozenset()
    behind: Mapping[int, int] = field(default_factory=dict[int, int])
    entering: tuple[tuple[str, int], ...] = ()
    links: Mapping[int, int] = field(default_factory=dict[int, int])
    answered: Mapping[int, int] = field(default_factory=dict[int, int])
    ends: frozenset[int] = frozenset()

    @property
    def sources(self) -> Mapping[int, int]:
        """What each `prev` held a step before, where credit crosses steps one by one."""
        return self.behind or self.links

    @property
    def parameters(self) -> frozenset[str]:
        """Of all shares."""
        return frozenset(name for share in self.shares for name in share.parameters)


@dataclass(frozen=True)
class Adjoint:
    """The joint timeline and, by parameter, the node of its gradient (by number, where the pass has `ends`).

    entering: by carry, the node of the cotangent of what enters a step.
    arrivals: by carried value that has a cotangent from behind windows, the node of what arrives at their starts.
    """

    nodes: tuple[TNode, ...]
    gradients: tuple[tuple[str, int], ...]
    entering: tuple[tuple[str, int], ...] = ()
    arrivals: tuple[tuple[str, int], ...] = ()


def adjoint_timeline(nodes: tuple[TNode, ...], credit: Credit) -> Adjoint:
    """The forward nodes with the class's adjoint behind them."""
    return _Reverse(nodes, credit).run()


class _Reverse:
    """One reverse sweep; a builder, so a class, but with one use."""

    def __init__(self, nodes: tuple[TNode, ...], credit: Credit) -> None:
        self.forward = nodes
        self.credit = credit
        self.builder = TimelineBuilder(nodes)
        self.order = topological(nodes)
        self.active = active_nodes(nodes, self.order, credit)
        self.parts: dict[int, list[int]] = {}
        self.fixed: list[dict[int, list[int]]] = [{} for _ in credit.shares]
        self.pending: dict[int, int] = {}
        self.arrived: dict[int, int] = {}
        self.arrivals: dict[int, int] = {}
        for seeded, cotangent in credit.seeds:
            self._give(seeded, cotangent)

    def run(self) -> Adjoint:
        self._open_crossings()
        inner = self.active - self.credit.ends
        for share in (None, *range(len(self.fixed))):
            for node in reversed(self.order):
                if self.forward[node].time == (share is None) and node in inner:
                    self._sweep(node, share)
        for k in self.credit.answered:
            if k not in self.active and k in self.pending:
                self.builder.aim(self.pending[k], self.builder.const(0.0, k))
        gradients = tuple(sorted(self._gradients()))
        entering = tuple((name, self.arrived[k]) for name, k in self.credit.entering if k in self.arrived)
        arrivals = tuple(self._arrival(k) for k in self.credit.answered)
        return Adjoint(tuple(self.builder.nodes), gradients, entering, arrivals)

    def _arrival(self, k: int) -> tuple[str, int]:
        node, total = self.forward[k], self.arrivals.get(k)
        if total is None or self.builder.uniform(total) is not None:
            return node.name, self.builder.const(0.0, k) if total is None else total
        return node.name, self.builder.add(TNode("arrive", (total,), (), node.type, False, node.name, node.span))

    def _gradients(self) -> Iterable[tuple[str, int]]:
        for k, node in enumerate(self.forward):
            for place, share in enumerate(self.credit.shares):
                own = node.op == "parameter" and node.name in share.parameters
                if own or (k in self.credit.ends and not place):
                    total = self._total(k, None if node.time else place)
                    yield node.name if own else str(k), self.builder.const(0.0, k) if total is None else total

    def _open_crossings(self) -> None:
        """Before any sweep: the cotangent of a source starts with what later steps will send back."""
        for k, node in enumerate(self.forward):
            source = node.args[0] if node.args else -1
            target = self.credit.sources.get(k, source)
            crosses = node.op in ("prev", "fetch") and k not in self.credit.severed
            if crosses and (k in self.active or k in self.credit.answered) and target in self.active:
                self.builder.span = node.span
                self.pending[k] = self._crossing(k, node)
                self._give(target, self.pending[k])

    def _crossing(self, k: int, node: TNode) -> int:
        """What a sequence gets back from later steps that read it through `node`."""
        if node.op == "prev":
            lag = 1 if self.credit.sources else node.attr("lag")
            args = [-1, self.credit.answered[k]] if k in self.credit.answered else [-1]
            return self.builder.move("next", args, lag, node.type, f"d {node.name}")
        type, name = self.forward[node.args[0]].type, f"d {node.name}"
        return self.builder.again(TNode("unfetch", (), (), type, True, name, node.span), (-1, node.args[1]))

    def _give(self, node: int, cotangent: int | None, share: int | None = None) -> None:
        """What does not vary has a cotangent of each share's own. share: whose this is; None: of all."""
        if cotangent is None or node not in self.active:
            return
        if self.forward[node].time:
            self.parts.setdefault(node, []).append(cotangent)
            return
        for place, own in enumerate(self.credit.shares):
            if share in (None, place):
                short = {"short": own.short} if own.short else {}
                crosses = self.builder.nodes[cotangent].time
                made = self.builder.op("collect", cotangent, **short) if crosses else cotangent
                self.fixed[place].setdefault(node, []).append(made)

    def _total(self, node: int, share: int | None = None) -> int | None:
        parts = (self.parts if share is None else self.fixed[share]).get(node, [])
        return add_all(self.builder, join_pads(self.builder, parts))

    def _sweep(self, k: int, share: int | None) -> None:
        """Send a node's cotangent on. share: of what does not vary, whose."""
        node = self.forward[k]
        self.builder.span = node.span
        total = self._total(k, share)
        if node.op == "prev":
            self._sweep_prev(k, node, total)
        elif node.op == "fetch":
            if k in self.pending:
                self.builder.aim(self.pending[k], self.builder.const(0.0, k) if total is None else total)
        elif total is not None and node.op not in LEAVES:
            given = primitive(node.op).vjp(self.builder, node.args, k, total, node.attrs)
            for arg, cotangent in zip(node.args, given, strict=True):
                self._give(arg, cotangent, share)

    def _sweep_prev(self, k: int, node: TNode, total: int | None) -> None:
        weight = None if k in self.credit.spared else self.credit.weights.get(node.attr("lag"))
        if total is not None and weight is not None:
            axes = node.type.axes
            wide = self.builder.op("broadcast", weight, axes=axes, at=()) if axes else weight
            total = self.builder.op("mul", total, wide)
        source = self.builder.const(0.0, k) if total is None else total
        if k in self.pending:
            self.builder.aim(self.pending[k], source)
        if k in self.credit.answered:
            self.arrivals[k] = source
        if total is not None and self.builder.uniform(total) is None:
            self.arrived[k] = total
        if k in self.arrived and not self.credit.behind and node.args[1] in self.active:
            assert total is not None
            # where every crossing is cut, a delay line still holds the initial value at step 1, but behind a cut
            lag = 1 if k in self.credit.severed or k in self.credit.links else node.attr("lag")
            for place, share in ((p, s) for p, s in enumerate(self.credit.shares) if s.starts):
                attrs = (("lag", lag), *((("short", share.short),) if share.short else ()))
                first = TNode("first", (total,), attrs, node.type, False, node.name, node.span)
                self._give(node.args[1], self.builder.add(first), place)


def topological(nodes: tuple[TNode, ...]) -> list[int]:
    """An order in which arguments of the same step come first; moves wait for nothing but initial values."""
    waits = [node.args if node.op == "trace" else here(node) for node in nodes]
    users: list[list[int]] = [[] for _ in nodes]
    left = [len(args) for args in waits]
    for k, args in enumerate(waits):
        for arg in args:
            users[arg].append(k)
    ready = [k for k in range(len(nodes) - 1, -1, -1) if left[k] == 0]
    order: list[int] = []
    while ready:
        node = ready.pop()
        order.append(node)
        for user in users[node]:
            left[user] -= 1
            if left[user] == 0:
                ready.append(user)
    assert len(order) == len(nodes), "a cycle within one step"
    return order


def active_nodes(nodes: tuple[TNode, ...], order: list[int], credit: Credit) -> set[int]:
    """Nodes on a path from a wanted parameter to a seed along edges that carry gradient."""
    users: dict[int, list[int]] = {k: [] for k in range(len(nodes))}
    feeds: dict[int, list[int]] = {k: [] for k in range(len(nodes))}
    for k in range(len(nodes)):
        for arg in _gradient_args(nodes, k, credit):
            users[arg].append(k)
            feeds[k].append(arg)
    wanted = [k for k, n in enumerate(nodes) if n.op == "parameter" and n.name in credit.parameters]
    wanted += [*(k for _, k in credit.entering), *credit.ends]
    seeds = [*(k for k, _ in credit.seeds), *(credit.sources[k] for k in credit.answered)]
    return _closure(wanted, users) & _closure(seeds, feeds)


def _gradient_args(nodes: tuple[TNode, ...], k: int, credit: Credit) -> list[int]:
    node = nodes[k]
    if node.type.dtype != "float" or node.op in LEAVES:
        return []
    if node.op == "prev" and credit.behind:
        return [credit.behind[k]]
    if node.op == "prev":
        source = () if k in credit.severed else (credit.links.get(k, node.args[0]),)
        return [*source, *node.args[1:]]
    if node.op == "fetch":
        return [] if k in credit.severed else list(node.args[:1])
    if primitive(node.op).structure == "zero":
        return []
    skip = 1 if node.op == "straight_through" else 0
    return [arg for place, arg in enumerate(node.args) if nodes[arg].type.dtype == "float" and place >= skip]


def _closure(start: list[int], edges: dict[int, list[int]]) -> set[int]:
    found, stack = set(start), list(start)
    while stack:
        for other in edges[stack.pop()]:
            if other not in found:
                found.add(other)
                stack.append(other)
    return found


def join_pads(b: TimelineBuilder, parts: list[int]) -> list[int]:
    """Cotangents of disjoint ranges of one value are put side by side instead of being added in zeros."""
    pads = [k for k in parts if b.nodes[k].op == "pad"]
    if len(pads) < 2:
        return parts
    at, axis = b.nodes[pads[0]].attr("at"), b.nodes[pads[0]].attr("axis")
    pads = [k for k in pads if b.nodes[k].attr("at") == at and b.nodes[k].attr("axis") == axis]
    pads.sort(key=lambda k: b.nodes[k].attr("start"))
    pieces, joined, end = list[int](), list[int](), 0
    for k in pads:
        node = b.nodes[k]
        inner = b.nodes[node.args[0]].type.axes[at]
        if node.attr("start") < end:
            continue
        if node.attr("start") > end:
            pieces.append(_zeros(b, node, at, node.attr("start") - end))
        pieces.append(node.args[0])
        joined.append(k)
        end = node.attr("start") + inner.size
    if len(joined) < 2:
        return parts
    if end < axis.size:
        pieces.append(_zeros(b, b.nodes[joined[-1]], at, axis.size - end))
    rest = [k for k in parts if k not in joined]
    return [b.op("concat", *pieces, at=at, axis=axis), *rest]


def _zeros(b: TimelineBuilder, pad: TNode, at: int, size: int) -> int:
    axes = list(pad.type.axes)
    axes[at] = type(axes[at])(str(size), size)
    return b.constant(0.0, type(pad.type)("float", tuple(axes)))
