"""The Jacobian of one step: how values of a step graph depend on a seed inside the step."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from recdsl.graph.step import LEAVES, StepGraph
from recdsl.graph.types import Axis
from recdsl.jacobian.pieces import Key, Piece, restricted, summed, tied
from recdsl.jacobian.rules import Site, back, passed
from recdsl.ops.base import Builder

Edge = tuple[int, int]
NO_EDGES: frozenset[Edge] = frozenset()


class StepJacobian:
    """Derivatives inside one step of a graph.

    values: for each node of the graph its value in the builder. cuts: edges (source, consumer) without derivative.
    walls: nodes that no path may pass through (a path may begin or end there). hoisted: whether the paths of a value
    that does not vary begin at its uses in a step (what is computed from it alone has an influence of its own).
    """

    def __init__(
        self,
        graph: StepGraph,
        builder: Builder,
        values: Sequence[int],
        cuts: Collection[Edge] = NO_EDGES,
        walls: Collection[int] = (),
        *,
        hoisted: bool = False,
    ) -> None:
        self.graph, self.b, self.values = graph, builder, values
        self.cuts, self.walls = frozenset(cuts), frozenset(walls)
        self.users: list[list[int]] = [[] for _ in graph.nodes]
        for node in graph.nodes:
            if node.id in graph.varying or not hoisted:
                for arg in dict.fromkeys(node.args):
                    self.users[arg].append(node.id)

    def axes(self, node: int) -> tuple[Axis, ...]:
        return self.graph.nodes[node].type.axes

    def pieces(self, seed: int, targets: Mapping[int, Key]) -> dict[int, list[Piece]]:
        """For each target: d target / d seed, or only the entries in its pattern (an empty one: all entries)."""
        reached = self._reached(seed)
        wanted = self._wanted({k: key for k, key in targets.items() if k in reached}, reached, seed)
        found: dict[tuple[int, Key], list[Piece]] = {}
        for node in sorted(wanted):
            for key in sorted(wanted[node]):
                made = self._start(seed) if node == seed else self._node(node, key, seed, found, wanted)
                inside = [restricted(self.b, p, key, self.axes(node), self.axes(seed)) for p in made] if key else made
                found[node, key] = summed(self.b, [p for p in inside if p is not None])
        return {k: self._asked(found, k, key, seed) for k, key in targets.items() if k in reached}

    def _asked(self, found: Mapping[tuple[int, Key], list[Piece]], k: int, key: Key, seed: int) -> list[Piece]:
        """A pattern of a node, which may have been computed whole because someone reads all of it."""
        if (k, key) in found:
            return found[k, key]
        inside = [restricted(self.b, piece, key, self.axes(k), self.axes(seed)) for piece in found[k, ()]]
        return summed(self.b, [piece for piece in inside if piece is not None])

    def _start(self, seed: int) -> list[Piece]:
        """The identity."""
        return [Piece(tied(self.axes(seed)), self.b.const(1.0, self.values[seed]))]

    def _reached(self, seed: int) -> set[int]:
        """Nodes that the seed reaches inside the step."""
        found, stack = {seed}, [seed]
        while stack:
            node = stack.pop()
            if node in self.walls and node != seed:
                continue
            for user in self.users[node]:
                if user not in found and (node, user) not in self.cuts:
                    found.add(user)
                    stack.append(user)
        return found

    def _wanted(self, targets: Mapping[int, Key], reached: set[int], seed: int) -> dict[int, set[Key]]:
        """Which patterns of which nodes are read on the way to the targets."""
        wanted: dict[int, set[Key]] = {}
        for node, key in targets.items():
            wanted.setdefault(node, set()).add(key)
        for k in range(len(self.graph.nodes) - 1, seed, -1):
            node = self.graph.nodes[k]
            for key in sorted(wanted.get(k, ())):
                for place, arg in enumerate(node.args):
                    if self._carries(arg, k, seed, reached):
                        axes = self.axes(arg)
                        wanted.setdefault(arg, set()).add(back(node.op, node.attrs, key, axes, place))
        return {k: {()} if () in keys else keys for k, keys in wanted.items()}

    def _carries(self, arg: int, node: int, seed: int, reached: set[int]) -> bool:
        """Whether the seed's influence comes along an edge."""
        blocked = arg in self.walls and arg != seed
        float_ = self.graph.nodes[arg].type.dtype == self.graph.nodes[node].type.dtype == "float"
        return float_ and arg in reached and not blocked and (arg, node) not in self.cuts

    def _node(
        self,
        k: int,
        key: Key,
        seed: int,
        found: Mapping[tuple[int, Key], list[Piece]],
        wanted: Mapping[int, set[Key]],
    ) -> list[Piece]:
        """The pieces of one node from those of its arguments."""
        node = self.graph.nodes[k]
        if node.op in LEAVES:
            return []
        args = tuple(self.values[arg] for arg in node.args)
        parts: list[Piece] = []
        for place, arg in enumerate(node.args):
            asked = back(node.op, node.attrs, key, self.axes(arg), place)
            asked = asked if (arg, asked) in found else ()
            blocked = (arg, k) in self.cuts or (arg in self.walls and arg != seed)
            if (arg, asked) not in found or blocked or k not in self.users[arg]:
                continue
            before, after = self.axes(arg), self.axes(k)
            site = Site(self.b, node.op, node.attrs, args, self.values[k], place, before, after, self.axes(seed), key)
            made = [self.through(site, piece) for piece in found[arg, asked]]
            parts += [piece for piece in made if piece is not None]
        return summed(self.b, parts)

    def through(self, site: Site, piece: Piece) -> Piece | None:
        """A piece behind an op."""
        return passed(site, piece)
