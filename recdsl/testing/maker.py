"""A model built twice at once: as a step graph by hand, and as the text that a user would write for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from recdsl.graph.step import TD, Carry, Input, Loss, Node, Parameter, StepGraph
from recdsl.graph.types import BOOL, FLOAT, Axis, Type
from recdsl.ops import primitive


@dataclass(frozen=True)
class Value:
    """A node, and the expression that stands for it."""

    id: int
    text: str


@dataclass
class State:
    """A carried state while the step is written. `reads` are the lags in use; `now` its value this step."""

    name: str
    type: Type
    initial: str
    init: int
    reads: dict[int, int]
    now: Value | None


class Maker:
    """Collects nodes, declarations and lines. Every method that gives a Value adds to both forms."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.inputs: dict[str, Input] = {}
        self.params: dict[str, Parameter] = {}
        self.states: dict[str, State] = {}
        self.delayed: dict[tuple[str, int], int] = {}
        self.lines: list[str] = []
        self.outputs: dict[str, int] = {}
        self.losses: list[tuple[Loss, str]] = []
        self.memories: list[Carry] = []

    # -- leaves -------------------------------------------------------------------------------------------------------
    def add(
        self, op: str, args: tuple[int, ...], attrs: tuple[tuple[str, Any], ...], type: Type, name: str = ""
    ) -> int:
        self.nodes.append(Node(len(self.nodes), op, args, attrs, type, name, None))
        return len(self.nodes) - 1

    def op(self, name: str, *args: int, **attrs: Any) -> int:
        ordered = tuple(sorted(attrs.items()))
        return self.add(name, args, ordered, primitive(name).infer([self.nodes[k].type for k in args], ordered))

    def type(self, value: Value) -> Type:
        return self.nodes[value.id].type

    def input(self, name: str, kind: str, axes: Sequence[Axis], target: bool = False) -> Value:
        """An input or target; of kind class, `axes` holds the axis of the classes."""
        if name not in self.inputs:
            size = axes[0].size if kind == "class" else 0
            type = Type("int") if kind == "class" else Type("float", tuple(axes))
            self.inputs[name] = Input(name, kind, type, size, target, None)
            self.add("target" if target else "input", (), (), type, name)
        leaf = next(n.id for n in self.nodes if n.op in ("input", "target") and n.name == name)
        return Value(leaf, name)

    def past_input(self, name: str, lag: int) -> Value:
        """`x[t-lag]`: zero before the first step."""
        type = self.inputs[name].type
        for k in range(1, lag + 1):
            if (name, k) not in self.delayed:
                self.delayed[name, k] = self.add("carry", (), (), type, f"{name}[t-{k}]")
        return Value(self.delayed[name, lag], f"{name}[t-{lag}]")

    def parameter(
        self, type: Type, init: tuple[str, tuple[Any, ...]] = ("normal", (0.0, 0.7)), stem: str = "p"
    ) -> Value:
        name = f"{stem}{len(self.params) + 1}"
        self.params[name] = Parameter(name, type, init, (), False, None)
        return Value(self.add("parameter", (), (), type, name), name)

    def number(self, value: float, axes: tuple[Axis, ...] = ()) -> Value:
        return Value(self.add("constant", (), (("value", value),), Type("float", axes)), f"{value}")

    # -- states -------------------------------------------------------------------------------------------------------
    def state(self, name: str, axes: tuple[Axis, ...], initial: float | str) -> None:
        """Declare a state that starts from a number or from the parameter of that name."""
        type = Type("float", axes)
        if isinstance(initial, str):
            init = next(n.id for n in self.nodes if n.op == "parameter" and n.name == initial)
        else:
            init = self.number(initial, axes).id
        self.states[name] = State(name, type, str(initial), init, {}, None)

    def past(self, name: str, lag: int = 1) -> Value:
        """`h[t-lag]`."""
        state = self.states[name]
        for k in range(1, lag + 1):
            if k not in state.reads:
                label = name if k == 1 else f"{name}[t-{k}]"
                state.reads[k] = self.add("carry", (), (), state.type, label)
        return Value(state.reads[lag], f"{name}[t-{lag}]")

    def assign(self, name: str, value: Value) -> Value:
        """An equation. A state gets its value of this step by it."""
        if not self.nodes[value.id].name:
            self.nodes[value.id] = replace(self.nodes[value.id], name=name)
        self.lines.append(f"{name} = {value.text}")
        self.outputs[name] = self._used(value.id)
        named = Value(value.id, name)
        if name in self.states:
            self.states[name].now = named
        return named

    def _used(self, value: int) -> int:
        """A state as it is has a node of its own where it leaves the step; a delayed input has not."""
        node = self.nodes[value]
        if node.op != "carry" or value in self.delayed.values():
            return value
        return self.add("rename", (value,), (("axes", node.type.axes),), node.type)

    # -- expressions --------------------------------------------------------------------------------------------------
    def unary(self, name: str, x: Value) -> Value:
        """tanh, sigmoid, ... and stop: functions that the language calls as the op is called."""
        return Value(self.op(name, x.id), f"{name}({x.text})")

    def spread(self, x: Value, axes: tuple[Axis, ...]) -> int:
        """x on more axes, matched by name."""
        own = self.type(x).axes
        if own == axes:
            return x.id
        order = tuple(sorted(range(len(own)), key=lambda k: axes.index(own[k])))
        source = x.id if order == tuple(range(len(own))) else self.op("transpose", x.id, order=order)
        at = tuple(sorted(axes.index(axis) for axis in own))
        return source if len(own) == len(axes) else self.op("broadcast", source, axes=axes, at=at)

    def align(self, *values: Value) -> list[int]:
        """The union of the axes, left's order first."""
        axes = tuple(dict.fromkeys(axis for value in values for axis in self.type(value).axes))
        return [self.spread(value, axes) for value in values]

    def binary(self, sign: str, x: Value, y: Value) -> Value:
        op = {"+": "add", "-": "sub", "*": "mul"}[sign]
        return Value(self.op(op, *self.align(x, y)), f"({x.text} {sign} {y.text})")

    def pair(self, name: str, x: Value, y: Value) -> Value:
        """max(x, y) or min(x, y)."""
        op = {"max": "maximum", "min": "minimum"}[name]
        return Value(self.op(op, *self.align(x, y)), f"{name}({x.text}, {y.text})")

    def where(self, a: Value, b: Value, x: Value, y: Value) -> Value:
        """where(a > b, x, y), all of the same axes."""
        return Value(
            self.op("where", self.op("gt", a.id, b.id), x.id, y.id), f"where({a.text} > {b.text}, {x.text}, {y.text})"
        )

    def matmul(self, x: Value, y: Value) -> Value:
        """Contracts the last axis of x with the first of y."""
        left, right = self.type(x).axes, self.type(y).axes
        a = tuple(range(len(left)))
        b = (len(left) - 1, *range(len(left), len(left) + len(right) - 1))
        node = self.op("contract", x.id, y.id, x=a, y=b, out=(*a[:-1], *b[1:]))
        return Value(node, f"({x.text} @ {y.text})")

    def concat(self, x: Value, y: Value) -> Value:
        """`[x; y]` of two vectors; the axis is the declared sum."""
        a, b = self.type(x).axes[0], self.type(y).axes[0]
        axis = Axis(f"{a.name} + {b.name}", a.size + b.size)
        return Value(self.op("concat", x.id, y.id, at=0, axis=axis), f"[{x.text}; {y.text}]")

    def total(self, x: Value, axis: Axis, mean: bool = False) -> Value:
        """sum(x, axis=...) or mean."""
        at = self.type(x).axes.index(axis)
        node = self.op("sum", x.id, over=(at,))
        if mean:
            scale = self.add("constant", (), (("value", 1.0 / axis.size),), self.nodes[node].type)
            node = self.op("mul", node, scale)
        return Value(node, f"{'mean' if mean else 'sum'}({x.text}, axis={axis.name})")

    def softmax(self, x: Value) -> Value:
        return Value(self.op("softmax", x.id, at=len(self.type(x).axes) - 1), f"softmax({x.text})")

    def peak(self, x: Value, axis: Axis) -> Value:
        """max(x, axis=...)."""
        node = self.op("reduce_max", x.id, at=self.type(x).axes.index(axis))
        return Value(node, f"max({x.text}, axis={axis.name})")

    def spike(self, x: Value) -> Value:
        return Value(self.op("spike", x.id, surrogate="triangle", width=1.0), f"spike({x.text}, surrogate=triangle)")

    # -- losses -------------------------------------------------------------------------------------------------------
    def loss(self, name: str, kind: str, x: Value, y: Value, weight: float, trains: tuple[str, ...], at: Any) -> None:
        """mse and mae against a target like x, cross_entropy of logits against a class."""
        if kind == "cross_entropy":
            node = self.op("sub", self.op("logsumexp", x.id, at=0), self.op("gather", x.id, y.id, at=0))
        else:
            apart = self.op("sub", x.id, y.id)
            each = self.op("mul", apart, apart) if kind == "mse" else self.op("abs", apart)
            axes = self.type(x).axes
            scale = self.add("constant", (), (("value", 1.0 / self.type(x).numel),), FLOAT)
            node = self.op("mul", self.op("sum", each, over=tuple(range(len(axes)))) if axes else each, scale)
        self.losses.append((Loss(name, node, weight, trains, at, None), f"{kind}({x.text}, {y.text})"))

    def td(self, name: str, v: Value, c: Value, g: Value, weight: float, trains: tuple[str, ...], trace: float) -> None:
        """A temporal difference: v against c and what it is itself a step later, times g."""
        type, axes = self.type(v), self.type(v).axes
        held = self._remembered(f"td.{name}.v", "held", v.id, 0.0)
        flags = [self.add("constant", (), (("value", True),), BOOL) for _ in range(2)]
        seen = self._remembered(f"td.{name}.seen", "held", flags[0], False)
        same = self._remembered(f"td.{name}.same[t-1]", "input", flags[1], False)
        rate, cumulant = self.op("stop", g.id), self.op("stop", c.id)
        own = self.type(g).axes
        zero = self.add("constant", (), (("value", 0.0),), self.nodes[rate].type)
        flag = self.op("broadcast", same, axes=own, at=()) if own else same
        factor = self.op("where", flag, rate, zero)
        ahead = self.op("mul", self.spread(Value(factor, ""), axes), self.op("stop", v.id))
        error = self.op("sub", self.op("add", cumulant, ahead), held)
        each = self.op("mul", error, error)
        scale = self.add("constant", (), (("value", 0.5 / type.numel),), FLOAT)
        node = self.op("mul", self.op("sum", each, over=tuple(range(len(axes)))) if axes else each, scale)
        node = self.op("where", seen, node, self.add("constant", (), (("value", 0.0),), FLOAT))
        names = [self.nodes[k].name for k in (held, seen, same)]
        made = TD(self._used(v.id), cumulant, rate, factor, error, names[0], names[1], names[2], trace)
        text = f"td({v.text}, {c.text}, discount={g.text})"
        self.losses.append((Loss(name, node, weight, trains, "all", None, made), text))

    def _remembered(self, name: str, kind: str, write: int, start: Any) -> int:
        """A carry that the step itself does not show."""
        type = self.nodes[write].type
        read = self.add("carry", (), (), type, name)
        init = self.add("constant", (), (("value", start),), type)
        self.memories.append(Carry(name, read, write, init, kind, None, resets=kind != "held"))
        return read

    # -- both forms ---------------------------------------------------------------------------------------------------
    def graph(self, reduce: str) -> StepGraph:
        """The step graph; every state must have been assigned."""
        carries: list[Carry] = []
        for state in self.states.values():
            assert state.now is not None
            write = state.now.id
            for lag in sorted(state.reads):
                name = state.name if lag == 1 else f"{state.name}[t-{lag}]"
                kind = "state" if lag == 1 else "delay"
                carries.append(Carry(name, state.reads[lag], write, state.init, kind, None))
                write = state.reads[lag]
        for (name, lag), read in sorted(self.delayed.items()):
            write = self.delayed[name, lag - 1] if lag > 1 else self.input(name, "", ()).id
            zero = self.add("constant", (), (("value", 0.0),), self.inputs[name].type)
            carries.append(Carry(f"{name}[t-{lag}]", read, write, zero, "input", None))
        carries += self.memories
        return StepGraph(
            "case",
            tuple(self.nodes),
            tuple(self.inputs.values()),
            tuple(self.params.values()),
            tuple(carries),
            tuple(self.outputs.items()),
            tuple(loss for loss, _ in self.losses),
            reduce,
        )

    def text(self, reduce: str, credit: Sequence[tuple[str, str]]) -> str:
        """The spec. `credit`: selectors with their rules."""
        parts = [*self._declarations(), *self._step(), *self._losses(reduce), *_credit(credit)]
        traces = {loss.td.trace for loss, _ in self.losses if loss.td is not None and loss.td.trace}
        parts += [f'train: {{optimizer: "td_lambda(trace={traces.pop()})"}}'] if traces else []
        return "\n".join(parts) + "\n"

    def _declarations(self) -> list[str]:
        sizes = {a.name: a.size for n in self.nodes for a in n.type.axes if " " not in a.name}
        inner = ", ".join(f"{name}: {size}" for name, size in sorted(sizes.items()))
        lines = ["recdsl: 1", "name: case"]
        lines += [f"sizes: {{{inner}}}"] if sizes else []
        for key, target in (("inputs", False), ("targets", True)):
            found = [f'  {i.name}: "{self._kind(i)}"' for i in self.inputs.values() if i.target == target]
            lines += [f"{key}:", *found] if found else []
        made = [f"  {p.name}: {p.type.dtype}{_axes(p.type)} {_initial(p)}" for p in self.params.values()]
        lines += ["params:", *made] if made else []
        held = [f"  {s.name}: float{_axes(s.type)} = {s.initial}" for s in self.states.values()]
        return lines + (["states:", *held] if held else [])

    def _kind(self, declared: Input) -> str:
        if declared.kind != "class":
            return f"float{_axes(declared.type)}"
        used = [n.args[0] for n in self.nodes if n.op == "gather" and self.nodes[n.args[1]].name == declared.name]
        return f"class[{self.nodes[used[0]].type.axes[0].name if used else declared.size}]"

    def _step(self) -> list[str]:
        return ["step: |", *(f"  {line}" for line in self.lines)]

    def _losses(self, reduce: str) -> list[str]:
        lines = ["loss:"]
        for loss, text in self.losses:
            at = loss.at if isinstance(loss.at, str) else f"every({loss.at[1]})"
            trains = f", trains: [{', '.join(loss.trains)}]" if loss.trains else ""
            lines.append(f'  {loss.name}: {{value: "{text}", weight: {loss.weight}, at: {at}{trains}}}')
        return [*lines, f"  reduce: {reduce}"] if reduce != "mean" else lines


def _axes(type: Type) -> str:
    return f"[{', '.join(axis.name for axis in type.axes)}]" if type.axes else ""


def _initial(parameter: Parameter) -> str:
    kind, arguments = parameter.init
    return f"~ {kind}({', '.join(map(str, arguments))})" + (" frozen" if parameter.frozen else "")


def _credit(credit: Sequence[tuple[str, str]]) -> list[str]:
    return ["credit:", *(f'  "{selector}": {rule}' for selector, rule in credit)] if credit else []
