"""Random well-typed models: 1-4 states, mixed ops, stacking, skip paths, learned initial states, several losses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from recdsl.credit.classes import admitted
from recdsl.credit.flow import flow_of
from recdsl.credit.select import state_uses
from recdsl.graph.step import LEAVES, StepGraph
from recdsl.graph.types import Axis, Type
from recdsl.ops import primitive
from recdsl.syntax.ast import CreditDecl
from recdsl.testing.declare import declare
from recdsl.testing.draws import Draws
from recdsl.testing.maker import Maker, Value

Axes = tuple[Axis, ...]
SMOOTH = ("tanh", "sigmoid", "sin", "softplus")
ROUGH = ("relu", "abs")


@dataclass(frozen=True)
class Model:
    """text: the spec. graph: the same, built by hand. credit: its rules. smooth: whether differences measure it."""

    text: str
    graph: StepGraph
    rules: tuple[tuple[str, str], ...]
    smooth: bool

    @property
    def credit(self) -> tuple[CreditDecl, ...]:
        return tuple(declare(selector, rule) for selector, rule in self.rules)


def random_model(draws: Draws, rules: Sequence[tuple[str, str]] | None = None, td: bool = False) -> Model:
    """A model; `rules` are selectors with rules as in `credit:`, drawn too if None. td: with temporal differences."""
    return finished(draws, Writer(draws, td).write(), rules)


def finished(draws: Draws, maker: Maker, rules: Sequence[tuple[str, str]] | None) -> Model:
    """The model that a maker has collected."""
    reduce = "sum" if draws.chance(20) else "mean"
    graph = _freeze(maker, reduce)
    chosen = tuple(rules) if rules is not None else random_rules(draws, graph)
    smooth = all(node.op in LEAVES or primitive(node.op).smooth for node in graph.nodes)
    return Model(maker.text(reduce, chosen), graph, chosen, smooth)


def _freeze(maker: Maker, reduce: str) -> StepGraph:
    """A parameter that none of its losses reaches is refused unless it is frozen."""
    graph = maker.graph(reduce)
    flow = flow_of(graph)
    live = [flow.backward([loss.root]) for loss in graph.losses]
    while True:
        dead = set[str]()
        for name in maker.params:
            leaf, own = graph.leaf[f"parameter:{name}"], admitted(maker.graph(reduce), name)
            if not any(leaf in live[k] for k in own):
                dead.add(name)
        empty = [k for k, (loss, _) in enumerate(maker.losses) if loss.trains and dead.issuperset(loss.trains)]
        if not empty:
            break
        for k in empty:  # an owner set of frozen parameters only is refused as well
            loss, text = maker.losses[k]
            maker.losses[k] = (replace(loss, trains=()), text)
    for k, (loss, text) in enumerate(maker.losses):
        maker.losses[k] = (replace(loss, trains=tuple(name for name in loss.trains if name not in dead)), text)
    for name in dead:
        maker.params[name] = replace(maker.params[name], frozen=True)
    return maker.graph(reduce)


def random_rules(draws: Draws, graph: StepGraph) -> tuple[tuple[str, str], ...]:
    """Windows for all or for some parameters, and cuts of uses of states."""
    rules: list[tuple[str, str]] = []
    for name in [p.name for p in graph.parameters if not p.frozen][:4]:
        if draws.chance(15):
            rules.append((name, _rule(draws)))
    for use in state_uses(graph):
        if draws.chance(12):
            rules.append((use, "cut"))
    if not rules or draws.chance(70):
        rules.append(("default", _rule(draws)))
    return tuple(rules)


def _rule(draws: Draws) -> str:
    kind = draws.below(6)
    if kind < 2:
        return ("bptt", "none")[kind]
    window = draws.between(1, 5)
    return f"tbptt(window={window})" if kind == 2 else f"tbptt(window={window}, every={draws.between(1, window)})"


class Writer:
    """Writes one random model with a Maker.

    rough: ops with kinks and jumps may occur. forward: states read only states that are assigned before them, so that
    every influence ends after a few steps.
    """

    def __init__(self, draws: Draws, td: bool) -> None:
        self.draws, self.maker, self.td = draws, Maker(), td
        self.trace = draws.choose((0.0, 0.9, 0.5)) if td else 0.0
        self.axes = tuple(Axis(name, draws.between(1, 3)) for name in ("a", "b")[: draws.between(1, 2)])
        self.rough = draws.chance(40)
        self.forward = draws.chance(25)
        self.made: list[Value] = []

    def write(self) -> Maker:
        draws, maker = self.draws, self.maker
        maker.input("x", "float", self._vector())
        if draws.chance(40):
            maker.input("u", "float", ())
        for k in range(1, draws.choose((1, 1, 2, 2, 3, 4)) + 1):
            self._state(f"h{k}")
        for name, state in maker.states.items():
            if draws.chance(8):
                self.made.append(maker.assign(name, self._leaf(state.type.axes)))
                continue
            value = self._value(state.type.axes, draws.between(1, 3))
            if not self.forward and draws.chance(50):
                value = self._recur(name, value)
            self.made.append(maker.assign(name, maker.unary("tanh", value)))
        for k in range(1, draws.choose((1, 1, 2, 3)) + 1):
            self._loss(k) if not self.td or (k > 1 and draws.chance(50)) else self._difference(k)
        return maker

    def _vector(self) -> Axes:
        return (self.draws.choose(self.axes),)

    def _state(self, name: str) -> None:
        """A vector mostly, sometimes a number or a matrix; starts from a number or a parameter."""
        draws, kind = self.draws, self.draws.below(8)
        axes = self._vector()
        if kind == 7:
            axes = ()
        elif kind == 6 and len(self.axes) == 2:
            axes = self.axes
        start: float | str = draws.choose((0.0, 0.5))
        if draws.chance(30):
            start = self.maker.parameter(Type("float", axes), stem="s").text
        self.maker.state(name, axes, start)

    def _recur(self, name: str, value: Value) -> Value:
        """The state's own past joins in, so that most states are truly recurrent."""
        draws, maker = self.draws, self.maker
        past = maker.past(name, draws.choose((1, 1, 1, 2, 3)))
        axes = maker.type(past).axes
        if len(axes) == 1 and draws.chance(50):
            past = maker.matmul(self._parameter((axes[0], axes[0])), past)
        return maker.binary(draws.choose(("+", "*")), value, past)

    def _parameter(self, axes: Axes) -> Value:
        """A new parameter, or one of that shape again (shared)."""
        again = [p.name for p in self.maker.params.values() if p.type.axes == axes]
        if again and self.draws.chance(15):
            name = self.draws.choose(again)
            return Value(next(n.id for n in self.maker.nodes if n.op == "parameter" and n.name == name), name)
        return self.maker.parameter(Type("float", axes))

    # -- expressions --------------------------------------------------------------------------------------------------
    def _value(self, axes: Axes, depth: int) -> Value:
        """An expression with exactly these axes."""
        if depth == 0:
            return self._leaf(axes)
        forms = [self._sum, self._sum, self._gated, self._function, self._function]
        forms += [self._mixed, self._mixed] if len(axes) == 1 else []
        forms += [self._outer, self._outer] if len(axes) == 2 else []
        forms += [self._reduced] if not axes else []
        forms += [self._special, self._rough] if self.rough else [self._special]
        return self.draws.choose(forms)(axes, depth - 1)

    def _leaf(self, axes: Axes) -> Value:
        draws, maker = self.draws, self.maker
        options: list[Value] = [v for v in self.made if maker.type(v).axes == axes]
        known = [v.text for v in self.made] if self.forward else list(maker.states)
        options += [Value(-1, name) for name in known if name in maker.states and maker.states[name].type.axes == axes]
        options += [Value(-2, i.name) for i in maker.inputs.values() if i.type.axes == axes and not i.target]
        if not options or draws.chance(30):
            return self._parameter(axes)
        chosen = draws.choose(options)
        if chosen.id == -1:
            return maker.past(chosen.text, draws.choose((1, 1, 1, 2, 4)))
        if chosen.id == -2:
            past = draws.chance(20)
            return maker.past_input(chosen.text, draws.between(1, 2)) if past else maker.input(chosen.text, "", ())
        return chosen

    def _sum(self, axes: Axes, depth: int) -> Value:
        sign = self.draws.choose("+-*")
        return self.maker.binary(sign, self._value(axes, depth), self._smaller(axes, depth))

    def _smaller(self, axes: Axes, depth: int) -> Value:
        """An operand that is spread: a number, or fewer axes."""
        if axes and self.draws.chance(25):
            return self._value(axes[: self.draws.below(len(axes))], depth)
        if self.draws.chance(15):
            return self.maker.number(self.draws.choose((0.5, 2.0, -1.5)))
        return self._value(axes, depth)

    def _gated(self, axes: Axes, depth: int) -> Value:
        gate = self.maker.unary("sigmoid", self._value(axes, depth))
        return self.maker.binary("*", gate, self._value(axes, depth))

    def _function(self, axes: Axes, depth: int) -> Value:
        return self.maker.unary(self.draws.choose(SMOOTH), self._value(axes, depth))

    def _mixed(self, axes: Axes, depth: int) -> Value:
        """A matrix times a vector, a matrix-valued expression, or two vectors in one."""
        maker, inner = self.maker, self._vector()
        if self.draws.chance(30):
            other = self._vector()
            joined = maker.concat(self._value(inner, depth), self._value(other, depth))
            return maker.matmul(self._parameter((*axes, maker.type(joined).axes[0])), joined)
        if inner != axes and self.draws.chance(30):
            return maker.matmul(self._value((*axes, *inner), 0), self._value(inner, depth))
        return maker.matmul(self._parameter((*axes, *inner)), self._value(inner, depth))

    def _outer(self, axes: Axes, depth: int) -> Value:
        return self.maker.binary("*", self._value(axes[:1], depth), self._value(axes[1:], depth))

    def _reduced(self, axes: Axes, depth: int) -> Value:
        inner = self._vector()
        return self.maker.total(self._value(inner, depth), inner[0], self.draws.chance(50))

    def _special(self, axes: Axes, depth: int) -> Value:
        """Softmax of a vector, or a stop."""
        value = self._value(axes, depth)
        return self.maker.softmax(value) if axes and self.draws.chance(60) else self.maker.unary("stop", value)

    def _rough(self, axes: Axes, depth: int) -> Value:
        maker, kind = self.maker, self.draws.below(5)
        value = self._value(axes, depth)
        if kind == 0:
            return maker.unary(self.draws.choose(ROUGH), value)
        if kind == 1:
            return maker.pair(self.draws.choose(("max", "min")), value, self._value(axes, depth))
        if kind == 2:
            return maker.spike(value)
        if kind == 3 and axes:
            return maker.binary("-", value, maker.peak(value, axes[-1]))
        return maker.where(self._leaf(axes), self._leaf(axes), value, self._value(axes, depth))

    # -- losses -------------------------------------------------------------------------------------------------------
    def _loss(self, k: int) -> None:
        draws, maker = self.draws, self.maker
        axes = self._vector()
        source = draws.choose(self.made)
        value = self._readout(axes, source)
        value = maker.assign(f"y{k}", value)
        kind = draws.choose(("mse", "mse", "cross_entropy", "mae") if self.rough else ("mse", "mse", "cross_entropy"))
        target = maker.input(f"z{k}", "class" if kind == "cross_entropy" else "float", axes, target=True)
        names = list(maker.params)
        trains = tuple(name for name in names if draws.chance(50)) if draws.chance(20) else ()
        at: str | tuple[str, int] = draws.choose(("all", "all", "last"))
        if draws.chance(20):
            at = ("every", draws.between(1, 3))
        maker.loss(f"l{k}", kind, value, target, draws.choose((1.0, 0.5, 2.0)), trains, at)

    def _difference(self, k: int) -> None:
        """A `td` loss of one prediction or several, with a discount that is a number or varies."""
        draws, maker = self.draws, self.maker
        axes = draws.choose(((), self._vector()))
        value = maker.assign(f"v{k}", self._readout(axes, draws.choose(self.made)))
        cumulant = maker.input(f"c{k}", "float", axes, target=draws.chance(50))
        rates = [maker.number(draws.choose((0.9, 1.0, 0.0))), maker.unary("sigmoid", maker.input("x", "", ()))]
        rate = draws.choose(rates if maker.type(rates[1]).axes == axes else rates[:1])
        trains = tuple(name for name in maker.params if draws.chance(50)) if draws.chance(20) else ()
        maker.td(f"l{k}", value, cumulant, rate, draws.choose((1.0, 0.5)), trains, self.trace)

    def _readout(self, axes: Axes, source: Value) -> Value:
        """Logits from a state of any shape, this step's or an earlier one's value."""
        draws, maker = self.draws, self.maker
        if source.text in maker.states and draws.chance(20):
            source = maker.past(source.text, draws.between(1, 2))
        own = maker.type(source).axes
        if len(own) == 2:
            source = maker.total(source, own[1])
            own = own[:1]
        if len(own) == 1:
            source = maker.matmul(self._parameter((*axes, own[0])), source)
        else:
            source = maker.binary("*", self._parameter(axes), source)
        return maker.binary("+", source, self._value(axes, draws.below(2)))
