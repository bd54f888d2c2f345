"""The program of a model: its forward entry and one backward entry over all routing classes.

Storages of the interface, by kind: `in_*` inputs and targets, `w*` loss weights (0 where a loss is not due), `g*`
cotangents of losses, `c*` cotangents of outputs, `s*` incoming state, `p*` parameters; `out*`, `loss*`, `next*` (the
state to hand on) and `grad*` are results. `fresh` is 1 where the call starts from the initial values, else 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from recdsl.credit.plan import CreditPlan, RoutingClass
from recdsl.graph.step import StepGraph
from recdsl.graph.types import FLOAT
from recdsl.program import sharing
from recdsl.program.adjoint import Adjoint, Credit
from recdsl.program.answers import boundaries
from recdsl.program.forward import Forward, forward_timeline
from recdsl.program.interface import Assembled, Interface, Tags, safe
from recdsl.program.ir import Affine, Bound, For, Load, Program, Stmt, Storage, Store, VType
from recdsl.program.kept import kept
from recdsl.program.kronecker import kronecker_timeline
from recdsl.program.learning import Learning
from recdsl.program.leaves import behind, mixed, signs, thinned
from recdsl.program.lower import BATCH, STEPS, WHOLE, ZERO, Emitter, Place, affine
from recdsl.program.nest import Learned, edge_type, leave, uncrossed
from recdsl.program.passes import backward_passes, forward_passes
from recdsl.program.phases import domain, facts, follows, immediate, mask_seeds, phases, split, windowed
from recdsl.program.rank_one import rank_one_timeline
from recdsl.program.rows import Rows, rows_timeline
from recdsl.program.schedule import Item, needed, schedule
from recdsl.program.sliding import reverse_timeline
from recdsl.program.substitute import changed
from recdsl.program.sweep import Trace, Traced
from recdsl.program.temporal import emitted
from recdsl.program.timeline import TimelineBuilder, TNode
from recdsl.program.traces import Blocks, traced_timeline
from recdsl.program.uses import outside_uses


def assemble(graph: StepGraph, plan: CreditPlan, *, optimise: bool = True) -> Assembled:
    """All entries of one model (plain or ragged, as the graph is). Pure."""
    return Assembly(graph, plan, forward_of(graph, plan, optimise=optimise), optimise).run()


def forward_of(graph: StepGraph, plan: CreditPlan, *, optimise: bool) -> Forward:
    """The forward timeline of all entries."""
    forward = _forward(graph, plan)
    whole = not any(windowed(routing) or immediate(routing) for routing in plan.classes)
    return forward_passes(forward, whole=whole) if optimise else forward


def _forward(graph: StepGraph, plan: CreditPlan) -> Forward:
    """The forward timeline with the edges that reverse passes change, all of them the same; forward rules without a
    window have their own. Its `values` are those of the graph as it is."""
    reverse = [routing for routing in plan.classes if routing.tracing is None or windowed(routing)]
    assert len({(c.cuts, c.scales, c.feedback) for c in reverse}) <= 1, "edges changed for one class only"
    if not reverse:
        return forward_timeline(graph)
    made = changed(graph, reverse[0])
    found = forward_timeline(made.graph, made.routing(reverse[0]).cuts)
    return replace(found, values=tuple(found.values[k] for k in made.new))


class Assembly(Learning):
    """Holds what the entries share while they are written."""

    def __init__(
        self,
        graph: StepGraph,
        plan: CreditPlan,
        forward: Forward,
        optimise: bool,
    ) -> None:
        self.graph, self.plan, self.optimise = graph, plan, optimise
        self.tag = Tags()
        builder = TimelineBuilder(forward.nodes)
        self.weights = [builder.leaf("input", f".w{k}", FLOAT, time=True) for k in range(len(graph.losses))]
        self.loss_totals = [self._weighted(builder, v, w) for v, w in zip(forward.losses, self.weights, strict=True)]
        self.seeds = [builder.leaf("cotangent", f"g{k}", FLOAT, time=True) for k in range(len(graph.losses))]
        self.emissions = {
            k: builder.leaf("cotangent", f"d{k}", builder.type(forward.values[loss.td.value]), time=True)
            for k, loss in enumerate(graph.losses)
            if loss.td is not None
        }
        self.output_seeds = [
            builder.leaf("cotangent", f"c{k}", builder.type(node), time=True)  # also of what is the same at all steps
            for k, (_, node) in enumerate(forward.outputs)
        ]
        self.thinned = [thinned(builder, plan, k) for k in range(len(plan.classes))]
        self.signs = [signs(builder, graph, plan, k) for k in range(len(plan.classes))]
        self.behind = [behind(builder, graph, plan, k) for k in range(len(plan.classes))]
        self.mixed = [mixed(builder, graph, plan, k) for k in range(len(plan.classes))]
        for item in plan.owned:
            builder.leaf("parameter", item.name, item.type, time=False)
        self.forward = replace(forward, nodes=tuple(builder.nodes))
        self.nodes = self.forward.nodes
        self.storages: dict[str, Storage] = {}
        self.places: dict[int, Place] = {}
        self.pasts: dict[int, tuple[int, Place]] = {}
        self.names = {node: name for name, node in reversed(self.forward.outputs)}
        self.traces: tuple[Trace, ...] = ()
        self.forgotten: set[str] = set()
        self.carries = [carry for history in forward.histories for carry in history.carries]
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.rows = {k: self._rows(routing) for k, routing in enumerate(plan.classes) if routing.deferred}

    @staticmethod
    def _weighted(b: TimelineBuilder, value: int, weight: int) -> int:
        """The loss over the call; a step whose weight is 0 counts nothing, whatever its value."""
        due = b.op("ne", weight, b.const(0.0, weight))
        return b.op("collect", b.op("mul", b.op("where", due, value, b.const(0.0, weight)), weight))

    def run(self) -> Assembled:
        self._interface_storages()
        self._histories()
        reverse = sharing.reverse(self.plan)
        bare = {k: self._adjoint(k, outputs=False) for k in reverse}
        full = {k: self._adjoint(k, outputs=True) for k in reverse}
        taught = [k for k in reverse if self.mixed[k]]
        self.returned = {(k, o): self._adjoint(k, outputs=o, mixed=True) for k in taught for o in (False, True)}
        hybrid = sharing.hybrid(self.plan)
        inside = [{k: self._adjoint(k, outputs=outputs) for k in hybrid} for outputs in (False, True)]
        learned = [
            (self._traced(inside[0], outputs=False), "traces", "l"),
            (self._traced(inside[1], outputs=True), "traces_outputs", "m"),
        ]
        ahead, early = self._emitted(reverse), self._emitted(hybrid)
        tape = set[int]()
        for adjoint in (
            *bare.values(),
            *full.values(),
            *inside[0].values(),
            *inside[1].values(),
            *self.returned.values(),
            ahead,
            early,
        ):
            tape |= self._tape(adjoint.nodes, ends(adjoint))
        for made, _, _ in learned:
            tape |= self._tape(made.nodes, made.roots)
        for rows in self.rows.values():
            tape |= self._tape(rows.nodes, rows.roots)
        entries = [
            ("start", self._start_entry(learned[0][0])),
            ("forward", self._forward_entry(tape)),
            ("backward", self._backward_entry(bare, ahead, "b")),
            ("backward_outputs", self._backward_entry(full, ahead, "o")),
        ]
        if hybrid:
            entries += [("windows", self._windows_entry(inside[0], early, "r"))]
            entries += [("windows_outputs", self._windows_entry(inside[1], early, "q"))]
        if any(routing.tracing is not None for routing in self.plan.classes):
            entries += [(name, self._traces_entry(made, prefix)) for made, name, prefix in learned]
        cut = [k for k, routing in enumerate(self.plan.classes) if windowed(routing)]
        program = Program(
            self.graph.name,
            tuple(self.storages.values()),
            (),
            tuple(entries),
            scalars=tuple(f"windows{k}" for k in cut),
            follows=tuple(pair for name, _ in entries for pair in follows(name, hybrid=bool(hybrid))),
            facts=tuple(fact for k in cut for fact in facts(k, self.plan.classes[k].window.every)),
        )
        return Assembled(program, self._interface(), self._loose())

    def _loose(self) -> tuple[str, ...]:
        """Integer inputs that may hold -1: targets, at steps without a loss."""
        targets = {item.name for item in self.graph.inputs if item.target}
        return tuple(self.places[k].storage for k, n in enumerate(self.nodes) if n.op == "input" and n.name in targets)

    # -- storages -------------------------------------------------------------------------------------------------
    def _interface_storages(self) -> None:
        sequence = (("t", STEPS), BATCH)
        for k, node in enumerate(self.nodes):
            if node.op in ("input", "step_number"):
                name = node.name[1:] if node.name.startswith(".") else self.tag("in", node.name)
                self.places[k] = Place(self._declare(name, "input", node.type, sequence, "call"), 0)
            elif node.op == "cotangent" and k not in self.emissions.values():
                lead = sequence if node.time else ()
                self.places[k] = Place(self._declare(node.name, "input", node.type, lead, "call"), 0)
            elif node.op == "behind":
                pairs = enumerate(zip(self.behind, self.mixed, strict=True))
                index = next(i for i, (own, other) in pairs if k in (*own.values(), *other.values()))
                lead = (("t", boundaries(index)), BATCH)
                self.places[k] = Place(self._declare(node.name, "buffer", node.type, lead, "call"), 1)
            elif node.op == "parameter":
                self.places[k] = Place(self._declare(self.tag("p", node.name), "parameter", node.type, (), "model"), 0)
        self._declare("fresh", "input", FLOAT, (), "call")

    def _histories(self) -> None:
        """A buffer with `depth` leading rows for each sequence that is read back in time."""
        for index, history in enumerate(self.forward.histories):
            source = self.nodes[history.source]
            lead = (("t", Affine(history.depth, STEPS.terms)), BATCH)
            name = f"past{index}_{safe(history.carries[0])}"
            self._declare(name, "buffer", source.type, lead, "call")
            for k in self._prevs(history.carries):
                self.places[k] = Place(name, history.depth - self.nodes[k].attr("lag"))
                self.pasts[k] = (history.source, Place(name, history.depth))

    def _prevs(self, carries: Sequence[str]) -> list[int]:
        reads = dict(self.forward.reads)
        return [reads[name] for name in carries]

    # -- adjoint and tape -----------------------------------------------------------------------------------------
    def _adjoint(self, index: int, *, outputs: bool, mixed: bool = False) -> Adjoint:
        """The pass of a class and of those that share it."""
        routing = self.plan.classes[index]
        losses = sorted({k for one in sharing.together(self.plan, index) for k in one.losses})
        roots = [self.forward.values[self.graph.losses[k].root] for k in losses]
        seeds = [(root, self.emissions.get(k, self.seeds[k])) for root, k in zip(roots, losses, strict=True)]
        if outputs and routing.outputs:
            seeds += [
                (node, self.output_seeds[k])
                for k, (_, node) in enumerate(self.forward.outputs)
                if self.nodes[node].type.dtype == "float"
            ]
        moves = frozenset(k for k, node in enumerate(self.nodes) if node.op in ("prev", "fetch"))
        severed = moves if immediate(routing) else frozenset[int]()
        spared = frozenset(k for name, k in self.forward.reads if name in routing.spared)
        own = (tuple(seeds), severed, sharing.shares(self.plan, index), self.thinned[index], spared)
        reads = dict(self.forward.reads)
        given = {reads[name]: leaf for name, leaf in (self.mixed if mixed else self.behind)[index].items()}
        members = sharing.together(self.plan, index)
        traced, plain = (any(bool(c.tracing) == kind for c in members) for kind in (True, False))
        crossed = self.forward.behind if given or traced else {}
        entering, alone = self._entering(members), traced and not plain
        behind, links, answered = (crossed, {}, {}) if alone else ({}, crossed, given)
        credit = Credit(*own, entering=entering, behind=behind, links=links, answered=answered)
        adjoint = reverse_timeline(self.nodes, credit, routing.budget)
        return backward_passes(adjoint, len(self.nodes)) if self.optimise else adjoint

    def _entering(self, members: Sequence[RoutingClass]) -> tuple[tuple[str, int], ...]:
        """The carries that have traces."""
        names = {scope.carry for routing in members for scope in routing.scopes if scope.stored}
        return tuple((name, node) for name, node in self.forward.reads if name in names)

    def _rows(self, routing: RoutingClass) -> Rows:
        """The reverse pass of a deferred class's rows."""
        assert not routing.altered, "the effective parameters of another graph"
        sources = {scope.source: self.forward.values[scope.source] for scope in routing.scopes if scope.stored}
        return rows_timeline(
            self.nodes, dict(self._entering([routing])), sources, self.forward.behind, optimise=self.optimise
        )

    def _emitted(self, reverse: Sequence[int]) -> Adjoint:
        """The cotangents of the predictions of `td` losses that reverse passes carry, by the name of their sequence."""
        b = TimelineBuilder(self.nodes)
        found: list[tuple[str, int]] = []
        members = [made for index in reverse for made in sharing.together(self.plan, index)]
        for k in sorted({k for made in members for k in made.losses}):
            td = self.graph.losses[k].td
            if td is not None:
                found.append((f"d{k}", emitted(b, self.graph, td, self.forward.values, self.seeds[k])))
        return Adjoint(tuple(b.nodes), tuple(found))

    def _tape(self, nodes: tuple[TNode, ...], roots: Sequence[int]) -> set[int]:
        """Forward sequences that an adjoint or the traces read."""
        given = {history.source for history in self.forward.histories}
        return kept(self.nodes, nodes, roots, self.places, given, set(self.emissions.values()))

    # -- entries --------------------------------------------------------------------------------------------------
    def _forward_entry(self, tape: set[int], *, results: bool = True) -> tuple[Stmt, ...]:
        """Histories' first rows, the schedule, then results. results: False where nothing but the tape is wanted."""
        nodes = self.nodes
        shown = [n for _, n in self.forward.outputs] if results else []
        roots = [*tape, *(self.loss_totals if results else ()), *shown]
        roots += [h.source for h in self.forward.histories]
        wanted = needed(nodes, roots, frozenset(k for k in self.places if nodes[k].op != "prev"))
        items = schedule(nodes, wanted)
        emitter = self._emitter(nodes, self.places, "v")
        emitter.pasts = dict(self.pasts)
        emitter.stored = outside_uses(nodes, items, [*tape, *shown])
        emitter.stored |= {h.source for h in self.forward.histories}
        self._place_sources(emitter, items)
        first, rest = split(nodes, items)
        emitter.run(first)
        self._start(emitter)
        emitter.run(rest)
        for k in sorted(tape):
            emitter.placed(k)
        if results:
            self._results(emitter)
        else:
            for past in self.pasts.values():
                emitter.fill(*past)  # where no node reads it back, a reverse pass may
        self.places.update({k: emitter.places[k] for k in sorted(emitter.places) if k in tape or k in self.places})
        for history in self.forward.histories:
            if history.source in emitter.places and self.nodes[history.source].time:
                self.places.setdefault(history.source, emitter.places[history.source])
        self.storages.update(emitter.storages)
        return tuple(emitter.body)

    def _place_sources(self, emitter: Emitter, items: tuple[Item, ...]) -> None:
        """What a loop makes and reads back goes straight into its history."""
        looped = {k for item in items if item.direction for k in item.nodes}
        for source, place in self.pasts.values():
            if source in looped and source not in emitter.places:
                emitter.places[source] = place

    def _start(self, emitter: Emitter) -> None:
        """The rows before step 0: the incoming state (the backend passes the initial value where there is none)."""
        for history in self.forward.histories:
            store = self.pasts[self._prevs(history.carries)[0]][1].storage
            for lag, carry in enumerate(history.carries, 1):
                node = self.nodes[history.source]
                name = self._declare(self.tag("s", carry), "input", node.type, (BATCH,), "call")
                loaded = f"{name}_row"
                vtype = VType(node.type.dtype, (BATCH,), node.type.axes)
                emitter.body.append(Load(loaded, name, (), vtype))
                emitter.body.append(Store(store, (Affine(history.depth - lag),), loaded))

    def _results(self, emitter: Emitter) -> None:
        for k, (_, node) in enumerate(self.forward.outputs):
            lead = (("t", STEPS), BATCH) if self.nodes[node].time else ()
            name = self._declare(f"out{k}", "output", self.nodes[node].type, lead, "call")
            emitter.body.append(Store(name, (), emitter.whole(node)))
        for k, node in enumerate(self.loss_totals):
            name = self._declare(f"loss{k}", "output", FLOAT, (), "call")
            value = self._total(emitter, node)
            emitter.body.append(Store(name, (), value))
        for index, history in enumerate(self.forward.histories):
            past = self.pasts[self._prevs(history.carries)[0]]
            emitter.fill(*past)  # where no node reads it back, its last rows are still handed on
            store = past[1].storage
            for lag, carry in enumerate(history.carries, 1):
                source = self.nodes[history.source]
                name = self._declare(self.tag("next", carry), "output", source.type, (BATCH,), "call")
                loaded = f"last{index}_{lag}"
                vtype = VType(source.type.dtype, (BATCH,), source.type.axes)
                row = affine("T", 1, history.depth - lag)
                emitter.body.append(Load(loaded, store, (row,), vtype))
                emitter.body.append(Store(name, (), loaded))

    def _start_entry(self, made: Learned) -> tuple[Stmt, ...]:
        """The initial value of each history, from parameters and constants."""
        self.traces, self.shapes = made.traces, {t.name: made.nodes[t.node].type.shape for t in made.traces}
        inits = [*(h.init for h in self.forward.histories), *(trace.start for trace in made.traces)]
        wanted = needed(made.nodes, inits, frozenset(self.places))
        emitter = Emitter(made.nodes, self.places, self.names, "i")
        emitter.run(schedule(made.nodes, wanted))
        for k, init in enumerate(inits):
            name = self._declare(f"init{k}", "output", made.nodes[init].type, (), "call")
            emitter.body.append(Store(name, (), emitter.whole(init)))
        return tuple(emitter.body)

    # -- forward rules --------------------------------------------------------------------------------------------
    def _traced(self, inside: Mapping[int, Adjoint], *, outputs: bool) -> Learned:
        """The timelines of all forward classes, one behind the other. inside: passes in windows, by class."""
        made = Learned(self.nodes, Traced(self.nodes, (), ()), {})
        for index, routing in enumerate(self.plan.classes):
            if routing.tracing is not None:
                own = changed(self.graph, routing)
                losses = [(own.graph.losses[k], self.seeds[k]) for k in routing.losses]
                seeds = [(loss.node, seed) for loss, seed in losses if loss.td is None]
                if outputs and routing.outputs:
                    seeds += [
                        (node, self.output_seeds[k])
                        for k, (_, node) in enumerate(own.graph.outputs)
                        if own.graph.nodes[node].type.dtype == "float"
                    ]
                nodes, values = own.values(made.nodes, self.forward.values)
                given = (own.graph, nodes, values, own.routing(routing), seeds)
                td = [(loss, seed) for loss, seed in losses if loss.td is not None]
                estimate = {"rank": rank_one_timeline, "kronecker": kronecker_timeline}.get(routing.tracing.scope)
                lead = self.plan.sharing(index)[0]
                if lead in inside:
                    edges = {name: self._edge(index, name) for name, _ in sharing.entered(inside[lead], routing)}
                    rows = self.rows.get(index)
                    blocks = None if rows is None else Blocks(frozenset(rows.fresh), frozenset(rows.jumps))
                    more = traced_timeline(*given, edges=edges, blocks=blocks)
                else:
                    more = traced_timeline(*given, td) if estimate is None else estimate(*given, index)
                self.forgotten |= {t.name for t in more.traces if routing.tracing.drift == "reset"}
                made = made.beside(more, index if lead in inside else None)
        return made

    def _backward_entry(self, adjoints: Mapping[int, Adjoint], ahead: Adjoint, prefix: str) -> tuple[Stmt, ...]:
        body, places = self._emission_entry(ahead, prefix)
        for index, adjoint in adjoints.items():
            routing = self.plan.classes[index]
            own = f"{prefix}{index}_" if len(adjoints) > 1 else prefix
            emitter = self._pass(adjoint, routing, own, index, places)
            self._store_gradients(emitter, adjoint.gradients)
            body.extend(emitter.body)
        return tuple(body)

    def _emission_entry(self, ahead: Adjoint, prefix: str) -> tuple[list[Stmt], dict[int, Place]]:
        """The sequences that `td` losses put in the place of their own cotangents: made once, before any window."""
        nodes, roots = ahead.nodes, [node for _, node in ahead.gradients]
        items = schedule(nodes, needed(nodes, roots, frozenset(self.places)))
        emitter = Emitter(nodes, self.places, self.names, f"{prefix}d")
        emitter.stored = outside_uses(nodes, items, roots)
        emitter.run(items)
        leaves = {self.nodes[leaf].name: leaf for leaf in self.emissions.values()}
        places = {leaves[name]: emitter.placed(root) for name, root in ahead.gradients}
        self.storages.update(emitter.storages)
        return emitter.body, places

    def _pass(
        self, adjoint: Adjoint, routing: RoutingClass, prefix: str, index: int, emissions: Mapping[int, Place]
    ) -> Emitter:
        """One reverse pass, window by window, up to the gradients."""
        nodes, places = adjoint.nodes, {**self.places, **emissions}
        given = frozenset(places)
        wanted = needed(nodes, ends(adjoint), given)
        items = schedule(nodes, wanted)
        cut = windowed(routing)
        emitter = self._emitter(nodes, places, prefix, domain(routing) if cut else WHOLE)
        kept = [*sharing.within(self.plan, index, adjoint), *uncrossed(nodes, items, [k for _, k in adjoint.entering])]
        emitter.stored = outside_uses(nodes, items, kept)
        before, inside, after = phases(nodes, items)
        answers = None if routing.head is None else self._answers(routing, index, prefix)
        emitter.run(before)
        for k in sorted({arg for item in after for node in item.nodes for arg in nodes[node].args}):
            if not nodes[k].time and k in emitter.places:
                emitter.whole(k)  # read before the windows, since what they load is not there behind them
        outer, emitter.body = emitter.body, []
        if answers is not None:
            outer.extend(answers.before())
        if cut:
            mask_seeds(emitter, routing, wanted, prefix)
        emitter.run(inside)
        for k, made in zip(self.plan.sharing(index), sharing.together(self.plan, index), strict=True):
            for name, node in sharing.entered(adjoint, made):
                storage = f"{prefix[0]}_{self._edge(k, name)}"
                kind = edge_type(f"windows{index}", nodes[node].type)
                self.storages[storage] = Storage(storage, "buffer", kind, "call")
                leave(emitter, node, storage, sharing.short(self.plan, index, made))
        targets = self.returned.get((index, prefix[0] == "o"))
        if answers is not None and targets is None:
            emitter.body.extend(answers.arrive(name, emitter.whole(node)) for name, node in adjoint.arrivals)
        if cut:
            bound = Bound("min", (affine(f"windows{index}"),))
            outer.append(For("u", Bound("max", (ZERO,)), bound, 1, tuple(emitter.body)))
        else:
            outer.extend(emitter.body)
        emitter.body = outer
        for k in sorted(emitter.totals):
            self._total(emitter, k)
        emitter.run(after)
        if answers is not None and targets is not None:
            emitter.body.extend(self._returns(targets, routing, prefix, emissions, answers))
        if answers is not None:
            emitter.body.extend(self._taught(answers))
        return emitter

    def _interface(self) -> Interface:
        names = self.storages
        inputs = [
            (self.places[k].storage, n.name)
            for k, n in enumerate(self.nodes)
            if n.op in ("input", "step_number") and not n.name.startswith(".")
        ]
        carries = self.carries
        trained = [name for routing in self.plan.classes for name in routing.parameters]
        trained += [item.name for item in self.plan.owned]
        traced = [trace.name for trace in self.traces]
        starts = [*(h.carries for h in self.forward.histories), *((name,) for name in traced)]
        forward = {name for routing in self.plan.classes if routing.tracing for name in routing.parameters}
        return Interface(
            inputs=tuple(inputs),
            parameters=tuple((self.places[k].storage, n.name) for k, n in enumerate(self.nodes) if n.op == "parameter"),
            states=tuple((self.tag("s", c), c) for c in (*carries, *traced)),
            weights=tuple(f"w{k}" for k in range(len(self.weights))),
            cotangents=tuple(f"g{k}" for k in range(len(self.weights))),
            output_cotangents=tuple((f"c{k}", n) for k, (n, _) in enumerate(self.forward.outputs)),
            outputs=tuple((f"out{k}", n) for k, (n, _) in enumerate(self.forward.outputs)),
            losses=tuple(f"loss{k}" for k in range(len(self.weights))),
            next_states=tuple((self.tag("next", c), c) for c in (*carries, *traced)),
            inits=tuple((f"init{k}", names) for k, names in enumerate(starts)),
            gradients=tuple((self.tag("grad", n), n) for n in trained if self.tag("grad", n) in names),
            traced=tuple(sorted(forward)),
            signs=tuple((self.nodes[k].name[1:], self.nodes[k].type.shape) for s in self.signs for k in s.values()),
            thinned=tuple((f"thin{k}_{lag}", k, lag) for k, lags in enumerate(self.thinned) for lag in lags),
            traces=tuple((trace.name, self.shapes[trace.name]) for trace in self.traces),
            forgotten=tuple(sorted(self.forgotten)),
            heads=tuple(k for k, routing in enumerate(self.plan.classes) if routing.head is not None),
        )


def ends(adjoint: Adjoint) -> list[int]:
    """What a reverse pass makes: gradients, and the cotangents of what enters a window."""
    return [node for _, node in (*adjoint.gradients, *adjoint.entering, *adjoint.arrivals)]
