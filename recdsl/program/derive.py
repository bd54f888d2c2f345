"""Derivatives of a function, as functions of the same op set.

`vjp(f)` takes f's arguments and a cotangent for each result and gives a cotangent for each argument; `jvp(f)`
takes f's arguments and a tangent for each and gives the tangents of the results. Both are closed and free of
effects like f itself. What has no derivative is a constant zero.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from recdsl.graph.types import Type
from recdsl.ops import primitive
from recdsl.ops.base import add_all
from recdsl.program.ir import Function, Op, VType


def own(value: VType) -> Type:
    """The type that primitives see: without leading axes."""
    return Type(value.dtype, value.axes)


def vtype(value: Type) -> VType:
    return VType(value.dtype, (), value.axes)


class _Body:
    """A `Builder` that appends ops to a function's body."""

    def __init__(self, function: Function) -> None:
        self.ops: list[Op] = list(function.body)
        self.names: list[str] = []
        self.types: list[Type] = []
        self.known: dict[str, int] = {}
        for label, kind in function.args:
            self.add(label, own(kind))
        for op in function.body:
            self.add(op.results[0], own(op.types[0]))

    def add(self, label: str, kind: Type) -> int:
        self.names.append(label)
        self.types.append(kind)
        self.known[label] = len(self.names) - 1
        return len(self.names) - 1

    def fresh(self, kind: Type) -> int:
        label = f"d{len(self.names)}"
        while label in self.known:
            label += "_"
        return self.add(label, kind)

    def _emit(self, op: str, args: Sequence[int], attrs: tuple[tuple[str, Any], ...], kind: Type) -> int:
        value = self.fresh(kind)
        operands = tuple(self.names[arg] for arg in args)
        self.ops.append(Op((self.names[value],), op, operands, attrs, (vtype(kind),), reason="derivative"))
        return value

    def op(self, name: str, *args: int, **attrs: Any) -> int:
        packed = tuple(attrs.items())
        kind = primitive(name).infer([self.types[arg] for arg in args], packed)
        return self._emit(name, args, packed, kind)

    def const(self, value: float, like: int) -> int:
        return self._emit("constant", (), (("value", value),), Type("float", self.types[like].axes))

    def type(self, value: int) -> Type:
        return self.types[value]

    def operand(self, value: int | None, kind: Type) -> str:
        """The name of a derivative, a constant zero where there is none."""
        if value is None:
            value = self._emit("constant", (), (("value", 0.0),), Type("float", kind.axes))
        return self.names[value]


def _fresh_names(function: Function, stem: str, items: Sequence[str]) -> list[str]:
    """Argument names for derivatives, none of them in use."""
    taken = {label for label, _ in function.args} | {op.results[0] for op in function.body}
    found: list[str] = []
    for k, item in enumerate(items):
        label = f"{stem}{k}_{item}"
        while label in taken:
            label = f"{label}_"
        taken.add(label)
        found.append(label)
    return found


def _floats(labels: Sequence[str], kinds: Sequence[Type]) -> tuple[tuple[str, VType], ...]:
    """Derivatives are numbers, whatever they are derivatives of."""
    return tuple((label, vtype(Type("float", kind.axes))) for label, kind in zip(labels, kinds, strict=True))


def vjp(function: Function) -> Function:
    """Cotangents of the arguments from those of the results."""
    kinds = {op.results[0]: own(op.types[0]) for op in function.body} | {n: own(k) for n, k in function.args}
    labels = _fresh_names(function, "cot", function.results)
    extra = _floats(labels, [kinds[result] for result in function.results])
    body = _Body(function)
    cotangents: dict[int, list[int]] = {}
    for (label, kind), result in zip(extra, function.results, strict=True):
        cotangents.setdefault(body.known[result], []).append(body.add(label, own(kind)))
    for op in reversed(function.body):
        _pull(body, op, cotangents)
    results: list[str] = []
    for label, kind in function.args:
        total = add_all(body, cotangents.get(body.known[label], []))
        results.append(body.operand(total, own(kind)))
    return Function(f"{function.name}.vjp", function.args + extra, tuple(body.ops), tuple(results))


def _pull(body: _Body, op: Op, cotangents: dict[int, list[int]]) -> None:
    """Adds the cotangents that `op` gives its operands, once its own is complete."""
    out = body.known[op.results[0]]
    total = add_all(body, cotangents.get(out, []))
    if total is None or op.op == "constant":
        return
    args = [body.known[arg] for arg in op.args]
    found = primitive(op.op).vjp(body, args, out, total, op.attrs)
    for arg, cotangent in zip(args, found, strict=True):
        if cotangent is not None and body.types[arg].dtype in ("float", "complex"):
            cotangents.setdefault(arg, []).append(cotangent)


def jvp(function: Function) -> Function:
    """Tangents of the results from those of the arguments."""
    labels = _fresh_names(function, "tan", [label for label, _ in function.args])
    extra = _floats(labels, [own(kind) for _, kind in function.args])
    body = _Body(function)
    tangents: dict[int, int | None] = {}
    for (label, kind), (argument, kind_of) in zip(extra, function.args, strict=True):
        value = body.add(label, own(kind))
        tangents[body.known[argument]] = value if kind_of.dtype in ("float", "complex") else None
    for op in function.body:
        args = [body.known[arg] for arg in op.args]
        inner = [tangents.get(arg) for arg in args]
        none = op.op == "constant" or all(tangent is None for tangent in inner)
        out = body.known[op.results[0]]
        tangents[out] = None if none else primitive(op.op).jvp(body, args, out, inner, op.attrs)
    results = tuple(body.operand(tangents.get(body.known[r]), body.types[body.known[r]]) for r in function.results)
    return Function(f"{function.name}.jvp", function.args + extra, tuple(body.ops), results)


DERIVED: dict[str, Callable[[Function], Function]] = {"value": lambda f: f, "vjp": vjp, "jvp": jvp}
