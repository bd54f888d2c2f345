"""Sequences that end and begin inside a batch: `reset` and `mask` as ordinary nodes of the step.

Reset acts first: a step reads `where(reset, init, carried)`, but for states that are kept. A masked step gives back
what it has read, delay lines included, so nothing shifts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from recdsl.graph.emit import Emitter
from recdsl.graph.step import Carry, Input, Memory, Node, StepGraph
from recdsl.graph.types import BOOL, Axis


@dataclass
class _Rebuild:
    """A copy of a graph in the making; `new` maps old ids to new ones."""

    graph: StepGraph
    emit: Emitter = field(default_factory=Emitter)
    new: dict[int, int] = field(default_factory=dict[int, int])
    wide: dict[tuple[str, tuple[Axis, ...]], int] = field(default_factory=dict[tuple[str, tuple[Axis, ...]], int])

    def copy(self, node: Node) -> int:
        self.emit.span = node.span
        args = tuple(self.new[arg] for arg in node.args)
        return self.emit.append(node.op, args, node.attrs, node.type, node.name)

    def flag(self, name: str, axes: tuple[Axis, ...]) -> int:
        """The bool of that name for every entry."""
        found = self.wide.get((name, axes))
        if found is None:
            leaf = self.emit.leaf("input", name, BOOL)
            found = self.wide[name, axes] = self.emit.op("broadcast", leaf, axes=axes, at=()) if axes else leaf
        return found

    def choose(self, flag: str, then: int, other: int, carry: Carry) -> int:
        type = self.emit.type(then)
        self.emit.span = carry.span
        return self.emit.append("where", (self.flag(flag, type.axes), then, other), (), type)


def chooses(graph: StepGraph, node: Node, flag: str) -> bool:
    """Whether a node is a choice that `reset` or `mask` makes. No spec can give an input these names."""
    if node.op != "where":
        return False
    condition = graph.nodes[node.args[0]]
    source = graph.nodes[condition.args[0]] if condition.op == "broadcast" else condition
    return source.op == "input" and source.name == flag


def _moved(memory: Memory, new: Mapping[int, int]) -> Memory:
    """A memory with the edges that its reads have in the new graph."""

    def edges(found: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
        return tuple((new[source], new[target]) for source, target in found)

    moved = (replace(r, values=edges(r.values), keys=edges(r.keys), queries=edges(r.queries)) for r in memory.recalls)
    written = (replace(w, item=new[w.item], slots=new.get(w.slots, -1)) for w in memory.written)
    return replace(memory, recalls=tuple(moved), written=tuple(written))


def _left(work: _Rebuild, carry: Carry) -> int:
    """What a step leaves of a carry: at a masked step what it has read, and of a tape of stamps none."""
    write = work.new[carry.write]
    if not carry.taped:
        return work.choose("mask", write, work.new[carry.read], carry)
    if carry.kind == "tape":
        return write
    tape, stamp = work.emit.nodes[write].args
    none = work.emit.constant(-1.0, work.emit.type(stamp))
    return work.emit.op("append", tape, work.choose("mask", stamp, none, carry))


def ragged(graph: StepGraph) -> StepGraph:
    """The graph with two more inputs, `reset` and `mask`, obeyed by every carry."""
    return ragged_map(graph)[0]


def ragged_map(graph: StepGraph) -> tuple[StepGraph, dict[int, int]]:
    """The same, with the map from the old nodes to the new ones: a carried read becomes the state after resets."""
    work, carried = _Rebuild(graph), {carry.read: carry for carry in graph.carries}
    for node in graph.nodes:  # what does not vary comes first: initial values are needed at the leaves
        if node.id not in graph.varying:
            work.new[node.id] = work.copy(node)
    for node in graph.nodes:
        if node.id in graph.varying:
            leaf = work.copy(node)
            carry = carried.get(node.id)
            if carry is not None and carry.resets and not carry.taped:
                leaf = work.choose("reset", work.new[carry.init], leaf, carry)
            work.new[node.id] = leaf
    reads = {node.name: node.id for node in work.emit.nodes if node.op == "carry"}
    kept: dict[int, int] = {}
    carries: list[Carry] = []
    for carry in graph.carries:
        write = _left(work, carry)
        if carry.kind == "state":
            kept.setdefault(carry.write, write)
        carries.append(replace(carry, read=reads[carry.name], write=write, init=work.new[carry.init]))
    states = {carry.name: carry.write for carry in carries if carry.kind == "state"}
    flags = tuple(Input(name, "bool", BOOL, 0, False, None) for name in ("reset", "mask"))
    for name in ("reset", "mask"):
        work.emit.leaf("input", name, BOOL)
    made = replace(
        graph,
        nodes=tuple(work.emit.nodes),
        inputs=(*graph.inputs, *flags),
        carries=tuple(carries),
        outputs=tuple((name, states.get(name, kept.get(old, work.new[old]))) for name, old in graph.outputs),
        losses=tuple(loss.moved(work.new) for loss in graph.losses),
        memories=tuple(_moved(memory, work.new) for memory in graph.memories),
    )
    return made, work.new
