"""The net that answers for the losses behind a window: its statements in a backward entry.

It runs over the boundaries of a call's windows, all at once: boundary v lies before step v * window, the last one at
the end of the call. Before the windows its answers are made, each of which enters the reverse pass of the window in
front of it; behind them it learns from the cotangents that the windows have left at their starts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recdsl.credit.plan import Head, RoutingClass
from recdsl.graph.step import Input, StepGraph
from recdsl.graph.types import BOOL, FLOAT, INT, Axis, Type
from recdsl.program.adjoint import Credit, Share, adjoint_timeline
from recdsl.program.interface import safe
from recdsl.program.ir import Affine, Bound, For, Load, Op, Stmt, Storage, Store, VType
from recdsl.program.lower import BATCH, STEPS, ZERO, Domain, Emitter, Place, affine, shifted
from recdsl.program.schedule import needed, schedule
from recdsl.program.timeline import TimelineBuilder, TNode

CLASSES = ("onehot", "class", "token")


def behind_name(index: int, carry: str) -> str:
    """The storage of what a class's net answers for a carried value, by boundary."""
    return f"behind{index}_{safe(carry)}"


def mixed_name(index: int, carry: str) -> str:
    """The storage of what stands for the losses behind a boundary where the net's targets are made, by boundary."""
    return f"mixed{index}_{safe(carry)}"


def boundaries(index: int) -> Affine:
    """Their number, one more than windows."""
    return affine(f"windows{index}", 1, 1)


@dataclass(frozen=True)
class Row:
    """Where what stands before step 0 of a carried value (or at step 0 of an input) is found: a row of a storage."""

    storage: str
    first: int
    type: Type


