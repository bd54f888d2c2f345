"""Program -> Python text: one function an entry, one statement an operation, buffers written in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from recdsl.backends.torch.fuse import fuse
from recdsl.backends.torch.loops import LoopWriter
from recdsl.backends.torch.operations import Operand, expression
from recdsl.program.ir import Add, Affine, Bound, For, If, Index, Load, Op, Program, Range, Stmt, Storage, Store


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
        self.plain: set[str] = set()
        self.head: list[str] = []

    # -- text -----------------------------------------------------------------------------------------------------
    def line(self, text: str) -> None:
        self.lines.append("    " * self.depth + text)

    def argument(self, name: str) -> str:
        """A storage that the caller hands in."""
        self.arguments.setdefault(name)
        return name

    # -- statements -----------------------------------------------------------------------------------------------
    def write(self, statements: Sequence[Stmt]) -> None:
        for statement in statements:
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
        self.line(f"{name} = {expression(op, args)}")
        self.values[name] = Operand(name, len(vtype.lead), vtype.axes)

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
        if text != name:
            self.line(f"{name} = {text}")
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
        lo, hi = bound_text(part.lo), bound_text(part.hi)
        extent = affine_text(storage.type.lead[0][1])
        if lo == "0" and hi == extent:
            return ""
        if storage.name in self.aliases and self.windowed and storage.name in self.local:
            return ""
        return f"[{'' if lo == '0' else lo}:{'' if hi == extent else hi}]"

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
        sizes = ", ".join(["B", *(str(axis.size) for axis in storage.type.axes)])
        self.line(f"{storage.name} = like.new_{'zeros' if value.number else 'empty'}(({sizes},))")
        if not value.number:
            self.line(f"{storage.name}.copy_({value.text})")
        self.allocated.add(storage.name)

    def allocate(self, storage: Storage) -> None:
        """Room for a sequence, before the first loop that writes it."""
        if storage.name in self.allocated:
            return
        self.allocated.add(storage.name)
        extents = [affine_text(extent) for _, extent in storage.type.lead]
        sizes = ", ".join([*extents, *(str(axis.size) for axis in storage.type.axes)])
        kind = {"int": ", dtype=torch.long", "bool": ", dtype=torch.bool"}.get(storage.type.dtype, "")
        text = f"{storage.name} = like.new_empty(({sizes}){kind})"
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
            LoopWriter(self, loop, fuse(loop.body)).write()
            return
        start = len(self.lines)
        outer = self.head
        self.head = []
        self.partial = partial_stores(loop.body)
        self.line(f"for {loop.var} in range({self.argument(bound_text(loop.hi))}):")
        self.depth += 1
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
        arguments = ", ".join(["like", "T", "B", *self.arguments])
        body = "\n".join([*self.head, *self.lines])
        tape = [self.aliases.get(name, name) for name in sorted(self.tape)]
        names = [*self.results.values(), *tape]
        return f"def {self.name}({arguments}):\n{body}\n    return ({''.join(name + ', ' for name in names)})\n"


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
