"""Random models with an axis along which entries meet in sums alone, as columns of a columnar network do.

Such models are what whole updates in blocks of lanes are made of; those of `models.py` mix all their axes. Entries of
this axis are read by others through weights (`V @ h`), sums and means; some models break the rule now and then.
"""

from __future__ import annotations

from recdsl.graph.types import Axis, Type
from recdsl.testing.draws import Draws
from recdsl.testing.maker import Maker, Value
from recdsl.testing.models import SMOOTH, Axes, Writer

SIZES = (2, 3, 4, 5, 6, 8, 8, 9, 12, 16, 16, 24)


class Columnar(Writer):
    """Writes one model; `lane` is the axis, in front of another one or behind it. scalar: one prediction of no axes,
    whose error alone is learned from."""

    def __init__(self, draws: Draws, td: bool, scalar: bool = False) -> None:
        super().__init__(draws, td)
        self.scalar = scalar
        self.lane = Axis("lane", draws.choose(SIZES))
        self.rest = Axis("other", draws.between(1, 3))
        self.axes = (self.lane, self.rest) if draws.chance(70) else (self.rest, self.lane)
        self.strict = draws.chance(93)

    def write(self) -> Maker:
        draws, maker = self.draws, self.maker
        maker.input("x", "float", () if self.scalar else (self.rest,))
        if draws.chance(40):
            maker.input("u", "float", ())
        if draws.chance(25) and not self.scalar:
            maker.input("m", "float", self.axes)
        for k in range(1, draws.choose((1, 1, 2, 2, 3)) + 1):
            self._state(f"h{k}")
        for name, state in maker.states.items():
            value = self._value(state.type.axes, draws.between(1, 3))
            if self.made and draws.chance(50):
                value = maker.binary("+", value, self._weighed(state.type.axes, draws.choose(self.made)))
            if draws.chance(70):
                value = self._recur(name, value)
            self.made.append(maker.assign(name, maker.unary("tanh", value)))
        for k in range(1, (1 if self.scalar else draws.choose((1, 1, 2))) + 1):
            self._difference(k) if self.td and (k == 1 or draws.chance(50)) else self._loss(k)
        return maker

    def _state(self, name: str) -> None:
        """Of the lanes mostly, and the first one always."""
        draws = self.draws
        kinds: tuple[Axes, ...] = ((self.lane,), (self.lane,), (self.lane,), (self.rest,), (), self.axes)
        axes = draws.choose(kinds) if self.maker.states else (self.lane,)
        start: float | str = draws.choose((0.0, 0.5))
        if draws.chance(30):
            start = self.maker.parameter(Type("float", axes), ("normal", (0.0, 0.4)), stem="s").text
        self.maker.state(name, axes, start)

    def _vector(self) -> Axes:
        return (self.lane,) if self.draws.chance(70) else (self.rest,)

    def _mixes(self, axes: Axes) -> bool:
        """Whether an op that mixes these entries stays out."""
        return self.strict and self.lane in axes

    def _recur(self, name: str, value: Value) -> Value:
        draws, maker = self.draws, self.maker
        past = maker.past(name, draws.choose((1, 1, 1, 2, 3)))
        axes = maker.type(past).axes
        if draws.chance(60):
            past = maker.binary("*", self._parameter(axes), past)
        elif len(axes) == 1 and not self._mixes(axes) and draws.chance(50):
            past = maker.matmul(self._parameter((axes[0], axes[0])), past)
        return maker.binary(draws.choose(("+", "+", "*")), value, past)

    def _mixed(self, axes: Axes, depth: int) -> Value:
        inner = (self.rest,) if self._mixes(axes) else self._vector()
        if self.draws.chance(20):
            joined = self.maker.concat(self._value((self.rest,), depth), self._value((self.rest,), depth))
            return self.maker.matmul(self._parameter((*axes, self.maker.type(joined).axes[0])), joined)
        if inner != axes and self.draws.chance(30):
            return self.maker.matmul(self._value((*axes, *inner), 0), self._value(inner, depth))
        return self.maker.matmul(self._parameter((*axes, *inner)), self._value(inner, depth))

    def _function(self, axes: Axes, depth: int) -> Value:
        return self.maker.unary(self.draws.choose(SMOOTH), self._value(axes, depth))

    def _reduced(self, axes: Axes, depth: int) -> Value:
        """Along the other axis mostly: what is summed over the lanes stands in another loop."""
        inner = self.lane if self.draws.chance(30) else self.rest
        return self.maker.total(self._value((inner,), depth), inner, self.draws.chance(50))

    def _special(self, axes: Axes, depth: int) -> Value:
        if axes and not self._mixes(axes[-1:]) and self.draws.chance(60):
            return self.maker.softmax(self._value(axes, depth))
        return self.maker.unary("stop", self._value(axes, depth))

    def _rough(self, axes: Axes, depth: int) -> Value:
        if axes and not self._mixes(axes[-1:]) and self.draws.chance(20):
            value = self._value(axes, depth)
            return self.maker.binary("-", value, self.maker.peak(value, axes[-1]))
        return super()._rough((), depth) if not axes else self._kinked(axes, depth)

    def _kinked(self, axes: Axes, depth: int) -> Value:
        draws, maker, value = self.draws, self.maker, self._value(axes, depth)
        kind = draws.below(4)
        if kind == 0:
            return maker.unary(draws.choose(("relu", "abs")), value)
        if kind == 1:
            return maker.pair(draws.choose(("max", "min")), value, self._value(axes, depth))
        if kind == 2:
            return maker.spike(value)
        return maker.where(self._leaf(axes), self._leaf(axes), value, self._value(axes, depth))

    # -- losses -------------------------------------------------------------------------------------------------------
    def _loss(self, k: int) -> None:
        draws, maker = self.draws, self.maker
        axes: Axes = () if self.scalar else draws.choose(((self.rest,), (self.rest,), (self.lane,), ()))
        value = maker.assign(f"y{k}", self._readout(axes, draws.choose(self.made)))
        kinds = ("mse", "mse", "cross_entropy") if axes == (self.rest,) else ("mse",)
        kind = draws.choose(kinds)
        target = maker.input(f"z{k}", "class" if kind == "cross_entropy" else "float", axes, target=True)
        trains = tuple(name for name in maker.params if draws.chance(50)) if draws.chance(15) else ()
        at: str | tuple[str, int] = draws.choose(("all", "all", "all", "last"))
        maker.loss(f"l{k}", kind, value, target, 1.0 if self.scalar else draws.choose((1.0, 0.5, 2.0)), trains, at)

    def _difference(self, k: int) -> None:
        draws, maker = self.draws, self.maker
        axes: Axes = () if self.scalar else draws.choose(((), (self.rest,), (self.lane,)))
        value = maker.assign(f"v{k}", self._readout(axes, draws.choose(self.made)))
        cumulant = maker.input(f"c{k}", "float", axes, target=draws.chance(50))
        rate = maker.number(draws.choose((0.9, 1.0, 0.0)))
        maker.td(f"l{k}", value, cumulant, rate, 1.0 if self.scalar else draws.choose((1.0, 0.5)), (), self.trace)

    def _readout(self, axes: Axes, source: Value) -> Value:
        """What a loss compares, from one state or several."""
        draws, maker = self.draws, self.maker
        if source.text in maker.states and draws.chance(20):
            source = maker.past(source.text, draws.between(1, 2))
        value = maker.binary("+", self._weighed(axes, source), self._value(axes, draws.below(2)))
        for other in self.made:
            if draws.chance(50):
                value = maker.binary("+", value, self._weighed(axes, other))
        return value

    def _weighed(self, axes: Axes, source: Value) -> Value:
        """Weights times a value, entry by entry where both have the lanes."""
        draws, maker = self.draws, self.maker
        own = maker.type(source).axes
        if len(own) == 2 and axes != own:
            lost = self.rest if draws.chance(70) else self.lane
            source = maker.total(source, lost)
            own = tuple(axis for axis in own if axis != lost)
        if not own or own == axes:
            return maker.binary("*", self._parameter(axes), source)
        if len(axes) == 2:
            return maker.binary("*", self._parameter(axes), source)
        return maker.matmul(self._parameter((*axes, own[0])), source)

    def _parameter(self, axes: Axes) -> Value:
        """A new parameter, small as those of a trained network, or one of that shape again (shared)."""
        again = [p.name for p in self.maker.params.values() if p.type.axes == axes]
        if again and self.draws.chance(15):
            name = self.draws.choose(again)
            return Value(next(n.id for n in self.maker.nodes if n.op == "parameter" and n.name == name), name)
        return self.maker.parameter(Type("float", axes), ("normal", (0.0, 0.4)))
