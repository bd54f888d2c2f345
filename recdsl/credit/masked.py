"""Scopes of masked weights: which states each scalar of a parameter reaches within some steps, given the masks.

Patterns (`recdsl.credit.influence`) take a masked matrix as a dense one. Under `snap(n)` a scope holds what a scalar
reaches within n steps of the masked network (Menick et al. 2021, for sparse networks; semantics 4.4), so it is narrower
than its patterns, by zeros and ones that follow from the masks when a call begins. What can be said before that is
said here: `blocks(n)` is a known mask, of `sparse(density)` any entry may be missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

from recdsl.credit.influence import Keys, states
from recdsl.credit.plan import RoutingClass
from recdsl.graph.step import Parameter, StepGraph
from recdsl.graph.types import Axis, Type
from recdsl.jacobian.compose import composed, confined
from recdsl.jacobian.pieces import Piece, summed, tied
from recdsl.jacobian.supports import SupportBuilder, Supports, masks
from recdsl.ops import primitive

Reach = dict[str, list[Piece]]
"""By carried value: zeros and ones in the patterns of a scope; a pattern without a piece holds zeros alone."""
LARGEST = 2**24
"""Entries of a scope that are worked out for a verdict; of larger ones only what patterns tell is claimed."""


def _numpy() -> Any:
    """Imported when there is a mask: `check` of most specs does without, and it takes as long as all the rest."""
    import numpy

    return numpy


class Reaching:
    """Reaches in one graph, as values of a builder.

    given: the builder's values of masks, by name. entering: by carried value the node that a step reads it from, where
    that is not its leaf: a reset puts an initial value in its place, which is no use of it inside of the step.
    """

    def __init__(
        self,
        graph: StepGraph,
        builder: SupportBuilder,
        given: Mapping[str, int],
        entering: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        self.graph, self.b = graph, builder
        self.step, self.entering = Supports(graph, builder, given, entering.values()), entering
        self.carries = {carry.name: carry for carry in states(graph)}
        self._carried: dict[str, Reach] = {}

    def within(self, source: int, scope: Mapping[str, Keys], steps: int) -> Reach:
        """What an effective parameter reaches in so many steps, an initial value in that which it enters included."""
        first = self._inside(source, self._left(source), scope)
        begun = {n: [self._identity(n)] for n, carry in self.carries.items() if carry.init == source}
        found = newest = self._joined(first, self._inside(source, begun, scope))
        for _ in range(steps - 1):
            newest = self._next(source, newest, scope)
            found = self._joined(found, newest)
        return found

    def _rows(self, name: str) -> tuple[Axis, ...]:
        return self.step.axes(self.carries[name].read)

    def _identity(self, name: str) -> Piece:
        rows = self._rows(name)
        return Piece(tied(rows), self.b.constant(1.0, Type("float", rows)))

    def _left(self, seed: int) -> Reach:
        """By carried value, where a seed acts on what the step leaves."""
        made = self.step.pieces(seed, {carry.write: () for carry in self.carries.values()})
        return {n: made[carry.write] for n, carry in self.carries.items() if made.get(carry.write)}

    def _next(self, source: int, reach: Reach, scope: Mapping[str, Keys]) -> Reach:
        seed, found = self.step.axes(source), dict[str, list[Piece]]()
        for name, inner in reach.items():
            if name not in self._carried:
                self._carried[name] = self._left(self.entering.get(name, self.carries[name].read))
            for target, outer in self._carried[name].items():
                rows, middle = self._rows(target), self._rows(name)
                made = [composed(self.b, left, right, rows, middle, seed) for left in outer for right in inner]
                found.setdefault(target, []).extend(piece for piece in made if piece is not None)
        return self._inside(source, found, scope)

    def _inside(self, source: int, pieces: Reach, scope: Mapping[str, Keys]) -> Reach:
        """Pieces as zeros and ones in the patterns of a scope."""
        seed, found = self.step.axes(source), dict[str, list[Piece]]()
        for name, parts in pieces.items():
            rows = self._rows(name)
            made = [q for piece in parts for q in confined(self.b, piece, scope.get(name, ()), rows, seed)]
            if made:
                found[name] = self._clamped(made)
        return found

    def _joined(self, one: Reach, other: Reach) -> Reach:
        return {n: self._clamped([*one.get(n, ()), *other.get(n, ())]) for n in sorted({*one, *other})}

    def _clamped(self, pieces: Sequence[Piece]) -> list[Piece]:
        return [Piece(p.key, self.b.clamped(p.value), p.lanes) for p in summed(self.b, pieces)]


def narrowed(graph: StepGraph, routing: RoutingClass) -> bool:
    """Whether masks narrow the scopes of a class."""
    return routing.tracing is not None and routing.tracing.scope == "support" and bool(masks(graph))


class Narrowing:
    """What masks do to the scopes of a graph, as far as it is known before they are drawn."""

    def __init__(self, graph: StepGraph) -> None:
        self.graph = graph
        self.size = sum(graph.nodes[carry.read].type.numel for carry in states(graph))

    def leaves(self, routing: RoutingClass, source: int) -> int | None:
        """The first lag at which influence may leave what masks leave of a scope; None: it leaves as patterns say."""
        scope = {s.carry: s.allowed for s in routing.scopes if s.source == source}
        if not narrowed(self.graph, routing) or not scope:
            return None
        assert routing.tracing is not None
        depth = routing.tracing.depth
        first = depth - any(carry.init == source for carry in states(self.graph))
        if depth >= self.size:
            return None
        if self.graph.nodes[source].type.numel * self.size > LARGEST:
            return first
        held = self._least.within(source, scope, depth)
        if all(self._full(held.get(name, ()), keys) for name, keys in scope.items()):
            return None
        known = all(_blocky(p) for p in self.graph.parameters if p.init[0] == "mask")
        return None if known and self._closed(source, depth) else first

    def _closed(self, source: int, depth: int) -> bool:
        """Whether nothing is reached later that is not reached by then."""
        everywhere: dict[str, Keys] = dict.fromkeys(self._least.carries, ((),))
        now, later = (self._least.within(source, everywhere, steps) for steps in (depth, depth + 1))
        arrays = [[self._array(piece) for piece in (*now.get(n, ()), *later[n])] for n in later]
        return all(len(pair) == 2 and _numpy().array_equal(*pair) for pair in arrays)

    def _full(self, pieces: Sequence[Piece], keys: Keys) -> bool:
        return len(pieces) == len(keys) and all(bool(_numpy().all(self._array(piece) > 0)) for piece in pieces)

    def _array(self, piece: Piece) -> Any:
        return self._arrays.array(piece.value)

    @cached_property
    def _arrays(self) -> Arrays:
        return Arrays()

    @cached_property
    def _least(self) -> Reaching:
        """With the masks that are known, and nothing left of the others: no reach is smaller."""
        found = {p.name: p for p in self.graph.parameters if p.init[0] == "mask"}
        given = {name: self._arrays.put(_smallest(parameter), parameter.type) for name, parameter in found.items()}
        return Reaching(self.graph, SupportBuilder(self._arrays), given)


def _blocky(parameter: Parameter) -> bool:
    return all(kind == "blocks" for kind, _ in parameter.init[1])


def _smallest(parameter: Parameter) -> Any:
    """The least that a mask may hold: its blocks, or nothing."""
    if not _blocky(parameter):
        return _numpy().zeros(parameter.type.shape)
    made = _numpy().ones(parameter.type.shape)
    for _, count in parameter.init[1]:
        rows, columns = (_numpy().arange(size) * int(count) // size for size in parameter.type.shape[-2:])
        made = made * (rows[:, None] == columns[None, :])
    return made


class Arrays:
    """A builder that computes at once."""

    def __init__(self) -> None:
        self._made: list[tuple[Callable[[], Any], Type, float | None]] = []

    def put(self, value: Any, type: Type) -> int:
        self._made.append((lambda: value, type, None))
        return len(self._made) - 1

    def array(self, value: int) -> Any:
        return self._made[value][0]()

    def type(self, value: int) -> Type:
        return self._made[value][1]

    def uniform(self, value: int) -> float | None:
        return self._made[value][2]

    def const(self, value: float, like: int) -> int:
        return self.constant(value, self.type(like))

    def constant(self, value: Any, type: Type) -> int:
        self._made.append((lambda: _numpy().full(type.shape, value, dtype="float64"), type, float(value)))
        return len(self._made) - 1

    def op(self, name: str, *args: int, **attrs: Any) -> int:
        packed, types = tuple(sorted(attrs.items())), [self.type(arg) for arg in args]
        made = primitive(name)
        value = made.value(_numpy(), [self.array(arg) for arg in args], packed, types)
        return self.put(value, made.infer(types, packed))
