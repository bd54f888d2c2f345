"""Block-deferred traces: what a window does to states and parameters, by one reverse pass for each row (semantics 4.3).

Where influence is dense, `J <- D J + I` at every step multiplies two full matrices. Over a window from boundary b to u
the same is `J_u = d s_u / d theta | s_b  +  (d s_u / d s_b) J_b`, and the rows of both Jacobians are vector-Jacobian
products of the entries of s_u: a reverse pass over the window that carries the identity back, its rows side by side on
a leading axis of their own. Traces then multiply once a window instead of once a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recdsl.credit.plan import Window
from recdsl.graph.types import Axis
from recdsl.program.adjoint import Adjoint, Credit, Share, adjoint_timeline
from recdsl.program.ir import Affine, Bound, For, Op, Stmt, Store, VType
from recdsl.program.lower import BATCH, ZERO, Domain, Emitter, Place
from recdsl.program.nest import NestEmitter, readers, rounds
from recdsl.program.passes import backward_passes
from recdsl.program.phases import phases
from recdsl.program.schedule import Item, needed, schedule, trace_schedule
from recdsl.program.sweep import Leaf
from recdsl.program.timeline import TimelineBuilder, TNode
from recdsl.program.uses import only_collected, outside_uses

ROW = "row'"
"""The leading axis of the rows. No axis of a spec has a name with a mark."""


@dataclass(frozen=True)
class Rows:
    """The reverse pass of a class's rows, behind the forward timeline.

    parts: by carried value, the first of its rows and their number. leaves: by carried value, the node of its rows of
    the identity. fresh: by effective parameter, the node of d s_u / d theta; jumps: by carried value, d s_u / d value.
    """

    nodes: tuple[TNode, ...]
    parts: Mapping[str, tuple[int, int]]
    leaves: Mapping[str, int]
    fresh: Mapping[int, int]
    jumps: Mapping[str, int]

    @property
    def count(self) -> int:
        return sum(size for _, size in self.parts.values())

    @property
    def roots(self) -> list[int]:
        return [*self.fresh.values(), *self.jumps.values()]


def rows_timeline(
    nodes: tuple[TNode, ...],
    carries: Mapping[str, int],
    sources: Mapping[int, int],
    behind: Mapping[int, int],
    *,
    optimise: bool = True,
) -> Rows:
    """carries: those that have traces, with their `prev`. sources: effective parameters with their nodes. behind: what
    each `prev` held a step before."""
    b = TimelineBuilder(nodes)
    parts: dict[str, tuple[int, int]] = {}
    leaves: dict[str, int] = {}
    start = 0
    for name, node in sorted(carries.items()):
        parts[name] = (start, nodes[node].type.numel)
        start += nodes[node].type.numel
        leaves[name] = b.leaf("behind", f"rows_{name}", nodes[node].type, time=True)
    answered = {node: leaves[name] for name, node in sorted(carries.items())}
    entering = tuple(sorted(carries.items()))
    ends = frozenset(sources.values())
    credit = Credit(
        (), frozenset(), (Share(0, frozenset()),), behind=behind, entering=entering, answered=answered, ends=ends
    )
    own = len(b.nodes)
    made = adjoint_timeline(tuple(b.nodes), credit)
    made = backward_passes(made, own) if optimise else made
    return _found(made, parts, leaves, carries, sources)


def _found(
    made: Adjoint,
    parts: Mapping[str, tuple[int, int]],
    leaves: Mapping[str, int],
    carries: Mapping[str, int],
    sources: Mapping[int, int],
) -> Rows:
    """The pass with what it gives; what is zero everywhere is left out."""
    totals, arrived = {int(k): node for k, node in made.gradients}, dict(made.arrivals)
    fresh: dict[int, int] = {}
    for source, node in sorted(sources.items()):  # equal parameters may be one node: the first of them has its share
        if node in totals and not _constant(made.nodes, totals[node]):
            fresh[source] = totals.pop(node)
    names = {made.nodes[node].name: name for name, node in carries.items()}
    jumps = {names[label]: node for label, node in arrived.items() if not _constant(made.nodes, node)}
    return Rows(made.nodes, parts, leaves, fresh, jumps)


def _constant(nodes: Sequence[TNode], k: int) -> bool:
    return nodes[k].op == "constant"


class RowEmitter(Emitter):
    """Writes the pass inside window u. What comes of the rows has their axis behind the samples."""

    def __init__(
        self, rows: Rows, given: Mapping[int, Place], names: Mapping[int, str], prefix: str, domain: Domain
    ) -> None:
        super().__init__(rows.nodes, given, names, prefix, domain)
        self.rows = rows
        self.row = (ROW, Affine(rows.count))
        self.wide = _closure(rows.nodes, tuple(rows.leaves.values()))
        wanted = needed(rows.nodes, rows.roots, frozenset(given) | set(rows.leaves.values()))
        items = schedule(rows.nodes, wanted)
        self.before = phases(rows.nodes, items)[0]
        self.inside = [item for item in items if item not in self.before]
        self.stored = outside_uses(rows.nodes, items, ())

    def each(self, k: int) -> tuple[tuple[str, Affine], ...]:
        return (BATCH, self.row) if k in self.wide else (BATCH,)

    def vtype(self, k: int, *, step: bool = False) -> VType:
        found = super().vtype(k, step=step)
        return found if self.nodes[k].time or k not in self.wide else VType(found.dtype, self.each(k), found.axes)

    def open(self) -> list[Stmt]:
        """Once a call: what the pass needs that does not vary, and the identity, row by row."""
        self.run(self.before)
        eye, rows, count = f"{self.prefix}eye", f"{self.prefix}rows", self.rows.count
        square, entries = (Axis(ROW, count), Axis("entry", count)), (Axis("entry", count),)
        self.body.append(Op((eye,), "eye", (), (("axes", square),), (VType("float", (), square),)))
        self.body.append(Op((rows,), "view", (eye,), (), (VType("float", (self.row,), entries),)))
        for name, leaf in self.rows.leaves.items():
            start, size = self.rows.parts[name]
            part, axes = f"{self.prefix}part{start}", (Axis("entry", size),)
            attrs = (("at", 0), ("axis", axes[0]), ("start", start))
            self.body.append(Op((part,), "slice", (rows,), attrs, (VType("float", (self.row,), axes),)))
            own = self.nodes[leaf].type.axes
            shaped = (("axes", own),)
            self.body.append(Op((self.label(leaf),), "reshape", (part,), shaped, (VType("float", (self.row,), own),)))
            self.values[leaf] = self.label(leaf)
        return self.taken()

    def window(self) -> list[Stmt]:
        """The pass inside window u."""
        self.run(self.inside)
        return self.taken()

    def leaf(self, leaf: Leaf, axes: Sequence[Axis]) -> tuple[str, list[Stmt]]:
        """What a leaf of the traces' timeline stands for: the rows of its target, as own axes."""
        k = self.rows.fresh[leaf.source] if leaf.source is not None else self.rows.jumps[leaf.through]
        start, size = self.rows.parts[leaf.target]
        name, value = f"{self.label(k)}_of{start}", self.whole(k)
        own = tuple(Axis(f"entry{place}", axis.size) for place, axis in enumerate(self.nodes[k].type.axes))
        count = Axis(ROW, self.rows.count)
        plain = VType("float", self.each(k), own)
        wide, part = VType("float", (BATCH,), (count, *own)), VType("float", (BATCH,), (Axis(ROW, size), *own))
        cut = (("at", 0), ("axis", Axis(ROW, size)), ("start", start))
        shaped = VType("float", (BATCH,), tuple(axes))
        return name, [
            *self.taken(),
            Op((f"{name}_named",), "rename", (value,), (("axes", own),), (plain,)),
            Op((f"{name}_all",), "view", (f"{name}_named",), (), (wide,)),
            Op((f"{name}_part",), "slice", (f"{name}_all",), cut, (part,)),
            Op((name,), "reshape", (f"{name}_part",), (("axes", shaped.axes),), (shaped,)),
        ]

    def taken(self) -> list[Stmt]:
        """The statements written since."""
        found, self.body = self.body, []
        return found

    def placed(self, k: int) -> Place:
        """The identity is no sequence: each window begins with it."""
        return Place("", 0) if k in self.rows.leaves.values() else super().placed(k)

    def _given(self, leaf: int, name: str) -> str:
        return self.values[leaf]

    def _collect(self, k: int) -> None:
        """A sum over the steps of the window, for each row and sample."""
        self.values[k] = self._joint(self.nodes[k].args[0], ("t",))


