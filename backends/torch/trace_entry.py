"""The entries of forward rules: one loop in which traces are carried along and gradients added up step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from recdsl.backends.torch.codegen import Entry
from recdsl.backends.torch.operations import Operand, expression
from recdsl.program.ir import Add, Affine, Bound, For, Load, Op, Range, Stmt, Storage, Store, VType

TENSORS = (
    "contract",
    "pad",
    "sum",
    "transpose",
    "slice",
    "gather",
    "scatter",
    "broadcast",
    "rename",
    "reshape",
    "reduce_max",
)
"""Ops whose operands cannot be numbers in the text."""


@dataclass
class TraceEntry(Entry):
    """An entry whose loop makes new tensors instead of writing into rows: traces are read and replaced as a whole."""

    thin: set[str] = field(default_factory=set[str])
    folded: dict[str, str] = field(default_factory=dict[str, str])
    products: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    def plan(self, statements: Sequence[Stmt]) -> None:
        """Nothing lies in rows of a loop's results."""

    def vacant(self, op: Op, args: Sequence[Operand], vtype: VType) -> str | None:
        return None

    def op(self, op: Op) -> None:
        self._fill(op)
        super().op(op)

    def _fill(self, op: Op) -> None:
        """Numbers become tensors where an op needs them."""
        if op.op in TENSORS:
            self.values.update({name: full(self.values[name]) for name in op.args})

    def carry(self, storage: Storage, value: Operand) -> None:
        """What a trace begins with."""
        self.allocated.add(storage.name)
        self.line(f"{storage.name} = {value.text}")

    def loop(self, loop: For) -> None:
        rows: dict[str, str] = {}
        body: list[str] = []
        left: list[tuple[str, str]] = []
        self.thin, self.folded = thin(loop.body), folded(loop.body)
        for statement in loop.body:
            if isinstance(statement, Load):
                self._row(statement, loop, rows)
            elif isinstance(statement, Op):
                self._fill(statement)
                body.append(self._made(statement))
            elif isinstance(statement, Add):
                body.append(self._sum(statement))
            elif isinstance(statement, Store):
                left.append((statement.storage, batched(full(self.values[statement.value]))))
        self._write(rows, [line for line in body if line], left)

    def _write(self, rows: dict[str, str], body: Sequence[str], left: Sequence[tuple[str, str]]) -> None:
        if rows:
            self.line(f"for {', '.join(rows.values())}{',' if len(rows) == 1 else ''} in zip(")
            for text in rows:
                self.line(f"    {text},")
            self.line("):")
        else:
            self.line("for _ in range(T):")
        for line in body:
            self.line(f"    {line}")
        if left:
            self.line(f"    {', '.join(name for name, _ in left)} = {', '.join(text for _, text in left)}")
        elif not body:
            self.line("    pass")

    def _row(self, load: Load, loop: For, rows: dict[str, str]) -> None:
        """A trace as it stands, or one step of a sequence."""
        storage = self.storages[load.storage]
        if storage.kind == "carry":
            self.values[load.result] = Operand(load.storage, 1, load.type.axes)
            return
        (index,) = load.index
        assert isinstance(index, Affine)
        lo = Bound(loop.lo.kind, tuple(Affine(p.const + index.const, p.terms) for p in loop.lo.parts))
        hi = Bound(loop.hi.kind, tuple(Affine(p.const + index.const, p.terms) for p in loop.hi.parts))
        text = self.source(storage) + self.rows(storage, Range(lo, hi))
        name = rows.setdefault(text, load.result)
        plain = storage.kind == "input" and not self.loose(storage)
        self.values[load.result] = Operand(name, 1, load.type.axes, plain=plain)

    def _made(self, op: Op) -> str:
        name, vtype = op.results[0], op.types[0]
        if op.op == "constant":
            self.constant(op)
            return ""
        if op.op == "rename":
            self.values[name] = replace(self.values[op.args[0]], axes=vtype.axes)
            return ""
        if name in self.thin:
            self.values[name] = self._narrow(op)
            return ""
        if name in self.folded.values():
            self.products[name] = op.args
            return ""
        if name in self.folded:
            return self._accumulated(op)
        text = expression(op, [self.values[arg] for arg in op.args])
        self.values[name] = Operand(name, len(vtype.lead), vtype.axes)
        return f"{name} = {text}"

    def _narrow(self, op: Op) -> Operand:
        """A repetition that the ops which read it make by themselves."""
        arg, at, axes = self.values[op.args[0]], dict(op.attrs)["at"], op.types[0].axes
        if arg.number:
            return Operand(arg.text, 0, axes, number=True)
        index = [":"] * arg.lead + [":" if k in at else "None" for k in range(len(axes))]
        while index and index[-1] == ":":
            index.pop()
        return Operand(f"{arg.text}[{', '.join(index)}]" if index else arg.text, arg.lead, axes)

    def _accumulated(self, op: Op) -> str:
        """A product that is added to something, in one go."""
        product = self.folded[op.results[0]]
        other = op.args[1] if op.args[0] == product else op.args[0]
        texts = [full(self.values[arg]).text for arg in (other, *self.products[product])]
        self.values[op.results[0]] = Operand(op.results[0], len(op.types[0].lead), op.types[0].axes)
        return f"{op.results[0]} = torch.addcmul({', '.join(texts)})"

    def _sum(self, add: Add) -> str:
        storage, value = self.storages[add.storage], self.values[add.value]
        if storage.name not in self.allocated:
            self.allocated.add(storage.name)
            sizes = "".join(f"{axis.size}, " for axis in storage.type.axes)
            self.line(f"{storage.name} = like.new_zeros(({sizes}))")
        return f"{storage.name} += {value.text}"


