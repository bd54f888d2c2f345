"""Program -> Python text: one function an entry, one statement an operation, buffers written in place."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from recdsl.backends.torch.fuse import fuse
from recdsl.backends.torch.hosting import Hosting, Region
from recdsl.backends.torch.inplace import changed
from recdsl.backends.torch.lifetimes import fix_empty, last_lines, names_in
from recdsl.backends.torch.loops import LoopWriter
from recdsl.backends.torch.operations import BINARY, UNARY, VIEWS, Operand, expression, flat_product, in_place
from recdsl.backends.torch.room import loaded_elsewhere, read_by
from recdsl.backends.torch.texts import affine_text, bound_text, full_text, nested_text, number_text
from recdsl.program.affine import symbols_of
from recdsl.program.ir import Add, Affine, Bound, For, If, Index, Load, Op, Program, Range, Stmt, Storage, Store, VType


@dataclass
class Entry:
    """One function being written."""

    name: str
    program: Program
    tape: frozenset[str]
    columns: Mapping[str, set[tuple[int, int]] | None]  # of the whole program: see `columns_read`
    lines: list[str] = field(default_factory=list)
    values: dict[str, Operand] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    allocated: set[str] = field(default_factory=set)
    arguments: dict[str, None] = field(default_factory=dict)
    results: dict[str, str] = field(default_factory=dict)
    depth: int = 1

    def __post_init__(self) -> None:
        self.storages: dict[str, Storage] = {s.name: s for s in self.program.storages}
        self.windowed = False
        self.lo = self.hi = ""
        self.base: dict[str, str] = {}
        self.leased: dict[str, int] = {}
        self.transposed: dict[str, str] = {}  # matrices, and their transposes in room of their own
        self.rebound: dict[str, str] = {}  # carries that become rows of a sequence, with the name of its room
        self.plain: set[str] = set()
        self.head: list[str] = []
        self.place = 0
        self.final: dict[str, int] = {}  # the last statement of the function that reads a value or storage
        self.lodgers: dict[str, list[str]] = {}  # other values in a room, by the name that it was leased under
        self.lodging: dict[str, str] = {}
        self.standing: set[str] = set()  # sequences of which there is one row, or one for all samples
        self.elsewhere = loaded_elsewhere(self.program, self.name)
        self.regions: dict[str, Region] = {}  # where names that stand for part of a sequence's room lie
        self.planned: dict[str, Region] = {}
        self.allowed: dict[str, str | None] = {}

    def done_with(self, reader: Sequence[Stmt]) -> set[str]:
        """Sequences of leased room that `reader` reads by themselves and nothing reads after it."""
        shared = Counter(self.aliases.values())
        closed = {*self.base, *self.base.values(), *(self.root(text) for text in self.results.values())}
        now = read_by(reader)
        found: set[str] = set()
        for storage, text in self.aliases.items():
            if text not in self.leased or text in closed or shared[text] > 1 or storage in self.elsewhere:
                continue
            names = [text, *self.lodgers.get(text, ())]
            if max(self.final.get(name, -1) for name in (storage, *names)) <= self.place and now.isdisjoint(names):
                found.add(storage)
        return found

    def vacant(self, op: Op, args: Sequence[Operand], vtype: VType) -> str | None:
        """The room of an argument that this statement is the last to read, for its result."""
        if op.op not in (*UNARY, *BINARY, "relu") or self.depth > 1 or len(vtype.lead) != 2:
            return None
        for value, arg in zip(op.args, args, strict=True):
            text = arg.text
            names = [text, value, *self.lodgers.get(text, ())]
            names += [name for name, other in self.aliases.items() if other == text]
            same = arg.lead == 2 and [a.size for a in arg.axes] == [a.size for a in vtype.axes]
            if text not in self.leased or not same or any(self.final.get(name, -1) > self.place for name in names):
                continue
            shown = any(self.root(other) == text for other in self.results.values())
            if not shown and text not in self.base.values() and not self.elsewhere.intersection(names):
                self.lodgers.setdefault(text, []).append(op.results[0])
                self.lodging[op.results[0]] = text
                return text
        return None

    def plan(self, statements: Sequence[Stmt]) -> None:
        """Find what is made where a loop's results will lie."""
        numbers = {s.results[0]: dict(s.attrs)["value"] for s in statements if isinstance(s, Op) and s.op == "constant"}
        uniform = frozenset(name for name, value in numbers.items() if isinstance(value, bool | int | float))
        ones = frozenset(name for name in uniform if number_text(numbers[name]) == "1.0")
        loops = {place: s for place, s in enumerate(statements) if isinstance(s, For) and s.var == "t"}
        bodies = {place: fuse(loop.body, ones, uniform) for place, loop in loops.items()}
        hosting = Hosting(statements, self.storages, self.elsewhere, bodies)
        self.planned, self.allowed = hosting.regions, hosting.allowed

    # -- text -----------------------------------------------------------------------------------------------------
    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def argument(self, name: str) -> str:
        """A storage that the caller hands in."""
        self.arguments.setdefault(name)
        return name

    # -- statements -----------------------------------------------------------------------------------------------
    def write(self, statements: Sequence[Stmt]) -> None:
        if self.depth == 1 and not self.final:
            self.final = {name: place for place, statement in enumerate(statements) for name in read_by([statement])}
            self.plan(statements)
        for place, statement in enumerate(statements):
            if self.depth == 1:
                self.place = place
            if isinstance(statement, Op):
                self.op(statement)
            elif isinstance(statement, Load):
                self.load(statement)
            elif isinstance(statement, Store):
                self.store(statement)
            elif isinstance(statement, Add):
                self.add(statement)
            elif isinstance(statement, If):
                self.condition(statement)
            elif isinstance(statement, For):
                self.loop(statement)
            else:
                raise NotImplementedError(type(statement).__name__)

    def op(self, op: Op) -> None:
        name, vtype = op.results[0], op.types[0]
        if op.op == "constant":
            self.constant(op)
            return
        args = [self.values[arg] for arg in op.args]
        if name in self.planned and self.hosted(op, args):
            return
        flat = flat_product(op, args, name) if len(vtype.lead) == 2 and len(vtype.axes) == 1 else None
        if flat is not None:
            extents = [affine_text(extent) for _, extent in vtype.lead]
            self.line(f"{name} = {self.lease(name, [*extents, str(vtype.axes[0].size)], '')}")
            self.line(flat)
        else:
            text = self.compute(op, args, vtype)
            room = self.lodging.get(name)
            self.line(text if room else f"{name} = {text}")
            if room:
                self.values[name] = Operand(room, len(vtype.lead), vtype.axes)
                return
        self.values[name] = Operand(name, len(vtype.lead), vtype.axes)
        if op.op in ALIASING:
            self.base[name] = self.base.get(args[0].text, args[0].text)
            self.look(op, args[0])

    def look(self, op: Op, arg: Operand) -> None:
        """Where a view of columns lies."""
        region, attrs = self.regions.get(arg.text), dict(op.attrs)
        if region is not None and op.op == "slice" and len(op.types[0].axes) == 1:
            self.regions[op.results[0]] = region.columns(attrs["start"], attrs["start"] + attrs["axis"].size)
        elif region is not None and op.op in ("rename", "stop", "straight_through"):
            self.regions[op.results[0]] = region

    def hosted(self, op: Op, args: Sequence[Operand]) -> bool:
        """The op for all steps, made where a loop's results will lie."""
        name, region = op.results[0], self.planned[op.results[0]]
        out = next((arg.text for arg in args if self.regions.get(arg.text) == region), name)
        text = flat_product(op, args, out) or changed(op, args, out) or in_place(op, args, out)
        if text is None or (op.op in ("contract", "gather") and not flat_product(op, args, out)):
            return False
        if out == name:
            self.allocate(self.storages[region.base])
            self.line(f"{name} = {region.text}")
            self.regions[name], self.base[name] = region, region.base
        self.line(text)
        self.values[name] = Operand(out, 2, op.types[0].axes)
        return True

    def compute(self, op: Op, args: Sequence[Operand], vtype: VType) -> str:
        """The op for all steps at once, or a stack of weights, into leased room where the op can write."""
        extents = [affine_text(extent) for _, extent in vtype.lead]
        leads = {arg.lead for arg in args if not arg.number}
        fits = len(extents) == 2 and not op.joint and not (op.op == "contract" and leads != {0, 2})
        matrix = op.op == "concat" and not extents and len(vtype.axes) == 2 and self.depth == 1
        room = self.vacant(op, args, vtype) if fits and vtype.dtype == "float" else None
        if room is not None:
            return str(in_place(op, args, room))
        out = self.lease(op.results[0], [*extents, *(str(axis.size) for axis in vtype.axes)], "")
        fits = matrix or (fits and max(leads) == 2)
        written = in_place(op, args, out) if fits and vtype.dtype == "float" else None
        if written is None:
            self.leased.pop(op.results[0], None)
            return expression(op, args)
        return written

    def lease(self, name: str, sizes: Sequence[str], dtype: str) -> str:
        """Text that asks for room; whether it comes from the arena is decided when all uses are known."""
        self.leased[name] = len(self.lines)
        return f"@{name}@({''.join(size + ', ' for size in sizes)}{dtype})".replace(", )", ")")

    def constant(self, op: Op) -> None:
        value, vtype = dict(op.attrs)["value"], op.types[0]
        if isinstance(value, bool | int | float):
            number = number_text(value)
            self.values[op.results[0]] = Operand(number, 0, vtype.axes, number=True)
            return
        self.line(f"{op.results[0]} = like.new_tensor({nested_text(value)})")
        self.values[op.results[0]] = Operand(op.results[0], 0, vtype.axes)

    def load(self, load: Load) -> None:
        storage = self.storages[load.storage]
        base = self.source(storage)
        lead = len(load.type.lead)
        text = base + self.index(storage, load.index)
        direct = storage.kind == "input"
        name = text if text.isidentifier() else load.result
        if text == name:
            self.lodgers.setdefault(text, []).append(load.result)
        else:
            self.line(f"{name} = {text}")
            self.base[name] = self.base.get(base, base)
        self.values[load.result] = Operand(name, lead, load.type.axes, plain=direct and not self.loose(storage))

    def loose(self, storage: Storage) -> bool:
        """Whether an index may be absent (-1): targets of steps without a loss, and delayed inputs."""
        return storage.type.dtype == "int" and storage.name not in self.plain

    def source(self, storage: Storage) -> str:
        if storage.kind in ("input", "parameter") or storage.lifetime == "stream":
            return self.argument(storage.name)
        if storage.name in self.aliases:
            return self.aliases[storage.name]
        if storage.kind in ("buffer", "output") and storage.name not in self.allocated:
            return self.argument(storage.name)
        return storage.name

    def index(self, storage: Storage, index: Sequence[Index]) -> str:
        if not index:
            return ""
        part = index[0]
        if isinstance(part, Affine):
            inside = self.windowed and storage.name in self.aliases and storage.name in self.local
            return f"[{affine_text(part)} - lo]" if inside else f"[{affine_text(part)}]"
        assert isinstance(part, Range)
        return self.rows(storage, part)

    def rows(self, storage: Storage, part: Range) -> str:
        """A slice of a sequence; nothing where it is the whole of it."""
        lo, hi = self.bound(part.lo), self.bound(part.hi)
        extent = affine_text(storage.type.lead[0][1])
        if lo == "0" and hi == extent:
            return ""
        if storage.name in self.aliases and self.windowed and storage.name in self.local:
            return "" if (lo, hi) == ("lo", "hi") else f"[{'' if lo == '0' else lo + ' - lo'}:{hi} - lo]"
        return self.part_text(part, storage.type.lead[0][1])

    def part_text(self, part: Range, extent: Affine) -> str:
        """A slice of rows out of `extent`; nothing where it is all of them."""
        lo, hi, whole = self.bound(part.lo), self.bound(part.hi), affine_text(extent)
        return "" if (lo, hi) == ("0", whole) else f"[{'' if lo == '0' else lo}:{'' if hi == whole else hi}]"

    def bound(self, bound: Bound) -> str:
        """A bound by the name it has in the current window."""
        if self.windowed:
            shifts = {part.const - own.const for part, own in zip(bound.parts, self.window(bound).parts, strict=False)}
            same = len(bound.parts) == len(self.window(bound).parts) and len(shifts) == 1
            terms = [part.terms for part in bound.parts] == [part.terms for part in self.window(bound).parts]
            if same and terms and len(bound.parts) > 1:
                shift, name = shifts.pop(), "lo" if bound.kind == "max" else "hi"
                return name if shift == 0 else f"{name} + {shift}" if shift > 0 else f"{name} - {-shift}"
        return bound_text(bound)

    def window(self, bound: Bound) -> Bound:
        return self.range.lo if bound.kind == "max" else self.range.hi

    @property
    def local(self) -> set[str]:
        """Buffers that stand for the sequence of the current window only."""
        return self._local

    _local: set[str] = field(default_factory=set)

    def store(self, store: Store) -> None:
        storage = self.storages[store.storage]
        value = self.values[store.value]
        if storage.kind == "output":
            self.results[storage.name] = full_text(storage, value) if value.number else value.text
        elif storage.kind == "carry":
            self.carry(storage, value)
        elif storage.kind == "accumulate" and value.number:
            self.allocate(storage)
            self.line(f"{storage.name}{self.index(storage, store.index) or '[:]'} = {value.text}")
        elif self.replaces(storage, store):
            self.aliases[storage.name] = value.text
            if value.lead < 2:
                self.standing.add(storage.name)
            if self.windowed:
                self._local.add(storage.name)
        else:
            self.allocate(storage)
            where = self.index(storage, store.index)
            self.line(f"{storage.name}{where or '[:]'} = {value.text}")

    def replaces(self, storage: Storage, store: Store) -> bool:
        """Whether the value can stand for the buffer: it covers all rows that anything reads."""
        if not store.index or not isinstance(store.index[0], Range) or storage.name in self.allocated:
            return False
        part = store.index[0]
        exact = storage.type.lead[0][1].const == 0
        whole = exact and bound_text(part.lo) == "0" and bound_text(part.hi) == "T"
        window = exact and self.windowed and len(part.lo.parts) > 1 and storage.name not in self.partial
        return whole or window

    partial: set[str] = field(default_factory=set)

    def carry(self, storage: Storage, value: Operand) -> None:
        sizes = ["B", *(str(axis.size) for axis in storage.type.axes)]
        if storage.name not in self.allocated:
            self.allocated.add(storage.name)
            text = f"{storage.name} = {self.lease(storage.name, sizes, '')}"
            if self.windowed:
                self.head.append("    " + text)
            else:
                self.line(text)
        self.line(f"{storage.name}.fill_({value.text})" if value.number else f"{storage.name}.copy_({value.text})")

    def every(self, every: int, end: str) -> str:
        """Rows before step t, of which only every so-manyth can hold a slot; the first such row depends on the call."""
        if every == 1:
            return f":{end}"
        name = f"first_{every}"
        if name not in self.allocated:
            self.allocated.add(name)
            self.line(f"{name} = int(-1 - {self.argument('in_t')}[0, 0]) % {every}")
        return f"{name}:{end}:{every}"

    def allocate(self, storage: Storage) -> None:
        """Room for a sequence, before the first loop that writes it."""
        if storage.name in self.allocated:
            return
        if storage.lifetime == "stream":
            self.argument(storage.name)  # what is written there lasts longer than the function
            return
        self.allocated.add(storage.name)
        extents = [affine_text(extent) for _, extent in storage.type.lead]
        sizes = [*extents, *(str(axis.size) for axis in storage.type.axes)]
        kind = {"int": "dtype=torch.long", "bool": "dtype=torch.bool"}.get(storage.type.dtype, "")
        text = f"{storage.name} = {self.lease(storage.name, sizes, kind)}"
        if self.windowed:
            self.head.append("    " + text)
        else:
            self.line(text)

    def add(self, add: Add) -> None:
        storage, value = self.storages[add.storage], self.values[add.value]
        inside = value.lead
        text = f"{value.text}.sum({tuple(range(inside))})" if inside else value.text
        if self.depth > 1:
            sizes = "".join(f"{axis.size}, " for axis in storage.type.axes)
            if storage.name not in self.allocated:
                self.allocated.add(storage.name)
                self.head.append(f"    {storage.name} = like.new_zeros(({sizes}))")
            self.line(f"{storage.name} += {text}")
        else:
            self.aliases[storage.name] = text
            if not text.isidentifier():
                self.line(f"{storage.name} = {text}")
                self.aliases[storage.name] = storage.name

    def condition(self, statement: If) -> None:
        kind, left, right = statement.predicate
        sign = {"lt": "<", "le": "<=", "eq": "==", "ge": ">=", "ne": "!="}[kind]
        self.line(f"if {affine_text(left)} {sign} {affine_text(right)}:")
        self.depth += 1
        self.write(statement.body)
        self.depth -= 1

    def loop(self, loop: For) -> None:
        if loop.var == "t":
            ones = frozenset(name for name, value in self.values.items() if value.number and value.text == "1.0")
            numbers = frozenset(name for name, value in self.values.items() if value.number)
            LoopWriter(self, loop, fuse(loop.body, ones, numbers)).write()
            return
        start = len(self.lines)
        outer = self.head
        self.head = []
        self.partial = partial_stores(loop.body)
        self.range = span_of(loop.body)
        for symbol in sorted(symbols_of(loop.hi) - {"T", "B"}):
            self.argument(symbol)
        backwards = "[::-1]" if loop.step < 0 else ""
        self.line(f"for {loop.var} in range({bound_text(loop.hi)}){backwards}:")
        self.depth += 1
        self.line(f"lo, hi = {bound_text(self.range.lo)}, {bound_text(self.range.hi)}")
        self.line("W = hi - lo")
        self.windowed = True
        self.write(loop.body)
        self.windowed = False
        self.depth -= 1
        self.lines[start:start] = self.head
        self.head = outer
        for name in list(self._local):
            self.aliases.pop(name, None)
        self._local.clear()

    # -- function -------------------------------------------------------------------------------------------------
    def finish(self) -> str:
        """The function's text: room is leased from the arena unless a result shares it, and given back after use."""
        tape = [self.aliases.get(name, name) for name in sorted(self.tape)]
        names = [*self.results.values(), *tape]
        # the next state is copied out before the room is used again
        escaping = {self.root(text) for name, text in self.results.items() if not name.startswith("next_")}
        kept = {self.root(name) for name in (*self.results.values(), *tape)}
        kept |= {self.root(self.rebound[name]) for name in kept if name in self.rebound}
        lines = [*self.head, *self.lines]
        for symbol in self.program.scalars:
            if any(re.search(rf"\b{symbol}\b", line) for line in lines):
                self.argument(symbol)
        rows = {self.root(name) for name in ROWS.findall("\n".join(lines))}
        shown = {name: "arena.show" if name in rows else "like.new_empty" for name in escaping}
        maker = dict.fromkeys(self.leased, "arena.take") | shown
        out: list[str] = []
        gifts = self.gifts(lines, kept | self.rebound.keys())
        for number, line in enumerate(lines):
            out.append(ROOM.sub(lambda m: maker[m[1]], line))
            out += [f"{indent}arena.give({', '.join(ended)})" for indent, ended in gifts.get(number, ())]
        out = [fix_empty(line) for line in out]
        arguments = ", ".join(["like", "arena", "T", "B", *self.arguments])
        returned = "".join(name + ", " for name in names)
        return f"def {self.name}({arguments}):\n" + "\n".join(out) + f"\n    return ({returned})\n"

    def root(self, name: str) -> str:
        """The tensor whose memory a name shares."""
        head = name.split("[")[0].split(".")[0]
        return self.base.get(head, head)

    def gifts(self, lines: Sequence[str], kept: set[str]) -> dict[int, list[tuple[str, list[str]]]]:
        """Behind which line what is given back, with its indentation."""
        shared = (self.base, self.rebound, self.transposed)
        names = {name for line in lines for name in names_in(line)}
        owners = {n: {n, *(other.get(n, n) for other in shared)} & self.leased.keys() for n in names}
        return last_lines(lines, owners, kept)


