"""The program of calls that are run in pieces, and back over them from the last piece to the first (semantics 4.11).

`forward` keeps nothing but what later pieces need: states, tapes, and the places that searches have found. `again` runs
a piece once more with these places and keeps what the backward entries read. A tape lasts as long as the call, and so
does what is sent back to it; cotangents of what is carried from piece to piece are handed on (`crossing.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from recdsl.credit.plan import CreditPlan, RoutingClass
from recdsl.credit.replay import hindrance
from recdsl.graph.step import StepGraph
from recdsl.program import sharing
from recdsl.program.adjoint import Adjoint
from recdsl.program.assemble import Assembly, ends, forward_of
from recdsl.program.crossing import leave
from recdsl.program.interface import Assembled, Interface
from recdsl.program.ir import Affine, Program, Stmt, Storage, Store
from recdsl.program.lower import BATCH, STEPS, WHOLE, Domain, Emitter, Place
from recdsl.program.tapes import fronts
from recdsl.program.timeline import TNode


def assemble_pieces(graph: StepGraph, plan: CreditPlan, *, optimise: bool = True) -> Assembled:
    """All entries of one model (plain or ragged, as the graph is), for a piece of a call. Pure."""
    assert not hindrance(graph, plan.classes, plan.stores)
    return _Pieces(graph, plan, forward_of(graph, plan, optimise=optimise), optimise).run()


class _Pieces(Assembly):
    """The entries of a piece."""

    def run(self) -> Assembled:
        self.fronts = fronts(self.nodes)
        self.crossed: dict[str, str] = {}
        self.returned = {}
        self._interface_storages()
        self._histories()
        reverse = sharing.reverse(self.plan)
        passes = {o: {k: self._adjoint(k, outputs=o) for k in reverse} for o in (False, True)}
        start = self._start_entry(self._traced({}, outputs=False))
        forward = self._first()
        tape = set[int]().union(
            *(self._tape(made.nodes, ends(made)) for own in passes.values() for made in own.values())
        )
        again = self._forward_entry(tape, results=False)
        nothing = self._emitted(reverse)
        entries = (
            ("start", start),
            ("forward", forward),
            ("again", again),
            ("backward", self._backward_entry(passes[False], nothing, "b")),
            ("backward_outputs", self._backward_entry(passes[True], nothing, "o")),
        )
        program = Program(
            self.graph.name,
            tuple(self.storages.values()),
            (),
            entries,
            scalars=tuple(self.fronts.values()),
            follows=(("backward", "again"), ("backward_outputs", "again")),
            facts=tuple(Affine(0, ((name, 1),)) for name in self.fronts.values()),
        )
        return Assembled(program, self._interface(), self._loose())

    def _first(self) -> tuple[Stmt, ...]:
        """The entry `forward`; behind it, places are given."""
        searches = [k for k, node in enumerate(self.nodes) if node.op == "nearest"]
        before = dict(self.places)
        body = list(self._forward_entry(set(searches)))
        made = {k: self.places[k] for k in searches if k in self.places}
        self.places = before
        self.found: list[tuple[str, str]] = []
        for place, (k, own) in enumerate(made.items()):
            names = f"found{place}", f"place{place}"
            self.found.append(names)
            for name, kind in zip(names, ("output", "input"), strict=True):
                self._declare(name, kind, self.nodes[k].type, (("t", STEPS), BATCH), "call")
            body.append(self._shown(own, names[0], body, k))
            self.places[k] = Place(names[1], 0)
        return tuple(body)

    def _shown(self, own: Place, name: str, body: list[Stmt], k: int) -> Stmt:
        emitter = self._emitter(self.nodes, {k: own}, "f")
        value = emitter.whole(k)
        body.extend(emitter.body)
        return Store(name, (), value)

    def _emitter(
        self, nodes: tuple[TNode, ...], places: Mapping[int, Place], prefix: str, domain: Domain = WHOLE
    ) -> Emitter:
        made = super()._emitter(nodes, places, prefix, domain)
        made.fronts, made.crossed = self.fronts, {}
        return made

    def _pass(
        self, adjoint: Adjoint, routing: RoutingClass, prefix: str, index: int, emissions: Mapping[int, Place]
    ) -> Emitter:
        emitter = super()._pass(adjoint, routing, prefix, index, emissions)
        leave(emitter)
        self.crossed |= emitter.crossed or {}
        return emitter

    def _interface(self) -> Interface:
        stamps = {self.nodes[k].args[1] for k, node in enumerate(self.nodes) if node.op == "nearest"}
        names = {f"v{k}_" for k in stamps}
        tapes = [item for item in self.storages.values() if item.lifetime == "stream"]
        found = tuple((item.name, _front(item), _role(item, names)) for item in tapes)
        every = {
            self.fronts[node.args[1]]: node.attr("every") for node in self.nodes if node.op == "nearest"
        }  # a store's, the same at each of its reads
        return replace(
            super()._interface(),
            found=tuple(self.found),
            tapes=found,
            spacing=tuple(every.items()),
            crossed=tuple(self.crossed.items()),
        )


def _front(item: Storage) -> str:
    """The scalar that counts the rows in front of a piece."""
    return next(name for name, _ in item.type.lead[0][1].terms if name != "T")


def _role(item: Storage, stamps: set[str]) -> str:
    if item.kind == "accumulate":
        return "back"
    return "stamps" if any(item.name.startswith(name) for name in stamps) else "tape"
