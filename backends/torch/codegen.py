"""Program -> Python text: one function an entry, one statement an operation, buffers written in place."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from recdsl.backends.torch.fuse import fuse
from recdsl.backends.torch.loops import LoopWriter
from recdsl.backends.torch.operations import BINARY, UNARY, VIEWS, Operand, expression, flat_product, in_place
from recdsl.backends.torch.room import loaded_elsewhere, read_by
from recdsl.program.ir import Add, Affine, Bound, For, If, Index, Load, Op, Program, Range, Stmt, Storage, Store, VType


def affine_text(value: Affine) -> str:
    """Python text of an affine expression."""
    parts = [name if k == 1 else f"{k} * {name}" for name, k in value.terms if k]
    if value.const or not parts:
        parts.append(str(value.const))
    return " + ".join(parts).replace("+ -", "- ")


def bound_text(bound: Bound) -> str:
    parts = [affine_text(part) for part in bound.parts]
    return parts[0] if len(parts) == 1 else f"{bound.kind}({', '.join(parts)})"


@dataclass
class Entry:
    """One function being written."""

    name: str
    program: Program
    tape: frozenset[str]
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
        self.rebound: dict[str, str] = {}  # carries that become rows of a sequence, with the name of its room
        self.plain: set[str] = set()
        self.head: list[str] = []
        self.place = 0
        self.final: dict[str, int] = {}  # the last statement of the function that reads a value or storage
        self.lodgers: dict[str, list[str]] = {}  # other values in a room, by the name that it was leased under
        self.lodging: dict[str, str] = {}
        self.elsewhere = loaded_elsewhere(self.program, self.name)

    def done_with(self, reader: Sequence[Stmt]) -> set[str]:
        """Sequences of leased room that `reader` reads by themselves and nothing reads after it."""
        shared = Counter(self.aliases.values())
        closed = {*self.base, *self.base.values(), *(self.root(text) for text in self.results.values())}
        now = read_by(reader)
        found: set[str] = set()
        for storage, text in self.aliases.items():
            names = [text, *self.lodgers.get(text, ())]
            late = any(self.final.get(name, -1) > self.place for name in (storage, *names))
            free = text in self.leased and text not in closed and shared[text] == 1 and storage not in self.elsewhere
            if free and not late and now.isdisjoint(names):
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

    def compute(self, op: Op, args: Sequence[Operand], vtype: VType) -> str:
        """The op for all steps at once, into leased room where that is large and the op can write."""
        extents = [affine_text(extent) for _, extent in vtype.lead]
        leads = {arg.lead for arg in args if not arg.number}
        fits = len(extents) == 2 and not op.joint and not (op.op == "contract" and leads != {0, 2})
        room = self.vacant(op, args, vtype) if fits and vtype.dtype == "float" else None
        if room is not None:
            return str(in_place(op, args, room))
        out = self.lease(op.results[0], [*extents, *(str(axis.size) for axis in vtype.axes)], "")
        written = in_place(op, args, out) if fits and vtype.dtype == "float" and max(leads) == 2 else None
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
        if storage.kind in ("input", "parameter"):
            return self.argument(storage.name)
        if storage.name in self.aliases:
            return self.aliases[storage.name]
        if storage.kind == "buffer" and storage.name not in self.allocated:
            return self.argument(storage.name)
        return storage.name

    def index(self, storage: Storage, index: Sequence[Index]) -> str:
        if not index:
            return ""
        part = index[0]
        if isinstance(part, Affine):
            return f"[{affine_text(part)}]"
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
        return f"[{'' if lo == '0' else lo}:{'' if hi == extent else hi}]"

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
        elif self.replaces(storage, store):
            self.aliases[storage.name] = value.text
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

    def allocate(self, storage: Storage) -> None:
        """Room for a sequence, before the first loop that writes it."""
        if storage.name in self.allocated:
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
        self.line(f"for {loop.var} in range({self.argument(bound_text(loop.hi))}):")
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
        lines = [*self.head, *self.lines]
        rows = {self.root(name) for name in ROWS.findall("\n".join(lines))}
        shown = {name: "arena.show" if name in rows else "like.new_empty" for name in escaping}
        maker = dict.fromkeys(self.leased, "arena.take") | shown
        out: list[str] = []
        gifts = self.gifts(lines, kept | self.rebound.keys())
        for number, line in enumerate(lines):
            out.append(ROOM.sub(lambda m: maker[m[1]], line))
            out += [f"{indent}arena.give({', '.join(sorted(names))})" for indent, names in gifts.get(number, ())]
        out = [fix_empty(line) for line in out]
        arguments = ", ".join(["like", "arena", "T", "B", *self.arguments])
        returned = "".join(name + ", " for name in names)
        return f"def {self.name}({arguments}):\n" + "\n".join(out) + f"\n    return ({returned})\n"

    def root(self, name: str) -> str:
        """The tensor whose memory a name shares."""
        head = name.split("[")[0].split(".")[0]
        return self.base.get(head, head)

    def gifts(self, lines: Sequence[str], kept: set[str]) -> dict[int, list[tuple[str, list[str]]]]:
        """Behind which line what is given back: after the last line that reads it, counting views of it.

        What is leased inside a loop over windows goes back in the same round; what a loop over steps reads lives to
        the loop's end.
        """
        first: dict[str, int] = {}
        last: dict[str, int] = {}
        for number, line in enumerate(lines):
            for name in map(str, NAME.findall(line)):
                for leased in {name, self.base.get(name, name), self.rebound.get(name, name)} & self.leased.keys():
                    first.setdefault(leased, number)
                    last[leased] = number
        found: dict[int, dict[str, list[str]]] = {}
        depths = [depth_of(line) for line in lines]
        for name in sorted(last.keys() - kept):
            level = min(depths[first[name] : last[name] + 1])  # above the least indentation both lie in one block
            end = block_end(lines, depths, last[name], level)
            found.setdefault(end, {}).setdefault(" " * level, []).append(name)
        return {number: sorted(names.items(), reverse=True) for number, names in found.items()}


ROOM = re.compile(r"@(\w+)@")
ROWS = re.compile(r"arena\.rows\((\w+)")
NAME = re.compile(r"[A-Za-z_]\w*")
ALIASING = (*VIEWS, "straight_through")


def depth_of(line: str) -> int:
    """A line's indentation; the tail of a loop's header counts as inside it."""
    return len(line) - len(line.lstrip()) + (4 if line.lstrip() == "):" else 0)


def block_end(lines: Sequence[str], depths: Sequence[int], number: int, level: int) -> int:
    """The last line of the block at `level` that a line belongs to."""
    if depths[number] <= level and not lines[number].endswith(("(", ":")):
        return number
    return next((k - 1 for k in range(number + 1, len(lines)) if depths[k] <= level), len(lines) - 1)


def fix_empty(line: str) -> str:
    """`new_empty` takes its extents as one tuple."""
    return EMPTY.sub(lambda m: f"like.new_empty(({m[1]}){', ' + m[2] if m[2] else ''})", line)


EMPTY = re.compile(r"like\.new_empty\(([^()]*?),?\s?(dtype=[\w.]+)?\)")


def span_of(body: Sequence[Stmt]) -> Range:
    """The steps of a window: the bounds of its loops, or of the sequences it reads (which may stand shifted)."""
    for statement in body:
        if isinstance(statement, For):
            return Range(statement.lo, statement.hi)
    found = [i for s in body if isinstance(s, Load | Store) for i in s.index if isinstance(i, Range)]
    for part in found:
        if part.lo.kind == "max" and len(part.lo.parts) > 1 and len(part.hi.parts) > 1:
            return unshifted(part)  # a range from a "min" on is what stands behind the window
    return Range(Bound("max", (Affine(),)), Bound("min", (Affine(0, (("T", 1),)),)))


def unshifted(part: Range) -> Range:
    """A window's range counted from step 0, which is the first part of its lower bound."""
    by = part.lo.parts[0].const
    lo, hi = (tuple(Affine(p.const - by, p.terms) for p in bound.parts) for bound in (part.lo, part.hi))
    return Range(Bound(part.lo.kind, lo), Bound(part.hi.kind, hi))


