"""Scores of all slots against a query, one function for each kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod, sqrt

from recdsl.errors.memory import QueryAxes
from recdsl.graph import align
from recdsl.graph.context import Context
from recdsl.graph.emit import UNKNOWN, Emitter
from recdsl.graph.memory.store import Read
from recdsl.graph.scope import Stop
from recdsl.graph.step import Parameter
from recdsl.graph.types import Axis, Type

FLOOR = 1e-8
"""Norms below it count as it, in `cosine`."""


@dataclass(frozen=True)
class Compared:
    """A read under construction: keys [slot, *key], a query [*query], and where parameters are declared."""

    ctx: Context
    read: Read
    store: str
    keys: int
    query: int

    @property
    def b(self) -> Emitter:
        return self.ctx.emit

    @property
    def slot(self) -> Axis:
        return self.b.type(self.keys).axes[0]

    @property
    def key_axes(self) -> tuple[Axis, ...]:
        return self.b.type(self.keys).axes[1:]

    def parameter(self, name: str, axes: tuple[Axis, ...], fan_in: int) -> int:
        """A parameter of the scorer, drawn from a normal distribution of variance 1 / fan-in."""
        full, type = f"{self.read.scorer}.{name}", Type("float", axes)
        init = ("normal", (0.0, 1 / sqrt(fan_in)))
        self.ctx.parameters[full] = Parameter(full, type, init, (), False, self.read.span)
        return self.b.leaf("parameter", full, type)

    def matched(self) -> int:
        """The query along the axes of a key. Raises Stop."""
        return self.matched_to(self.key_axes)

    def matched_to(self, axes: tuple[Axis, ...]) -> int:
        """The query along these axes. Raises Stop."""
        found, wanted = self.b.type(self.query), Type("float", axes)
        if not align.same_set(found, wanted):
            hint = "give both the same axes, or use `mlp(width)`, which maps each by a matrix of its own"
            raise Stop(QueryAxes(self.read.query.span, self.store, self.read.score.kind, str(found), str(wanted), hint))
        same = found.axes == wanted.axes
        return self.query if same else align.to_axes(self.b, self.query, wanted.axes)

    def key_matrix(self, axes: tuple[Axis, ...]) -> int:
        """What `mlp` maps keys of these axes by."""
        return self.parameter("Wk", (self._hidden(), *axes), prod(axis.size for axis in axes))

    def mixed_query(self) -> int:
        """The query as `mlp` adds it to keys, [hidden]."""
        axes = self.b.type(self.query).axes
        matrix = self.parameter("Wq", (self._hidden(), *axes), prod(axis.size for axis in axes))
        own = tuple(range(1, 1 + len(axes)))
        return self.b.op("contract", matrix, self.query, x=(0, *own), y=own, out=(0,))

    def last_weights(self) -> int:
        """From the hidden layer of `mlp` to a score."""
        hidden = self._hidden()
        return self.parameter("w", (hidden,), hidden.size)

    def key_weights(self, axes: tuple[Axis, ...]) -> int:
        """What `separable` weighs keys of these axes by. Without a query (where a key is written), as a read has it."""
        full = f"{self.read.scorer}.wk"
        if self.query == UNKNOWN:
            self.ctx.parameters.setdefault(
                full, Parameter(full, Type("float", axes), ("zeros", ()), (), False, self.read.span)
            )
            return self.b.leaf("parameter", full, Type("float", axes))
        return self.parameter("wk", axes, prod(axis.size for axis in (*axes, *self.b.type(self.query).axes)))

    def _hidden(self) -> Axis:
        assert self.read.score.width is not None
        return self.read.score.width.axis


def scored(made: Compared) -> int:
    """Scores, [slot]."""
    return SCORERS[made.read.score.kind](made)


def along_keys(b: Emitter, keys: int, with_: int) -> int:
    """Keys contracted with a vector over all axes of a key: [slot]."""
    labels = tuple(range(len(b.type(keys).axes)))
    return b.op("contract", keys, with_, x=labels, y=labels[1:], out=(0,))


def _total(b: Emitter, value: int, first: int) -> int:
    """The sum over all axes from `first` on."""
    over = tuple(range(first, len(b.type(value).axes)))
    return b.op("sum", value, over=over) if over else value


def norm(b: Emitter, value: int, first: int) -> int:
    """The norm over all axes from `first` on, at least FLOOR; its gradient is 0 below."""
    squares = _total(b, b.op("mul", value, value), first)
    return b.op("sqrt", b.op("maximum", squares, b.const(FLOOR * FLOOR, squares)))


def _wide(b: Emitter, value: int, axes: tuple[Axis, ...], at: tuple[int, ...]) -> int:
    return b.op("broadcast", value, axes=axes, at=at)


def _dot(made: Compared) -> int:
    return along_keys(made.b, made.keys, made.matched())


def _cosine(made: Compared) -> int:
    b, query = made.b, made.matched()
    products = along_keys(b, made.keys, query)
    lengths = b.op("mul", norm(b, made.keys, 1), _wide(b, norm(b, query, 0), (made.slot,), ()))
    cosine = b.op("div", products, lengths)
    sharpness = made.read.score.number
    return cosine if sharpness == 1 else b.op("mul", cosine, b.const(sharpness, cosine))


def _inverse_distance(made: Compared) -> int:
    b, axes = made.b, made.b.type(made.keys).axes
    apart = b.op("sub", made.keys, _wide(b, made.matched(), axes, tuple(range(1, len(axes)))))
    distance = _total(b, b.op("mul", apart, apart), 1)
    near = b.op("add", distance, b.const(made.read.score.number, distance))
    return b.op("div", b.const(1.0, near), near)


def _mlp(made: Compared) -> int:
    """w . tanh(Wk k + Wq q): additive, without biases (Ke et al. 2018; Bahdanau et al. 2015)."""
    b, from_key = made.b, made.key_matrix(made.key_axes)
    inner = tuple(range(2, 2 + len(made.key_axes)))
    first = b.op("contract", made.keys, from_key, x=(0, *inner), y=(1, *inner), out=(0, 1))
    second = _wide(b, made.mixed_query(), b.type(first).axes, (1,))
    mixed = b.op("tanh", b.op("add", first, second))
    return b.op("contract", mixed, made.last_weights(), x=(0, 1), y=(1,), out=(0,))


def _separable(made: Compared) -> int:
    """wk . tanh(k) + wq . tanh(q), one layer on both joined: the query moves all scores alike."""
    b, query_axes = made.b, made.b.type(made.query).axes
    fan_in = prod(axis.size for axis in (*made.key_axes, *query_axes))
    keys = along_keys(b, b.op("tanh", made.keys), made.key_weights(made.key_axes))
    own = tuple(range(len(query_axes)))
    weights = made.parameter("wq", query_axes, fan_in)
    query = b.op("contract", b.op("tanh", made.query), weights, x=own, y=own, out=())
    return b.op("add", keys, _wide(b, query, (made.slot,), ()))


SCORERS: Mapping[str, Callable[[Compared], int]] = {
    "dot": _dot,
    "cosine": _cosine,
    "inverse_distance": _inverse_distance,
    "mlp": _mlp,
    "separable": _separable,
}
