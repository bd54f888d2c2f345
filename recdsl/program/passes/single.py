"""Entries of a call whose sizes are known, as one straight line: what online learning runs, a step at a time.

Loops are written out, axes of one entry are taken out of values (storages stay as they are), what was stored is read as
the value that it is, and what is read no longer is not computed. Sums over an axis of one entry are that entry.
Products with a zero are 0, as in timelines: it is where a carry begins or ends, so nothing leads through it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from recdsl.program.affine import evaluate, evaluate_bound, exactly, symbols_of
from recdsl.program.interpreter import holds
from recdsl.program.ir import (
    Add,
    Affine,
    Bound,
    For,
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

MOST = 4  # runs of a loop that are written out
PRODUCTS = ("mul", "contract")
LINEAR = ("add", "sub", "neg", "rename", "reshape", "broadcast", "slice", "transpose", "collect", "sum", "concat")
OWN = ("buffer", "carry", "accumulate", "ring")
Place = tuple[Index, ...]


class _NotSingleError(Exception):
    """The entries are no straight line."""


def single(program: Program, entries: Sequence[str], sizes: Mapping[str, int], unread: Collection[str]) -> Program:
    """A program whose one entry, `forward`, does what `entries` do one after the other. It holds for these `sizes` only
    and leaves the storages `unread`, and buffers, as they are. Without such a line, the program itself."""
    made = _Line({storage.name: storage for storage in program.storages}, dict(sizes))
    bodies = dict(program.entries)
    try:
        for name in entries:
            made.run(bodies[name], {})
    except _NotSingleError:
        return program
    return replace(program, entries=(("forward", _needed(made, unread)),), follows=(), edges=())


@dataclass
class _Line:
    """The statements so far. types, numbers: of values; numbers where all entries are one. held: what a part of a
    storage holds. names: of results, as in the entry that is being read."""

    storages: Mapping[str, Storage]
    sizes: dict[str, int]
    body: list[Stmt] = field(default_factory=list[Stmt])
    types: dict[str, VType] = field(default_factory=dict[str, VType])
    numbers: dict[str, float] = field(default_factory=dict[str, float])
    held: dict[tuple[str, Place], str] = field(default_factory=dict[tuple[str, Place], str])
    touched: set[str] = field(default_factory=set[str])

    def run(self, body: Sequence[Stmt], names: dict[str, str]) -> None:
        for stmt in body:
            match stmt:
                case For():
                    self._loop(stmt, names)
                case If():
                    self._known(stmt.predicate[1], stmt.predicate[2])
                    if holds(stmt.predicate, self.sizes):
                        self.run(stmt.body, dict(names))
                case Scalar():
                    value = Affine(self._number(stmt.value))
                    self._emit(replace(stmt, value=value, result=self._new(stmt.result, stmt.type, names)))
                case Op():
                    self._op(stmt, names)
                case Load():
                    self._load(stmt, names)
                case Store():
                    self._store(stmt, names)
                case Add():
                    self._add(stmt, names)
                case _:
                    raise _NotSingleError

    def _loop(self, stmt: For, names: dict[str, str]) -> None:
        self._known(*stmt.lo.parts, *stmt.hi.parts)
        points = range(evaluate_bound(stmt.lo, self.sizes), evaluate_bound(stmt.hi, self.sizes), abs(stmt.step))
        if len(points) > MOST:
            raise _NotSingleError
        outer = dict(self.sizes)
        for point in points if stmt.step > 0 else reversed(points):
            self.sizes[stmt.var] = point
            self.run(stmt.body, dict(names))
        self.sizes = outer

    # -- sizes and names ------------------------------------------------------------------------------------------
    def _known(self, *values: Affine) -> None:
        if any(symbols_of(value) - self.sizes.keys() for value in values):
            raise _NotSingleError

    def _number(self, value: Affine) -> int:
        self._known(value)
        return evaluate(value, self.sizes)

    def _end(self, bound: Bound) -> int:
        self._known(*bound.parts)
        return evaluate_bound(bound, self.sizes)

    def _type(self, kind: VType) -> VType:
        """Without axes of one entry. The batch keeps its name."""
        lead = [(name, size, self._number(size)) for name, size in kind.lead]
        kept = tuple((name, size if symbols_of(size) == {"B"} else Affine(n)) for name, size, n in lead if n != 1)
        return replace(kind, lead=kept)

    def _new(self, name: str, kind: VType, names: dict[str, str]) -> str:
        """A name that no value of the line has."""
        found, count = name, 0
        while found in self.types:
            found, count = f"{name}_{count}", count + 1
        names[name], self.types[found] = found, self._type(kind)
        return found

    def _emit(self, stmt: Stmt) -> None:
        self.body.append(stmt)

    # -- storages -------------------------------------------------------------------------------------------------
    def _place(self, name: str, index: Sequence[Index]) -> tuple[Place, tuple[str, ...]]:
        """The index with a number in each axis of one entry, and the axes that stay."""
        storage = self.storages[name]
        found: list[Index] = []
        kept: list[str] = []
        for k, (label, size) in enumerate(storage.type.lead):
            part = index[k] if k < len(index) else Range(exactly(Affine(0)), exactly(size))
            if isinstance(part, Affine):
                at = self._number(part)
                found.append(Affine(at % self._number(size) if storage.kind == "ring" and k == 0 else at))
                continue
            if not isinstance(part, Range):
                raise _NotSingleError
            lo, hi = self._end(part.lo), self._end(part.hi)
            if hi <= lo:
                raise _NotSingleError
            if hi - lo > 1:
                kept.append(label)
                whole = k >= len(index)
                found.append(part if whole else Range(exactly(Affine(lo)), exactly(Affine(hi))))
            else:
                found.append(Affine(lo))
        while len(found) > len(index) and isinstance(found[-1], Range):
            found.pop()
        return tuple(found), tuple(kept)

    def _load(self, stmt: Load, names: dict[str, str]) -> None:
        self._bind(stmt)
        place, kept = self._place(stmt.storage, stmt.index)
        kind = self._type(stmt.type)
        if tuple(name for name, _ in kind.lead) != kept:
            raise _NotSingleError
        there = self.held.get((stmt.storage, place))
        self.touched.add(stmt.storage)
        if there is not None and self.types[there] == kind:
            names[stmt.result] = there
            return
        result = self._new(stmt.result, stmt.type, names)
        if there is not None and there in self.numbers:
            self.numbers[result] = self.numbers[there]
        self.held[stmt.storage, place] = result
        self._emit(replace(stmt, result=result, index=place, type=kind))

    def _bind(self, stmt: Load) -> None:
        """An extent that a load gives a name of its own."""
        lead = self.storages[stmt.storage].type.lead
        for (label, _), part in zip(lead, stmt.index, strict=False):
            extent = dict(stmt.type.lead).get(label)
            if isinstance(part, Range) and extent is not None and len(extent.terms) == 1:
                ((name, factor),) = extent.terms
                if name not in ("T", "B") and factor == 1:
                    self.sizes[name] = self._end(part.hi) - self._end(part.lo) - extent.const

    def _store(self, stmt: Store, names: dict[str, str]) -> None:
        place, _ = self._place(stmt.storage, stmt.index)
        value = names[stmt.value]
        self._write(stmt.storage, place)
        self.held[stmt.storage, place] = value
        self._emit(replace(stmt, index=place, value=value))

    def _add(self, stmt: Add, names: dict[str, str]) -> None:
        """The first value that is added to a sum is what it holds."""
        storage, value = self.storages[stmt.storage], names[stmt.value]
        place, kept = self._place(stmt.storage, stmt.index)
        whole = all(self._number(size) == 1 or name in kept for name, size in storage.type.lead)
        fresh = storage.kind == "accumulate" and storage.lifetime != "stream" and stmt.storage not in self.touched
        fills = whole and tuple(name for name, _ in self.types[value].lead) == kept
        self._write(stmt.storage, place)
        if fresh and fills:
            self.held[stmt.storage, place] = value
            self._emit(Store(stmt.storage, place, value, stmt.span, stmt.reason))
        else:
            self._emit(replace(stmt, index=place, value=value, at=()))

    def _write(self, name: str, place: Place) -> None:
        """Forget what may be overwritten."""
        self.touched.add(name)
        for key in [key for key in self.held if key[0] == name and not _apart(key[1], place)]:
            del self.held[key]

    # -- ops ------------------------------------------------------------------------------------------------------
    def _op(self, op: Op, names: dict[str, str]) -> None:
        if op.op == "view" or len(op.results) != 1:
            raise _NotSingleError
        args = tuple(names[arg] for arg in op.args)
        lead = {name for arg in args for name, _ in self.types[arg].lead}
        joint = tuple(name for name in op.joint if name in lead)
        kind = self._type(op.types[0])
        same = self._same(op, args, kind, summed=bool(joint) or (not op.joint and bool(lead)))
        if same is not None:
            names[op.results[0]] = same
            return
        result = self._new(op.results[0], op.types[0], names)
        number = self._constant(op, args)
        made = replace(op, results=(result,), args=args, types=(kind,), joint=joint)
        if number is not None:
            self.numbers[result] = number
            if not kind.lead:
                made = replace(made, op="constant", args=(), attrs=(("value", number),), joint=())
        for part in self._parts(made):
            self._emit(part)

    def _same(self, op: Op, args: Sequence[str], kind: VType, *, summed: bool) -> str | None:
        """The argument that the result is, if it is one."""
        if op.op == "collect":
            return None if summed or self.types[args[0]] != kind else args[0]
        if op.op not in ("mul", "add") or op.joint:
            return None
        neutral = 1.0 if op.op == "mul" else 0.0
        for one, other in (args, args[::-1]):
            if self.numbers.get(one) == neutral and self.types[other] == kind:
                return other
        return None

    def _constant(self, op: Op, args: Sequence[str]) -> float | None:
        """The number that all entries of the result are."""
        value = dict(op.attrs).get("value")
        if op.op == "constant":
            return float(value) if isinstance(value, int | float) and op.types[0].dtype == "float" else None
        zeros = [self.numbers.get(arg) == 0.0 for arg in args]
        return 0.0 if (op.op in PRODUCTS and any(zeros)) or (op.op in LINEAR and all(zeros)) else None

    def _parts(self, op: Op) -> tuple[Op, ...]:
        """A sum over samples of what one operand has an entry for each: first the products, then their sum."""
        attrs = dict(op.attrs)
        if op.op != "contract" or not op.joint:
            return (op,)
        x, y, out = (set(attrs[side]) for side in ("x", "y", "out"))
        if (x | y) != out or (x != out and y != out):
            return (op,)
        lead = {name: size for arg in op.args for name, size in self.types[arg].lead}
        names: dict[str, str] = {}
        inner = self._new(op.results[0], replace(op.types[0], lead=tuple(lead.items())), names)
        product = replace(op, results=(inner,), types=(self.types[inner],), joint=())
        return product, replace(op, op="collect", args=(inner,), attrs=())


def _apart(one: Place, other: Place) -> bool:
    """Whether two parts of a storage share no entry."""
    return any(a != b for a, b in zip(one, other, strict=False) if isinstance(a, Affine) and isinstance(b, Affine))


def _needed(line: _Line, unread: Collection[str]) -> tuple[Stmt, ...]:
    """Statements whose results last or are read."""
    kept: list[Stmt] = []
    names, loaded = set[str](), set[str]()
    for stmt in reversed(line.body):
        match stmt:
            case Store() | Add():
                storage = line.storages[stmt.storage]
                inner = storage.kind in OWN and storage.lifetime != "stream"
                if stmt.storage in unread or (inner and stmt.storage not in loaded):
                    continue
                names.add(stmt.value)
            case Load():
                if stmt.result not in names:
                    continue
                loaded.add(stmt.storage)
            case Op():
                if stmt.results[0] not in names:
                    continue
                names |= set(stmt.args)
            case Scalar():
                if stmt.result not in names:
                    continue
            case _:
                raise AssertionError(stmt)
        kept.append(stmt)
    return tuple(reversed(kept))
