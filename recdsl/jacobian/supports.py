"""Where the Jacobians of a step can be other than zero, entry by entry, where weights are masked.

The same walk as that over values (`StepJacobian`), with every factor replaced by its support: one where a derivative
may be anything, the mask where it is a masked weight. Sums and products of such pieces are positive exactly on the
pairs of entries that a path joins (semantics 6.1), so they tell the reach of each scalar of a parameter.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, Protocol

from recdsl.graph.step import Node, StepGraph
from recdsl.graph.types import Type
from recdsl.jacobian.pieces import Piece, scaled, untied
from recdsl.jacobian.rules import RULES, Folder, Site, along
from recdsl.jacobian.step import StepJacobian
from recdsl.ops import primitive
from recdsl.ops.base import Builder, Elementwise

MOVES = ("rename", "transpose", "broadcast", "slice", "pad", "concat", "sum", "contract")
"""Ops whose derivatives are sums and products of what stands in the graph."""
ODD = ("neg", "tanh", "relu", "abs", "sign", "sin", "erf", "expm1", "log1p", "sqrt", "stop", "straight_through")
"""Functions that are zero at zero."""


def masks(graph: StepGraph) -> tuple[str, ...]:
    """The names of masks of weights."""
    return tuple(p.name for p in graph.parameters if p.init[0] == "mask")


class Inner(Builder, Folder, Protocol):
    """A builder that knows its constants."""


class SupportBuilder:
    """A builder of non-negative values of which only the sign counts: what is positive everywhere is the constant 1."""

    def __init__(self, inner: Inner) -> None:
        self.inner = inner

    def type(self, value: int) -> Type:
        return self.inner.type(value)

    def const(self, value: float, like: int) -> int:
        return self.inner.const(value, like)

    def constant(self, value: Any, type: Type) -> int:
        return self.inner.constant(value, type)

    def uniform(self, value: int) -> float | None:
        return self.inner.uniform(value)

    def op(self, name: str, *args: int, **attrs: Any) -> int:
        known = [self.uniform(arg) for arg in args]
        if name == "add" and any(number for number in known):
            return self.const(1.0, args[0])
        if name == "mul" and any(number for number in known):
            return args[0] if known[1] else args[1]
        if name in ("contract", "sum") and all(number for number in known):
            type = primitive(name).infer([self.type(arg) for arg in args], tuple(sorted(attrs.items())))
            return self.constant(1.0, type)
        return self.inner.op(name, *args, **attrs)

    def clamped(self, value: int) -> int:
        """0 or 1, so that counts of paths do not grow."""
        if self.uniform(value) is not None:
            return value
        return self.inner.op("minimum", value, self.const(1.0, value))


class Supports(StepJacobian):
    """Supports of the Jacobians of one step. given: the builder's values of masks, by name; walls: of the step."""

    def __init__(
        self, graph: StepGraph, builder: SupportBuilder, given: Mapping[str, int], walls: Collection[int] = ()
    ) -> None:
        values: list[int] = []
        for node in graph.nodes:
            values.append(_support(graph, builder, given, node, values))
        super().__init__(graph, builder, values, walls=walls, hoisted=True)

    def through(self, site: Site, piece: Piece) -> Piece | None:
        return supported(site, piece)


def _support(graph: StepGraph, b: SupportBuilder, given: Mapping[str, int], node: Node, values: list[int]) -> int:
    """The entries of a value that may be other than zero; all of them for what varies or is trained."""
    if node.op == "parameter" and node.name in given:
        return given[node.name]
    one = b.constant(1.0, Type("float", node.type.axes))
    args = [values[arg] for arg in node.args]
    if node.id in graph.varying or not args or all(b.uniform(arg) is not None for arg in args):
        return one
    if node.op in ("add", "sub"):
        return b.clamped(b.op("add", *args))
    if node.op in ODD:
        return args[0]
    return b.clamped(b.op(node.op, *args, **dict(node.attrs))) if node.op in (*MOVES, "mul") else one


def supported(site: Site, piece: Piece) -> Piece | None:
    """The support behind an op; None where the op has no derivative."""
    b = site.b
    if site.op in MOVES:
        return RULES[site.op](site, piece)
    if primitive(site.op).structure == "zero" or (site.place and site.op in ("gather", "scatter")):
        return None
    if site.op == "where":
        return RULES["rename"](site, piece) if site.place else None
    if site.op in ("logsumexp", "reduce_max", "gather"):
        return along(site, piece, (int(site.attr("at")),))
    if site.op == "scatter":
        at = int(site.attr("at"))
        kept = tuple(k for k in range(len(site.after)) if k != at)
        return RULES["broadcast"](replace(site, attrs=(("at", kept),)), piece)
    if site.op == "softmax":
        return _mixed(site, piece, int(site.attr("at")))
    op = primitive(site.op)
    if not isinstance(op, Elementwise):
        raise NotImplementedError(site.op)
    if op.scale(b, site.args, site.out, site.attrs, site.place, b.const(1.0, site.out)) is None:
        return None
    factor = site.args[1 - site.place] if site.op == "mul" else b.const(1.0, site.out)
    return scaled(b, piece, factor, site.before, site.seed)


def _mixed(site: Site, piece: Piece, at: int) -> Piece:
    """Every entry along an axis depends on every other."""
    if any(tie.axis == at for tie in piece.key):
        piece = untied(site.b, piece, at, site.before, site.seed)
    left = tuple(axis for k, axis in enumerate(site.before) if k != at)
    total = along(replace(site, after=left), piece, (at,))
    kept = tuple(k for k in range(len(site.before)) if k != at)
    return RULES["broadcast"](replace(site, before=left, attrs=(("at", kept),)), total) or total