ELEMENTWISE = ("mul", "add", "sub", "div")


def readers(body: Sequence[Stmt]) -> dict[str, list[Stmt]]:
    """Who reads each value."""
    found: dict[str, list[Stmt]] = {}
    for statement in body:
        args = statement.args if isinstance(statement, Op) else ()
        for name in (*args, *((statement.value,) if isinstance(statement, Store | Add) else ())):
            found.setdefault(name, []).append(statement)
    return found


def thin(body: Sequence[Stmt]) -> set[str]:
    """Repetitions read only by ops that repeat by themselves, and whose other operand has what is missing."""
    users = readers(body)
    covered = {s.results[0]: set(dict(s.attrs)["at"]) for s in body if isinstance(s, Op) and s.op == "broadcast"}
    found: set[str] = set()
    for name in covered:
        if all(isinstance(user, Op) and _covers(user, name, covered) for user in users.get(name, ())):
            found.add(name)
    return found


def _covers(user: Op, name: str, covered: dict[str, set[int]]) -> bool:
    """Whether an elementwise op has every axis of its result in one operand or the other."""
    if user.op not in ELEMENTWISE:
        return False
    whole = set(range(len(user.types[0].axes)))
    others = [covered.get(arg, whole) for arg in user.args if arg != name]
    return bool(others) and all(covered[name] | other == whole for other in others)


def folded(body: Sequence[Stmt]) -> dict[str, str]:
    """Sums of a product that nothing else reads, with that product."""
    users, numbers = readers(body), {s.results[0] for s in body if isinstance(s, Op) and s.op == "constant"}
    products = {
        s.results[0]
        for s in body
        if isinstance(s, Op) and s.op == "mul" and len(users.get(s.results[0], ())) == 1 and numbers.isdisjoint(s.args)
    }
    found: dict[str, str] = {}
    for statement in body:
        if isinstance(statement, Op) and statement.op == "add" and numbers.isdisjoint(statement.args):
            mates = [arg for arg in statement.args if arg in products]
            if mates and statement.args[0] != statement.args[1]:
                found[statement.results[0]] = mates[-1]
    return found


def full(value: Operand) -> Operand:
    """A number as a tensor."""
    if not value.number:
        return value
    sizes = "".join(f"{axis.size}, " for axis in value.axes)
    return Operand(f"like.new_full(({sizes}), {value.text})", 0, value.axes)


def batched(value: Operand) -> str:
    """A value with the batch in front."""
    sizes = ", ".join(["B", *(str(axis.size) for axis in value.axes)])
    return value.text if value.lead else f"{value.text}.expand({sizes})"
