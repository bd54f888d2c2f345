"""Strips (strip mining): an entry makes everything of some steps before it comes to the next ones.

What one statement leaves over time is then still in the processor's cache where the next one reads it, and what only
they read takes the room of one strip. Sums over time become sums of sums.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from recdsl.backends.native.uses import made, read, statements
from recdsl.backends.native.values import numel
from recdsl.program.affine import add
from recdsl.program.ir import (
    Add,
    Affine,
    Bound,
    Call,
    Effect,
    For,
    Load,
    Op,
    Program,
    Range,
    Stmt,
    Storage,
    Store,
    VType,
)

STEPS = Affine(0, (("T", 1),))
LOW, HIGH, SPAN = "strip.lo", "strip.hi", "strip"
"""Symbols inside of a strip: its first step, the one behind its last, and how many there are."""
ALONG = ("contract", "sum", "collect")
"""Ops that sum over steps; others look at all steps together."""


@dataclass(frozen=True)
class Strips(For):
    """The strips of a call, with what is made in each; `step` is -1 where the last one comes first.

    numbers: how many of them a step touches, and how many more for each sample. own: buffers that nothing else touches,
    with the row of the first step of a strip, counted from that step.
    """

    numbers: tuple[int, int] = (0, 0)
    own: tuple[tuple[str, int], ...] = ()


Touch = tuple[str, str, int | None]
"""A storage, how it is touched ("r"ead, "w"ritten, "a"dded to), and which row of each step; None: any."""


class Unfit(Exception):
    """An entry that is left as it is."""


@dataclass
class Strip:
    """Statements of one strip (`body`), with those that are moved in front and behind of all strips."""

    before: list[Stmt] = field(default_factory=list[Stmt])
    body: list[Stmt] = field(default_factory=list[Stmt])
    behind: list[Stmt] = field(default_factory=list[Stmt])
    order: list[Stmt] = field(default_factory=list[Stmt])
    rows: set[str] = field(default_factory=set[str])
    totals: set[str] = field(default_factory=set[str])
    later: set[str] = field(default_factory=set[str])
    ways: set[int] = field(default_factory=set[int])
    touched: dict[str, set[tuple[str, int | None]]] = field(default_factory=dict[str, set[tuple[str, int | None]]])
    met: dict[str, set[str]] = field(default_factory=dict[str, set[str]])


def stripped(program: Program, entry: str, tape: frozenset[str]) -> tuple[Stmt, ...]:
    """The entry's statements with strips, or as they are."""
    body = dict(program.entries)[entry]
    walker = _Walker({storage.name: storage for storage in program.storages}, {*program.scalars, "T"})
    try:
        groups = walker.groups(body)
    except Unfit:
        return body
    counts = _counts(body)
    found: list[Stmt] = []
    for group in groups:
        found += walker.closed(group, counts, tape)
    return tuple(found)


def _counts(body: Sequence[Stmt]) -> dict[str, int]:
    """How many statements touch a storage."""
    found: dict[str, int] = {}
    for stmt in statements(body):
        if isinstance(stmt, Load | Store | Add):
            found[stmt.storage] = found.get(stmt.storage, 0) + 1
    return found