class Answers:
    """The net of one class in one entry."""

    def __init__(
        self,
        graph: StepGraph,
        routing: RoutingClass,
        index: int,
        past: Mapping[str, Row],
        inputs: Mapping[str, str],
        parameters: Mapping[str, str],
        prefix: str,
    ) -> None:
        """past: by carried value. inputs, parameters: storages by name."""
        assert routing.head is not None
        self.graph, self.index, self.past, self.inputs, self.prefix = graph, index, past, inputs, prefix
        self.head: Head = routing.head
        self.every, self.count = routing.window.every, boundaries(index)
        self.storages: dict[str, Storage] = {}
        self.places: dict[int, Place] = {}
        self.b = TimelineBuilder()
        self.parameters = {p.name: self._parameter(p.name, p.type, parameters[p.name]) for p in self.head.parameters}
        self.size = sum(past[name].type.numel for name in self.head.carries)
        self.answer = self._answer(self._read())
        self.answers = self._split(self._entering())
        credit = self._credit()
        made = adjoint_timeline(tuple(self.b.nodes), credit)
        self.gradients = made.gradients
        extent = Bound("min", (self.count,))
        self.emitter = Emitter(
            made.nodes, self.places, {}, f"{prefix}a", Domain(Bound("max", (ZERO,)), extent, self.count)
        )

    # -- the net, over boundaries ---------------------------------------------------------------------------------
    def _parameter(self, name: str, type: Type, storage: str) -> int:
        node = self.b.leaf("parameter", name, type, time=False)
        self.places[node] = Place(storage, 0)
        return node

    def _leaf(self, name: str, kind: str, type: Type, *, time: bool = True) -> int:
        """A value a boundary and sample, in a storage of its own."""
        lead = (("t", self.count), BATCH) if time else ()
        self.storages[name] = Storage(name, kind, VType(type.dtype, lead, type.axes), "call")
        node = self.b.leaf("input", name, type, time=time)
        self.places[node] = Place(name, 0)
        return node

    def _flat(self, node: int) -> int:
        return self._shaped(node, (Axis("part", self.b.type(node).numel),))

    def _shaped(self, node: int, axes: tuple[Axis, ...]) -> int:
        same = [axis.size for axis in axes] == [axis.size for axis in self.b.type(node).axes]
        return self.b.op("rename" if same else "reshape", node, axes=axes)

    def _joined(self, parts: Sequence[int], name: str) -> int:
        size = sum(self.b.type(part).numel for part in parts)
        return self.b.op("concat", *parts, at=0, axis=Axis(name, size))

    def _read(self) -> int:
        """z: [boundaries, B, entries]"""
        parts = [self._flat(self._leaf(self._edge(name), "buffer", self.past[name].type)) for name in self.head.carries]
        item = self._condition
        if item is not None:
            parts.append(self._flat(self._seen(item)))
        return self._joined(parts, "read")

    def _seen(self, item: Input) -> int:
        """The condition; zero at a masked step."""
        b, classes = self.b, item.kind in CLASSES
        value = self._leaf(self._edge(".condition"), "buffer", INT if classes else item.type)
        if classes:
            value = b.op("one_hot", value, axis=Axis("class", item.size))
        if "mask" not in self.inputs:
            return value
        mask = self._leaf(self._edge(".valid"), "buffer", BOOL)
        axes = b.type(value).axes
        wide = b.op("broadcast", mask, axes=axes, at=()) if axes else mask
        return b.op("where", wide, value, b.const(0.0, value))

    def _answer(self, z: int) -> int:
        """y: [boundaries, B, answers]"""
        if not self.head.asked.hidden:
            return self._layer("W", "b", z)
        return self._layer("W2", "b2", self.b.op("relu", self._layer("W1", "b1", z)))

    def _layer(self, weight: str, bias: str, z: int) -> int:
        w, c = (self.parameters[f"{self.head.name}.{name}"] for name in (weight, bias))
        return self.b.op("add", self.b.op("contract", w, z, x=(0, 1), y=(1,), out=(0,)), c)

    def _wide(self, number: int) -> int:
        return self.b.op("broadcast", number, axes=self.b.type(self.answer).axes, at=())

    def _entering(self) -> int:
        """What enters the reverse pass of the window in front of each boundary."""
        share = self._leaf(f"goes{self.index}", "input", FLOAT)
        scaled = self.b.op("mul", share, self.b.constant(self.head.asked.scale, FLOAT))
        return self.b.op("mul", self.answer, self._wide(scaled))

    def _split(self, answers: int) -> dict[str, int]:
        """By carried value."""
        found: dict[str, int] = {}
        start = 0
        for name in self.head.carries:
            type = self.past[name].type
            part = self.b.op("slice", answers, at=0, start=start, axis=Axis("part", type.numel))
            found[name] = self._shaped(part, type.axes)
            start += type.numel
        return found

    def _credit(self) -> Credit:
        """d |y - target|^2, on average over the boundaries that count."""
        b, k = self.b, self.index
        leaves = [self._leaf(self._target(name), "buffer", self.past[name].type) for name in self.head.carries]
        axes = b.type(self.answer).axes
        arrived = b.op("rename", self._joined([self._flat(leaf) for leaf in leaves], "arrived"), axes=axes)
        unit, share = (self._leaf(f"{name}{k}", "input", FLOAT, time=False) for name in ("unit", "share"))
        wrong = b.op("sub", b.op("mul", self.answer, self._wide(unit)), b.op("mul", arrived, self._wide(share)))
        weight = b.op("mul", self._leaf(f"learn{k}", "input", FLOAT), b.constant(2.0, FLOAT))
        seed = b.op("mul", wrong, self._wide(weight))
        return Credit(((self.answer, seed),), frozenset(), (Share(0, frozenset(self.parameters)),))

    # -- statements -----------------------------------------------------------------------------------------------
    def _edge(self, name: str) -> str:
        return f"{self.prefix}edge_{safe(name)}"

    def _target(self, name: str) -> str:
        return f"{self.prefix}arrived_{safe(name)}"

    @property
    def _condition(self) -> Input | None:
        wanted = self.head.asked.condition
        return next((item for item in self.graph.inputs if wanted and item.name == wanted), None)

    def before(self) -> list[Stmt]:
        """In front of the windows: what the net reads, its answers, and no cotangent yet for the last boundary."""
        emitter = self.emitter
        emitter.body.extend(self._gathered())
        emitter.run(schedule(emitter.nodes, needed(emitter.nodes, self.answers.values(), frozenset(self.places))))
        for name, node in self.answers.items():
            emitter.body.append(Store(behind_name(self.index, name), (emitter.domain.range(),), emitter.whole(node)))
            zero = f"{self._target(name)}_zero"
            vtype = VType("float", (), self.past[name].type.axes)
            emitter.body.append(Op((zero,), "constant", (), (("value", 0.0),), (vtype,)))
            emitter.body.append(Store(self._target(name), (shifted(self.count, -1),), zero))
        return self.taken()

    def after(self) -> list[Stmt]:
        """Behind the windows: the net's gradients, as values of `emitter`."""
        emitter = self.emitter
        wanted = needed(emitter.nodes, [node for _, node in self.gradients], frozenset(self.places))
        items = schedule(emitter.nodes, wanted)
        late = [item for item in items if _summed(emitter.nodes, item.nodes[0])]
        emitter.run([item for item in items if item not in late])
        for k in sorted(emitter.totals):
            name = f"{emitter.label(k)}_done"
            emitter.body.append(Load(name, emitter.totals[k], (), VType("float", (), emitter.nodes[k].type.axes)))
            emitter.values[k] = name
        emitter.run(late)
        return self.taken()

    def arrive(self, name: str, value: str) -> Store:
        """In window u: what has arrived at its start."""
        return Store(self._target(name), (affine("u"),), value)

    def last_mixed(self) -> list[Stmt]:
        """Behind a call's last step there is its answer alone."""
        found: list[Stmt] = []
        row = shifted(self.count, -1)
        for name in self.head.carries:
            value = f"{self.prefix}mixed_{safe(name)}_last"
            vtype = VType("float", (BATCH,), self.past[name].type.axes)
            found.append(Load(value, behind_name(self.index, name), (row,), vtype))
            found.append(Store(mixed_name(self.index, name), (row,), value))
        return found

    def mixed(self, name: str, arrived: str | None) -> list[Stmt]:
        """Before window u: (1 - lambda) times the answer plus lambda times what has arrived (None: nothing does)."""
        share, axes = self.head.asked.mixing or 0.0, self.past[name].type.axes
        label, vtype = f"{self.prefix}mixed_{safe(name)}", VType("float", (BATCH,), axes)
        found: list[Stmt] = [Load(f"{label}_own", behind_name(self.index, name), (affine("u"),), vtype)]
        parts = [(f"{label}_own", 1 - share)]
        parts += [] if arrived is None else [(arrived, share * self.head.asked.scale)]
        for number, (value, factor) in enumerate(parts):
            by, made = f"{label}_by{number}", f"{label}_part{number}"
            found.append(Op((by,), "constant", (), (("value", factor),), (VType("float", (), axes),)))
            found.append(Op((made,), "mul", (value, by), (), (vtype,)))
        total = f"{label}_part0"
        if arrived is not None:
            total = f"{label}_sum"
            found.append(Op((total,), "add", (f"{label}_part0", f"{label}_part1"), (), (vtype,)))
        return [*found, Store(mixed_name(self.index, name), (affine("u"),), total)]

    def taken(self) -> list[Stmt]:
        """The statements written since."""
        found, self.emitter.body = self.emitter.body, []
        return found

    def _gathered(self) -> list[Stmt]:
        """The rows at the boundaries."""
        body: list[Stmt] = []
        last: list[Stmt] = []
        for name in self.head.carries:
            row = self.past[name]
            self._copy(body, row, Affine(row.first, (("v", self.every),)), self._edge(name), affine("v"))
            self._copy(last, row, shifted(STEPS, row.first), self._edge(name), shifted(self.count, -1))
        found: list[Stmt] = [_over(body, shifted(self.count, -1)), *last]
        item = self._condition
        if item is not None:
            found += self._conditions(item)
        return found

    def _conditions(self, item: Input) -> list[Stmt]:
        """The same for the condition, one step earlier; nothing is known before step 0, and nothing learned there."""
        type = INT if item.kind in CLASSES else item.type
        rows = {self._edge(".condition"): Row(self.inputs[item.name], 0, type)}
        if "mask" in self.inputs:
            rows[self._edge(".valid")] = Row(self.inputs["mask"], 0, BOOL)
        body: list[Stmt] = []
        found: list[Stmt] = []
        for name, row in rows.items():
            zero, vtype = f"{name}_none", VType(row.type.dtype, (), row.type.axes)
            value = {"int": 0, "bool": False, "float": 0.0}[row.type.dtype]
            found.append(Op((zero,), "constant", (), (("value", value),), (vtype,)))
            found.append(Store(name, (ZERO,), zero))
            self._copy(body, row, Affine(self.every - 1, (("v", self.every),)), name, affine("v", 1, 1))
            self._copy(found, row, shifted(STEPS, -1), name, shifted(self.count, -1))
        return [_over(body, shifted(self.count, -2)), *found]

    def _copy(self, body: list[Stmt], row: Row, at: Affine, target: str, place: Affine) -> None:
        value = f"{target}_{'row' if place.terms[0][0] == 'v' else 'last'}"
        body.append(Load(value, row.storage, (at,), VType(row.type.dtype, (BATCH,), row.type.axes)))
        body.append(Store(target, (place,), value))


def _over(body: Sequence[Stmt], count: Affine) -> For:
    return For("v", Bound("max", (ZERO,)), Bound("min", (count,)), 1, tuple(body))


def _summed(nodes: tuple[TNode, ...], k: int) -> bool:
    """Whether a node is made of sums over boundaries."""
    stack = [k] if nodes[k].op != "collect" and not nodes[k].time else []
    while stack:
        for arg in nodes[stack.pop()].args:
            if nodes[arg].op == "collect":
                return True
            if not nodes[arg].time:
                stack.append(arg)
    return False
