"""What entries have beside plain reverse passes: the traces of forward rules, and nets that answer for windows."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from recdsl.credit.plan import CreditPlan, RoutingClass
from recdsl.graph.step import StepGraph
from recdsl.graph.types import Type
from recdsl.program import sharing
from recdsl.program.adjoint import Adjoint
from recdsl.program.answers import Answers, Row
from recdsl.program.forward import Forward
from recdsl.program.interface import Tags, safe
from recdsl.program.ir import Affine, Bound, For, Load, Op, Stmt, Storage, Store, VType
from recdsl.program.lower import WHOLE, ZERO, Domain, Emitter, Place, shifted
from recdsl.program.nest import Learned, NestEmitter, between, edge_type, roots
from recdsl.program.phases import domain, phases
from recdsl.program.rows import JumpEmitter, RowEmitter, Rows
from recdsl.program.schedule import Item, needed, schedule, trace_schedule
from recdsl.program.sweep import Traced
from recdsl.program.timeline import TNode
from recdsl.program.uses import outside_uses


class Learning(ABC):
    """What an assembly writes for its forward classes, and for those with a net of their own."""

    graph: StepGraph
    plan: CreditPlan
    forward: Forward
    nodes: tuple[TNode, ...]
    pasts: dict[int, tuple[int, Place]]
    tag: Tags
    storages: dict[str, Storage]
    places: dict[int, Place]
    names: dict[int, str]
    carries: list[str]
    rows: dict[int, Rows]

    @abstractmethod
    def _pass(
        self, adjoint: Adjoint, routing: RoutingClass, prefix: str, index: int, emissions: Mapping[int, Place]
    ) -> Emitter:
        """One reverse pass, window by window, up to the gradients."""

    @abstractmethod
    def _emission_entry(self, ahead: Adjoint, prefix: str) -> tuple[list[Stmt], dict[int, Place]]:
        """The sequences that `td` losses put in the place of their own cotangents."""

    def _emitter(
        self, nodes: tuple[TNode, ...], places: Mapping[int, Place], prefix: str, domain: Domain = WHOLE
    ) -> Emitter:
        """What writes an entry that goes over steps."""
        return Emitter(nodes, places, self.names, prefix, domain)

    def _declare(self, name: str, kind: str, type: Type, lead: tuple[tuple[str, Affine], ...], lifetime: str) -> str:
        self.storages[name] = Storage(name, kind, VType(type.dtype, lead, type.axes), lifetime)
        return name

    def _total(self, emitter: Emitter, k: int) -> str:
        """The value of an accumulate (or of a constant that took its place)."""
        if k not in emitter.totals:
            return emitter.whole(k)
        name = f"{emitter.label(k)}_done"
        node = emitter.nodes[k]
        emitter.body.append(Load(name, emitter.totals[k], (), VType("float", (), node.type.axes)))
        emitter.values[k] = name
        return name

    def _edge(self, index: int, carry: str) -> str:
        """Where the cotangents of what enters windows are handed from their passes to the traces."""
        return self.tag("edge", f"{index}_{carry}")

    def _answers(self, routing: RoutingClass, index: int, prefix: str) -> Answers:
        """The net of a class, told where everything is."""
        past: dict[str, Row] = {}
        for history in self.forward.histories:
            for lag, name in enumerate(history.carries, 1):
                place = self.pasts[dict(self.forward.reads)[name]][1]
                past[name] = Row(place.storage, history.depth - lag, self.nodes[history.source].type)
        inputs = {n.name: self.places[k].storage for k, n in enumerate(self.nodes) if n.op == "input"}
        parameters = {n.name: self.places[k].storage for k, n in enumerate(self.nodes) if n.op == "parameter"}
        made = Answers(self.graph, routing, index, past, inputs, parameters, prefix)
        self.storages.update(made.storages)
        return made

    def _taught(self, answers: Answers) -> list[Stmt]:
        body = answers.after()
        self._store_gradients(answers.emitter, answers.gradients)
        self.storages.update(answers.emitter.storages)
        return [*body, *answers.taken()]

    def _returns(
        self, adjoint: Adjoint, routing: RoutingClass, prefix: str, emissions: Mapping[int, Place], answers: Answers
    ) -> list[Stmt]:
        """From the last window to the first, what arrives at its start with a mixture at its end: lambda-returns."""
        nodes, places = adjoint.nodes, {**self.places, **emissions}
        wanted = needed(nodes, [k for _, k in adjoint.arrivals], frozenset(places))
        items = schedule(nodes, wanted)
        emitter = Emitter(nodes, places, self.names, f"{prefix}y", domain(routing))
        emitter.stored = outside_uses(nodes, items, ())
        before, inside, _ = phases(nodes, items)
        emitter.run(before)
        outer, emitter.body = [*emitter.body, *answers.last_mixed()], []
        emitter.run(inside)
        for name, node in adjoint.arrivals:
            value = emitter.whole(node)
            emitter.body.append(answers.arrive(name, value))
            emitter.body.extend(answers.mixed(name, None if nodes[node].op == "constant" else value))
        self.storages.update(emitter.storages)
        count = Bound("min", (shifted(answers.count, -1),))
        return [*outer, For("u", Bound("max", (ZERO,)), count, -1, tuple(emitter.body))]

    def _windows_entry(self, adjoints: Mapping[int, Adjoint], ahead: Adjoint, prefix: str) -> tuple[Stmt, ...]:
        """Reverse passes of forward classes inside their windows."""
        body, places = self._emission_entry(ahead, prefix)
        for index, adjoint in adjoints.items():
            emitter = self._pass(adjoint, self.plan.classes[index], f"{prefix}{index}_", index, places)
            for k in self.plan.sharing(index):
                made = self.plan.classes[k]
                for name, node in sharing.entered(adjoint, made):
                    storage, kind = self._edge(k, name), edge_type(f"windows{index}", emitter.nodes[node].type)
                    self.storages[storage] = Storage(storage, "output", kind, "call")
                    emitter.body.append(Load(f"{storage}_all", f"{prefix}_{storage}", (), kind))
                    emitter.body.append(Store(storage, (), f"{storage}_all"))
                own = [(name, node) for name, node in adjoint.gradients if name in made.parameters]
                self._store_gradients(emitter, own, "grad" if made.tracing is None else "inner")
            body += emitter.body
        return tuple(body)

    def _traces_entry(self, made: Learned, prefix: str) -> tuple[Stmt, ...]:
        """Gradients of the forward classes, and the traces that the call leaves."""
        emitter = Emitter(made.nodes, self.places, self.names, prefix)
        wanted = needed(made.nodes, roots(made.steps), frozenset(self.places))
        before, loop, after = trace_schedule(made.nodes, wanted)
        self._receive(emitter, made.steps, wanted)
        emitter.stored = _looped_before(made.nodes, before, loop)
        emitter.run((*before, *([loop] if loop is not None else [])))
        self._hand_on(emitter, made.steps, after)
        self._store_gradients(emitter, made.steps.gradients)
        body = list(emitter.body)
        for index, own in made.windows.items():
            body += self._nest(made.nodes, own, f"{prefix}{index}_", index)
        return tuple(body)

    def _nest(self, nodes: tuple[TNode, ...], own: Traced, prefix: str, index: int) -> list[Stmt]:
        """The same for a class with a window."""
        found = {self._edge(index, c): c for c in self.carries}
        edges = {k: node.name for k, node in enumerate(nodes) if node.op == "cotangent" and node.name in found}
        window, rows = self.plan.classes[index].window, self.rows.get(index)
        wanted = needed(nodes, roots(own), frozenset(self.places) | edges.keys())
        lead = self.plan.sharing(index)[0]
        if rows is None:
            emitter = NestEmitter(nodes, self.places, self.names, prefix)
            self._receive(emitter, own, wanted)
            after = emitter.nest(wanted, edges, lead, window)
        else:
            emitter = JumpEmitter(nodes, self.places, self.names, prefix)
            self._receive(emitter, own, wanted)
            inner = RowEmitter(rows, self.places, self.names, f"{prefix}r", between(window))
            after = emitter.jump(wanted, edges, index, window, inner, own.leaves)
            self.storages.update(inner.storages)
        self._hand_on(emitter, own, after)
        for name, node in own.gradients:
            value, inner, vtype = f"{prefix}{safe(name)}", f"{prefix}inner_{safe(name)}", emitter.vtype(node)
            emitter.body.append(Load(inner, self.tag("inner", name), (), vtype))
            emitter.body.append(Op((value,), "add", (inner, emitter.whole(node)), (), (vtype,)))
            emitter.body.append(Store(self._gradient(name, nodes[node].type), (), value))
        self.storages.update(emitter.storages)
        return emitter.body

    def _receive(self, emitter: Emitter, made: Traced, wanted: set[int]) -> None:
        """Traces as the call finds them."""
        for trace in made.traces:
            if trace.node in wanted:
                name, type = self.tag("s", trace.name), emitter.nodes[trace.node].type
                lead = emitter.each(trace.node)
                emitter.incoming[trace.node] = self._declare(name, "input", type, lead, "call")

    def _hand_on(self, emitter: Emitter, made: Traced, after: Sequence[Item]) -> None:
        """Traces as the call leaves them, then what is made of sums over steps."""
        for trace in made.traces:
            k = trace.node
            if k in emitter.incoming:
                name, type = self.tag("next", trace.name), emitter.nodes[k].type
                target, value = self._declare(name, "output", type, emitter.each(k), "call"), f"{emitter.label(k)}_next"
                if trace.last is not None:
                    value = emitter.whole(trace.last)
                else:
                    emitter.body.append(Load(value, emitter.carried[k], (), emitter.vtype(k, step=True)))
                emitter.body.append(Store(target, (), value))
        for k in sorted(emitter.totals):
            self._total(emitter, k)
        emitter.run(after)

    def _gradient(self, name: str, type: Type, kind: str = "grad") -> str:
        return self._declare(self.tag(kind, name), "output", type, (), "call")

    def _store_gradients(self, emitter: Emitter, gradients: Sequence[tuple[str, int]], kind: str = "grad") -> None:
        for name, node in gradients:
            value = emitter.whole(node)
            emitter.body.append(Store(self._gradient(name, emitter.nodes[node].type, kind), (), value))
        self.storages.update(emitter.storages)


def _looped_before(nodes: tuple[TNode, ...], before: tuple[Item, ...], loop: Item | None) -> set[int]:
    """What loops in front of the traces' own make for others: vectors that go back through the steps."""
    inner = {k for item in before if item.direction for k in item.nodes}
    read = {arg for k in (loop.nodes if loop is not None else ()) for arg in nodes[k].args}
    return outside_uses(nodes, before, sorted(read & inner)) & inner
