"""The timeline: one equation a value, over all steps at once.

A node stands for the whole sequence of its values (or, where it does not vary, for one value a call). All arguments
are read at the same step, but for ops that move in time:

- `prev(x, init; lag)`: x of `lag` steps before, `init` (given at those steps) before the first;
- `next(x; lag)`: x of `lag` steps later, zero after the last; `next(x, behind; lag=1)`: in the last step of a window,
  `behind` of this window;
- `trace(x, start)`: x of the step before, what an earlier call left (or `start`) before the first; not kept over time;
- `nearest(keys, stamps, since, *others)`: places among the earlier steps of keys and stamps (`recdsl/ops/nearest.py`);
- `fetch(x, place)`: x of the earlier steps that `place` names, and its adjoint `unfetch(rows, place)`: for each step
  the sum of the rows that later steps fetched from it.

So a recurrence is a cycle through `prev`, its adjoint a cycle through `next`, and everything else can be computed for
all steps in one go. Leaves: `input`, `parameter`, `constant`, `state` (what a carry holds before step 0),
`step_number`, `cotangent` (of a loss or an output), `behind` (of what lies behind a window: one value a window).
`first(x)` is the sum over samples of x at the steps below `lag`, `arrive(x)` is x at the first step of a window.
`pool(x)` is the sum of x over the samples at each step; it, traces that are `common` and what is made of these alone
have one value a step for all samples (`pooled`). Of a trace that has no loop of its own, `held` is what the call was
handed; `tally(x)` is the sum of x over steps. These and what is made of them alone have one value a call for each
sample (`sampled`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recdsl.graph.types import Type
from recdsl.ops import primitive
from recdsl.ops.base import Attrs, Elementwise
from recdsl.program.diagonals import diagonal
from recdsl.program.weights import weighted
from recdsl.source import Span

MOVES = ("prev", "next", "trace", "nearest", "fetch", "unfetch")
EARLIER = {"prev": 1, "fetch": 1, "nearest": 2}
"""Moves to later steps, with the number of their arguments that are read at earlier ones."""
LATER = ("next", "unfetch")
"""Moves to earlier steps; the first argument is read at later ones."""
LEAVES = ("input", "parameter", "constant", "state", "step_number", "cotangent", "behind", "held")


@dataclass(frozen=True)
class TNode:
    """`time`: varies over steps and samples; otherwise computed once a call."""

    op: str
    args: tuple[int, ...]
    attrs: Attrs
    type: Type
    time: bool
    name: str = ""
    span: Span | None = None

    def attr(self, key: str) -> Any:
        return dict(self.attrs)[key]


class TimelineBuilder:
    """Adds nodes, sharing equal ones and simplifying as it goes; what an algebra identity removes is never built."""

    def __init__(self, nodes: Sequence[TNode] = ()) -> None:
        self.nodes: list[TNode] = list(nodes)
        self._known = {_key(node): k for k, node in enumerate(self.nodes) if node.op not in MOVES}
        self.span: Span | None = None

    def type(self, value: int) -> Type:
        return self.nodes[value].type

    def leaf(self, op: str, name: str, type: Type, *, time: bool, **attrs: Any) -> int:
        return self.add(TNode(op, (), tuple(sorted(attrs.items())), type, time, name, self.span))

    def const(self, value: float, like: int) -> int:
        return self.constant(value, self.type(like))

    def constant(self, value: Any, type: Type) -> int:
        return self.add(TNode("constant", (), (("value", value),), type, False))

    def move(self, op: str, args: Sequence[int], lag: int, type: Type, name: str, *, common: bool = False) -> int:
        """A `prev` or `next`, never shared: its first argument may be set later by `aim`. common: the same for all
        samples."""
        attrs: Attrs = (("common", True), ("lag", lag)) if common else (("lag", lag),)
        self.nodes.append(TNode(op, tuple(args), attrs, type, True, name, self.span))
        return len(self.nodes) - 1

    def pool(self, value: int) -> int:
        """The sum over samples at each step, taken as early as it can be."""
        node = self.nodes[value]
        assert node.time, "what does not vary is not known for a number of samples"
        if node.op == "neg":
            return self.op("neg", self.pool(node.args[0]))
        if node.op in ("rename", "transpose"):
            return self.op(node.op, self.pool(node.args[0]), **dict(node.attrs))
        return self.add(TNode("pool", (value,), (), node.type, True, "", self.span))

    def again(self, node: TNode, args: Sequence[int]) -> int:
        """A move like `node`, never shared."""
        self.nodes.append(TNode(node.op, tuple(args), node.attrs, node.type, True, node.name, node.span))
        return len(self.nodes) - 1

    def aim(self, move: int, source: int) -> None:
        """Set what a move reads at another step (the first of its arguments)."""
        node = self.nodes[move]
        self.nodes[move] = TNode(node.op, (source, *node.args[1:]), node.attrs, node.type, True, node.name, node.span)

    def add(self, node: TNode) -> int:
        """Share or append."""
        key = _key(node)
        if key not in self._known:
            self.nodes.append(node)
            self._known[key] = len(self.nodes) - 1
        return self._known[key]

    def op(self, name: str, *args: int, **attrs: Any) -> int:
        simple = SIMPLIFY[name](self, args, attrs) if name in SIMPLIFY else None
        if simple is not None:
            return simple
        folded = self._fold(name, args, attrs)
        if folded is not None:
            return folded
        packed = tuple(sorted(attrs.items()))
        type = primitive(name).infer([self.type(arg) for arg in args], packed)
        time = any(self.nodes[arg].time for arg in args) and name != "collect"
        return self.add(TNode(name, tuple(args), packed, type, time, "", self.span))

    def uniform(self, value: int) -> float | None:
        """The number that every entry of a constant has, or None."""
        node = self.nodes[value]
        if node.op != "constant" or node.type.dtype != "float":
            return None
        number = node.attr("value")
        return float(number) if isinstance(number, int | float) and not isinstance(number, bool) else None

    def _fold(self, name: str, args: Sequence[int], attrs: dict[str, Any]) -> int | None:
        """Elementwise ops of uniform constants are computed now."""
        op = primitive(name)
        numbers = [self.uniform(arg) for arg in args]
        if not args or not isinstance(op, Elementwise) or any(number is None for number in numbers):
            return None
        if name in ("erf", "stop", "straight_through", "spike"):
            return None
        types = [Type("float")] * len(args)
        with np.errstate(all="ignore"):
            arrays = [np.asarray(number, dtype=np.float64) for number in numbers]
            value = float(op.value(np, arrays, tuple(sorted(attrs.items())), types))
        return self.constant(value, self.type(args[0]))


def sampled(nodes: Sequence[TNode]) -> frozenset[int]:
    """Nodes with one value a call for each sample."""
    found: set[int] = set()
    for k, node in enumerate(nodes):
        inner = [arg for arg in node.args if nodes[arg].time]
        made = node.time and bool(inner) and node.op not in MOVES and found.issuperset(inner)
        if made or node.op in ("held", "tally") or (node.op == "arrive" and node.time):
            found.add(k)
    return frozenset(found)


def pooled(nodes: Sequence[TNode]) -> frozenset[int]:
    """Nodes with one value a step for all samples."""
    found = {k for k, node in enumerate(nodes) if node.op == "trace" and dict(node.attrs).get("common")}
    for k, node in enumerate(nodes):
        inner = [arg for arg in node.args if nodes[arg].time]
        made = node.time and bool(inner) and node.op not in MOVES and found.issuperset(inner)
        if made or node.op == "pool":
            found.add(k)
    return frozenset(found)


def here(node: TNode) -> tuple[int, ...]:
    """The arguments that a node reads at its own step."""
    if node.op in LATER:
        return node.args[1:]
    return () if node.op == "trace" else node.args[EARLIER.get(node.op, 0) :]


def _key(node: TNode) -> tuple[Any, ...]:
    attrs = node.attrs if node.op != "constant" else (("value", repr(node.attrs[0][1])),)
    return (node.op, node.args, attrs, node.type, node.time, node.name if node.op in LEAVES else "")


def _mul(b: TimelineBuilder, args: Sequence[int], attrs: dict[str, Any]) -> int | None:
    x, y = args
    if b.uniform(x) is not None and b.uniform(y) is None:
        x, y = y, x
    number = b.uniform(y)
    if number == 1.0:
        return x
    if number == 0.0 and b.uniform(x) is None:
        return y
    if number == -1.0:
        return b.op("neg", x)
    node = b.nodes[x]
    if number is not None and node.op == "mul" and b.uniform(node.args[1]) is not None:
        inner = b.uniform(node.args[1])
        assert inner is not None
        return b.op("mul", node.args[0], b.const(number * inner, x))
    if b.nodes[x].op == "neg" and number is None:
        return b.op("neg", b.op("mul", b.nodes[x].args[0], y))
    if b.nodes[y].op == "neg":
        return b.op("neg", b.op("mul", x, b.nodes[y].args[0]))
    if (x, y) != tuple(args):
        return b.op("mul", x, y)
    return None


def _add(b: TimelineBuilder, args: Sequence[int], attrs: dict[str, Any]) -> int | None:
    x, y = args
    if b.uniform(x) == 0.0:
        return y
    if b.uniform(y) == 0.0:
        return x
    if b.nodes[y].op == "neg":
        return b.op("sub", x, b.nodes[y].args[0])
    if b.nodes[x].op == "neg":
        return b.op("sub", y, b.nodes[x].args[0])
    return None


def _sub(b: TimelineBuilder, args: Sequence[int], attrs: dict[str, Any]) -> int | None:
    x, y = args
    if b.uniform(y) == 0.0:
        return x
    if b.uniform(x) == 0.0:
        return b.op("neg", y)
    if b.nodes[y].op == "neg":
        return b.op("add", x, b.nodes[y].args[0])
    return None


def _neg(b: TimelineBuilder, args: Sequence[int], attrs: dict[str, Any]) -> int | None:
    node = b.nodes[args[0]]
    return node.args[0] if node.op == "neg" else None


def _div(b: TimelineBuilder, args: Sequence[int], attrs: dict[str, Any]) -> int | None:
    number = b.uniform(args[1])
    if number is not None and number != 0.0 and (1.0 / number) * number == 1.0:
        return b.op("mul", args[0], b.const(1.0 / number, args[0]))
    return None


def _power(b: TimelineBuilder, args: Sequence[int], attrs: dict[str, Any]) -> int | None:
    exponent = attrs["exponent"]
    if exponent == 0:
        return b.const(1.0, args[0])
    if exponent == 1:
        return args[0]
    return b.op("mul", args[0], args[0]) if exponent == 2 else None


def _where(b: TimelineBuilder, args: Sequence[int], attrs: dict[str, Any]) -> int | None:
    return args[1] if args[1] == args[2] else None


def _broadcast(b: TimelineBuilder, args: Sequence[int], attrs: dict[str, Any]) -> int | None:
    axes, at = tuple(attrs["axes"]), attrs["at"]
    if b.uniform(args[0]) is not None:
        return b.constant(b.uniform(args[0]), Type("float", axes))
    if len(at) == len(axes):
        return args[0] if axes == b.type(args[0]).axes else b.op("rename", args[0], axes=axes)
    return None


def _sum(b: TimelineBuilder, args: Sequence[int], attrs: dict[str, Any]) -> int | None:
    over = tuple(attrs["over"])
    if not over:
        return args[0]
    node = b.nodes[args[0]]
    number, axes = b.uniform(args[0]), node.type.axes
    kept = tuple(axis for k, axis in enumerate(axes) if k not in over)
    count = float(np.prod([axes[k].size for k in over]))
    if number is not None:
        return b.constant(number * count, Type("float", kept))
    if node.op == "broadcast" and tuple(k for k in range(len(axes)) if k not in over) == tuple(node.attr("at")):
        return b.op("mul", node.args[0], b.constant(count, b.type(node.args[0])))
    return None


def _rename(b: TimelineBuilder, args: Sequence[int], attrs: dict[str, Any]) -> int | None:
    axes, node = tuple(attrs["axes"]), b.nodes[args[0]]
    if axes == node.type.axes:
        return args[0]
    if b.uniform(args[0]) is not None:
        return b.constant(b.uniform(args[0]), Type("float", axes))
    return b.op("rename", node.args[0], axes=axes) if node.op == "rename" else None


def _transpose(b: TimelineBuilder, args: Sequence[int], attrs: dict[str, Any]) -> int | None:
    order, node = tuple(attrs["order"]), b.nodes[args[0]]
    if order == tuple(range(len(order))):
        return args[0]
    if b.uniform(args[0]) is not None:
        return b.constant(b.uniform(args[0]), Type("float", tuple(node.type.axes[k] for k in order)))
    if node.op == "transpose":
        return b.op("transpose", node.args[0], order=tuple(node.attr("order")[k] for k in order))
    return None


def _slice(b: TimelineBuilder, args: Sequence[int], attrs: dict[str, Any]) -> int | None:
    at, start, axis = attrs["at"], attrs["start"], attrs["axis"]
    node = b.nodes[args[0]]
    whole = node.type.axes
    axes = (*whole[:at], axis, *whole[at + 1 :])
    if axis.size == whole[at].size:
        return b.op("rename", args[0], axes=axes)
    if b.uniform(args[0]) is not None:
        return b.constant(b.uniform(args[0]), Type("float", axes))
    if node.op == "slice" and node.attr("at") == at:
        return b.op("slice", node.args[0], at=at, start=start + node.attr("start"), axis=axis)
    if node.op == "concat" and node.attr("at") == at:
        return _slice_concat(b, node, start, axis)
    return None


def _slice_concat(b: TimelineBuilder, node: TNode, start: int, axis: Any) -> int | None:
    """A range that lies inside one operand is a range of that operand."""
    at, offset = node.attr("at"), 0
    for arg in node.args:
        size = b.type(arg).axes[at].size
        if offset <= start and start + axis.size <= offset + size:
            return b.op("slice", arg, at=at, start=start - offset, axis=axis)
        offset += size
    return None


def _concat(b: TimelineBuilder, args: Sequence[int], attrs: dict[str, Any]) -> int | None:
    at, axis = attrs["at"], attrs["axis"]
    if len(args) == 1:
        axes = b.type(args[0]).axes
        return b.op("rename", args[0], axes=(*axes[:at], axis, *axes[at + 1 :]))
    merged = _merge_slices(b, args, at)
    if len(merged) < len(args):
        return b.op("concat", *merged, **attrs)
    if any(b.nodes[arg].op == "concat" and b.nodes[arg].attr("at") == at for arg in args):
        flat = [k for arg in args for k in (b.nodes[arg].args if _stacked(b.nodes[arg], at) else (arg,))]
        return b.op("concat", *flat, **attrs)
    return None


def _stacked(node: TNode, at: int) -> bool:
    return node.op == "concat" and node.attr("at") == at


def _merge_slices(b: TimelineBuilder, args: Sequence[int], at: int) -> list[int]:
    """Neighbouring ranges of one value become one range (or the value)."""
    out: list[int] = []
    for arg in args:
        node, last = b.nodes[arg], b.nodes[out[-1]] if out else None
        follows = (
            last is not None
            and node.op == last.op == "slice"
            and node.args == last.args
            and node.attr("at") == last.attr("at") == at
            and node.attr("start") == last.attr("start") + last.attr("axis").size
        )
        if follows and last is not None:
            first, second = last.attr("axis"), node.attr("axis")
            joined = type(first)(f"{first.name} + {second.name}", first.size + second.size)
            out[-1] = b.op("slice", node.args[0], at=at, start=last.attr("start"), axis=joined)
        else:
            out.append(arg)
    return out


def _contract(b: TimelineBuilder, args: Sequence[int], attrs: dict[str, Any]) -> int | None:
    for simpler in (diagonal, weighted):
        made = simpler(b, args, attrs)
        if made is not None:
            return made
    x, y, out = tuple(attrs["x"]), tuple(attrs["y"]), tuple(attrs["out"])
    for number in (b.uniform(args[0]), b.uniform(args[1])):
        if number == 0.0:
            return b.constant(0.0, primitive("contract").infer([b.type(a) for a in args], tuple(sorted(attrs.items()))))
    for side, labels, other, others in ((1, y, 0, x), (0, x, 1, y)):
        node = b.nodes[args[side]]
        if node.op == "one_hot" and len(labels) == 1 and labels[0] in others and labels[0] not in out:
            at = others.index(labels[0])
            rest = others[:at] + others[at + 1 :]
            found = b.op("gather", args[other], node.args[0], at=at)
            return b.op("transpose", found, order=tuple(rest.index(label) for label in out))
    return None


def _collect(b: TimelineBuilder, args: Sequence[int], attrs: dict[str, Any]) -> int | None:
    node = b.nodes[args[0]]
    if node.op == "neg":
        return b.op("neg", b.op("collect", node.args[0], **attrs))
    if node.op in ("rename", "transpose"):
        return b.op(node.op, b.op("collect", node.args[0], **attrs), **dict(node.attrs))
    return b.const(0.0, args[0]) if b.uniform(args[0]) == 0.0 else None


SIMPLIFY = {
    "mul": _mul, "add": _add, "sub": _sub, "neg": _neg, "div": _div, "power": _power, "where": _where,
    "broadcast": _broadcast, "sum": _sum, "rename": _rename, "transpose": _transpose, "slice": _slice,
    "concat": _concat, "contract": _contract, "collect": _collect,
}  # fmt: skip
