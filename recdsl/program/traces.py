"""Forward rules as nodes of the timeline: influences carried along with the states, and what losses read of them.

For an effective parameter theta and a carried value s the trace is J = d s / d theta, confined to the scope of the
rule at every step: `J <- scope * (D J + I)` with the step's own Jacobians D = d s / d s_before and I = d s / d theta
(semantics 2.1 and 4.3). A loss reads it at the states that enter its step (read "pre") or also at those that the step
leaves ("post"), and what parameters do inside a step is added as usual. Only the pieces that a scope can hold are
computed, so a trace costs what its entries cost.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from recdsl.credit.influence import effective, states
from recdsl.credit.masked import Reaching, narrowed
from recdsl.credit.plan import RoutingClass
from recdsl.graph.step import Loss, StepGraph
from recdsl.graph.types import Axis, Type
from recdsl.jacobian.compose import composed, confined
from recdsl.jacobian.pieces import Axes, Key, Piece, Tie, chosen, cut, fit, free, material, scaled, summed, tied, whole
from recdsl.jacobian.step import StepJacobian
from recdsl.jacobian.supports import SupportBuilder, masks
from recdsl.ops.base import add_all
from recdsl.program.stacks import Member, Stack, laid_out, stacks, taken_apart
from recdsl.program.sweep import Leaf, Sweep, Trace, Traced, decay_factor, entry
from recdsl.program.telescope import Model, Telescope, entrywise
from recdsl.program.temporal import Eligibility
from recdsl.program.timeline import TimelineBuilder, TNode

Pair = tuple[int, str]


def traced_timeline(
    graph: StepGraph,
    nodes: Sequence[TNode],
    values: Sequence[int],
    routing: RoutingClass,
    seeds: Sequence[tuple[int, int]],
    delayed: Sequence[tuple[Loss, int]] = (),
    edges: Mapping[str, str] | None = None,
    blocks: Blocks | None = None,
) -> Traced:
    """The traces and gradients of one forward class.

    values: the timeline's node of each node of the graph. seeds: (node of the graph, node of its cotangent).
    delayed: `td` losses with the nodes of their cotangents; their weight comes a step after what it weighs. edges: for
    a class with a window, by carry the name of the leaf that holds its cotangent where the window begins; the gradients
    are then what is older than that, and seeds do not matter. blocks: where traces go from boundary to boundary.
    """
    return _Tracing(graph, nodes, values, routing, blocks).run(seeds, delayed, edges)


@dataclass(frozen=True)
class Blocks:
    """What a window does to traces at once: the effective parameters that act in it, and the carried values that act
    through it."""

    sources: frozenset[int]
    carries: frozenset[str]


class _Tracing:
    """Holds what is shared while a class's nodes are written."""

    def __init__(
        self,
        graph: StepGraph,
        nodes: Sequence[TNode],
        values: Sequence[int],
        routing: RoutingClass,
        blocks: Blocks | None = None,
    ) -> None:
        self.graph, self.values, self.routing, self.blocks = graph, values, routing, blocks
        self.leaves: list[Leaf] = []
        self.b = TimelineBuilder(nodes)
        self.carries = {carry.name: carry for carry in states(graph)}
        self.entering = {name: entry(graph, carry) for name, carry in self.carries.items()}
        self.jacobian = StepJacobian(graph, self.b, values, routing.cuts, self.entering.values(), hoisted=True)
        self.own = {(s.source, s.carry): s.stored for s in routing.scopes if s.stored}
        self.stacks = stacks(routing.scopes, self.jacobian.axes, self._rows)
        self.pairs = [(stack, name) for stack in self.stacks for name in sorted(stack.stored)]
        inside = effective(graph)
        self.sources = [k for k, names in sorted(inside.items()) if not names.isdisjoint(routing.parameters)]
        self.held: dict[Pair, list[Piece]] = {}
        self.starts: list[Trace] = []
        self.telescopes: dict[int, Telescope] = {}

    def run(
        self,
        seeds: Sequence[tuple[int, int]],
        delayed: Sequence[tuple[Loss, int]],
        edges: Mapping[str, str] | None,
    ) -> Traced:
        immediate = {member.source: self._immediate(member.source) for s in self.stacks for member in s.members}
        if edges is None and not delayed and not narrowed(self.graph, self.routing):
            self._telescope(immediate)
        handed = [(stack, name) for stack in self.stacks for name in sorted(stack.stored)]
        self.pairs = [(stack, name) for stack, name in handed if stack.number not in self.telescopes]
        for stack, name in handed:
            self._open(stack, name)
        entered = {(stack.number, name): self._entered(stack, name) for stack, name in self.pairs}
        left = self._updated(entered if self.blocks is None else self.held, immediate)
        for pair, pieces in left.items():
            for piece, old in zip(pieces, self.held[pair], strict=True):
                self.b.aim(old.value, self._decayed(pair, piece).value)
        gradients = self._gradients(seeds, delayed, entered, left) if edges is None else self._older(edges)
        return Traced(tuple(self.b.nodes), gradients, tuple(self.starts), tuple(self.leaves))

    def _rows(self, name: str) -> Axes:
        return self.jacobian.axes(self.carries[name].read)

    # -- traces without a loop ------------------------------------------------------------------------------------
    def _telescope(self, immediate: Mapping[int, Mapping[int, Sequence[Piece]]]) -> None:
        """Stacks whose entries each have factors of their own."""
        model = Model(self.graph, self.routing, self.jacobian, self.carries, self.entering, self.own)
        for stack in self.stacks:
            if entrywise(stack, {name: self._rows(name) for name in stack.stored}):
                found = Telescope(model, self.b, stack, immediate)
                if found.factored:
                    self.telescopes[stack.number] = found

    def _telescoped(self, sweep: Sweep, stack: Stack, telescope: Telescope) -> None:
        """Gradients and last traces of a stack."""
        held = {name: self.held[stack.number, name][0].value for name in stack.stored}
        gradients, older, last = telescope.run(sweep, held)
        for source, gradient in gradients:
            sweep.give(source, gradient)
        if older is not None:
            self._given(sweep, stack, older)
        ends = {held[name]: node for name, node in last.items()}
        self.starts = [replace(t, last=ends[t.node]) if t.node in ends else t for t in self.starts]

    # -- traces ---------------------------------------------------------------------------------------------------
    def _open(self, stack: Stack, name: str) -> None:
        """Nodes for what the step before has left."""
        begin = {piece.key: piece.value for piece in self._start(stack, name)}
        pieces: list[Piece] = []
        first = self.routing.parameters[0]
        for number, key in enumerate(stack.stored[name]):
            axes = whole(Piece(key, -1), self._rows(name), stack.seed)
            label = f"credit.{first}.{stack.number}.{name}" + (f".{number}" if number else "")
            self.b.span = self.carries[name].span
            start = begin[key] if key in begin else self.b.constant(0.0, Type("float", axes))
            if stack.number in self.telescopes:
                node = self.b.leaf("held", label, Type("float", axes), time=True)
            else:
                node = self.b.move("trace", [-1, start], 1, Type("float", axes), label)
            self.starts.append(Trace(label, node, start))
            pieces.append(Piece(key, node))
        self.held[stack.number, name] = pieces

    def _start(self, stack: Stack, name: str) -> list[Piece]:
        """The influence of learned initial values on their own states: the identity."""
        if all(self.carries[name].init != member.source for member in stack.members):
            return []
        rows = self._rows(name)
        identity = Piece(tied(rows), self.b.constant(1.0, Type("float", rows)))
        own = {member.source: [identity] for member in stack.members if self.carries[name].init == member.source}
        return self._stacked(stack, name, own)

    def _stacked(self, stack: Stack, name: str, own: Mapping[int, Sequence[Piece]]) -> list[Piece]:
        """Pieces of the members as pieces of the stack; nothing where no member has any."""
        b, rows = self.b, self._rows(name)
        made: dict[int, list[Piece]] = {}
        for member in stack.members:
            seed, keys = self.jacobian.axes(member.source), self.own[member.source, name]
            parts = [q for p in own.get(member.source, ()) for q in confined(b, p, keys, rows, seed)]
            made[member.source] = summed(b, [material(b, part, rows, seed) for part in parts])
        if not stack.flat:
            return made[stack.members[0].source]
        if not any(made.values()):
            return []
        (key,) = stack.stored[name]
        axes = whole(Piece(key, -1), rows, stack.seed)
        columns = [self._column(stack, name, member, made[member.source]) for member in stack.members]
        return [Piece(key, b.op("concat", *columns, at=len(axes) - 1, axis=axes[-1]))]

    def _column(self, stack: Stack, name: str, member: Member, pieces: Sequence[Piece]) -> int:
        """One member's part of a stacked piece, zeros where it has none."""
        rows, (key,) = self._rows(name), stack.stored[name]
        if pieces:
            seed = self.jacobian.axes(member.source)
            return laid_out(self.b, pieces[0], member, rows, seed, key, stack)
        axes = whole(Piece(key, -1), rows, stack.seed)
        return self.b.constant(0.0, Type("float", (*axes[:-1], Axis(axes[-1].name, member.size))))

    def _entered(self, stack: Stack, name: str) -> list[Piece]:
        """The influence on the state that a step sees: a reset puts the initial value's in its place."""
        node, held = self.graph.nodes[self.entering[name]], self.held[stack.number, name]
        if node.id == self.carries[name].read:
            return held
        rows, flag = self._rows(name), self.values[node.args[0]]
        begin = {piece.key: piece for piece in self._start(stack, name)}
        found: list[Piece] = []
        for piece in held:
            kept = chosen(self.b, piece, flag, rows, stack.seed, then=False)
            if piece.key in begin:
                fresh = chosen(self.b, begin[piece.key], flag, rows, stack.seed, then=True)
                kept = replace(kept, value=self.b.op("add", kept.value, fresh.value))
            found.append(kept)
        return found

    def _updated(
        self, entered: Mapping[Pair, list[Piece]], immediate: Mapping[int, dict[int, list[Piece]]]
    ) -> dict[Pair, list[Piece]]:
        """`scope * (D J + I)`, one piece for each stored pattern."""
        parts: dict[Pair, list[Piece]] = {}
        for stack, name in self.pairs:
            own = {m.source: self._fresh(m.source, name, immediate) for m in stack.members}
            parts[stack.number, name] = self._stacked(stack, name, own)
        for name in sorted(self.carries):
            fed = [stack for stack, carry in self.pairs if carry == name]
            if fed:
                self._carried(name, fed, entered, parts)
        made = {(s.number, name): self._filled(s, name, parts[s.number, name]) for s, name in self.pairs}
        return self._narrowed(made) if narrowed(self.graph, self.routing) else made

    def _narrowed(self, made: Mapping[Pair, list[Piece]]) -> dict[Pair, list[Piece]]:
        """Zeros where a scalar does not reach a state through the masks of weights (semantics 4.4)."""
        assert self.routing.tracing is not None
        depth, b = self.routing.tracing.depth, self.b
        given = {name: self.values[self.graph.leaf[f"parameter:{name}"]] for name in masks(self.graph)}
        reaching = Reaching(self.graph, SupportBuilder(b), given, self.entering)
        allowed = {k: {s.carry: s.allowed for s in self.routing.scopes if s.source == k} for k in self.sources}
        reach = {k: reaching.within(k, scope, depth) for k, scope in allowed.items()}
        found: dict[Pair, list[Piece]] = {}
        for stack, name in self.pairs:
            own = {member.source: reach[member.source].get(name, []) for member in stack.members}
            inside = {piece.key: piece.value for piece in self._stacked(stack, name, own)}
            found[stack.number, name] = [
                replace(piece, value=self._where(inside.get(piece.key), piece.value))
                for piece in made[stack.number, name]
            ]
        return found

    def _where(self, inside: int | None, value: int) -> int:
        """The value where a condition is positive, else zero; never by a product, for infinite entries would stay."""
        b, zero = self.b, self.b.const(0.0, value)
        if inside is None:
            return zero
        return value if b.uniform(inside) else b.op("where", b.op("ne", inside, zero), value, zero)

    def _immediate(self, source: int) -> dict[int, list[Piece]]:
        """d state / d parameter within a step, by the node that holds the state; only what one pattern stores."""
        if self.blocks is not None:
            return {}
        own = {name: keys for (other, name), keys in self.own.items() if other == source}
        return self.jacobian.pieces(source, self._wants({n: k[0] if len(k) == 1 else () for n, k in own.items()}))

    def _fresh(self, source: int, name: str, immediate: Mapping[int, dict[int, list[Piece]]]) -> Sequence[Piece]:
        """d state / d parameter within a step or (where traces go from boundary to boundary) a window."""
        if self.blocks is None:
            return immediate[source].get(self.carries[name].write, [])
        seed, acts = self.jacobian.axes(source), source in self.blocks.sources
        return [self._leaf(name, seed, source=source)] if acts and (source, name) in self.own else []

    def _through(self, name: str, targets: Mapping[str, Key]) -> dict[str, list[Piece]]:
        """d target / d state within a step (or window); targets with what is wanted of them."""
        if self.blocks is not None:
            acts, seed = name in self.blocks.carries, self._rows(name)
            return {target: [self._leaf(target, seed, through=name)] for target in targets if acts}
        made = self.jacobian.pieces(self.entering[name], self._wants(targets))
        return {target: made.get(self.carries[target].write, []) for target in targets}

    def _leaf(self, target: str, seed: Axes, source: int | None = None, through: str = "") -> Piece:
        """A dense block that reverse passes over the window give."""
        axes = whole(Piece((), -1), self._rows(target), seed)
        label = f".block {target} {through or source}"
        node = self.b.leaf("cotangent", label, Type("float", axes), time=True)
        self.leaves.append(Leaf(node, target, source, through))
        return Piece((), node)

    def _wants(self, keys: Mapping[str, Key]) -> dict[int, Key]:
        """By node what is wanted of it: several carried values may take over one node, and want more together."""
        found: dict[int, Key] = {}
        for name, key in keys.items():
            write = self.carries[name].write
            found[write] = key if found.get(write, key) == key else ()
        return found

    def _carried(
        self,
        name: str,
        fed: Sequence[Stack],
        entered: Mapping[Pair, list[Piece]],
        parts: dict[Pair, list[Piece]],
    ) -> None:
        """The influence through one state: D J, for every parameter that has an influence on it."""
        middle = self._rows(name)
        targets = [t for t in sorted(self.carries) if any(t in stack.stored for stack in fed)]
        made = self._through(name, {target: self._needed(name, target, fed) for target in targets})
        for target in targets:
            rows = self._rows(target)
            for stack in fed:
                if target not in stack.stored:
                    continue
                for outer in made.get(target, []):
                    for inner in entered[stack.number, name]:
                        piece = composed(self.b, outer, inner, rows, middle, stack.seed)
                        if piece is not None:
                            inside = confined(self.b, piece, stack.stored[target], rows, stack.seed)
                            parts[stack.number, target] += inside

    def _needed(self, name: str, target: str, fed: Sequence[Stack]) -> Key:
        """The ties that every wanted entry of d target / d name has, given what is stored on both sides."""
        common: set[Tie] | None = None
        for stack in fed:
            for inner in stack.stored.get(name, ()):
                for outer in stack.stored.get(target, ()):
                    ties = set(_between(outer, inner))
                    common = ties if common is None else common & ties
        return tuple(sorted(common or ()))

    def _filled(self, stack: Stack, name: str, parts: Sequence[Piece]) -> list[Piece]:
        """One piece for each stored pattern, zero where nothing arrives."""
        made = {p.key: p for p in summed(self.b, parts)}
        held = {piece.key: piece for piece in self.held[stack.number, name]}
        return [made.get(key) or Piece(key, self.b.const(0.0, held[key].value)) for key in stack.stored[name]]

    def _decayed(self, pair: Pair, piece: Piece) -> Piece:
        """What is handed to the next step. A masked step hands on what it was given."""
        rho = self.routing.tracing.decay if self.routing.tracing is not None else 1.0
        if rho == 1.0:
            return piece
        number, name = pair
        factor = decay_factor(self.b, self.graph, self.carries[name], self.values, rho)
        return scaled(self.b, piece, factor, self._rows(name), self.stacks[number].seed)

    # -- gradients ------------------------------------------------------------------------------------------------
    def _gradients(
        self,
        seeds: Sequence[tuple[int, int]],
        delayed: Sequence[tuple[Loss, int]],
        entered: Mapping[Pair, list[Piece]],
        left: Mapping[Pair, list[Piece]],
    ) -> tuple[tuple[str, int], ...]:
        """What losses read: paths inside a step, and traces weighted by the cotangents of states."""
        sweep = Sweep(self.graph, self.b, self.values, self.routing, self.entering)
        sweep.run(seeds)
        for number, telescope in sorted(self.telescopes.items()):
            self._telescoped(sweep, self.stacks[number], telescope)
        for stack in self.stacks:
            for total in self._reads(sweep, stack, entered, left):
                self._given(sweep, stack, total)
        for loss, cotangent in delayed:
            self._delayed(sweep, loss, cotangent, entered, left)
        return sweep.parameters()

    def _older(self, edges: Mapping[str, str]) -> tuple[tuple[str, int], ...]:
        """What losses read of the states that enter their window, before a reset in its first step."""
        sweep = Sweep(self.graph, self.b, self.values, self.routing, self.entering)
        for stack, name in self.pairs:
            if name in edges:
                rows = self._rows(name)
                cotangent = self.b.leaf("cotangent", edges[name], Type("float", rows), time=True)
                for piece in self.held[stack.number, name]:
                    self._given(sweep, stack, self._read(cotangent, piece, rows, stack.seed, apart=False))
        return sweep.parameters()

    def _reads(
        self, sweep: Sweep, stack: Stack, entered: Mapping[Pair, list[Piece]], left: Mapping[Pair, list[Piece]]
    ) -> Iterator[int]:
        """What a sweep asks of the states times a stack's traces."""
        for name in sorted(stack.stored) if stack.number not in self.telescopes else ():
            pair = (stack.number, name)
            for cotangent, pieces in ((sweep.entered.get(name), entered[pair]), (sweep.left.get(name), left[pair])):
                for piece in pieces if cotangent is not None else ():
                    assert cotangent is not None
                    yield self._read(cotangent, piece, self._rows(name), stack.seed, apart=sweep.apart)

    def _given(self, sweep: Sweep, stack: Stack, total: int) -> None:
        """The gradient of a stack to its members."""
        for member in stack.members:
            seed = self.jacobian.axes(member.source)
            sweep.give(member.source, taken_apart(self.b, total, member, seed, stack))

    def _delayed(
        self,
        sweep: Sweep,
        loss: Loss,
        cotangent: int,
        entered: Mapping[Pair, list[Piece]],
        left: Mapping[Pair, list[Piece]],
    ) -> None:
        """A `td` loss: each entry of the prediction has its gradient kept until its error is known.

        Both what states carry (by stack) and what parameters do inside a step (by parameter) is kept by itself, since
        the decay of the sum is the sum of the decays.
        """
        label = f"credit.{self.routing.parameters[0]}.td.{loss.name}"
        kept = Eligibility(self.graph, self.b, self.values, loss, cotangent)
        for number, seed in enumerate(kept.entries()):
            own = Sweep(self.graph, self.b, self.values, self.routing, self.entering, apart=True)
            own.run([(loss.root, seed)])
            name = f"{label}.{number}" if kept.several else label
            for stack in self.stacks:
                total = add_all(self.b, list(self._reads(own, stack, entered, left)))
                if total is not None:
                    self._given(sweep, stack, kept.keep(f"{name}.{stack.number}", total, stack.seed, number))
            for place, source in enumerate(self.sources):
                seed_axes = self.jacobian.axes(source)
                total = own.direct(source, seed_axes)
                if total is not None:
                    sweep.give(source, kept.keep(f"{name}.use{place}", total, seed_axes, number))
        self.starts += kept.traces

    def _read(self, cotangent: int, piece: Piece, rows: Axes, seed: Axes, *, apart: bool) -> int:
        """The cotangent of a state times a piece, with the seed's axes: summed over the call, or (apart) not."""
        b = self.b
        for tie in piece.key:
            cotangent = cut(b, cotangent, tie.axis, tie.row, tie.size)
        count, ties = len(rows), {tie.seed: tie for tie in piece.key}
        xl = tuple(range(count))
        yl = (*xl, *(count + k for k in free(piece.key, seed)))
        out = tuple(ties[k].axis if k in ties else count + k for k in range(len(seed)))
        total = b.op("contract", cotangent, piece.value, x=xl, y=yl, out=out)
        total = b.op("collect", total) if b.nodes[total].time and not apart else total
        for k, tie in sorted(ties.items()):
            if tie.size < seed[k].size:
                total = b.op("pad", total, at=k, start=tie.column, axis=seed[k])
        return fit(b, total, seed)


def _between(outer: Key, inner: Key) -> list[Tie]:
    """Ties of the value in the middle that two patterns with a common seed axis ask for."""
    mates = {tie.seed: tie for tie in inner}
    return [
        Tie(tie.axis, mates[tie.seed].axis, tie.row, mates[tie.seed].row, tie.size)
        for tie in outer
        if tie.seed in mates and (tie.column, tie.size) == (mates[tie.seed].column, mates[tie.seed].size)
    ]
