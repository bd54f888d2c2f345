"""Rooms chosen ahead: what a loop reads for the last time while it writes is made where the loop's result will lie."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from recdsl.backends.torch.operations import BINARY, UNARY
from recdsl.backends.torch.room import ELEMENTWISE, alike, last_reads, read_by, rewrites
from recdsl.program.ir import Add, Affine, For, If, Load, Op, Program, Stmt, Storage, Store

SAME = ("rename", "stop", "straight_through")  # views that keep the columns
OTHER = ("transpose", "broadcast")  # views that do not
NEVER = 1 << 30


@dataclass(frozen=True)
class Region:
    """Columns start:stop of the rows `row`, `row + 1`, ... of a sequence, which is `base` in the code and has `extra`
    rows more than there are steps, each of `width` columns."""

    base: str
    row: int
    extra: int
    width: int
    start: int
    stop: int

    def columns(self, start: int, stop: int) -> Region:
        """Columns of these columns."""
        return Region(self.base, self.row, self.extra, self.width, self.start + start, self.start + stop)

    @property
    def whole(self) -> bool:
        return (self.start, self.stop) == (0, self.width)

    @property
    def text(self) -> str:
        """The region in Python."""
        hi = "" if self.row == self.extra else f"T + {self.row}" if self.row else "T"
        rows = f"{self.row or ''}:{hi}" if self.extra else ""
        if self.whole:
            return f"{self.base}[{rows}]" if rows else self.base
        return f"{self.base}[{rows or '...'}, {'..., ' if rows else ''}{self.start}:{self.stop}]"


@dataclass(frozen=True)
class Span:
    """Columns of a value that are read at a place of the entry."""

    start: int
    stop: int
    place: int


@dataclass
class Hosting:
    """The plan of one entry. `regions`: where a value is made; `allowed`: of an op in a loop whose result goes to such
    a region, the one argument that may be made in place there (None: none), for others would be there too early."""

    statements: Sequence[Stmt]
    storages: Mapping[str, Storage]
    elsewhere: set[str]
    bodies: Mapping[int, Sequence[Stmt]]
    regions: dict[str, Region] = field(default_factory=dict[str, Region])
    allowed: dict[str, str | None] = field(default_factory=dict[str, "str | None"])

    def __post_init__(self) -> None:
        self.made: dict[str, tuple[int, Op]] = {}
        self.views: dict[str, tuple[str, int | None]] = {}  # what a view looks at, and from which column on
        self.held: dict[str, str] = {}  # the value that a storage holds
        self.reads: dict[str, list[Span]] = {}
        self.touched: dict[str, list[int]] = {}  # places that read a storage
        self.stores: dict[str, list[Store]] = {}
        for statement in deep(self.statements):
            if isinstance(statement, Store):
                self.stores.setdefault(statement.storage, []).append(statement)
        for place, statement in enumerate(self.statements):
            self._scan(place, statement)
        for place, statement in enumerate(self.statements):
            if isinstance(statement, For) and statement.var == "t":
                self._loop(place, statement, self.bodies[place])

    # -- who reads what, and when ---------------------------------------------------------------------------------
    def _scan(self, place: int, statement: Stmt) -> None:
        for name in read_by([statement]):
            self.touched.setdefault(name, []).append(place)
            if not (isinstance(statement, Op) and statement.op in ("slice", *SAME, *OTHER)):
                self._note(self.held.get(name, name), place)
        if isinstance(statement, Op):
            self._scan_op(place, statement)
        elif isinstance(statement, Load) and statement.storage in self.held:
            self.views[statement.result] = self.held[statement.storage], 0
        elif isinstance(statement, Store):
            if self.storages[statement.storage].kind == "output" or statement.storage in self.elsewhere:
                self._note(statement.value, NEVER)
            self.held[statement.storage] = statement.value

    def _scan_op(self, place: int, op: Op) -> None:
        name, attrs = op.results[0], dict(op.attrs)
        if op.op == "slice" and len(op.types[0].axes) == 1:
            self.views[name] = op.args[0], attrs["start"]
        elif op.op in SAME:
            self.views[name] = op.args[0], 0
        elif op.op in ("slice", *OTHER):
            self.views[name] = op.args[0], None
        self.made[name] = place, op

    def _note(self, name: str, place: int) -> None:
        found = self._columns(name)
        if found is not None:
            root, start, stop = found
            self.reads.setdefault(root, []).append(Span(start, stop, place))

    def _columns(self, name: str) -> tuple[str, int, int] | None:
        """The value that a name looks at, and which of its columns; None for what is not made here."""
        size = self._size(name)
        start: int | None = 0
        while name in self.views:
            name, by = self.views[name]
            start = None if by is None or start is None else start + by
        if name not in self.made:
            return None
        return (name, 0, self._size(name)) if start is None else (name, start, start + size)

    def _size(self, name: str) -> int:
        """The number of columns of a value, seen through loads."""
        while name not in self.made and name in self.views:
            name = self.views[name][0]
        axes = self.made[name][1].types[0].axes if name in self.made else ()
        return axes[-1].size if axes else 1

    # -- loops ----------------------------------------------------------------------------------------------------
    def _loop(self, place: int, loop: For, body: Sequence[Stmt]) -> None:
        made = {op.results[0]: op for op in body if isinstance(op, Op)}
        for store in body:
            if not isinstance(store, Store) or not store.index or store.value not in made:
                continue
            region = self._result(place, loop, store, body)
            op = made[store.value]
            if region is None:
                continue
            if op.op != "concat":
                self._chain(place, store.value, region, body, made)
            elif region.extra == 0:
                start = 0
                for arg in op.args:
                    stop = start + (made[arg].types[0].axes[0].size if arg in made else 0)
                    if arg in made and uses(body, arg, stored=False) == 1:
                        self._host(place, made[arg], region.columns(start, stop), body)
                    elif arg not in made:
                        break
                    start = stop

    def _result(self, place: int, loop: For, store: Store, body: Sequence[Stmt]) -> Region | None:
        """Where a store's rows lie, if nothing else is there while the loop has not written them."""
        storage, index = self.storages[store.storage], store.index[0]
        axes, extra = storage.type.axes, storage.type.lead[0][1].const if storage.type.lead else 0
        others = [other for other in self.stores[storage.name] if other is not store]
        early = [k for k in self.touched.get(storage.name, ()) if k < place]
        own = storage.kind == "buffer" and storage.lifetime == "call"
        if not own or storage.type.dtype != "float" or len(axes) != 1 or early:
            return None
        assert isinstance(index, Affine)
        rows = [other.index[0] for other in others if other.index]
        first = all(isinstance(row, Affine) and not row.terms and row.const < index.const for row in rows)
        back = [load.index[0] for load in body if isinstance(load, Load) and load.storage == storage.name]
        behind = all(isinstance(row, Affine) and row.const < index.const for row in back)
        if not first or len(rows) != len(others) or not behind or (back and loop.step < 0):
            return None
        return Region(storage.name, index.const, extra, axes[0].size, 0, axes[0].size)

    def _chain(self, place: int, value: str, region: Region, body: Sequence[Stmt], made: Mapping[str, Op]) -> None:
        """A history takes what its values are made of, through ops that are done in place."""
        steps: dict[str, str | None] = {}
        while region.extra and value in made and made[value].op in ELEMENTWISE:
            if self._host(place, made[value], region, body):
                self.allowed.update(steps)
                return
            first = made[value].args[0]
            if first not in made or uses(body, first) != 1 or not alike(made[first].types[0], made[value].types[0]):
                return
            steps[value] = first
            value = first

    def _host(self, place: int, op: Op, region: Region, body: Sequence[Stmt]) -> bool:
        """Put what `op` of a loop reads for the last time where its result goes, and what that is made of."""
        for arg in op.args:
            value = self._dying(place, op, arg, body)
            if value is not None and self._settle(value, region, place):
                self.allowed[op.results[0]] = None
                return True
        return False

    def _dying(self, place: int, op: Op, arg: str, body: Sequence[Stmt]) -> str | None:
        """The value of a sequence whose row `arg` is read by `op`, and nothing of it after that."""
        load = next((s for s in body if isinstance(s, Load) and s.result == arg), None)
        if load is None or not rewrites(op, arg) or not load.index or not alike(load.type, op.types[0]):
            return None
        storage, value = self.storages[load.storage], self.held.get(load.storage)
        exact = bool(storage.type.lead) and storage.type.lead[0][1].const == 0 and load.index[0] == STEP
        alone = len(self.stores.get(load.storage, ())) == 1 and value in self.made
        once = sum(1 for s in body if isinstance(s, Load) and s.storage == load.storage) == 1
        if not exact or not alone or not once or value is None or body[last_reads(body)[arg]] is not op:
            return None
        late = [span for span in self.reads.get(value, ()) if span.place >= place]
        return value if len(late) == 1 and late[0].place == place else None

    # -- whole sequences ------------------------------------------------------------------------------------------
    def _settle(self, value: str, region: Region, end: int) -> bool:
        """Make a value in a region, if that is free as long as the value is read, and then what it is made of."""
        op = self.made[value][1]
        vtype = op.types[0]
        plain = vtype.dtype == "float" and len(vtype.lead) == 2 and len(vtype.axes) == 1
        writes = op.op in (*UNARY, *BINARY, "relu") or (op.op in ("contract", "gather") and not op.joint)
        if value in self.regions or not plain or not writes or not self._free(value, region):
            return False
        self.regions[value] = region
        if op.op in (*UNARY, *BINARY, "relu"):
            found = [cut for cut in map(self._columns, op.args) if cut is not None and cut[0] in self.made]
            for root, start, stop in sorted(found, key=lambda cut: -self._size(cut[0])):  # the widest saves the most
                size, begin = self._size(root), region.start - start
                late = any(span.place >= end for span in self.reads[root])
                if stop - start == vtype.axes[0].size and not late and 0 <= begin <= region.width - size:
                    whole = Region(region.base, region.row, region.extra, region.width, begin, begin + size)
                    self._settle(root, whole, end)
        return True

    def _free(self, value: str, region: Region) -> bool:
        """Whether a value gets in no other's way: each holds its columns from when it is made to their last read."""
        spans = self._spans(value, region)
        for other, theirs in self.regions.items():
            if theirs.base != region.base or theirs.row != region.row:
                continue
            for one in spans:
                for two in self._spans(other, theirs):
                    apart = one.stop <= two.start or two.stop <= one.start
                    if not apart and not self._in_turn(value, region, one, other, theirs, two):
                        return False
        return True

    def _spans(self, value: str, region: Region) -> list[Span]:
        return [Span(region.start + s.start, region.start + s.stop, s.place) for s in self.reads.get(value, ())]

    def _in_turn(self, value: str, region: Region, one: Span, other: str, theirs: Region, two: Span) -> bool:
        """Whether of two that share columns the first is read for the last time before the second is made, or by the
        op that makes it, which then reads just what it writes over."""
        mine, its = self.made[value][0], self.made[other][0]
        early, late = (two, mine) if its < mine else (one, its)
        if early.place != late:
            return early.place < late
        (old, room), (new, target) = sorted([(value, region), (other, theirs)], key=lambda pair: self.made[pair[0]][0])
        found = [self._columns(arg) for arg in self.made[new][1].args]
        parts = [room.columns(cut[1], cut[2]) for cut in found if cut is not None and cut[0] == old]
        hit = [part for part in parts if part.start < target.stop and target.start < part.stop]
        return self.made[new][1].op in ELEMENTWISE and all(part == target for part in hit)