class JumpEmitter(NestEmitter):
    """Writes traces that go from boundary to boundary at once."""

    def jump(
        self,
        wanted: set[int],
        edges: Mapping[int, str],
        index: int,
        window: Window,
        rows: RowEmitter,
        leaves: Sequence[Leaf],
    ) -> Sequence[Item]:
        """All of it but what comes after the loop over windows, which is returned. leaves: what `rows` gives."""
        reading = readers(self.nodes, wanted, edges)
        before, step, after = trace_schedule(self.nodes, wanted - reading, [leaf.node for leaf in leaves])
        self.lazy |= only_collected(self.nodes, (Item(1, tuple(sorted(reading))),))
        self.run(before)
        if step is None:
            return after
        for k in step.nodes:
            if self.nodes[k].op == "trace":
                self._open_trace(k)
        self.body += rows.open()
        read = self._read(sorted(reading), edges)
        body = (*read, *rows.window(), *self._moved(step.nodes, rows, leaves))
        self.body.append(For("u", Bound("max", (ZERO,)), rounds(index, window)[0], 1, body))
        return after

    def _moved(self, members: Sequence[int], rows: RowEmitter, leaves: Sequence[Leaf]) -> list[Stmt]:
        """`J <- d s_u / d theta + (d s_u / d s_b) J`, once in window u."""
        body: list[Stmt] = []
        local: dict[int, str] = {}
        given = {leaf.node: leaf for leaf in leaves}
        for k in members:
            node = self.nodes[k]
            if k in given:
                local[k], made = rows.leaf(given[k], node.type.axes)
                body += made
            elif node.op == "trace":
                local[k] = self._held(body, k)
            else:
                args = tuple(local[a] if a in local else self.whole(a) for a in node.args)
                local[k] = self.label(k)
                body.append(Op((local[k],), node.op, args, node.attrs, (self.vtype(k, step=True),), node.span))
        for k in members:
            if self.nodes[k].op == "trace":
                source = self.nodes[k].args[0]
                body.append(Store(self.carried[k], (), local[source] if source in local else self.whole(source)))
        return body


def _closure(nodes: Sequence[TNode], start: Sequence[int]) -> set[int]:
    """What depends on some nodes, through moves too."""
    users: dict[int, list[int]] = {}
    for k, node in enumerate(nodes):
        for arg in node.args:
            users.setdefault(arg, []).append(k)
    found, stack = set(start), list(start)
    while stack:
        for user in users.get(stack.pop(), ()):
            if user not in found:
                found.add(user)
                stack.append(user)
    return found
