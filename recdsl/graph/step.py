"""The step graph: one step of the model as a directed acyclic graph, plus what is carried between steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from recdsl.graph.types import Type
from recdsl.source import Span

if TYPE_CHECKING:
    import networkx as nx

LEAVES = ("input", "target", "parameter", "carry", "constant", "step_number")


@dataclass(frozen=True)
class Node:
    """One value of a step.

    `op` is one of LEAVES or the name of a primitive in `recdsl.ops`. Leaves carry their name in `name`; a
    `constant` has attrs (("value", nested tuple of numbers or a number),). Attributes are hashable and sorted.
    `args` are ids of earlier nodes. `name` is the user's name where there is one ("h", "h.z").
    """

    id: int
    op: str
    args: tuple[int, ...]
    attrs: tuple[tuple[str, Any], ...]
    type: Type
    name: str
    span: Span | None

    def attr(self, key: str) -> Any:
        return dict(self.attrs)[key]


@dataclass(frozen=True)
class Carry:
    """A component that crosses the step boundary.

    `read` is the leaf that holds it on entry, `write` the value it takes on leaving the step, `init` the
    time-invariant node it starts from (and returns to at a reset). `kind` is "state", "delay" (one link of the
    line behind `h[t-k]`, k > 1; named `h[t-2]`...), "input" (the delay line of an input, zero at the start), "held"
    (what a `td` loss remembers of the last valid step: no credit goes through it), or that of a tape, which has the
    type of one slot and grows by one each step: "tape", or "stamp", a number for each slot that says when it was
    written (-1: it holds nothing; so it is at masked steps).
    resets: whether a reset starts it anew.
    """

    name: str
    read: int
    write: int
    init: int
    kind: str
    span: Span | None
    resets: bool = True

    @property
    def credited(self) -> bool:
        """Whether credit can go through it."""
        return self.kind in ("state", "delay", "tape")

    @property
    def taped(self) -> bool:
        """Whether it holds a slot for each step."""
        return self.kind in ("tape", "stamp")


@dataclass(frozen=True)
class Recall:
    """One read of a memory: its edges (source, consumer) by use.

    values: of stored values into the read; keys, queries: into the scores. selective: which slots get credit depends
    on the data. score: the kind of score that compares them.
    """

    name: str
    values: tuple[tuple[int, int], ...]
    keys: tuple[tuple[int, int], ...]
    queries: tuple[tuple[int, int], ...]
    selective: bool
    score: str = ""


@dataclass(frozen=True)
class Written:
    """What a step offers to a store that all samples and calls share.

    part: "value", "key", "when" (above 0: it is written), "priority", "used" (what a read weighs slots by), or "place"
    (of a search: which slots). item: its node; output: the output that shows it. slots: the leaf that holds the slots'
    rows, [slot, *item], for "value" and "key"; else -1.
    """

    part: str
    item: int
    output: str
    slots: int = -1


@dataclass(frozen=True)
class Note:
    """What a user should know about a memory, and its place. warns: it is more likely a mistake than meant so."""

    text: str
    span: Span | None
    warns: bool = False


@dataclass(frozen=True)
class Memory:
    """A memory that was lowered to states, or (`written`) to rows that all samples and calls share.

    states: the carries, or the parameters, that hold its items. entries: numbers that one slot holds. notes: what a
    user should know. written: of a store for the model's life; then evict says which slot the next item takes
    ("oldest", "least_used" or "lowest"), fading how use fades from call to call, evaluated whether it is written in
    evaluation too, searched whether its reads fetch a few rows and see no others, on_disk whether its rows are in
    files, place the folder for them that the spec names, merge (kind, rate, within) what becomes of a value whose key
    is stored, indexes (read, score, lists, probes, rows) of reads that look in some lists of an index.
    """

    name: str
    slots: int
    life: str
    entries: int
    states: tuple[str, ...]
    recalls: tuple[Recall, ...]
    notes: tuple[Note, ...]
    span: Span | None
    written: tuple[Written, ...] = ()
    evict: str = "oldest"
    fading: float = 0.0
    evaluated: bool = False
    searched: bool = False
    merge: tuple[str, float, float] | None = None
    on_disk: bool = False
    place: str = ""
    indexes: tuple[tuple[str, str, int, int, int], ...] = ()

    @property
    def common(self) -> bool:
        """Whether there is one store for all samples, which lasts as long as the model."""
        return bool(self.written)

    @property
    def rows(self) -> tuple[Written, ...]:
        """Where its items go."""
        return tuple(made for made in self.written if made.slots >= 0)


@dataclass(frozen=True)
class Parameter:
    """A parameter as the module owns it.

    `init` is ("normal", (0.0, 0.1)) and the like, or ("values", nested tuple); `masks` are ("sparse", density) and
    ("blocks", n). A frozen parameter is a buffer of the module.
    """

    name: str
    type: Type
    init: tuple[str, tuple[Any, ...]]
    masks: tuple[tuple[str, float], ...]
    frozen: bool
    span: Span | None


@dataclass(frozen=True)
class Input:
    """`kind` is float, onehot, class, token or bool; what a batch holds. `size` is the number of classes (0: none)."""

    name: str
    kind: str
    type: Type
    size: int
    target: bool
    span: Span | None


@dataclass(frozen=True)
class TD:
    """What a loss `td(v, c, discount=g)` is made of, as nodes.

    At step t its error is delta = c[t] + g[t] * v[t] - v[t-1], where v[t-1] is that of the last valid step, and g[t]
    is 0 if a new sequence has begun since. Credit enters at `value` of step t-1, with cotangent -delta[t].
    discount: g as written; factor: g, 0 there. Carries: held, v[t-1]; seen, whether there was an earlier valid step at
    all; same, whether it was of the same sequence. trace: lambda of the eligibility traces,
    e <- g[t-1] * trace * e + grad v[t-1] (0: none).
    """

    value: int
    cumulant: int
    discount: int
    factor: int
    error: int
    held: str
    seen: str
    same: str
    trace: float = 0.0


@dataclass(frozen=True)
class Loss:
    """`node` is the loss of one (step, sample), its own axes already averaged. `trains`: selectors, empty for all."""

    name: str
    node: int
    weight: float
    trains: tuple[str, ...]
    at: str | tuple[str, int]
    span: Span | None
    td: TD | None = None

    @property
    def root(self) -> int:
        """The node at which credit enters."""
        return self.node if self.td is None else self.td.value

    def moved(self, new: Mapping[int, int] | Sequence[int]) -> Loss:
        """The loss of a graph whose nodes have other numbers."""
        if self.td is None:
            return replace(self, node=new[self.node])
        nodes = {name: new[getattr(self.td, name)] for name in ("value", "cumulant", "discount", "factor", "error")}
        return replace(self, node=new[self.node], td=replace(self.td, **nodes))


@dataclass(frozen=True)
class StepGraph:
    """Nodes in topological order (node k has id k); `outputs` maps the user's names to nodes.

    Parameters appear as leaves named after them. A masked parameter is `mul(parameter, constant mask)` where the mask
    is itself a frozen parameter named `<name>.mask`.
    """

    name: str
    nodes: tuple[Node, ...]
    inputs: tuple[Input, ...]
    parameters: tuple[Parameter, ...]
    carries: tuple[Carry, ...]
    outputs: tuple[tuple[str, int], ...]
    losses: tuple[Loss, ...]
    reduce: str = "mean"
    memories: tuple[Memory, ...] = ()

    @cached_property
    def graph(self) -> nx.DiGraph[int]:
        """The dependency graph. Edges have `kind` "intra" or "carry" (write -> read, with `lag` 1)."""
        import networkx as nx  # here, because `check` does without: it takes a tenth of its time to import

        graph: nx.DiGraph[int] = nx.DiGraph()
        for node in self.nodes:
            graph.add_node(node.id, node=node)
            graph.add_edges_from((arg, node.id, {"kind": "intra", "lag": 0}) for arg in node.args)
        for carry in self.carries:
            graph.add_edge(carry.write, carry.read, kind="carry", lag=1)
        return nx.freeze(graph)

    @cached_property
    def leaf(self) -> Mapping[str, int]:
        """Leaf ids by "op:name", such as "parameter:W" and "carry:h"."""
        return {f"{node.op}:{node.name}": node.id for node in self.nodes if node.op in LEAVES and node.name}

    def behind(self, ends: Iterable[int]) -> frozenset[int]:
        """Everything that some nodes are computed from inside the step, themselves included."""
        found, stack = set[int](), list(ends)
        while stack:
            place = stack.pop()
            if place not in found:
                found.add(place)
                stack.extend(self.nodes[place].args)
        return frozenset(found)

    @cached_property
    def varying(self) -> frozenset[int]:
        """Nodes that differ between steps or samples; the others are computed once a call."""
        found: set[int] = set()
        for node in self.nodes:
            own = node.op in ("input", "target", "carry", "step_number")
            if own or any(arg in found for arg in node.args):
                found.add(node.id)
        return frozenset(found)
