"""Loads, stores and sums into storages: where rows lie, and which sequences need not be stored at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from recdsl.backends.native.kernel import Kernel, nest
from recdsl.backends.native.nests import Nests
from recdsl.backends.native.reductions import reduction
from recdsl.backends.native.strides import storage_strides
from recdsl.backends.native.strips import LOW, SPAN
from recdsl.backends.native.texts import bound_text
from recdsl.backends.native.uses import Def
from recdsl.backends.native.values import Ix, Ref, Stride, Value, literal, memory, numel, of_sample, plus_text, product
from recdsl.program.affine import add
from recdsl.program.ir import Add, Affine, At, Load, Range, Stmt, Store

CHEAP = 9.0  # cost up to which a stored sequence is computed where it is read


@dataclass
class Deferred:
    """A sequence that is never stored: `value` at rows from `first` on."""

    value: Value
    first: str


@dataclass
class Access(Nests):
    """Statements that touch storages."""

    deferred: dict[str, Deferred] = field(default_factory=dict)
    own: dict[str, int] = field(default_factory=dict[str, int])  # of a strip: the row of its first step

    def _define(self, stmt: Stmt, name: str, value: Value, type: Any) -> None:
        found = self.uses.defs[id(stmt)]
        value.depth = len(self.blocks) - 1
        self.values[name], self.types[name], self.made[name] = value, type, found
        if value.number is None:
            self.live.add(value, found)

    # -- storage --------------------------------------------------------------------------------------------------
    def _region(self, name: str, index: Sequence[Any]) -> tuple[Ref, dict[str, str]]:
        """Memory of the indexed part of a storage, and the extents of the leading axes that stay."""
        storage = self.memory.storages[name]
        base, own = self.memory.base(name), tuple(axis.size for axis in storage.type.axes)
        strides = storage_strides(storage.type.lead, numel(own))
        offset, lead, row = "0", dict[str, str](), None
        kept: dict[str, Stride] = {}
        for k, (label, extent) in enumerate(storage.type.lead):
            part = index[k] if k < len(index) else None
            if isinstance(part, Affine):
                at = self._row(name, part) if k == 0 else self.text(part)
                if storage.kind == "ring" and k == 0:
                    size = self.text(extent)
                    at = f"((({at}) % ({size}) + ({size})) % ({size}))"
                elif k == 0:
                    row = part
                offset = plus_text(offset, product(at, strides[k].text))
                continue
            if isinstance(part, Range):
                low, lead[label] = self._rows(part)
                offset = plus_text(offset, product("0" if name in self.own else low, strides[k].text))
            else:
                lead[label] = self.text(extent)
            kept[label] = strides[k]
        return Ref((name, row), base, offset, kept, self.memory.own_strides(name, own)), lead

    def _row(self, name: str, part: Affine) -> str:
        """A row of a storage; of one that lasts for a strip, counted from the strip's first."""
        if name not in self.own:
            return self.text(part)
        low = self.symbols[LOW]
        return f"({self.text(add(part, Affine(self.own[name]), -1))} - {low})"

    def _rows(self, part: Range) -> tuple[str, str]:
        """The first row of a range, and how many there are."""
        low, high = (self.integer(bound_text(b, self.symbols)) for b in (part.lo, part.hi))
        if any(name == LOW for name, _ in part.lo.parts[0].terms):
            return low, self.symbols[SPAN]
        return low, high if low == "0" else self.integer(f"{high} - {low}")

    def _load(self, load: Load) -> None:
        if load.storage in self.deferred:
            self._define(load, load.result, self._recomputed(load), load.type)
            return
        if load.index and isinstance(load.index[0], At):
            self._load_rows(load)
            return
        ref, lead = self._region(load.storage, load.index)
        value = memory(load.type.dtype, lead, tuple(a.size for a in load.type.axes), ref)
        self._define(load, load.result, value, load.type)

    def _load_rows(self, load: Load) -> None:
        """Rows chosen by a value; -1 gives zeros."""
        index = self.values[load.index[0].value]  # type: ignore[union-attr]
        ref, rest = self._region(load.storage, ())
        slot = self.memory.storages[load.storage].type.lead[0][0]
        kind = load.type
        lead = {**{k: v for k, v in rest.items() if k != slot}, **index.lead}

        def at(kernel: Kernel, names: Mapping[str, str], own: tuple[Ix, ...]) -> str:
            found = index.entry(kernel, names, ())
            row = kernel.integer(f"{found} < 0 ? 0 : (long){found}")
            address = ref.address({**names, slot: row}, own)
            kernel.reads.add((ref.region, address))
            kernel.mixed |= slot == "B"
            return f"{found} < 0 ? {literal(0, kind.dtype)} : {ref.base}[{address}]"

        axes = tuple(a.size for a in kind.axes)
        reads = frozenset({ref.region}) | index.reads
        self._define(load, load.result, Value(kind.dtype, lead, axes, at, reads, 2, parts=(index,)), kind)

    def _recomputed(self, load: Load) -> Value:
        """Rows of a sequence that was not stored."""
        kept = self.deferred[load.storage]
        source, first = kept.value, kept.first
        axes = tuple(a.size for a in load.type.axes)
        (part,) = load.index
        if isinstance(part, Affine):
            row = self.text(part) if first == "0" else f"({self.text(part)} - {first})"
            lead = {name: text for name, text in source.lead.items() if name != "t"}
            write = partial(_at_row, source, row)
        else:
            assert isinstance(part, Range)
            low, extent = self._rows(part)
            lead = {**source.lead, "t": extent}
            write = partial(_from_row, source, "0" if low == first else f"({low} - {first})")
        return Value(source.dtype, lead, axes, write, source.reads, source.cost + 0.1, parts=(source,))

    def _defers(self, stmt: Store | Add, value: Value) -> bool:
        """Whether a stored sequence is better computed where it is read: cheap, stored once, read in this entry only,
        and what it needs stays as it is."""
        name = stmt.storage
        storage = self.memory.storages[name]
        own = storage.kind == "buffer" and storage.lifetime == "call"
        if not isinstance(stmt, Store) or not own or name in self.memory.results:
            return False
        stores, loads = self.uses.stores[name], self.uses.loads.get(name, [])
        if self.uses.parents[id(stmt)] in self.uses.ifs:
            return False
        if len(stores) != 1 or len(stmt.index) != 1 or not isinstance(stmt.index[0], Range) or not loads:
            return False
        if value.cost > CHEAP or list(value.lead) != ["t", "B"] or name in self.tape:
            return False
        place, _, loops = stores[0]
        if any(at < place or inner[: len(loops)] != loops or not _plain(load) for at, load, inner in loads):
            return False
        last = max(self._until(at, inner, loops) for at, _, inner in loads)
        written = (at for name, _ in value.reads for at, _, _ in self.uses.stores.get(name, ()))
        return not any(place < at < last for at in written)

    def _until(self, at: int, inner: tuple[int, ...], loops: tuple[int, ...]) -> int:
        """How far memory that a reader needs must stay: to the end of the reader's own loop."""
        return self.uses.ends[inner[len(loops)]] if len(inner) > len(loops) else at

    def _store(self, stmt: Store) -> None:
        if id(stmt) in self.filled:
            return
        value = self.values[stmt.value]
        if value.number is None and self._defers(stmt, value):
            part = stmt.index[0]
            assert isinstance(part, Range)
            self.deferred[stmt.storage] = Deferred(value, self.integer(bound_text(part.lo, self.symbols)))
            loops = self.uses.stores[stmt.storage][0][2]
            last = max(self._until(at, inner, loops) for at, _, inner in self.uses.loads[stmt.storage])
            found = Def(stmt.value, self.place, (), last=last)
            self.live.add(value, found)
            return
        dest, lead = self._region(stmt.storage, stmt.index)
        self.protect(dest.region)
        self.assign(dest, spread_over(value, lead))
        found = self.made[stmt.value]
        if found.last > self.place and list(lead) == list(value.lead) and value.number is None and value.ref is None:
            self.live.place(value, dest)

    def _add(self, stmt: Add) -> None:
        if id(stmt) in self.filled:
            return
        value = self.values[stmt.value]
        if stmt.index and isinstance(stmt.index[0], At):
            self._add_rows(stmt, value)
            return
        dest, lead = self._region(stmt.storage, stmt.index)
        self.protect(dest.region)
        if any(name not in lead for name in value.lead):
            self.flush()
            reduction(self, None, [value], replace_lead(value, lead), dest, True)
        else:
            self.assign(dest, spread_over(value, lead), adds=True)

    def _add_rows(self, stmt: Add, value: Value) -> None:
        """Rows chosen by a value, one after another: duplicates add, -1 adds nothing."""
        index = self.values[stmt.index[0].value]  # type: ignore[union-attr]
        dest, rest = self._region(stmt.storage, ())
        slot = self.memory.storages[stmt.storage].type.lead[0][0]
        self.protect(dest.region)
        self.flush()
        lead = {**{k: v for k, v in rest.items() if k != slot}, **index.lead, **value.lead}
        where = {name: f"l{k}" for k, name in enumerate(lead)}
        kernel = Kernel(self.names, sample=where.get("B", ""))
        axes = tuple(Ix(f"i{k}", f"i{k}", 0, size) for k, size in enumerate(value.axes))
        found = index.entry(kernel, where, ())
        row = kernel.integer(f"(long){found}")
        text = value.entry(kernel, where, axes)
        kernel.lines.append(f"if ({found} >= 0) {dest.base}[{dest.address({**where, slot: row}, axes)}] += {text};")
        loops = [(where[name], extent) for name, extent in lead.items()]
        loops += [(ix.text, str(size)) for ix, size in zip(axes, value.axes, strict=True)]
        own = of_sample(dest) and "B" in lead and slot != "B" and not kernel.mixed
        self.marked(own, nest(loops, kernel.lines))


def _plain(load: Load) -> bool:
    """Whether a load takes rows by their number."""
    return bool(load.index) and not isinstance(load.index[0], At)


def _at_row(source: Value, row: str, kernel: Kernel, lead: Mapping[str, str], own: tuple[Ix, ...]) -> str:
    return source.entry(kernel, {**lead, "t": row}, own)


def _from_row(source: Value, first: str, kernel: Kernel, lead: Mapping[str, str], own: tuple[Ix, ...]) -> str:
    return source.entry(kernel, {**lead, "t": kernel.integer(f"{lead['t']} + {first}")}, own)


def spread_over(value: Value, lead: dict[str, str]) -> Value:
    """The value with other leading axes around: repeated along those that it lacks."""
    if list(value.lead) == list(lead):
        return value

    def at(kernel: Kernel, names: Mapping[str, str], own: tuple[Ix, ...]) -> str:
        return value.entry(kernel, names, own)

    return Value(value.dtype, dict(lead), value.axes, at, value.reads, value.cost)


def replace_lead(value: Value, lead: dict[str, str]) -> Value:
    kept = {name: text for name, text in lead.items() if name in value.lead}
    return Value(value.dtype, kept, value.axes, value.at, value.reads)
