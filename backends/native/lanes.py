"""Which axis of a step may be split into blocks of lanes: one along which entries meet in sums alone.

Axes of values and storages that must be the same one are one class. A class is taken if no value has two of its axes
and no op looks at where along it an entry stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from recdsl.backends.native.ops import ELEMENTWISE, groups
from recdsl.backends.native.values import NotLoweredError
from recdsl.program.ir import Load, Op, Scalar, Stmt, Storage, Store

LEAST = 2
MOST = 64  # lanes of a block, where those of a vector do not divide the axis
PLACED = ("rename", "stop", "straight_through", "power", "collect")
INDEXED = ("gather", "scatter", "one_hot", "eye")
FOLDED = ("softmax", "logsumexp", "reduce_max")
Node = tuple[str, str, int]
"""("value" or "storage", name, number of the own axis)"""


@dataclass(frozen=True)
class Lanes:
    """values, storages: those that have the axis, and which of theirs it is. size: of the axis; width: of a block."""

    values: Mapping[str, int]
    storages: Mapping[str, int]
    size: int
    width: int

    @property
    def blocks(self) -> int:
        return self.size // self.width


@dataclass
class _Axes:
    """Classes of axes, as a forest. fixed: axes along which places matter."""

    sizes: dict[Node, int] = field(default_factory=dict[Node, int])
    parents: dict[Node, Node] = field(default_factory=dict[Node, Node])
    fixed: set[Node] = field(default_factory=set[Node])
    ranks: dict[str, int] = field(default_factory=dict[str, int])

    def find(self, node: Node) -> Node:
        while self.parents.get(node, node) != node:
            node = self.parents[node]
        return node

    def same(self, one: Node, other: Node) -> None:
        one, other = self.find(one), self.find(other)
        if one != other:
            self.parents[one] = other

    def values(self, one: str, other: str, pairs: Iterable[tuple[int, int]]) -> None:
        for k, j in pairs:
            self.same(("value", one, k), ("value", other, j))

    def fix(self, name: str, axes: Iterable[int]) -> None:
        self.fixed.update(("value", name, k) for k in axes)

    # -- statements -----------------------------------------------------------------------------------------------
    def read(self, stmt: Stmt) -> None:
        match stmt:
            case Op():
                self._new(stmt.results[0], tuple(axis.size for axis in stmt.types[0].axes))
                self._op(stmt)
            case Scalar():
                self._new(stmt.result, tuple(axis.size for axis in stmt.type.axes))
            case Load():
                self._new(stmt.result, tuple(axis.size for axis in stmt.type.axes))
                self._stored(stmt.result, stmt.storage)
            case Store():
                self._stored(stmt.value, stmt.storage)
            case _:
                raise NotLoweredError(f"no line with `{type(stmt).__name__.lower()}` statements")

    def _new(self, name: str, sizes: tuple[int, ...]) -> None:
        self.ranks[name] = len(sizes)
        self.sizes.update({("value", name, k): size for k, size in enumerate(sizes)})

    def _stored(self, value: str, storage: str) -> None:
        for k in range(self.ranks[value]):
            self.same(("value", value, k), ("storage", storage, k))

    def _op(self, op: Op) -> None:
        attrs, (result,), count = dict(op.attrs), op.results, len(op.types[0].axes)
        if op.op == "constant":
            if not isinstance(attrs["value"], bool | int | float):
                self.fix(result, range(count))
        elif op.op in ELEMENTWISE or op.op in PLACED:
            for arg in op.args:
                if self.ranks[arg] != count:
                    raise NotLoweredError(f"`{op.op}` of values with other axes")
                self.values(arg, result, ((k, k) for k in range(count)))
        elif op.op in ("transpose", "broadcast"):
            places = attrs["order"] if op.op == "transpose" else attrs["at"]
            pairs = [(old, k) for k, old in enumerate(places)] if op.op == "transpose" else list(enumerate(places))
            self.values(op.args[0], result, pairs)
        elif op.op in ("slice", "pad", "concat"):
            self._along(op, attrs["at"], count)
        elif op.op == "reshape":
            self._reshaped(op)
        elif op.op == "contract":
            self._contracted(op)
        elif op.op == "sum":
            kept = [k for k in range(self.ranks[op.args[0]]) if k not in attrs["over"]]
            self.values(op.args[0], result, ((k, j) for j, k in enumerate(kept)))
        elif op.op in INDEXED or op.op in FOLDED:
            self._indexed(op, count)
        else:
            raise NotLoweredError(f"no line with `{op.op}`")

    def _indexed(self, op: Op, count: int) -> None:
        """Ops that look at where along one axis an entry stands."""
        (result,), attrs = op.results, dict(op.attrs)
        if op.op == "eye":
            self.fix(result, range(count))
        elif op.op == "one_hot":
            self.fix(result, [count - 1])
            self.values(op.args[0], result, ((k, k) for k in range(count - 1)))
        elif op.op == "softmax":
            self._along(op, attrs["at"], count)
        elif op.op == "scatter":
            self.fix(result, [attrs["at"]])
            self.values(op.args[0], result, ((k - (k > attrs["at"]), k) for k in range(count) if k != attrs["at"]))
        else:
            self.fix(op.args[0], [attrs["at"]])
            self.values(op.args[0], result, ((k + (k >= attrs["at"]), k) for k in range(count)))

    def _along(self, op: Op, at: int, count: int) -> None:
        self.fix(op.results[0], [at])
        for arg in op.args:
            self.fix(arg, [at])
            self.values(arg, op.results[0], ((k, k) for k in range(count) if k != at))

    def _reshaped(self, op: Op) -> None:
        (arg,), (result,) = op.args, op.results
        source = [self.sizes["value", arg, k] for k in range(self.ranks[arg])]
        target = [axis.size for axis in op.types[0].axes]
        for first, second in groups(source, target):
            wide, new = ([k for k in part if of[k] > 1] for part, of in ((first, source), (second, target)))
            if len(wide) == len(new) == 1:
                self.values(arg, result, [(wide[0], new[0])])
            else:
                self.fix(arg, wide)
                self.fix(result, new)

    def _contracted(self, op: Op) -> None:
        attrs = dict(op.attrs)
        first: dict[int, Node] = {}
        for name, side in ((op.args[0], "x"), (op.args[1], "y"), (op.results[0], "out")):
            for k, label in enumerate(attrs[side]):
                node = ("value", name, k)
                self.same(node, first.setdefault(label, node))


def lanes(body: Sequence[Stmt], storages: Mapping[str, Storage], lasting: Iterable[Sequence[str]], wide: int) -> Lanes:
    """The class that most numbers of what lasts have. lasting: storages that are one memory. wide: lanes of a vector.
    Raises NotLoweredError."""
    axes = _Axes()
    for stmt in body:
        axes.read(stmt)
    kept = [group for group in lasting if group]
    for group in kept:
        for other in group[1:]:
            for k in range(len(storages[other].type.axes)):
                axes.same(("storage", group[0], k), ("storage", other, k))
    touched = {stmt.storage for stmt in body if isinstance(stmt, Load | Store)}
    weights: dict[Node, int] = {}
    whole = 0
    for group in kept:
        sizes = [axis.size for axis in storages[group[0]].type.axes]
        count = _count(sizes)
        whole += count
        for k in range(len(sizes)):
            found = axes.find(("storage", group[0], k))
            weights[found] = weights.get(found, 0) + count
    stored = {("storage", name, k): axis.size for name in touched for k, axis in enumerate(storages[name].type.axes)}
    for root, weight in sorted(weights.items(), key=lambda item: -item[1]):
        members = [node for node in (*axes.sizes, *stored) if axes.find(node) == root]
        extents = {axes.sizes.get(node, stored.get(node, 0)) for node in members}
        names = [node[:2] for node in members]
        fixed = any(axes.find(node) == root for node in axes.fixed)
        if 2 * weight >= whole and len(extents) == 1 and len(set(names)) == len(names) and not fixed:
            (size,) = extents
            if width(size, wide):
                of = {kind: {name: k for own, name, k in members if own == kind} for kind in ("value", "storage")}
                return Lanes(of["value"], of["storage"], size, width(size, wide))
    raise NotLoweredError("no axis along which entries are computed by themselves")


def width(size: int, wide: int) -> int:
    """Lanes of a block; 0 where there would be too few."""
    if size % wide == 0:
        return wide
    found = max(k for k in range(1, MOST + 1) if size % k == 0)
    return found if found >= LEAST else 0


def _count(sizes: Sequence[int]) -> int:
    count = 1
    for size in sizes:
        count *= size
    return count