@dataclass
class _Walker:
    """One walk over an entry. symbols: those that are the same at all steps."""

    storages: Mapping[str, Storage]
    symbols: set[str]
    types: dict[str, VType] = field(default_factory=dict[str, VType])
    gone: set[str] = field(default_factory=set[str])

    def groups(self, body: Sequence[Stmt]) -> list[Strip]:
        found = [Strip()]
        for stmt in body:
            if isinstance(stmt, Call | Effect):
                raise Unfit
            self._take(found, stmt)
            if isinstance(stmt, Op):
                self.types.update(zip(stmt.results, stmt.types, strict=True))
            elif isinstance(stmt, Load):
                self.types[stmt.result] = stmt.type
        return found

    def _take(self, found: list[Strip], stmt: Stmt) -> None:
        """Into the last group, or one behind it."""
        group = found[-1]
        local = self._local(group, stmt)
        if not local:
            self._free(group, stmt)
            return
        if not self._joins(group, stmt):
            self.gone |= group.rows | group.totals
            group = Strip()
            found.append(group)
            if not self._local(group, stmt):
                raise Unfit
        self._note(group, stmt)

    # -- what a statement is --------------------------------------------------------------------------------------
    def _local(self, group: Strip, stmt: Stmt) -> bool:
        """Whether it makes rows of their own of each step, or sums over them. Raises Unfit for other uses of rows."""
        if self.gone and names(stmt) & self.gone:
            raise Unfit
        match stmt:
            case Op():
                return self._local_op(group, stmt)
            case Load():
                return self._aligned(stmt) is not None and stmt.type.lead[:1] == (("t", STEPS),)
            case Store() | Add():
                return self._local_access(group, stmt)
            case For():
                if self._used(group, stmt):
                    raise Unfit
                return stmt.var == "t" and abs(stmt.step) == 1 and self._bounds(stmt.lo) and self._bounds(stmt.hi)
            case _:
                if self._used(group, stmt):
                    raise Unfit
                return False

    def _local_op(self, group: Strip, op: Op) -> bool:
        if any(arg in group.totals for arg in op.args):
            raise Unfit
        timed = any(("t", STEPS) in kind.lead for kind in op.types)
        rows = [arg for arg in op.args if arg in group.rows]
        others = any(name == "t" for arg in op.args if arg not in group.rows for name, _ in self._lead(arg))
        if others and (rows or timed):
            raise Unfit
        summed = "t" in op.joint or (op.op == "collect" and not op.joint)
        if summed if timed else rows and not (summed and op.op in ALONG):
            raise Unfit
        return bool(rows) or timed

    def _lead(self, name: str) -> tuple[tuple[str, Affine], ...]:
        return self.types[name].lead if name in self.types else ()

    def _local_access(self, group: Strip, stmt: Store | Add) -> bool:
        aligned = self._aligned(stmt) is not None
        if stmt.value in group.totals:
            if isinstance(stmt, Store) or aligned:
                raise Unfit
            return True
        if stmt.value in group.rows:
            sums = isinstance(stmt, Add) and all(name != "t" for name, _ in self.storages[stmt.storage].type.lead)
            if not aligned and not (sums and not stmt.index):
                raise Unfit
            return True
        if aligned and any(name == "t" for name, _ in self._lead(stmt.value)):
            raise Unfit
        return aligned and bool(stmt.index)

    def _bounds(self, bound: Bound) -> bool:
        return all(name in self.symbols for part in bound.parts for name, _ in part.terms)

    def _used(self, group: Strip, stmt: Stmt) -> bool:
        return any(name in group.rows or name in group.totals for name in names(stmt))

    # -- what it touches ------------------------------------------------------------------------------------------
    def _aligned(self, stmt: Load | Store | Add) -> int | None:
        """Which row of the storage belongs to step 0, where all steps are touched, each with a row of its own."""
        lead, index = self.storages[stmt.storage].type.lead, stmt.index
        if len(index) == 0:
            return 0 if lead[:1] == (("t", STEPS),) else None
        part = index[0]
        if len(index) > 1 or not isinstance(part, Range) or lead[0][0] != "t":
            return None
        first = part.lo.parts[0].const
        whole = part.lo.parts == (Affine(first),) and part.hi.parts == (Affine(first, STEPS.terms),)
        return first if whole else None

    def touches(self, stmt: Stmt) -> list[Touch]:
        found: list[Touch] = []
        for part in statements([stmt]):
            if isinstance(part, Load | Store | Add):
                mode = "r" if isinstance(part, Load) else "w" if isinstance(part, Store) else "a"
                found.append((part.storage, mode, self._aligned(part) if part is stmt else _row(part)))
        return found

    def _free(self, group: Strip, stmt: Stmt) -> None:
        """In front of the strips where nothing that it meets is made there, else behind them."""
        if self._used(group, stmt):
            raise Unfit
        mine = self.touches(stmt)
        inside = any(_conflict(old, mode) for name, mode, _ in mine for old, _ in group.touched.get(name, ()))
        if inside or self._meets(group, stmt, mine):
            group.behind.append(stmt)
            group.later.update(made(stmt))
            for name, mode, _ in mine:
                group.met.setdefault(name, set()).add(mode)
        else:
            group.before.append(stmt)
        group.order.append(stmt)

    def _joins(self, group: Strip, stmt: Stmt) -> bool:
        """Whether a local statement may stand in the strips of those before it."""
        mine = self.touches(stmt)
        if self._meets(group, stmt, mine):
            return False
        ways = group.ways | ({stmt.step} if isinstance(stmt, For) else set())
        for name, mode, row in mine:
            for old, place in group.touched.get(name, ()):
                if not _conflict(old, mode) or old == mode == "a":
                    continue
                if row is None or place is None:
                    return False
                if row != place:
                    ways.add(1 if row < place else -1)
        if len(ways) > 1:
            return False
        group.ways = ways
        return True

    def _meets(self, group: Strip, stmt: Stmt, mine: Sequence[Touch]) -> bool:
        """Whether a statement must stay behind one that is made behind the strips."""
        if group.later and any(name in group.later for name in names(stmt)):
            return True
        return any(_conflict(old, mode) for name, mode, _ in mine for old in group.met.get(name, ()))

    def _note(self, group: Strip, stmt: Stmt) -> None:
        if isinstance(stmt, For):
            group.ways.add(stmt.step)
        group.body.append(stmt)
        group.order.append(stmt)
        for name, mode, row in self.touches(stmt):
            group.touched.setdefault(name, set()).add((mode, row))
        if isinstance(stmt, Op):
            timed = any(("t", STEPS) in kind.lead for kind in stmt.types)
            (group.rows if timed else group.totals).update(made(stmt))
        elif isinstance(stmt, Load):
            group.rows.add(stmt.result)

    # -- the result -----------------------------------------------------------------------------------------------
    def closed(self, group: Strip, counts: Mapping[str, int], tape: frozenset[str]) -> list[Stmt]:
        """The group's statements, in strips where that is of use."""
        kept = [stmt for stmt in group.body if isinstance(stmt, For | Store | Add)]
        if len(kept) < 2:
            return group.order
        body = tuple(self._narrowed(stmt) for stmt in group.body)
        step = next(iter(group.ways), 1)
        ends = Bound("max", (Affine(0),)), Bound("min", (STEPS,))
        touched = [touch for stmt in group.body for touch in self.touches(stmt)]
        own = tuple(self._own(touched, counts, tape))
        return [*group.before, Strips("strip", *ends, step, body, self._numbers(touched), own), *group.behind]

    def _own(self, touched: Sequence[Touch], counts: Mapping[str, int], tape: frozenset[str]) -> list[tuple[str, int]]:
        found: list[tuple[str, int]] = []
        for name in dict.fromkeys(name for name, _, _ in touched):
            storage, mine = self.storages[name], [touch for touch in touched if touch[0] == name]
            rows = {row for _, _, row in mine}
            plain = storage.kind == "buffer" and storage.lifetime == "call" and name not in tape
            alone = len(mine) == counts[name] and len(rows) == 1 and all(mode != "a" for _, mode, _ in mine)
            row = next(iter(rows))
            if plain and alone and row is not None and mine[0][1] == "w":
                found.append((name, row))
        return found

    def _numbers(self, touched: Sequence[Touch]) -> tuple[int, int]:
        """Of storages that have rows: numbers of a step, and those of a step and a sample."""
        each = every = 0
        for name in dict.fromkeys(name for name, _, row in touched if row is not None):
            kind = self.storages[name].type
            count = numel(tuple(axis.size for axis in kind.axes))
            if any(size.terms == (("B", 1),) for _, size in kind.lead[1:]):
                every += count
            else:
                each += count
        return each, every

    def _narrowed(self, stmt: Stmt) -> Stmt:
        """The statement for the steps of one strip."""
        match stmt:
            case Op():
                return replace(stmt, types=tuple(_spans(kind) for kind in stmt.types))
            case Load():
                return replace(stmt, index=self._part(stmt), type=_spans(stmt.type))
            case Store() | Add() if self._aligned(stmt) is not None:
                return replace(stmt, index=self._part(stmt))
            case For():
                lo = Bound("max", (*stmt.lo.parts, Affine(0, ((LOW, 1),))))
                return replace(stmt, lo=lo, hi=Bound("min", (*stmt.hi.parts, Affine(0, ((HIGH, 1),)))))
            case _:
                return stmt

    def _part(self, stmt: Load | Store | Add) -> tuple[Range, ...]:
        first = Affine(self._aligned(stmt) or 0)
        ends = (add(first, Affine(0, ((name, 1),))) for name in (LOW, HIGH))
        lo, hi = (Bound(kind, (end,)) for kind, end in zip(("max", "min"), ends, strict=True))
        return (Range(lo, hi),)


def names(stmt: Stmt) -> set[str]:
    """What a statement reads, with the statements inside of it."""
    return {name for part in statements([stmt]) for name in read(part)}


def _conflict(one: str, other: str) -> bool:
    """Whether two accesses of one storage may not change places."""
    return (one, other) != ("r", "r")


def _row(stmt: Load | Store | Add) -> int | None:
    """Inside of a loop over time: which row of each step."""
    part = stmt.index[0] if stmt.index else None
    return part.const if isinstance(part, Affine) and part.terms == (("t", 1),) else None


def _spans(kind: VType) -> VType:
    lead = tuple((name, Affine(0, ((SPAN, 1),)) if (name, size) == ("t", STEPS) else size) for name, size in kind.lead)
    return replace(kind, lead=lead)