STEP = Affine(0, (("t", 1),))


def uses(body: Sequence[Stmt], name: str, stored: bool = True) -> int:
    """How often statements read a value; stores count if `stored`."""
    count = sum(s.args.count(name) for s in body if isinstance(s, Op))
    kinds = Store | Add if stored else Add
    return count + sum(s.value == name for s in body if isinstance(s, kinds))


# -- columns of one step's value ---------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Cut:
    """Columns of a wide value that become `final`, step by step in place. `steps`: see `Hosting.allowed`."""

    start: int
    stop: int
    final: str
    steps: dict[str, str | None]


@dataclass(frozen=True)
class Slices:
    """A wide value of a loop that can be made where the row `load` lay."""

    value: str
    size: int
    load: Load
    cuts: tuple[Cut, ...]


def slices(body: Sequence[Stmt], done: set[str]) -> list[Slices]:
    """Wide values that are made of a row which is read for the last time, and of which columns are taken."""
    last = last_reads(body)
    loads = {s.result: s for s in body if isinstance(s, Load) and s.storage in done and s.index}
    counts = [s.storage for s in body if isinstance(s, Load)]
    found: list[Slices] = []
    for place, op in enumerate(body):
        if not isinstance(op, Op) or len(op.types[0].axes) != 1:
            continue
        for arg in op.args:
            load = loads.get(arg)
            alone = load is not None and rewrites(op, arg) and last[arg] == place and counts.count(load.storage) == 1
            if load is not None and alone and alike(load.type, op.types[0]):
                size = op.types[0].axes[0].size
                found.append(Slices(op.results[0], size, load, tuple(_cuts(body, op.results[0], last))))
                break
    return [item for item in found if item.cuts]


