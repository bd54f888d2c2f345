"""Runs a program statement by statement: plain, slow and obvious.

It is the third execution beside the oracle and the backends, and passes are checked by it. Arrays come from a
namespace that is passed in (torch or numpy). Storage that was never written holds NaN, so reading it shows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recdsl.ops import primitive
from recdsl.program import noise, stores
from recdsl.program.affine import evaluate, evaluate_bound
from recdsl.program.arrays import Cell, collapse, copy, dtype, extents, rows, scattered, spread, union, view
from recdsl.program.derive import DERIVED, own
from recdsl.program.ir import (
    Add,
    Affine,
    At,
    Call,
    Effect,
    For,
    Function,
    If,
    Index,
    Load,
    Op,
    Program,
    Range,
    Scalar,
    Stmt,
    Storage,
    Store,
    VType,
)
from recdsl.program.stores import Slots
from recdsl.program.text import affine as affine_text


class _Left(Exception):
    """A guard left the entry."""


@dataclass(frozen=True)
class Stopped:
    """Where a guard left the entry: what was not finite, and the loop variables."""

    resource: str
    at: dict[str, int]


def holds(predicate: tuple[str, Affine, Affine], symbols: Mapping[str, int]) -> bool:
    """Whether a uniform condition holds."""
    kind, left, right = predicate[0], evaluate(predicate[1], symbols), evaluate(predicate[2], symbols)
    match kind:
        case "lt":
            return left < right
        case "le":
            return left <= right
        case "eq":
            return left == right
        case "ge":
            return left >= right
        case "ne":
            return left != right
        case "divides":
            return right % left == 0
        case "indivisible":
            return right % left != 0
        case _:
            raise ValueError(f"condition `{kind}`")


class Machine:
    """The storages of one call, and the entries run on them.

    `symbols` gives `B`, `T` and the program's scalars. What a test supplies for a noise storage replaces the draws.
    """

    def __init__(self, program: Program, xp: Any, symbols: Mapping[str, int], seed: int = 0) -> None:
        self.program, self.xp, self.symbols, self.seed = program, xp, dict(symbols), seed
        for fact in program.facts:
            if evaluate(fact, self.symbols) < 0:
                raise ValueError(f"the program's `fact {affine_text(fact)}` does not hold")
        self.declared = {storage.name: storage for storage in program.storages}
        self.functions: dict[tuple[str, str], Function] = {}
        self.emitted: list[tuple[str, Any]] = []
        self.stopped: Stopped | None = None
        self.slots = {s.name: self._slots(s) for s in program.storages if s.kind == "store"}
        self.cells = {s.name: self._fresh(s) for s in program.storages if s.kind != "store"}

    # storage from outside
    def put(self, name: str, array: Any) -> None:
        """Gives a storage its value; a lone number fills it."""
        cell = self.cells[name]
        value = self.xp.asarray(array, dtype=cell.array.dtype)
        if len(value.shape) and tuple(value.shape) != tuple(cell.array.shape):
            raise ValueError(f"`{name}` has shape {tuple(cell.array.shape)}, not {tuple(value.shape)}")
        self.cells[name] = Cell(copy(self.xp.broadcast_to(value, cell.array.shape)), cell.lead, cell.type)

    def get(self, name: str) -> Any:
        return copy(self.cells[name].array)

    def run(self, entry: str) -> bool:
        """Runs an entry; False if a guard left it early (`stopped` says where)."""
        try:
            self._body(dict(self.program.entries)[entry], {}, dict(self.symbols))
        except _Left:
            return False
        return True

    # allocation
    def _shape(self, kind: VType) -> tuple[int, ...]:
        lead = tuple(evaluate(size, self.symbols) for _, size in kind.lead)
        return lead + tuple(axis.size for axis in kind.axes)

    def _cell(self, kind: VType, fill: float, lead: tuple[tuple[str, Affine], ...] = ()) -> Cell:
        whole = VType(kind.dtype, (*lead, *kind.lead), kind.axes)
        array = self.xp.full(self._shape(whole), fill, dtype=dtype(self.xp, kind.dtype))
        return Cell(array, tuple(label for label, _ in whole.lead), own(kind))

    def _fresh(self, storage: Storage) -> Cell:
        attrs = dict(storage.attrs)
        if storage.kind == "noise":
            return self._noise(storage)
        if "value" in attrs:
            return self._constant(attrs["value"], storage.type)
        empty = float("nan") if storage.type.dtype in ("float", "complex") else 0
        return self._cell(storage.type, 0 if storage.kind == "accumulate" else attrs.get("init", empty))

    def _constant(self, value: Any, kind: VType) -> Cell:
        array = self.xp.asarray(value, dtype=dtype(self.xp, kind.dtype))
        full = self.xp.broadcast_to(array, self._shape(kind))
        return Cell(copy(full), tuple(label for label, _ in kind.lead), own(kind))

    def _slots(self, storage: Storage) -> Slots:
        lead, integer = storage.type.lead, VType("int", (), ())
        fields = tuple(self._cell(kind, 0, lead) for _, kind in storage.fields)
        valid, age, used = (self._cell(kind, 0, lead) for kind in (VType("bool", (), ()), integer, integer))
        return Slots(valid, age, used, fields, dict(storage.attrs).get("evict", "oldest"))

    def _noise(self, storage: Storage) -> Cell:
        """All draws of a noise storage, whose leading axes are steps and samples (either may be missing)."""
        attrs, cell = dict(storage.attrs), self._cell(storage.type, 0.0)
        first = self.symbols[attrs["step"]] if "step" in attrs else 0
        steps, samples = (cell.extents.get(label, 1) for label in (attrs.get("steps", "T"), "B"))
        drawn = [
            noise.draw(attrs["draw"], self.seed, storage.name, first + t, b, cell.type.numel, attrs.get("p", 0.5))
            for t in range(steps)
            for b in range(samples)
        ]
        array = self.xp.asarray(drawn, dtype=cell.array.dtype).reshape(cell.array.shape)
        return Cell(array, cell.lead, cell.type)

    # statements
    def _body(self, body: Sequence[Stmt], env: dict[str, Cell], symbols: dict[str, int]) -> None:
        for stmt in body:
            match stmt:
                case For():
                    self._loop(stmt, env, symbols)
                case If():
                    if holds(stmt.predicate, symbols):
                        self._body(stmt.body, dict(env), symbols)
                case Op():
                    args = [env[arg] for arg in stmt.args]
                    env[stmt.results[0]] = self._declared(self._op(stmt, args, stmt.types[0]), stmt.types[0], symbols)
                case Scalar():
                    kind = dtype(self.xp, stmt.type.dtype)
                    value = self.xp.asarray(evaluate(stmt.value, symbols), dtype=kind)
                    env[stmt.result] = Cell(value, (), own(stmt.type))
                case Load():
                    env[stmt.result] = self._declared(self._load(stmt, env, symbols), stmt.type, symbols)
                case Store():
                    self._store(stmt, env, symbols)
                case Add():
                    self._add(stmt, env, symbols)
                case Call():
                    self._call(stmt, env)
                case Effect():
                    self._effect(stmt, env, symbols)

    def _loop(self, stmt: For, env: dict[str, Cell], symbols: dict[str, int]) -> None:
        points = range(evaluate_bound(stmt.lo, symbols), evaluate_bound(stmt.hi, symbols), abs(stmt.step))
        for point in points if stmt.step > 0 else reversed(points):
            self._body(stmt.body, dict(env), {**symbols, stmt.var: point})

    def _declared(self, cell: Cell, kind: VType, symbols: Mapping[str, int]) -> Cell:
        """The value with the leading axes of its declared type."""
        sizes = cell.extents
        for label, size in kind.lead:
            # What a range kept has the extent it has: its symbol (`t=W`) is nobody's.
            if label not in sizes or all(name in symbols for name, _ in size.terms):
                sizes[label] = evaluate(size, symbols)
        lead = tuple(label for label, _ in kind.lead)
        return Cell(spread(self.xp, cell, lead, sizes), lead, own(kind))

    # values
    def _op(self, stmt: Op, args: Sequence[Cell], kind: VType) -> Cell:
        """The result, its leading axes as they come; `stmt.joint` are summed."""
        wanted = tuple(label for label, _ in kind.lead)
        if stmt.op == "view":
            kept = [label for label in args[0].lead if label not in stmt.joint]
            return view(self.xp, collapse(self.xp, args[0], kept), wanted, own(kind))
        if stmt.op == "collect" and stmt.joint:
            return collapse(self.xp, args[0], [label for label in args[0].lead if label not in stmt.joint])
        if stmt.op == "constant":
            return self._constant(dict(stmt.attrs)["value"], VType(kind.dtype, (), kind.axes))
        first = stmt.joint if stmt.op == "search" else wanted
        lead, sizes = union([arg.lead for arg in args], first), extents(args)
        arrays = [spread(self.xp, arg, lead, sizes) for arg in args]
        array = primitive(stmt.op).value(self.xp, arrays, stmt.attrs, [arg.type for arg in args])
        if stmt.op == "search":
            return Cell(array, tuple(label for label in lead if label not in stmt.joint), own(kind))
        mapped = len(array.shape) == len(lead) + len(kind.axes)
        cell = Cell(array, lead if mapped else (), own(kind))
        return collapse(self.xp, cell, [label for label in lead if label not in stmt.joint])

    def _call(self, stmt: Call, env: dict[str, Cell]) -> None:
        function = self._function(stmt.function, stmt.mode)
        args = [
            self._zero(kind) if label == "_" else env[label]
            for label, (_, kind) in zip(stmt.args, function.args, strict=True)
        ]
        sizes = extents(args)
        local = {name: arg for (name, _), arg in zip(function.args, args, strict=True)}
        for op in function.body:
            local[op.results[0]] = self._op(op, [local[arg] for arg in op.args], op.types[0])
        for result, inner in zip(stmt.results, function.results, strict=True):
            if result != "_":
                cell = local[inner]
                env[result] = Cell(spread(self.xp, cell, stmt.over, sizes), stmt.over, cell.type)

    def _function(self, label: str, mode: str) -> Function:
        if (label, mode) not in self.functions:
            base = next(f for f in self.program.functions if f.name == label)
            self.functions[label, mode] = DERIVED[mode](base)
        return self.functions[label, mode]

    def _zero(self, kind: VType) -> Cell:
        return self._constant(0.0, VType("float", (), kind.axes))

    # storage
    def _region(self, cell: Cell, places: Sequence[Index], ring: bool, symbols: Mapping[str, int]) -> Cell:
        """A view of the indexed part; an `At` in front is left in place."""
        index: list[Any] = []
        lead: list[str] = []
        for k, (label, place) in enumerate(zip(cell.lead, places, strict=False)):
            extent = int(cell.array.shape[k])
            if isinstance(place, Affine):
                at = evaluate(place, symbols)
                at = at % extent if ring and k == 0 else at
                if not 0 <= at < extent:
                    raise IndexError(f"index {at} of an axis `{label}` of extent {extent}")
                index.append(at)
                continue
            lead.append(label)
            index.append(slice(None) if isinstance(place, At) else self._slice(place, extent, symbols))
        lead.extend(cell.lead[len(places) :])
        return Cell(cell.array[(*index, ...)], tuple(lead), cell.type)

    def _slice(self, place: Range, extent: int, symbols: Mapping[str, int]) -> slice:
        low, high = evaluate_bound(place.lo, symbols), evaluate_bound(place.hi, symbols)
        if not 0 <= low <= high <= extent:
            raise IndexError(f"range {low}..{high} of an axis of extent {extent}")
        return slice(low, high)

    def _load(self, stmt: Load, env: Mapping[str, Cell], symbols: Mapping[str, int]) -> Cell:
        ring = self.declared[stmt.storage].kind == "ring"
        region = self._region(self.cells[stmt.storage], stmt.index, ring, symbols)
        if stmt.index and isinstance(stmt.index[0], At):
            return rows(self.xp, region, env[stmt.index[0].value])
        return Cell(copy(region.array), region.lead, region.type)

    def _store(self, stmt: Store, env: Mapping[str, Cell], symbols: Mapping[str, int]) -> None:
        ring = self.declared[stmt.storage].kind == "ring"
        region = self._region(self.cells[stmt.storage], stmt.index, ring, symbols)
        # An ellipsis, because a region without dimensions is a view too.
        region.array[...] = spread(self.xp, env[stmt.value], region.lead, region.extents)

    def _add(self, stmt: Add, env: Mapping[str, Cell], symbols: Mapping[str, int]) -> None:
        cell = self.cells[stmt.storage]
        region, value = self._region(cell, stmt.index, False, symbols), env[stmt.value]
        if stmt.index and isinstance(stmt.index[0], At):
            region.array[...] += scattered(self.xp, region, env[stmt.index[0].value], value)
        else:
            summed = collapse(self.xp, value, region.lead)
            region.array[...] += spread(self.xp, summed, region.lead, region.extents)

    # effects
    def _effect(self, stmt: Effect, env: dict[str, Cell], symbols: Mapping[str, int]) -> None:
        args = [env[arg] for arg in stmt.args]
        found = _EFFECTS[stmt.kind](self, stmt, args, symbols)
        for label, cell, kind in zip(stmt.results, found, stmt.types, strict=True):
            if label != "_":
                env[label] = self._viewed(cell, kind, symbols)

    def _viewed(self, cell: Cell, kind: VType, symbols: Mapping[str, int]) -> Cell:
        """A result of an effect as its declared type, which may make a leading axis (rank) an own one."""
        names = {axis.name for axis in kind.axes}
        turned = tuple(label for label in cell.lead if label not in names)
        copied = Cell(copy(cell.array), cell.lead, cell.type)
        return self._declared(view(self.xp, copied, turned, own(kind)), kind, symbols)

    def _rank(self, stmt: Effect, scores: Cell) -> tuple[str, int]:
        """The name and extent of the axis that a search adds."""
        kind = stmt.types[0]
        for axis in kind.axes:
            return axis.name, axis.size
        label, size = next(item for item in kind.lead if item[0] not in scores.lead)
        return label, evaluate(size, self.symbols)

    def update(self, stmt: Effect, args: Sequence[Cell]) -> list[Cell]:
        target = self.cells[stmt.resource]
        target.array[...] = spread(self.xp, args[0], target.lead, target.extents)
        return []

    def guard(self, stmt: Effect, args: Sequence[Cell], symbols: Mapping[str, int]) -> list[Cell]:
        if not bool(self.xp.isfinite(args[0].array).all()):
            at = {label: value for label, value in symbols.items() if label not in self.symbols}
            self.stopped = Stopped(stmt.resource, at)
            raise _Left
        return []

    def emit(self, stmt: Effect, args: Sequence[Cell]) -> list[Cell]:
        self.emitted.append((stmt.resource, copy(args[0].array)))
        return []

    def search(self, stmt: Effect, args: Sequence[Cell]) -> list[Cell]:
        return [stores.search(self.xp, self.slots[stmt.resource], args[0], self._rank(stmt, args[0]))]


def _append(m: Machine, stmt: Effect, args: Sequence[Cell]) -> list[Cell]:
    found = stores.append(m.xp, m.slots[stmt.resource], args)
    return [found] if stmt.results else []


def _changed(change: Callable[..., None]) -> Callable[..., list[Cell]]:
    def run(m: Machine, stmt: Effect, args: Sequence[Cell], symbols: Mapping[str, int]) -> list[Cell]:
        change(m.xp, m.slots[stmt.resource], args)
        return []

    return run


_EFFECTS: dict[str, Callable[[Machine, Effect, Sequence[Cell], Mapping[str, int]], list[Cell]]] = {
    "read": lambda m, s, args, _: stores.read(m.xp, m.slots[s.resource], args[0] if args else None),
    "append": lambda m, s, args, _: _append(m, s, args),
    "overwrite": _changed(stores.overwrite),
    "evict": _changed(stores.evict),
    "touch": _changed(stores.touch),
    "search": lambda m, s, args, _: m.search(s, args),
    "update": lambda m, s, args, _: m.update(s, args),
    "guard": lambda m, s, args, symbols: m.guard(s, args, symbols),
    "emit": lambda m, s, args, _: m.emit(s, args),
}
