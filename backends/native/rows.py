"""Stores for all samples in C: searches among their rows, what they find, and where its gradient goes.

A search and a fetch ask the runtime first (`functions.py`, `Answers`): an index may know the slots, rows may be made
anew, and a call that is run again finds what it has found. A gradient of rows is no array of all slots: the function
gives the rows and places of all steps and samples, and the runtime makes a sparse sum of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from recdsl.backends.native.access import spread_over
from recdsl.backends.native.strides import lead_strides
from recdsl.backends.native.uses import read, statements
from recdsl.backends.native.values import NotLoweredError, Ref, Stride, Value, contiguous, memory, numel, plus_text
from recdsl.program.ir import Add, For, If, Load, Op, Program, Scalar, Stmt, Storage, Store, VType

if TYPE_CHECKING:
    from recdsl.backends.native.nests import Nests

CALLS = ("lookup_rows(", "fetch_rows(")
"""Functions of `rows.c`."""
KINDS = ("dot", "cosine", "inverse_distance", "mlp", "separable")
"""As `rows.c` counts them."""
QUERIES, SLOTS = 64, 256
"""As in `rows.c`."""


# -- searches and fetches ---------------------------------------------------------------------------------------------
def lookup(w: Nests, op: Op, args: Sequence[Value], value: Value, dest: Ref) -> None:
    """The places of the rows with the highest scores."""
    attrs = dict(op.attrs)
    keys, count, *others = args
    age = others.pop(0) if attrs["aged"] else None
    kind = KINDS.index(attrs["score"])
    layer = attrs["score"] == "mlp"
    query = others.pop(1 if layer else 0)
    if any(value.lead for value in (keys, count, *others, *([age] if age else []))):
        raise NotLoweredError("a search whose keys or weights vary")
    wide, size, slots = numel(keys.axes[1:]), value.axes[0], keys.axes[0]
    hidden = numel(query.axes) if layer else 0
    number = w.memory.ask(("lookup", _table(w, keys), attrs["read"], numel(query.axes), size))
    texts = [_text(_whole(w, spread_over(query, value.lead))), _text(_whole(w, keys)), _text(_whole(w, count))]
    texts.append(_text(_whole(w, age)) if age else "0")
    texts += [_text(_whole(w, other)) for other in others] if layer else ["0", "0"]
    room = w.names("m")
    w.memory.room(room, "float", [], QUERIES * (SLOTS + size) + SLOTS * (wide + hidden))
    to, copied = _target(w, value, dest)
    w.flush()
    sizes = f"{number}, {kind}, {_count(value.lead)}, {size}, {slots}, {wide}"
    call = f"lookup_rows({w.memory.asked()}, {sizes}, {', '.join(texts)}, {hidden}, {room}, {_text(to)});"
    w.marked(False, ["{", call, "}"])
    _copy(w, value, to, dest, copied)


def gather(w: Nests, op: Op, args: Sequence[Value], value: Value, dest: Ref) -> None:
    """The rows at some places."""
    table, place = args
    if table.lead:
        raise NotLoweredError("rows that vary")
    number = w.memory.ask(("gather", _table(w, table)))
    wide, rank = numel(table.axes[1:]), place.axes[0]
    texts = [_text(_whole(w, table)), _text(_whole(w, spread_over(place, value.lead)))]
    to, copied = _target(w, value, dest)
    w.flush()
    count = f"{_count(value.lead)} * {rank}"
    call = f"fetch_rows({w.memory.asked()}, {number}, {count}, {wide}, {', '.join(texts)}, {_text(to)});"
    w.marked(False, ["{", call, "}"])
    _copy(w, value, to, dest, copied)


WRITERS = {"lookup": lookup, "gather_rows": gather}


def _table(w: Nests, value: Value) -> str:
    """The parameter that rows are read from."""
    name = value.ref.region[0] if value.ref is not None and value.ref.offset == "0" else ""
    if name not in w.memory.arguments or w.memory.storages[name].kind != "parameter":
        raise NotLoweredError("rows that are computed")
    return name


def _plain(ref: Ref, value: Value) -> bool:
    """Whether entries lie one after another, in the order of the axes."""
    wanted = lead_strides(value.lead, numel(value.axes))
    if any(ref.lead.get(name, Stride(0)) != stride for name, stride in wanted.items() if value.lead[name] != "1"):
        return False
    return all(n == 1 or a == b for n, a, b in zip(value.axes, ref.own, contiguous(value.axes), strict=True))


def _whole(w: Nests, value: Value) -> Ref:
    """The value in memory, entries one after another."""
    if value.ref is not None and _plain(value.ref, value):
        return value.ref
    ref = w.scratch(value)
    w.assign(ref, replace(value, ref=None))
    return ref


def _target(w: Nests, value: Value, dest: Ref) -> tuple[Ref, bool]:
    """Where a function writes the value, and whether it is then copied to where it belongs."""
    return (dest, False) if _plain(dest, value) else (w.scratch(value), True)


def _copy(w: Nests, value: Value, ref: Ref, dest: Ref, copied: bool) -> None:
    if copied:
        w.assign(dest, memory(value.dtype, value.lead, value.axes, ref))
        w.flush()


def _text(ref: Ref) -> str:
    return plus_text(ref.base, ref.offset) if ref.offset != "0" else ref.base


def _count(lead: Mapping[str, str]) -> str:
    return " * ".join(f"({text})" if "+" in text or "-" in text else text for text in lead.values()) or "1"


# -- gradients of rows ------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Sum:
    """A sum at rows that the runtime makes. slots: rows that there are; pairs: storages of what is added, and where."""

    slots: int
    pairs: tuple[tuple[str, str], ...]


def sparse(program: Program, entry: str) -> tuple[Program, Mapping[str, Sum]]:
    """The program, and results of one entry that are sums at rows: instead of them, the entry leaves rows and places of
    all steps and samples. Raises NotLoweredError where more is done with such a sum than to add it to others."""
    body = dict(program.entries)[entry]
    if not any(isinstance(stmt, Op) and stmt.op == "scatter_rows" for stmt in statements(body)):
        return program, {}
    found = Sums(program, entry)
    kept = found.split(body)
    entries = tuple((name, kept if name == entry else old) for name, old in program.entries)
    return replace(program, storages=(*program.storages, *found.storages), entries=entries), found.results


class Sums:
    """What is known of sums at rows while a body is read: values and accumulators that are such sums, those that are
    anything else, and types of values."""

    def __init__(self, program: Program, entry: str) -> None:
        self.kinds = {storage.name: storage.kind for storage in program.storages}
        self.others = {name for other, body in program.entries if other != entry for name in touched(body)}
        self.values: dict[str, Sum] = {}
        self.totals: dict[str, Sum] = {}
        self.results: dict[str, Sum] = {}
        self.types: dict[str, VType] = {}
        self.storages: list[Storage] = []

    def split(self, body: Sequence[Stmt]) -> tuple[Stmt, ...]:
        """The body without sums at rows."""
        kept: list[Stmt] = []
        for stmt in body:
            if isinstance(stmt, Op) and stmt.op == "scatter_rows":
                kept += self._scattered(stmt)
            elif isinstance(stmt, Op) and any(arg in self.values for arg in stmt.args):
                self._only(stmt.op == "add" and all(arg in self.values for arg in stmt.args) and not stmt.joint)
                self.values[stmt.results[0]] = self._together([self.values[arg] for arg in stmt.args])
            elif isinstance(stmt, Add | Store) and stmt.value in self.values:
                self._put(stmt)
            elif isinstance(stmt, Load) and stmt.storage in self.totals:
                self._only(not stmt.index)
                self.values[stmt.result] = self.totals[stmt.storage]
            else:
                self._apart(stmt)
                kept.append(stmt)
            self._note(stmt)
        return tuple(kept)

    def _note(self, stmt: Stmt) -> None:
        if isinstance(stmt, Op):
            self.types |= dict(zip(stmt.results, stmt.types, strict=True))
        elif isinstance(stmt, Load | Scalar):
            self.types[stmt.result] = stmt.type

    def _put(self, stmt: Add | Store) -> None:
        name, value = stmt.storage, self.values[stmt.value]
        kind = "output" if isinstance(stmt, Store) else "accumulate"
        self._only(not stmt.index and self.kinds[name] == kind)
        if isinstance(stmt, Store):
            self.results[name] = value
        else:
            self._only(name not in self.others)
            self.totals[name] = self._together([*([self.totals[name]] if name in self.totals else []), value])

    def _together(self, sums: Sequence[Sum]) -> Sum:
        return Sum(sums[0].slots, tuple(pair for one in sums for pair in one.pairs))

    def _only(self, fits: bool) -> None:
        if not fits:
            raise NotLoweredError("a gradient of a store's rows that is more than a sum")

    def _apart(self, stmt: Stmt) -> None:
        """Nothing else reads a sum at rows or adds to it, and no loop makes one."""
        inner = statements(stmt.body) if isinstance(stmt, For | If) else ()
        for one in (stmt, *inner):
            if isinstance(one, Load | Store | Add):
                self._only(one.storage not in self.totals)
                self.others.add(one.storage)
            self._only(not any(name in self.values for name in read(one)))
            self._only(not (isinstance(one, Op) and one.op == "scatter_rows"))

    def _scattered(self, op: Op) -> list[Stmt]:
        """Rows and places as results of their own."""
        types = [self.types[arg] for arg in op.args]
        lead = max((kind.lead for kind in types), key=len)
        sized = all(name in ("T", "B") for _, size in lead for name, _ in size.terms)
        self._only(sized and not op.types[0].lead and {name for name, _ in lead} == {*op.joint})
        pair = (f"{op.results[0]}.rows", f"{op.results[0]}.places")
        for name, kind in zip(pair, types, strict=True):
            self.storages.append(Storage(name, "output", VType(kind.dtype, lead, kind.axes), "call"))
        self.values[op.results[0]] = Sum(op.types[0].axes[0].size, (pair,))
        return [Store(name, (), arg, op.span, op.reason) for name, arg in zip(pair, op.args, strict=True)]


def touched(body: Sequence[Stmt]) -> set[str]:
    return {stmt.storage for stmt in statements(body) if isinstance(stmt, Load | Store | Add)}
