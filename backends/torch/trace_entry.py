"""The entries of forward rules: one loop in which traces are carried along and gradients added up step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from recdsl.backends.torch.codegen import Entry
from recdsl.backends.torch.operations import Operand, expression
from recdsl.program.ir import Add, Affine, Bound, For, Load, Op, Range, Stmt, Storage, Store, VType

TENSORS = ("contract", "pad", "sum", "transpose", "slice", "gather", "scatter", "broadcast", "rename", "reduce_max")
"""Ops whose operands cannot be numbers in the text."""


@dataclass
class TraceEntry(Entry):
    """An entry whose loop makes new tensors instead of writing into rows: traces are read and replaced as a whole."""

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
        text = expression(op, [self.values[arg] for arg in op.args])
        self.values[name] = Operand(name, len(vtype.lead), vtype.axes)
        return f"{name} = {text}"

    def _sum(self, add: Add) -> str:
        storage, value = self.storages[add.storage], self.values[add.value]
        if storage.name not in self.allocated:
            self.allocated.add(storage.name)
            sizes = "".join(f"{axis.size}, " for axis in storage.type.axes)
            self.line(f"{storage.name} = like.new_zeros(({sizes}))")
        return f"{storage.name} += {value.text}"


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
