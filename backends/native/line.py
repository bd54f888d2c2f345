"""The values of one update in blocks of lanes: which loop makes each of them, and which of them get memory.

A stage is a loop over blocks: it ends where a sum over lanes is needed whole. Sums over samples are put off as long as
what becomes of them is linear, so that one sum is left (`nests` of `block_nests.py` keep it in a vector of lanes).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from recdsl.backends.native import entries
from recdsl.backends.native.items import LEAD, Box, Item, Reader, nothing, place
from recdsl.backends.native.kernel import STORED, Names
from recdsl.backends.native.lanes import FOLDED, Lanes
from recdsl.backends.native.ops import ELEMENTWISE, MAPS, viewed, writer
from recdsl.backends.native.values import At, NotLoweredError, Ref, Stride, Value, contiguous, flat, literal, numel
from recdsl.program.ir import Affine, Load, Op, Program, Scalar, Stmt, Storage, Store
from recdsl.program.passes.single import OWN

DEAR = 6.0  # cost from which a value that is read at several places gets memory
LONG = 120.0  # cost from which any value does
REPEATED = 1.5  # cost from which a value that is repeated along an axis is computed before
SMALL = 4096  # products of a sum without lanes at most
PIECES = 65  # parts of a value at most


class Line:
    """Holds what is shared while the function is written."""

    def __init__(self, program: Program, lanes: Lanes, batch: int, packed: Collection[str]) -> None:
        ((_, body),) = program.entries
        self.program, self.lanes, self.samples, self.packed = program, lanes, batch, packed
        self.body, self.width = body, lanes.width
        self.storages = {storage.name: storage for storage in program.storages}
        self.names = Names()
        self.types: dict[str, Any] = {}
        self.values: dict[str, Value] = {}
        self.summed: dict[str, Value] = {}
        self.items: list[Item] = []
        self.bases: dict[str, str] = {}
        self.lasting = set[str]()
        self.tables: list[str] = []
        self.made: dict[str, tuple[str, int, list[Item]]] = {}  # scratch: type, entries of a block, who fills it
        self.leads: dict[str, dict[str, Stride]] = {}  # scratch: its strides, which are 0 where its memory is shared
        self.readers: dict[str, list[Stmt]] = {}
        self.stage: dict[str, int] = {}
        self.passed: dict[str, str] = {}
        self.laned = dict(lanes.values)
        self.unread, self.local = set[str](), set[str]()
        self.ranges: dict[int, set[tuple[str, str, int, int]]] = {}
        self._marked: int | None = None
        self._survey()

    # -- where what is needed -------------------------------------------------------------------------------------
    def _survey(self) -> None:
        """Stages of values, who reads them, and in which loops."""
        rows: dict[tuple[str, tuple[Any, ...]], str] = {}
        for stmt in self.body:
            if isinstance(stmt, Store):
                self._reads(stmt.value, stmt)
                rows[stmt.storage, stmt.index] = stmt.value
            elif isinstance(stmt, Op):
                before = max((self.stage[arg] for arg in stmt.args), default=0)
                self.stage[stmt.results[0]] = before + self._whole(stmt)
                for arg in stmt.args:
                    self._reads(arg, stmt)
            elif isinstance(stmt, Load | Scalar):
                self.stage[stmt.result] = 0
                if isinstance(stmt, Load) and self._passing(stmt.storage):
                    self._passes(stmt, rows.get((stmt.storage, stmt.index)))
        self.last = max(self.stage.values(), default=0)
        self.places: dict[str, set[int]] = {name: set() for name in self.stage}
        for stmt in reversed(self.body):
            self._place(stmt)

    def _reads(self, name: str, stmt: Stmt) -> None:
        self.readers.setdefault(name, []).append(stmt)

    def _passes(self, stmt: Load, held: str | None) -> None:
        """A load of what was stored before."""
        if held is None:
            raise NotLoweredError("a line with rows of a buffer")
        self.passed[stmt.result], self.stage[stmt.result] = held, self.stage[held]
        self._reads(held, stmt)

    def _place(self, stmt: Stmt) -> None:
        """Tell the values that a statement reads in which loops it does."""
        if isinstance(stmt, Load) and stmt.result in self.passed:
            self.places[self.passed[stmt.result]] |= self.places[stmt.result]
        elif isinstance(stmt, Store) and not self._passing(stmt.storage):
            laned = stmt.value in self.laned and stmt.storage in self.packed
            self.places[stmt.value].add(self.last if laned else self.stage[stmt.value])
        elif isinstance(stmt, Op):
            found = self._needed(stmt)
            for arg in stmt.args:
                self.places[arg] |= found

    def _passing(self, name: str) -> bool:
        """Whether a storage is nobody else's: what it holds is read as the value that it is."""
        storage = self.storages[name]
        return storage.kind in OWN and storage.lifetime != "stream"

    def _needed(self, op: Op) -> set[int]:
        """The loops that read an op's arguments."""
        (name,) = op.results
        found = self.places[name]
        if not found:
            return found
        if self._whole(op):
            return {self.stage[name] - 1}
        dear = ELEMENTWISE.get(op.op, ("", 0.0))[1] >= DEAR
        return {min(found)} if dear or op.op in ("sum", "contract", "collect", *FOLDED) else found

    def _whole(self, op: Op) -> bool:
        """Whether an op sums over lanes."""
        attrs = dict(op.attrs)
        if op.op == "sum":
            return self.laned.get(op.args[0]) in attrs["over"]
        if op.op != "contract":
            return False
        labels = {attrs[side][k] for arg, side in zip(op.args, "xy", strict=True)
                  if (k := self.laned.get(arg)) is not None}  # fmt: skip
        return not labels <= set(attrs["out"])

    # -- memory ---------------------------------------------------------------------------------------------------
    def _batch(self, lead: Sequence[tuple[str, Affine]]) -> bool:
        """Whether a value has an entry for each sample."""
        if any(name != "B" for name, _ in lead):
            raise NotLoweredError("a line with other leading axes than the batch")
        return bool(lead) and self.samples > 1

    def _blocked(self, axes: Sequence[int], lane: int, batch: bool) -> tuple[dict[str, Stride], tuple[int, ...], int]:
        """Strides of [block][sample][rows][lane], and the entries of a block."""
        own, step = [0] * len(axes), self.width
        for k in reversed(range(len(axes))):
            own[k] = 1 if k == lane else step
            step *= 1 if k == lane else axes[k]
        samples = self.samples if batch else 1
        return {"g": Stride(step * samples), "B": Stride(step if samples > 1 else 0)}, tuple(own), step * samples

    def _storage(self, name: str, index: Sequence[Any] = ()) -> Ref:
        """Where a storage lies: in blocks of lanes if it lasts, else as the caller sees it."""
        storage, base = self.storages[name], self.bases.setdefault(name, f"a{len(self.bases)}")
        axes, lane = tuple(axis.size for axis in storage.type.axes), self.lanes.storages.get(name)
        batch = self._varies(storage)
        if storage.type.dtype not in STORED or any(not isinstance(part, Affine) or part != Affine(0) for part in index):
            raise NotLoweredError(f"a line with rows of `{storage.kind}` storages")
        if name in self.packed:
            self.lasting.add(base)
        if lane is not None and name in self.packed:
            lead, own, _ = self._blocked(axes, lane, batch)
        else:
            own = contiguous(axes)
            lead = {"B": Stride(numel(axes) if batch else 0)}
            lead |= {"g": Stride(own[lane] * self.width)} if lane is not None else {}
        return Ref((base, None), base, "0", lead, own)

    def _scratch(self, value: Value, axes: tuple[int, ...], lane: int | None, batch: bool) -> Ref:
        base = self.names("m")
        if lane is not None:
            lead, own, count = self._blocked(axes, lane, batch)
        else:
            count = numel(axes) * (self.samples if batch else 1)
            lead, own = {"B": Stride(numel(axes) if batch else 0)}, contiguous(axes)
        self.made[base] = (value.dtype, count, [])
        self.leads[base] = lead
        return Ref((base, None), base, "0", lead, own)

    # -- values ---------------------------------------------------------------------------------------------------
    def _define(self, name: str, value: Value) -> None:
        self.values[name] = value

    def _value(self, name: str) -> Value:
        """The value; a sum over samples is made where it is needed first."""
        if name not in self.values:
            self._sum(name, self.summed.pop(name), (), joint=True)
        return self.values[name]

    def _sum(self, name: str, source: Value, over: tuple[int, ...], *, joint: bool, largest: bool = False) -> None:
        """A value that sums over entries of `source`, in memory. Its axes are those that are left, in their order."""
        axes = tuple(n for k, n in enumerate(source.axes) if k not in over)
        batch, lane = "B" in source.lead and not joint, self.laned.get(name)
        value = Value(source.dtype, {"B": "b"} if batch else {}, axes, source.at, source.reads)
        self._put(name, Value(source.dtype, source.lead, source.axes, source.at), value, lane, over, joint=joint,
                  largest=largest)  # fmt: skip
        self._define(name, value)

    def _put(
        self,
        name: str,
        source: Value,
        value: Value,
        lane: int | None,
        over: tuple[int, ...] = (),
        *,
        joint: bool = False,
        largest: bool = False,
    ) -> None:
        """Compute a value into memory of its own, and read it from there."""
        batch = "B" in value.lead
        dest = self._scratch(value, value.axes, lane, batch)
        inner = self._source_lane(source, value, lane, over)
        self._add(Item(source, inner, dest, (), self._at(name, lane, over, inner), over, joint, batch, value,
                       largest=largest))  # fmt: skip
        place(value, dest)

    def _at(self, name: str, lane: int | None, over: tuple[int, ...], inner: int | None) -> int:
        """The loop that makes a value."""
        if inner is not None and inner in over:
            return self.stage[name] - 1
        return self.stage[name] if lane is None else min(self.places[name], default=self.stage[name])

    def _source_lane(self, source: Value, value: Value, lane: int | None, over: tuple[int, ...]) -> int | None:
        """The lane axis of what is summed."""
        if lane is None:
            found = [k for k in over if source.axes[k] == self.lanes.size and self._marked == k]
            return found[0] if found else None
        kept = [k for k in range(len(source.axes)) if k not in over]
        return kept[lane]

    def _add(self, item: Item) -> None:
        """Take up an item, in as many boxes as its value has parts. Large products without lanes are better left to
        the functions for products."""
        if item.lane is None and item.over and numel(item.value.axes) * self.samples > SMALL:
            raise NotLoweredError("a large product without lanes")
        whole = tuple((0, n) for n in item.value.axes)
        for box in self._boxes(item, whole):
            part = replace(item, box=box)
            self.items.append(part)
            if item.dest is not None and item.dest.base in self.made:
                self.made[item.dest.base][2].append(part)

    def _boxes(self, item: Item, box: Box) -> list[Box]:
        kernel, part = Reader(Names()), replace(item, box=box)
        own = part.own(self.width)
        part.value.entry(kernel, LEAD, own)
        found = {k: p for k, ix in enumerate(own) if (p := kernel.breaks.get(ix.variable)) and k not in item.over}
        if not found:
            return [box]
        axis, points = min(found.items())
        ends = sorted({0, box[axis][1], *points})
        if len(ends) > PIECES:
            raise NotLoweredError("a value of very many parts")
        out: list[Box] = []
        for lo, hi in itertools.pairwise(ends):
            out += self._boxes(item, (*box[:axis], (box[axis][0] + lo, hi - lo), *box[axis + 1 :]))
        return out

    def _settle(self, name: str) -> None:
        """Put a value into memory, unless it is a number or lies there already."""
        value = self._value(name)
        if value.ref is None and value.number is None:
            self._apart(name)

    def _apart(self, name: str) -> None:
        """Put a value into memory of its own."""
        value = self._value(name)
        source = Value(value.dtype, value.lead, value.axes, value.at)
        self._marked = None
        self._put(name, source, value, self.laned.get(name))

    def _early(self, name: str) -> Value:
        """A value without lanes, computed before anything that lasts is written."""
        value = self._value(name)
        if value.number is None and (value.ref is None or value.ref.base not in self.made):
            self._apart(name)
        return self._value(name)

    # -- statements -----------------------------------------------------------------------------------------------
    def _read(self) -> None:
        for stmt in self.body:
            match stmt:
                case Load():
                    self._load(stmt)
                case Scalar():
                    self._number(stmt.result, stmt.type, stmt.value.const)
                case Op():
                    if self.places[stmt.results[0]]:
                        self._op(stmt)
                case Store():
                    self._store(stmt)
                case _:
                    raise NotLoweredError("a line with loops")

    def _number(self, name: str, kind: Any, number: float | int | bool) -> None:
        axes = tuple(axis.size for axis in kind.axes)
        self._define(name, Value(kind.dtype, {}, axes, nothing, number=number))

    def _load(self, stmt: Load) -> None:
        kind = stmt.type
        if stmt.result in self.passed:
            if self.places[stmt.result]:
                held = self._value(self.passed[stmt.result])
                lead = {"B": "b"} if self._batch(kind.lead) else {}
                text = partial(entries.same, held)
                value = Value(held.dtype, lead, held.axes, text, cost=held.cost, number=held.number)
                self._define(stmt.result, value)
            return
        ref = self._storage(stmt.storage, stmt.index)
        axes = tuple(axis.size for axis in kind.axes)
        value = Value(kind.dtype, {"B": "b"} if self._batch(kind.lead) else {}, axes, nothing)
        place(value, ref)
        self._define(stmt.result, value)

    def _store(self, stmt: Store) -> None:
        if self._passing(stmt.storage):
            return
        value, lane, lasts = self._value(stmt.value), self.laned.get(stmt.value), stmt.storage in self.packed
        ref = self._storage(stmt.storage, stmt.index)
        if lasts and lane is None:
            value = self._early(stmt.value)
        at = self.last + (lane is None) if lasts else self.stage[stmt.value]
        self._add(Item(value, lane, ref, (), at, batch=self._varies(self.storages[stmt.storage]), lasts=lasts))

    def _varies(self, storage: Storage) -> bool:
        return self.samples > 1 and any(label == "B" for label, _ in storage.type.lead)

    def _op(self, op: Op) -> None:
        (name,) = op.results
        if op.op == "constant":
            self._constant(op)
            return
        joint = "B" in op.joint or (op.op == "collect" and not op.joint)
        if self._lazy(op, joint):
            return
        args = [self._value(arg) for arg in op.args]
        joint = joint and any("B" in arg.lead for arg in args)
        lead = {"B": "b"} if any("B" in arg.lead for arg in args) else {}
        if op.op in ("sum", "contract"):
            self._contract(op, args, lead, joint=joint)
        elif op.op in FOLDED:
            self._fold(op, args[0], joint=joint)
        elif op.op == "collect":
            self._later(name, args[0]) if joint else self._define(name, args[0])
        else:
            self._spread(op)
            self._elementwise(op, lead, joint=joint)

    def _elementwise(self, op: Op, lead: dict[str, str], *, joint: bool) -> None:
        (name,), kind = op.results, op.types[0]
        args = [self._value(arg) for arg in op.args]
        at, cost = writer(op, args)
        value = Value(kind.dtype, lead, tuple(axis.size for axis in kind.axes), at)
        value.cost = cost + sum(arg.cost for arg in args)
        if joint:
            self._later(name, value)
            return
        if args and op.op in MAPS and (ref := viewed(op, args[0])) is not None:
            place(value, ref)
        elif op.op in MAPS:
            value.number = args[0].number
        self._define(name, value)
        dear = ELEMENTWISE.get(op.op, ("", 0.0))[1] >= DEAR and len(self.readers.get(name, ())) > 1
        if dear or (value.cost >= DEAR and len(self.places[name]) > 1) or value.cost >= LONG:
            self._settle(name)

    def _spread(self, op: Op) -> None:
        """What is repeated along an axis is computed before."""
        count = numel(tuple(axis.size for axis in op.types[0].axes))
        for arg in op.args if op.op in ("broadcast", "contract") else ():
            value = self._value(arg)
            if numel(value.axes) < count and value.cost > REPEATED:
                self._settle(arg)

    def _lazy(self, op: Op, joint: bool) -> bool:
        """Sums over samples are put off as long as what becomes of them is linear: then one sum is left."""
        (name,) = op.results
        if joint or not op.args or any(arg not in self.summed for arg in op.args):
            return False
        if op.op not in (*MAPS, "add", "sub"):
            return False
        inner = [self.summed[arg] for arg in op.args]
        at, cost = writer(op, inner)
        kind = op.types[0]
        value = Value(kind.dtype, {"B": "b"}, tuple(axis.size for axis in kind.axes), at)
        value.cost = cost + sum(arg.cost for arg in inner)
        self._later(name, value)
        return True

    def _later(self, name: str, inner: Value) -> None:
        self.summed[name] = inner
        readers = self.readers.get(name, ())
        if len(readers) > 1 and not all(isinstance(stmt, Op) and stmt.op == "slice" for stmt in readers):
            self._value(name)

    def _contract(self, op: Op, args: Sequence[Value], lead: dict[str, str], *, joint: bool) -> None:
        """Products of entries, summed over some axes."""
        (name,), attrs, kind = op.results, dict(op.attrs), op.types[0]
        if op.op == "sum":
            over, source = tuple(attrs["over"]), args[0]
            self._marked = self.laned.get(op.args[0])
        else:
            out = tuple(attrs["out"])
            lost = tuple(dict.fromkeys(k for k in (*attrs["x"], *attrs["y"]) if k not in out))
            sizes = {
                k: n for arg, side in zip(args, "xy", strict=True) for k, n in zip(attrs[side], arg.axes, strict=True)
            }
            if any(k not in sizes for k in out):
                raise NotLoweredError("a product that repeats")
            for arg, value in zip(op.args, args, strict=True):
                if lost and value.cost > REPEATED:
                    self._settle(arg)
            self._spread(op)
            args = [self._value(arg) for arg in op.args]
            labels = (*out, *lost)
            over = tuple(range(len(out), len(labels)))
            at: At = partial(entries.product, args, (tuple(attrs["x"]), tuple(attrs["y"])), labels)
            source = Value(kind.dtype, lead, tuple(sizes[k] for k in labels), at)
            source.cost = 1 + sum(arg.cost for arg in args)
            found = [labels.index(attrs[side][k]) for arg, side in zip(op.args, "xy", strict=True)
                     if (k := self.laned.get(arg)) is not None]  # fmt: skip
            self._marked = found[0] if found else None
        if not over and joint:
            self._later(name, source)
        elif not over:
            self._define(name, source)
            if source.cost >= DEAR and len(self.places[name]) > 1:
                self._settle(name)
        else:
            self._sum(name, source, over, joint=joint)

    def _fold(self, op: Op, arg: Value, *, joint: bool) -> None:
        """The largest entry along an axis, and sums of exponentials of what is below it."""
        (name,), at, kind = op.results, dict(op.attrs)["at"], op.types[0].dtype
        if joint:
            raise NotLoweredError(f"`{op.op}` over samples")
        self._settle(op.args[0])
        arg = self._value(op.args[0])
        lane = self.laned.get(op.args[0])
        self._marked = None
        for part in ("top", "total"):
            self.stage[f"{name}.{part}"], self.places[f"{name}.{part}"] = self.stage[name], self.places[name]
            if lane is not None:
                self.laned[f"{name}.{part}"] = lane - (lane > at)
        source = Value(arg.dtype, arg.lead, arg.axes, partial(entries.same, arg))
        self._sum(f"{name}.top", source, (at,), joint=False, largest=True)
        top = self.values[f"{name}.top"]
        axes = arg.axes if op.op == "softmax" else top.axes
        if op.op == "reduce_max":
            self._define(name, top)
            return
        raised = Value(kind, arg.lead, arg.axes, partial(entries.raised, arg, top, at), cost=14)
        self._sum(f"{name}.total", raised, (at,), joint=False)
        total = self.values[f"{name}.total"]
        text = partial(entries.shares, raised, total, at) if op.op == "softmax" else partial(entries.logged, total, top)
        self._define(name, Value(kind, arg.lead, axes, text, cost=20))
        self._settle(name)

    def _constant(self, op: Op) -> None:
        number, kind = dict(op.attrs)["value"], op.types[0]
        if isinstance(number, bool | int | float):
            self._number(op.results[0], kind, number)
            return
        axes, base = tuple(axis.size for axis in kind.axes), self.names("c")
        listed = ", ".join(literal(x, kind.dtype) for x in flat(number))
        self.tables.append(f"static const {STORED[kind.dtype]} {base}[] = {{{listed}}};")
        value = Value(kind.dtype, {}, axes, nothing)
        place(value, Ref((base, None), base, "0", {}, contiguous(axes)))
        self._define(op.results[0], value)
