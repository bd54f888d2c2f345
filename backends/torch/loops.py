"""A loop over the steps: rows of all buffers zipped together, each operation writing into a row or a scratch tensor."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from recdsl.backends.torch.fuse import searched, slotwise
from recdsl.backends.torch.hosting import Cut, Region, Slices, slices
from recdsl.backends.torch.inplace import changed, fused_in_place, sent_back
from recdsl.backends.torch.operations import VIEWS, Operand, expression, in_place
from recdsl.backends.torch.room import ELEMENTWISE, alike, hosts, last_reads
from recdsl.backends.torch.texts import affine_text
from recdsl.program.affine import add
from recdsl.program.ir import Add, Affine, At, Bound, For, Load, Op, Range, Stmt, Storage, Store, VType

if TYPE_CHECKING:
    from recdsl.backends.torch.codegen import Entry


@dataclass(frozen=True)
class Rows:
    """What a loop variable runs over: a sequence and its rows, from column `start` on. `name`: that of whole rows."""

    text: str
    ranged: bool
    name: str
    start: int


class LoopWriter:
    """Writes one `for` of an entry. `body` is the loop's body, fused."""

    def __init__(self, entry: Entry, loop: For, body: Sequence[Stmt]) -> None:
        self.entry, self.loop, self.body = entry, loop, body
        self.rows: dict[str, str] = {}
        self.origin: dict[str, Rows] = {}
        self.carries = {s.storage for s in body if isinstance(s, Store) and not s.index}
        self.carries |= {f"{name}_new" for name in self.carries}
        self.parts: dict[str, tuple[str, int, int]] = {}
        self.chained: dict[str, str] = {}
        self.settled: dict[str, Load] = {}
        self.views: list[Store] = []
        self.heads: list[tuple[str, str]] = []
        self.scratch: dict[str, str] = {}
        self.free: dict[str, list[str]] = {}
        self.values: dict[str, Operand] = {}
        self.made: dict[str, Op] = {op.results[0]: op for op in body if isinstance(op, Op) and not slotwise(op)}
        self.counted = False
        self.sparse = searched(body)
        self.last = last_reads(self.body)
        self.swaps: list[str] = []
        self.text: list[str] = []

    def write(self) -> None:
        """Header and body; allocations and transposed matrices come before."""
        destinations = self._destinations()
        for statement in self.body:
            if isinstance(statement, Load | Add) and statement.index and not isinstance(statement.index[0], Affine):
                self._pin(statement.storage)
        self._plan_parts(destinations)
        for whole, text in self.heads:
            self.entry.allocate(self.entry.storages[whole])
            self.entry.line(text)
        self._plan_slices(destinations)
        self._plan_chains(destinations)
        self._plan_rooms(destinations)
        for place, statement in enumerate(self.body):
            if isinstance(statement, Load):
                self._load(statement)
            elif isinstance(statement, Op):
                self._op(statement, destinations, place)
            elif isinstance(statement, Store):
                self._store(statement, destinations)
            elif isinstance(statement, Add):
                self.text.append(sent_back(statement, self.entry.source(self._storage(statement)), self._operand))
            self._release(place)
        entry = self.entry
        self._hoist()
        names, sequences = list(self.rows.values()), list(self.rows)
        counted = self.counted or not names
        if counted:
            names.append("t" if self.counted else "_")
        direction = "" if self.loop.step > 0 else "[::-1]"
        entry.line("with torch.inference_mode():")
        entry.line(f"    for {', '.join(names)}{',' if len(names) == 1 else ''} in zip(")
        for text in sequences:
            entry.line(f"        arena.rows({text}){direction},")
        if counted:
            lo, hi = entry.bound(self.loop.lo), entry.bound(self.loop.hi)
            entry.line(f"        range({lo}, {hi}){direction},")
        entry.line("    ):")
        for text in (*self.text, *self.swaps):
            entry.line("        " + text)

    def _storage(self, statement: Load | Add) -> Storage:
        return self.entry.storages[statement.storage]

    def _pin(self, name: str) -> None:
        """A tape that this loop writes has a room of its own: its earlier rows stay."""
        if any(isinstance(s, Store) and s.storage == name for s in self.body):
            self.entry.allocate(self.entry.storages[name])

    def _slots(self, load: Load) -> None:
        """Earlier steps of a tape, all of them or those at some places."""
        base, part = self.entry.source(self._storage(load)), load.index[0]
        if load.storage in self.entry.standing:
            base = f"{base}.expand({', '.join(['T', 'B', *(str(axis.size) for axis in load.type.axes)])})"
        if isinstance(part, At):
            self.text.append(f"{load.result} = rows_at({base}, {self._operand(part.value).text})")
        else:
            self.counted = True
            assert isinstance(part, Range)
            end = affine_text(part.hi.parts[0])
            self.text.append(f"{load.result} = {base}[{self.entry.every(self.sparse.get(load.result, 1), end)}]")
        self.values[load.result] = Operand(load.result, 2, load.type.axes)

    def _hoist(self) -> None:
        """Matrices are transposed before the loop, once, and copied where many steps read them: strides are slow."""
        for line in self.text:
            for name in re.findall(r"\b(\w+)\.t\(\)", line):
                if f"{name}_T" not in self.entry.allocated:
                    self.entry.allocated.add(f"{name}_T")
                    self.entry.line(f"{name}_T = {name}.t() if T < 32 else {self._transposed(name)}")
        self.text = [re.sub(r"\b(\w+)\.t\(\)", r"\1_T", line) for line in self.text]

    def _transposed(self, name: str) -> str:
        """A matrix copied to room of its own."""
        entry = self.entry
        found = next((value for value in entry.values.values() if value.text == name), None)
        if entry.windowed or found is None or len(found.axes) != 2:
            return f"{name}.t().contiguous()"
        entry.transposed[name] = f"{name}_T"
        entry.base[f"{name}_T"] = entry.base.get(name, name)  # with few steps it is a view
        room = entry.lease(f"{name}_T", [str(axis.size) for axis in reversed(found.axes)], "")
        return f"{room}.copy_({name}.t())"

    # -- rows -----------------------------------------------------------------------------------------------------
    def _row(self, name: str, index: Affine, *, write: bool) -> str:
        """The loop variable that runs over rows `t + offset` of a buffer."""
        entry = self.entry
        storage = entry.storages[name]
        if write:
            entry.allocate(storage)
        base = entry.source(storage)
        region = entry.regions.get(base)
        if region is not None:
            return self._within(region, index.const)
        part = entry.rows(storage, self._range(add(index, Affine(0, (("t", 1),)), -1)))
        return self._sequence(base, part, name, index.const)

    def _range(self, by: Affine) -> Range:
        """The rows that the loop runs over, `by` rows later."""
        lo, hi = self.loop.lo, self.loop.hi
        moved = [Bound(b.kind, tuple(add(p, by) for p in b.parts)) for b in (lo, hi)]
        return Range(moved[0], moved[1])

    def _within(self, region: Region, by: int) -> str:
        """The loop variable for part of another sequence's room."""
        by += region.row
        part = self.entry.part_text(self._range(Affine(by)), Affine(region.extra, (("T", 1),)))
        row = self._sequence(region.base, part, region.base, by)
        found = row if region.whole else self._part(row, region.start, region.stop)
        assert found is not None
        return found

    def _sequence(self, base: str, part: str, name: str, by: int) -> str:
        """The loop variable for the rows `part` of a sequence."""
        first, last = part[1:-1].split(":") if part else ("", "")
        text = f"{base}, {first or 0}, {last or None}" if part else base
        if text not in self.rows:
            suffix = f"_{by}" if by > 0 else f"_m{-by}" if by < 0 else ""
            self.rows[text] = f"{name}{suffix}_t"
            self.origin[self.rows[text]] = Rows(text, bool(part), self.rows[text], 0)
        return self.rows[text]

    def _part(self, row: str, start: int, stop: int) -> str | None:
        """The loop variable for columns start:stop of a row; None where `row` is no row."""
        if row not in self.origin:
            return None
        rows = self.origin[row]
        start, stop = start + rows.start, stop + rows.start
        whole = f"{rows.text}, {start}, {stop}" if rows.ranged else f"{rows.text}, 0, None, {start}, {stop}"
        if whole not in self.rows:
            self.rows[whole] = f"{rows.name.removesuffix('_t')}_{start}_{stop}_t"
            self.origin[self.rows[whole]] = Rows(rows.text, rows.ranged, rows.name, start)
        return self.rows[whole]

    def _load(self, load: Load) -> None:
        storage = self.entry.storages[load.storage]
        if storage.kind == "carry":
            text = load.storage
        else:
            index = load.index[0]
            if not isinstance(index, Affine):
                self._slots(load)
                return
            text = self._row(load.storage, index, write=False)
        self.values[load.result] = Operand(text, 1, load.type.axes)

    # -- where results go -----------------------------------------------------------------------------------------
    def _destinations(self) -> dict[str, Store]:
        """For each value that is stored, the store that it is written to directly: a row before a carry."""
        found: dict[str, Store] = {}
        for statement in self.body:
            if isinstance(statement, Store) and self._writes(statement.value):
                old = found.get(statement.value)
                if old is None or (not old.index and statement.index):
                    found[statement.value] = statement
        return found

    def _plan_parts(self, destinations: dict[str, Store]) -> None:
        """A stack that goes to a row is written piece by piece, each value into its columns."""
        reads: dict[str, int] = {}
        for statement in self.body:
            for name in statement.args if isinstance(statement, Op) else ():
                reads[name] = reads.get(name, 0) + 1
        for op in self.made.values():
            row = destinations.get(op.results[0])
            if op.op != "concat" or row is None or not row.index or len(op.types[0].axes) != 1:
                continue
            own = {a: destinations.get(a) for a in op.args}
            if all(reads.get(a) == 1 and self._writes(a) and self._viewable(own[a], row) for a in op.args):
                start = 0
                for arg in op.args:
                    size = self.made[arg].types[0].axes[0].size
                    self.parts[arg] = (op.results[0], start, start + size)
                    self._view(destinations.pop(arg, None), row, start, start + size)
                    start += size

    def _viewable(self, store: Store | None, row: Store) -> bool:
        """Whether what a store fills can be columns of the stack's own sequence; so it is where there is no store."""
        if store is None:
            return True
        entry = self.entry
        mine, whole = entry.storages[store.storage], entry.storages[row.storage]
        if "stream" in (mine.lifetime, whole.lifetime):
            return False
        if entry.windowed or mine.kind != "buffer" or whole.kind != "buffer" or store.index != row.index:
            return False
        taken = {*entry.allocated, *entry.aliases} - {region.base for region in entry.regions.values()}
        return mine.type.lead == whole.type.lead and taken.isdisjoint({mine.name, whole.name})

    def _view(self, store: Store | None, row: Store, start: int, stop: int) -> None:
        """The sequence of a store as columns of the stack's."""
        if store is not None:
            entry = self.entry
            self.views.append(store)
            self.heads.append((row.storage, f"{store.storage} = {row.storage}[..., {start}:{stop}]"))
            entry.allocated.add(store.storage)
            entry.base[store.storage] = row.storage

    def _plan_chains(self, destinations: dict[str, Store]) -> None:
        """A value whose last reader is stored is made where the reader's result goes, and changed there in place."""
        for place in range(len(self.body) - 1, -1, -1):
            op = self.body[place]
            if not isinstance(op, Op) or op.op not in ELEMENTWISE:
                continue
            stored = op.results[0] in destinations or op.results[0] in self.parts or op.results[0] in self.chained
            allowed = self.entry.allowed
            for arg in op.args[:1] if op.op == "addmm" else op.args:
                if (op.op == "addmm" and arg in op.args[1:]) or allowed.get(op.results[0], arg) != arg:
                    continue
                source = self.made.get(arg)
                while source is not None and source.op == "rename":
                    arg, source = source.args[0], self.made.get(source.args[0])
                if not stored or source is None or source.op not in (*ELEMENTWISE, "contract"):
                    continue
                free = arg not in destinations and arg not in self.parts and arg not in self.chained
                same = alike(source.types[0], op.types[0])
                if free and same and self.last[arg] == place:
                    self.chained[arg] = op.results[0]
                    break

    def _plan_slices(self, destinations: dict[str, Store]) -> None:
        """A wide value is made where the row that it starts from lay, and what its columns become is made there too."""
        done = set[str]() if self.entry.windowed else self.entry.done_with(self.body)
        for found in slices(self.body, done):
            store = destinations.get(found.value)
            kept = set[tuple[int, int]]() if store is None else self._columns_read(store)
            if kept is None:
                continue
            cuts = [cut for cut in found.cuts if self._free_columns(cut, destinations, kept)]
            if store is None and 2 * sum(cut.stop - cut.start for cut in cuts) < found.size:
                continue  # the whole row would be kept for a few columns
            self._settle(found, cuts, store, destinations)

    def _columns_read(self, store: Store) -> set[tuple[int, int]] | None:
        """Columns of a sequence that are read outside of this loop; None where that is all or it has a room."""
        if not self._fresh(store):
            return None
        return self.entry.columns.get(store.storage, set())

    def _fresh(self, store: Store) -> bool:
        """Whether a sequence has no room yet and needs no more of it than there are steps."""
        target = self.entry.storages[store.storage]
        known = self.entry.allocated | self.entry.aliases.keys()
        exact = bool(store.index) and target.type.lead[0][1].const == 0
        return target.kind == "buffer" and target.lifetime == "call" and target.name not in known and exact

    def _free_columns(self, cut: Cut, destinations: dict[str, Store], kept: set[tuple[int, int]]) -> bool:
        """Whether what columns become is a sequence of its own, and nothing reads the columns themselves later."""
        store = destinations.get(cut.final)
        if store is None or any(start < cut.stop and cut.start < stop for start, stop in kept):
            return False
        return self._fresh(store)

    def _settle(self, found: Slices, cuts: Sequence[Cut], store: Store | None, destinations: dict[str, Store]) -> None:
        entry = self.entry
        room = entry.aliases[found.load.storage]
        self.settled[found.value] = found.load
        if store is not None:
            entry.allocated.add(store.storage)
            entry.aliases[store.storage] = room
        for cut in cuts:
            name = destinations[cut.final].storage
            entry.line(f"{name} = {room}[..., {cut.start}:{cut.stop}]")
            entry.allocated.add(name)
            entry.base[name] = room
            entry.regions[name] = Region(room, 0, 0, found.size, cut.start, cut.stop)
            entry.allowed |= cut.steps

    def _plan_rooms(self, destinations: dict[str, Store]) -> None:
        """Results take over the rooms of sequences that are read here for the last time."""
        entry = self.entry
        if entry.windowed:
            return
        targets: dict[str, Store] = {}
        for value, store in destinations.items():
            # not what is written in parts, some of them early
            if self._fresh(store) and self.made[value].op != "concat":
                targets[value] = store
        done = entry.done_with(self.body) - {load.storage for load in self.settled.values()}
        for store, source in hosts(self.body, targets, self.chained, done):
            entry.allocated.add(store.storage)
            entry.aliases[store.storage] = entry.aliases[source]

    def _writes(self, name: str) -> bool:
        """Whether the value is made in this loop by something that can write in place."""
        op = self.made.get(name)
        return op is not None and op.op not in VIEWS and op.op != "constant"

    def _release(self, place: int) -> None:
        for name, tensor in list(self.scratch.items()):
            if self.last.get(name, -1) <= place:
                del self.scratch[name]
                self.free.setdefault(tensor.rsplit("_", 1)[0], []).append(tensor)

    def _scratch(self, name: str, vtype: VType) -> str:
        """A tensor for one step's value, shared with values that are done with."""
        sizes = [axis.size for axis in vtype.axes]
        kind = {"bool": "flag", "int": "index"}.get(vtype.dtype, "work")
        family = "_".join([kind, *map(str, sizes)]) if sizes else f"{kind}_scalar"
        pool = self.free.setdefault(family, [])
        if pool:
            tensor = pool.pop()
        else:
            count = sum(1 for tensor in self.entry.allocated if tensor.rsplit("_", 1)[0] == f"{family}")
            tensor = f"{family}_{'abcdefghijklmnopqrstuvwxyz'[count % 26]}{count // 26 or ''}"
            self.entry.allocated.add(tensor)
            dtype = {"bool": "dtype=torch.bool", "int": "dtype=torch.long"}.get(vtype.dtype, "")
            room = self.entry.lease(tensor, ["B", *map(str, sizes)], dtype)
            self.entry.line(f"{tensor} = {room}")
        self.scratch[name] = tensor
        return tensor

    # -- statements -----------------------------------------------------------------------------------------------
    def _operand(self, name: str) -> Operand:
        return self.values[name] if name in self.values else self.entry.values[name]

    def _op(self, op: Op, destinations: dict[str, Store], place: int) -> None:
        name, vtype = op.results[0], op.types[0]
        if op.op == "constant":
            self.entry.constant(op)
            return
        args = [self._operand(arg) for arg in op.args]
        if slotwise(op):
            self.values[name] = self._slotwise(op, args)
            return
        if op.op in VIEWS:
            text = expression(op, args)
            attrs = dict(op.attrs)
            if op.op == "slice" and len(vtype.axes) == 1 and args[0].lead == 1:
                part = self._part(args[0].text, attrs["start"], attrs["start"] + attrs["axis"].size)
                if part is not None:
                    self.values[name] = Operand(part, 1, vtype.axes)
                    return
            fixed = args[0].text in self.entry.leased and args[0].text not in self.carries
            if op.op == "slice" and fixed and name not in self.entry.values:
                self.entry.line(f"{name} = {text}")
                self.entry.base[name] = args[0].text
                self.values[name] = Operand(name, 1, vtype.axes)
                return
            if op.op == "slice" or op.op == "transpose" or op.op == "broadcast":
                self.text.append(f"{name} = {text}")
                text = name
            self.values[name] = Operand(text, args[0].lead, vtype.axes)
            return
        if op.op == "concat" and all(arg in self.parts and self.parts[arg][0] == name for arg in op.args):
            self.values[name] = Operand(self._destination(name, vtype, destinations), 1, vtype.axes)
            return
        out = self._destination(name, vtype, destinations)
        written = changed(op, args, out) or fused_in_place(op, args, out) or in_place(op, args, out)
        if written is None:
            target = out if name in destinations or name in self.parts else None
            text = expression(op, args)
            if target is None:
                self._drop_scratch(name)
                self.text.append(f"{name} = {text}")
                out = name
            else:
                self.text.append(f"{target}.copy_({text})")
        else:
            self.text.append(written)
        self.values[name] = Operand(out, 1, vtype.axes)

    def _slotwise(self, op: Op, args: Sequence[Operand]) -> Operand:
        """An op on all slots of a tape; what has none stands in front of each."""
        name, lead = op.results[0], len(op.types[0].lead)
        if op.op == "view":
            return Operand(args[0].text, lead, op.types[0].axes)
        wide = [replace(arg, text=f"{arg.text}[None]", lead=2) if arg.lead == 1 else arg for arg in args]
        self.text.append(f"{name} = {expression(op, wide)}")
        return Operand(name, lead, op.types[0].axes)

    def _drop_scratch(self, name: str) -> None:
        tensor = self.scratch.pop(name, None)
        if tensor is not None:
            self.free.setdefault(tensor.rsplit("_", 1)[0], []).append(tensor)

    def _destination(self, name: str, vtype: VType, destinations: dict[str, Store]) -> str:
        if name in self.chained:
            return self._destination(self.chained[name], vtype, destinations)
        if name in self.settled:
            load = self.settled[name]
            index = load.index[0]
            assert isinstance(index, Affine)
            return self._row(load.storage, index, write=False)
        if name in self.parts:
            whole, start, stop = self.parts[name]
            part = self._part(self._destination(whole, vtype, destinations), start, stop)
            assert part is not None
            return part
        store = destinations.get(name)
        if store is None:
            return self._scratch(name, vtype)
        if store.index:
            index = store.index[0]
            assert isinstance(index, Affine)
            return self._row(store.storage, index, write=True)
        return self._other(store.storage)

    def _other(self, carry: str) -> str:
        """The second tensor of a carry, written while the first is still read."""
        other = f"{carry}_new"
        if other not in self.entry.allocated:
            self.entry.allocated.add(other)
            sizes = ["B", *(str(axis.size) for axis in self.entry.storages[carry].type.axes)]
            self.entry.line(f"{other} = {self.entry.lease(other, sizes, '')}")
        return other

    def _store(self, store: Store, destinations: dict[str, Store]) -> None:
        if store in self.views:
            return
        value = self._operand(store.value)
        chosen = destinations.get(store.value)
        if store.index:
            index = store.index[0]
            assert isinstance(index, Affine)
            row = self._row(store.storage, index, write=True)
            if chosen is not store:
                self.text.append(f"{row}.fill_({value.text})" if value.number else f"{row}.copy_({value.text})")
            return
        if chosen is not None and chosen.index and self._rebind(store.storage, value.text, chosen.storage):
            return
        other = self._other(store.storage)
        if chosen is not store:
            self.text.append(f"{other}.fill_({value.text})" if value.number else f"{other}.copy_({value.text})")
        self.swaps.append(f"{store.storage}, {other} = {other}, {store.storage}")

    def _rebind(self, carry: str, row: str, sequence: str) -> bool:
        """The carry becomes the row that its value was written to, and lives in that sequence's room.

        Not where windows repeat and the room is leased anew in each: the next one starts by writing to the carry.
        """
        if row not in self.origin:
            return False
        room = self.origin[row].text.split(",")[0]
        if self.entry.windowed and room != sequence:
            return False
        self.swaps.append(f"{carry} = {row}")
        self.entry.rebound[carry] = room
        self.entry.lodgers.setdefault(room, []).append(carry)
        return True