def full_text(storage: Storage, value: Operand) -> str:
    """A constant as a tensor of the storage's kind."""
    dtype = {"int": ", dtype=torch.long", "bool": ", dtype=torch.bool"}.get(storage.type.dtype, "")
    sizes = "".join(f"{axis.size}, " for axis in storage.type.axes)
    return f"like.new_full(({sizes}), {value.text}{dtype})"


def partial_stores(body: Sequence[Stmt]) -> set[str]:
    """Buffers that a window writes in pieces."""
    counts: dict[str, int] = {}
    for statement in body:
        if isinstance(statement, Store):
            counts[statement.storage] = counts.get(statement.storage, 0) + 1
    return {name for name, count in counts.items() if count > 1}


def number_text(value: float) -> str:
    """A literal that Python reads back exactly; infinities and nan by name."""
    if isinstance(value, bool | int):
        return repr(value)
    if value != value:
        return "math.nan"
    if value in (float("inf"), float("-inf")):
        return "math.inf" if value > 0 else "-math.inf"
    return repr(float(value))


def nested_text(value: object) -> str:
    """A nested tuple of numbers as a list literal."""
    if isinstance(value, tuple):
        return "[" + ", ".join(nested_text(item) for item in value) + "]"
    assert isinstance(value, bool | int | float)
    return number_text(value)
