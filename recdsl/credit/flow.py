"""Where a gradient can go: the step graph's edges that have a derivative, with the steps they take."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from recdsl.graph.facts import once_for_nodes
from recdsl.graph.step import Node, StepGraph
from recdsl.graph.types import Type
from recdsl.ops import primitive

Edge = tuple[int, int]
NO_CUTS: frozenset[Edge] = frozenset()


class _Probe:
    """A Builder that records types only, so that an op's vjp can be asked which arguments it serves."""

    def __init__(self, types: Iterable[Type]) -> None:
        self.types = list(types)

    def op(self, name: str, *args: int, **attrs: Any) -> int:
        ordered = tuple(sorted(attrs.items()))
        self.types.append(primitive(name).infer([self.types[arg] for arg in args], ordered))
        return len(self.types) - 1

    def const(self, value: float, like: int) -> int:
        self.types.append(self.types[like])
        return len(self.types) - 1

    def type(self, value: int) -> Type:
        return self.types[value]


class Flow:
    """Edges with a derivative: inside a step (lag 0), from an initial value to its state (0), across steps (1).

    The claim is one-sided: an edge that is missing here has no derivative; one that is here may have none. `order`
    lists the nodes so that every lag-0 edge goes forward in it.
    """

    def __init__(self, graph: StepGraph) -> None:
        self.graph = graph
        self.after: list[list[tuple[int, int]]] = [[] for _ in graph.nodes]
        self.before: list[list[tuple[int, int]]] = [[] for _ in graph.nodes]
        known: dict[tuple[Any, ...], tuple[bool, ...]] = {}
        for node in graph.nodes:
            for arg, carried in zip(node.args, self._served(node, known), strict=True):
                if carried:
                    self._link(arg, node.id, 0)
        for carry in graph.carries:
            if carry.kind == "held":
                continue
            self._link(carry.write, carry.read, 1)
            self._link(carry.init, carry.read, 0)

    def _link(self, source: int, target: int, lag: int) -> None:
        if self.graph.nodes[source].type.dtype == "float":
            self.after[source].append((target, lag))
            self.before[target].append((source, lag))

    def _served(self, node: Node, known: dict[tuple[Any, ...], tuple[bool, ...]]) -> tuple[bool, ...]:
        """Which arguments have a derivative: those that the op's own vjp gives a cotangent."""
        types = tuple(self.graph.nodes[arg].type for arg in node.args)
        key = (node.op, node.attrs, types)
        if key not in known:
            known[key] = served(node.op, node.attrs, types, node.type) if types else ()
        return known[key]

    def forward(self, start: Iterable[int], cuts: frozenset[Edge] = NO_CUTS, across: bool = True) -> set[int]:
        """Everything that the start reaches, itself included; `across` False: within one step."""
        if across and not cuts:
            return _reached(start, self.after)
        return _closure(start, self.after, lambda a, b: (a, b) not in cuts, across)

    def backward(self, end: Iterable[int], cuts: frozenset[Edge] = NO_CUTS, across: bool = True) -> set[int]:
        """Everything that reaches the end, itself included; `across` False: within one step."""
        if across and not cuts:
            return _reached(end, self.before)
        return _closure(end, self.before, lambda b, a: (a, b) not in cuts, across)

    def shortest_cut(self, start: int, ends: frozenset[int], cuts: frozenset[Edge]) -> int | None:
        """The smallest lag of a path from start to one of the ends that uses a cut edge; None if there is none."""
        best: dict[tuple[int, bool], int] = {(start, False): 0}
        queue: deque[tuple[int, bool, int]] = deque([(start, False, 0)])
        while queue:
            node, cut, lag = queue.popleft()
            if best[node, cut] < lag:
                continue
            if cut and node in ends:
                return lag
            for target, step in self.after[node]:
                state = (target, cut or (node, target) in cuts)
                if lag + step < best.get(state, lag + step + 1):
                    best[state] = lag + step
                    (queue.append if step else queue.appendleft)((*state, lag + step))
        return None

    def longest_run(self, start: int, ends: frozenset[int], spared: frozenset[int], budget: int) -> int | None:
        """The smallest lag of a path from start to one of the ends that crosses more than `budget` steps in a row;
        None if there is none. Steps of the carries that `spared` reads do not count, and begin a new row.
        """
        best: dict[tuple[int, int], int] = {(start, 0): 0}
        queue: deque[tuple[int, int, int]] = deque([(start, 0, 0)])
        while queue:
            node, run, lag = queue.popleft()
            if best[node, run] < lag:
                continue
            if run > budget and node in ends:
                return lag
            for target, step in self.after[node]:
                state = (target, run if run > budget or not step else 0 if target in spared else run + 1)
                if lag + step < best.get(state, lag + step + 1):
                    best[state] = lag + step
                    (queue.append if step else queue.appendleft)((*state, lag + step))
        return None


@once_for_nodes
def flow_of(graph: StepGraph) -> Flow:
    """The edges of a graph."""
    return Flow(graph)


def served(op: str, attrs: tuple[tuple[str, Any], ...], types: tuple[Type, ...], result: Type) -> tuple[bool, ...]:
    """Per argument: whether a cotangent of the result gives it one."""
    if primitive(op).structure == "zero" or result.dtype != "float":
        return (False,) * len(types)
    probe = _Probe((*types, result, result))
    count = len(types)
    found = primitive(op).vjp(probe, tuple(range(count)), count, count + 1, attrs)
    return tuple(k is not None and type.dtype == "float" for k, type in zip(found, types, strict=True))


def _reached(start: Iterable[int], edges: list[list[tuple[int, int]]]) -> set[int]:
    """`_closure` over all edges, which is asked for most."""
    found = set(start)
    stack = list(found)
    while stack:
        for other, _ in edges[stack.pop()]:
            if other not in found:
                found.add(other)
                stack.append(other)
    return found


def _closure(
    start: Iterable[int], edges: list[list[tuple[int, int]]], kept: Callable[[int, int], bool], across: bool
) -> set[int]:
    found = set(start)
    stack = list(found)
    while stack:
        node = stack.pop()
        for other, lag in edges[node]:
            if other not in found and (across or not lag) and kept(node, other):
                found.add(other)
                stack.append(other)
    return found