def _cuts(body: Sequence[Stmt], value: str, last: Mapping[str, int]) -> Iterator[Cut]:
    """Columns of a value that one op reads, as nothing does after it, and what they become."""
    views = [s for s in body if isinstance(s, Op) and value in s.args]
    stores = [s for s in body if isinstance(s, Store) and s.value == value]
    if any(view.op != "slice" for view in views) or len(stores) > 1 or any(not store.index for store in stores):
        return
    spans = [(dict(view.attrs)["start"], dict(view.attrs)["start"] + view.types[0].axes[0].size) for view in views]
    for view, (start, stop) in zip(views, spans, strict=True):
        name = view.results[0]
        shared = sum(a < stop and start < b for a, b in spans) > 1
        reader = body[last[name]] if name in last else None
        if shared or uses(body, name) != 1 or not isinstance(reader, Op) or not rewrites(reader, name):
            continue
        if not alike(view.types[0], reader.types[0]):
            continue
        final, steps = _becomes(body, reader)
        yield Cut(start, stop, final, steps)


def _becomes(body: Sequence[Stmt], op: Op) -> tuple[str, dict[str, str | None]]:
    """What an op's result is changed into in place, up to what is stored."""
    steps: dict[str, str | None] = {op.results[0]: None}
    while True:
        name = op.results[0]
        readers = [s for s in body if isinstance(s, Op) and name in s.args]
        if len(readers) != 1 or uses(body, name) != 1 or not rewrites(readers[0], name):
            return name, steps
        if not alike(readers[0].types[0], op.types[0]):
            return name, steps
        steps[readers[0].results[0]] = name
        op = readers[0]


def columns_read(program: Program) -> dict[str, set[tuple[int, int]] | None]:
    """The columns of each sequence that functions read; None where one reads all of them."""
    statements = list(deep(statement for _, body in program.entries for statement in body))
    loads = {s.result: s.storage for s in statements if isinstance(s, Load)}
    found: dict[str, set[tuple[int, int]] | None] = {storage: set() for storage in loads.values()}
    for statement in statements:
        names = statement.args if isinstance(statement, Op) else read_by([statement])
        for storage in {loads[name] for name in names if name in loads}:
            columns = found[storage]
            if not isinstance(statement, Op) or statement.op != "slice" or len(statement.types[0].axes) != 1:
                found[storage] = None
            elif columns is not None:
                start = dict(statement.attrs)["start"]
                columns.add((start, start + statement.types[0].axes[0].size))
    return found


def deep(statements: Iterable[Stmt]) -> Iterator[Stmt]:
    """Statements at any depth, but for the loops and conditions around them."""
    for statement in statements:
        if isinstance(statement, For | If):
            yield from deep(statement.body)
        else:
            yield statement
