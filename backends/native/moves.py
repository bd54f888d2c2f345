"""The optimizer as ops of the program: gradients move parameters in the line that makes them, and need no memory.

The same steps as `change` of `online.c`. What depends on the count of updates or on a schedule are numbers that C
computes before each update: `NUMBERS` for each parameter, in the order of the parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from recdsl.graph.types import Axis
from recdsl.program.ir import Load, Op, Program, Stmt, Storage, Store, VType

NUMBERS = 3
SCALARS = "numbers"


@dataclass(frozen=True)
class Moving:
    """A parameter by its storage and that of its gradient, and how many tensors the optimizer keeps of it."""

    storage: str
    gradient: str
    slots: int

    def slot(self, k: int) -> str:
        return f"{self.storage}.slot{k}"


@dataclass(frozen=True)
class Rule:
    """An optimizer and its options, as `online.c` reads them. losses: storages of losses with their weights."""

    name: str
    options: tuple[float, ...]
    losses: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Moves:
    """The program with its updates. squares: the values that the norm of the gradient is made of."""

    program: Program
    squares: tuple[str, ...]


def moves(program: Program, moving: Sequence[Moving], rule: Rule) -> Moves:
    """A line whose gradients are not stored, but move their parameters."""
    ((entry, body),) = program.entries
    stored = {stmt.storage: stmt.value for stmt in body if isinstance(stmt, Store)}
    of = {item.gradient for item in moving}
    line = [stmt for stmt in body if not (isinstance(stmt, Store) and stmt.storage in of)]
    storages = {storage.name: storage for storage in program.storages}
    numbers = VType("float", (), (Axis("number", NUMBERS * max(1, len(moving))),))
    storages[SCALARS] = Storage(SCALARS, "input", numbers, "call")
    writer = _Writer(line)
    given = writer.load(SCALARS, numbers)
    for k, item in enumerate(moving):
        kind = replace(storages[item.storage].type, lead=())
        for slot in range(item.slots):
            storages[item.slot(slot)] = Storage(item.slot(slot), "carry", kind, "stream")
        at = _Update(writer, kind, given, k, rule, item, {name: stored[name] for name, _ in rule.losses})
        at.move(stored[item.gradient])
    made = replace(program, storages=tuple(storages.values()), entries=((entry, tuple(line)),))
    return Moves(made, tuple(stored[item.gradient] for item in moving))


@dataclass
class _Writer:
    """Statements at the end of a line, under names that it does not have."""

    line: list[Stmt]
    types: dict[str, VType] = field(default_factory=dict[str, VType])
    count: int = 0

    def add(self, op: str, args: Sequence[str], kind: VType, **attrs: Any) -> str:
        name = self._name(kind)
        self.line.append(Op((name,), op, tuple(args), tuple(sorted(attrs.items())), (kind,)))
        return name

    def load(self, storage: str, kind: VType) -> str:
        found = (s for s in self.line if isinstance(s, Load) and s.storage == storage and not s.index)
        old = next(found, None)
        if old is not None:
            return old.result
        name = self._name(kind)
        self.line.append(Load(name, storage, (), kind))
        return name

    def _name(self, kind: VType) -> str:
        self.count += 1
        self.types[f"moved.{self.count}"] = kind
        return f"moved.{self.count}"


@dataclass
class _Update:
    """The update of one parameter; `kind` is its type."""

    writer: _Writer
    kind: VType
    given: str
    place: int
    rule: Rule
    item: Moving
    losses: Mapping[str, str]

    def move(self, gradient: str) -> None:
        value = self.writer.load(self.item.storage, self.kind)
        kept = [self.writer.load(self.item.slot(k), self.kind) for k in range(self.item.slots)]
        new, slots = getattr(self, self.rule.name)(value, gradient, kept)
        for storage, result in zip((self.item.storage, *map(self.item.slot, range(len(kept)))), (new, *slots),
                                   strict=True):  # fmt: skip
            self.writer.line.append(Store(storage, (), result))

    # -- words ----------------------------------------------------------------------------------------------------
    def op(self, name: str, *args: str) -> str:
        kind = replace(self.kind, dtype="bool") if name == "gt" else self.kind
        return self.writer.add(name, args, kind)

    def plus(self, *parts: str) -> str:
        total = parts[0]
        for part in parts[1:]:
            total = self.op("add", total, part)
        return total

    def times(self, one: float | str, *rest: str) -> str:
        product = one if isinstance(one, str) else self.const(one)
        for part in rest:
            product = self.op("mul", product, part)
        return product

    def const(self, number: float) -> str:
        return self.writer.add("constant", (), self.kind, value=float(number))

    def number(self, k: int) -> str:
        """One of the numbers of this parameter, for every entry."""
        one = Axis("number", 1)
        part = self.writer.add("slice", (self.given,), VType("float", (), (one,)), at=0, axis=one,
                               start=NUMBERS * self.place + k)  # fmt: skip
        alone = self.writer.add("reshape", (part,), VType("float", (), ()), axes=())
        return self.spread(alone)

    def spread(self, scalar: str) -> str:
        if not self.kind.axes:
            return scalar
        return self.writer.add("broadcast", (scalar,), self.kind, at=(), axes=self.kind.axes)

    def decayed(self, value: str, gradient: str, decay: float) -> str:
        return self.plus(gradient, self.times(decay, value)) if decay else gradient

    # -- rules ----------------------------------------------------------------------------------------------------
    def sgd(self, value: str, gradient: str, kept: list[str]) -> tuple[str, list[str]]:
        mu, ahead, decay = self.rule.options
        move, slots = self.decayed(value, gradient, decay), list[str]()
        if kept:
            slots = [self.plus(self.times(mu, kept[0]), move)]
            move = self.plus(move, self.times(mu, slots[0])) if ahead else slots[0]
        return self.op("sub", value, self.times(self.number(0), move)), slots

    def rmsprop(self, value: str, gradient: str, kept: list[str]) -> tuple[str, list[str]]:
        alpha, eps, mu, decay = self.rule.options
        move = self.decayed(value, gradient, decay)
        square = self.plus(self.times(alpha, kept[0]), self.times(1 - alpha, move, move))
        step, slots = self.op("div", move, self.plus(self.op("sqrt", square), self.const(eps))), [square]
        if len(kept) > 1:
            step = self.plus(self.times(mu, kept[1]), step)
            slots.append(step)
        return self.op("sub", value, self.times(self.number(0), step)), slots

    def adam(self, value: str, gradient: str, kept: list[str]) -> tuple[str, list[str]]:
        first, second, eps, decay, apart = self.rule.options
        old = self.times(self.number(2), value) if apart and decay else value
        move = gradient if apart else self.decayed(old, gradient, decay)
        mean = self.plus(kept[0], self.times(1 - first, self.op("sub", move, kept[0])))
        square = self.plus(self.times(second, kept[1]), self.times(1 - second, move, move))
        root = self.op("div", self.op("sqrt", square), self.number(1))
        step = self.op("div", self.times(self.number(0), mean), self.plus(root, self.const(eps)))
        return self.op("sub", old, step), [mean, square]

    def td_lambda(self, value: str, gradient: str, kept: list[str]) -> tuple[str, list[str]]:
        if not kept:
            return self.op("sub", value, self.times(self.number(0), gradient)), []
        square = self.plus(self.times(self.number(2), kept[0]), self.times(self.number(1), gradient, gradient))
        step = self.op("div", gradient, self.plus(self.op("sqrt", square), self.const(1e-8)))
        return self.op("sub", value, self.times(self.number(0), step)), [square]

    def idbd(self, value: str, gradient: str, kept: list[str]) -> tuple[str, list[str]]:
        meta, _, scale = self.rule.options[:3]
        zero, one = self.const(0.0), self.const(1.0)
        square = self.spread(self._total(2 / scale))
        move = self.op("div", self.op("neg", gradient), self.const(scale))
        beta = self.plus(kept[0], self.times(meta, move, kept[1]))
        alpha = self.times(self.op("exp", beta), self.number(0))
        share = self.op("where", self.op("gt", square, zero), self.op("div", self.times(move, move), square), zero)
        keep = self.op("sub", one, self.times(alpha, share))
        keep = self.op("where", self.op("gt", keep, zero), keep, zero)
        new = self.plus(value, self.times(alpha, move))
        return new, [beta, self.plus(self.times(kept[1], keep), self.times(alpha, move))]

    def _total(self, scale: float) -> str:
        """The weighted sum of the losses, times a number."""
        kind, total = VType("float", (), ()), ""
        for name, weight in self.rule.losses:
            factor = self.writer.add("constant", (), kind, value=weight * scale)
            part = self.writer.add("mul", (factor, self.losses[name]), kind)
            total = self.writer.add("add", (total, part), kind) if total else part
        return total
