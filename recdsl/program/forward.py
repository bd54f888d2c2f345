"""Step graph -> forward timeline: carries become `prev`, delay lines one longer `prev`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from recdsl.graph.step import Carry, StepGraph
from recdsl.program.timeline import EARLIER, TimelineBuilder, TNode


@dataclass(frozen=True)
class History:
    """One sequence that is read back in time: `source` is kept for `depth` steps.

    states[k] is the node of what stood k + 1 steps before step 0 (a row of `.state`, or the initial value).
    `carries[k]` is the carry that holds it, and `init` the initial value of all of them.
    """

    source: int
    depth: int
    carries: tuple[str, ...]
    init: int


@dataclass(frozen=True)
class Forward:
    """The forward timeline with what the rest of the compiler asks of it.

    values: step-graph node -> timeline node. reads: carry name -> its `prev` node.
    """

    nodes: tuple[TNode, ...]
    values: tuple[int, ...]
    reads: tuple[tuple[str, int], ...]
    histories: tuple[History, ...]
    losses: tuple[int, ...]
    outputs: tuple[tuple[str, int], ...]

    @property
    def behind(self) -> dict[int, int]:
        """What each `prev` held a step before: the source, or the link of a delay line before it."""
        found, reads = dict[int, int](), dict(self.reads)
        for history in self.histories:
            links = [reads[name] for name in history.carries]
            found |= dict(zip(links, (history.source, *links), strict=False))
        return found


def forward_timeline(graph: StepGraph, cuts: frozenset[tuple[int, int]] = frozenset()) -> Forward:
    """The forward equations of all steps. Pure; the graph is not changed.

    cuts: edges (source, consumer) of the step graph that carry no gradient; they become a `stop`, so that no later
    simplification can lose them.
    """
    builder = TimelineBuilder()
    values: list[int] = []
    reads: dict[str, int] = {}
    chains = _chains(graph, cuts)
    by_read = {carry.read: carry for carry in graph.carries}
    tapes = {carry.read: carry for carry in graph.carries if carry.taped}
    base = {carry.name: (head, lag) for head, links in chains.items() for lag, carry in enumerate(links, 1)}
    for node in graph.nodes:
        builder.span = node.span
        args = [builder.op("stop", values[a]) if (a, node.id) in cuts else values[a] for a in node.args]
        if node.id in tapes:
            value = builder.constant(0.0, node.type)  # stands for the tape; who reads it names the sequence itself
        elif node.id in by_read:
            carry = by_read[node.id]
            _, lag = base[carry.name]
            value = builder.move("prev", [-1, -1], lag, node.type, carry.name)
            reads[carry.name] = value
        elif node.op == "append":
            value = args[1]
        elif node.op in ("nearest", "fetch"):
            value = builder.again(TNode(node.op, (), node.attrs, node.type, True, node.name, node.span), args)
            if node.op == "fetch" and (node.args[0], node.id) in cuts:  # places have no gradient
                value = builder.op("stop", value)
        elif node.op in ("input", "target"):
            value = builder.leaf("input", node.name, node.type, time=True)
        elif node.op == "parameter":
            value = builder.leaf("parameter", node.name, node.type, time=False)
        elif node.op == "step_number":
            value = builder.leaf("step_number", "t", node.type, time=True)
        elif node.op == "constant":
            value = builder.constant(node.attr("value"), node.type)
        else:
            value = builder.op(node.op, *args, **dict(node.attrs))
        values.append(value)
    _wind(graph, builder, tapes, values)
    histories = _link(builder, cuts, chains, values, reads)
    return Forward(
        tuple(builder.nodes),
        tuple(values),
        tuple(sorted(reads.items())),
        histories,
        tuple(values[loss.node] for loss in graph.losses),
        tuple((name, values[node]) for name, node in graph.outputs),
    )


def _wind(graph: StepGraph, builder: TimelineBuilder, tapes: Mapping[int, Carry], values: list[int]) -> None:
    """Name the sequences that reads of tapes look back at."""
    for node in graph.nodes:
        if node.op in EARLIER:
            count = EARLIER[node.op]
            found = values[node.id]
            move = found if builder.nodes[found].op == node.op else builder.nodes[found].args[0]
            own = builder.nodes[move]
            args = (*(values[tapes[tape].write] for tape in node.args[:count]), *own.args[count:])
            builder.nodes[move] = replace(own, args=args)


def _chains(graph: StepGraph, cuts: frozenset[tuple[int, int]]) -> dict[str, list[Carry]]:
    """Delay lines as lists of links, keyed by the carry that heads them. A link writes what the one before reads."""
    by_read = {carry.read: carry.name for carry in graph.carries if not carry.taped}
    linked = [c for c in graph.carries if c.write in by_read and (c.write, c.read) not in cuts]
    after = {by_read[c.write]: c for c in linked}
    chains: dict[str, list[Carry]] = {}
    for carry in graph.carries:
        if carry in linked or carry.taped:
            continue
        links = [carry]
        while links[-1].name in after and after[links[-1].name].init == carry.init:
            links.append(after[links[-1].name])
        chains[carry.name] = links
    placed = {link.name for links in chains.values() for link in links}
    for carry in graph.carries:
        if carry.name not in placed and not carry.taped:
            chains[carry.name] = [carry]
    return chains


def _link(
    builder: TimelineBuilder,
    cuts: frozenset[tuple[int, int]],
    chains: dict[str, list[Carry]],
    values: list[int],
    reads: dict[str, int],
) -> tuple[History, ...]:
    """Aim every `prev` at the sequence it reads, and name its starting value."""
    histories: list[History] = []
    for head in sorted(chains):
        links = chains[head]
        source, init = values[links[0].write], values[links[0].init]
        if (links[0].write, links[0].read) in cuts:  # `g = h[t-1]` with that use cut
            source = builder.op("stop", source)
        for link in links:
            node = reads[link.name]
            old = builder.nodes[node]
            builder.nodes[node] = TNode("prev", (source, init), old.attrs, old.type, True, old.name, old.span)
        histories.append(History(source, len(links), tuple(link.name for link in links), init))
    return tuple(histories)