ROOM = re.compile(r"@(\w+)@")
ROWS = re.compile(r"arena\.rows\((\w+)")
ALIASING = (*VIEWS, "straight_through", "reshape")


def span_of(body: Sequence[Stmt]) -> Range:
    """The steps of a window: the bounds of its loops, or of the sequences it reads (which may stand shifted)."""
    for statement in body:
        if isinstance(statement, For):
            return Range(statement.lo, statement.hi)
    ranges = [i for s in body if isinstance(s, Load | Store) for i in s.index if isinstance(i, Range)]
    # a range from a "min" on is what stands behind the window
    windows = [p for p in ranges if p.lo.kind == "max" and len(p.lo.parts) > 1 and len(p.hi.parts) > 1]
    if not windows:
        return Range(Bound("max", (Affine(),)), Bound("min", (Affine(0, (("T", 1),)),)))
    return min(map(unshifted, windows), key=lambda part: part.lo.parts[-1].const)  # shorter ones share its pass


def unshifted(part: Range) -> Range:
    """A window's range counted from step 0, which is the first part of its lower bound."""
    by = part.lo.parts[0].const
    lo, hi = (tuple(Affine(p.const - by, p.terms) for p in bound.parts) for bound in (part.lo, part.hi))
    return Range(Bound(part.lo.kind, lo), Bound(part.hi.kind, hi))


def partial_stores(body: Sequence[Stmt]) -> set[str]:
    """Buffers that a window writes in pieces."""
    counts: dict[str, int] = {}
    for statement in body:
        if isinstance(statement, Store):
            counts[statement.storage] = counts.get(statement.storage, 0) + 1
    return {name for name, count in counts.items() if count > 1}
