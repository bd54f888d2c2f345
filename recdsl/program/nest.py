"""Forward rules with a window: reverse passes inside windows leave cotangents, traces are read where windows begin.

The gradient of a window is what its reverse pass gives inside, with the states that enter it held constant, and the
cotangent of these states times their traces (semantics 2.1, theorem 0). The passes come first and keep the cotangents,
one row a window; the traces follow in a loop of their own, which stops at each boundary to read its row. The other
order would keep traces for every boundary, and a trace is at least as large as the state that it belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recdsl.credit.plan import Window
from recdsl.graph.types import Type
from recdsl.program.ir import Bound, For, If, Load, Op, Stmt, Store, VType
from recdsl.program.lower import BATCH, STEPS, ZERO, Domain, Emitter, affine, shifted
from recdsl.program.schedule import Item, trace_schedule
from recdsl.program.sweep import Trace, Traced
from recdsl.program.timeline import TNode
from recdsl.program.uses import only_collected


@dataclass(frozen=True)
class Learned:
    """The timeline of all forward classes: those whose losses read each step, and by class those with a window."""

    nodes: tuple[TNode, ...]
    steps: Traced
    windows: Mapping[int, Traced]

    @property
    def traces(self) -> tuple[Trace, ...]:
        return (*self.steps.traces, *(trace for made in self.windows.values() for trace in made.traces))

    @property
    def roots(self) -> list[int]:
        return [k for made in (self.steps, *self.windows.values()) for k in roots(made)]

    def beside(self, more: Traced, index: int | None) -> Learned:
        """With one more class, whose nodes stand behind all others; index: of a class with a window."""
        if index is not None:
            return Learned(more.nodes, self.steps, {**self.windows, index: more})
        both = (*self.steps.gradients, *more.gradients), (*self.steps.traces, *more.traces)
        return Learned(more.nodes, Traced(more.nodes, *both), self.windows)


def roots(made: Traced) -> list[int]:
    """What an entry makes of traces: gradients, and what each trace holds next."""
    last = [trace.last for trace in made.traces if trace.last is not None]
    return [*(node for _, node in made.gradients), *(trace.node for trace in made.traces), *last]


def between(window: Window) -> Domain:
    """The steps from the boundary of window u to that of the next; none where both are step 0."""
    size, every = window.size or 0, window.every
    lo, hi = affine("u", every, every - size), affine("u", every, 2 * every - size)
    return Domain(Bound("max", (ZERO, lo)), Bound("min", (STEPS, hi)), affine("W"))


def rounds(index: int, window: Window) -> tuple[Bound, int]:
    """How often traces go from boundary to boundary until the call ends; and how many of these have no window."""
    extra = -(-(window.size or 0) // window.every) - 1
    return Bound("min", (affine(f"windows{index}", 1, extra),)), extra


def leave(emitter: Emitter, k: int, storage: str, short: int) -> None:
    """Keep the cotangent k of what enters window u: a loop's last value, or one of many rows. short: by how many steps
    the window begins later than the emitter's."""
    row, found = emitter.vtype(k, step=True), f"{emitter.label(k)}_edge"
    if k in emitter.last and not short:
        emitter.body += [Load(found, emitter.last[k], (), row), Store(storage, (affine("u"),), found)]
        return
    place, start = emitter.placed(k), shifted(emitter.domain.lo.parts[-1], short)
    for name, predicate, at in (("a", ("le", start, ZERO), ZERO), ("b", ("lt", ZERO, start), start)):
        value, index = f"{found}_{name}", shifted(at, place.offset)
        body = Load(value, place.storage, (index,), row), Store(storage, (affine("u"),), value)
        emitter.body.append(If(predicate, body))


def uncrossed(nodes: tuple[TNode, ...], items: Sequence[Item], ends: Sequence[int]) -> list[int]:
    """Cotangents that no loop carries on to the step before: those are kept for all steps."""
    crossing = {nodes[k].args[0] for item in items if item.direction for k in item.nodes if nodes[k].op == "next"}
    return [k for k in ends if k not in crossing]


def edge_type(windows: str, type: Type) -> VType:
    """A row for each window."""
    return VType("float", (("u", affine(windows)), BATCH), type.axes)


class NestEmitter(Emitter):
    """Writes the traces of one class: from boundary to boundary, and what is read there."""

    def nest(self, wanted: set[int], edges: Mapping[int, str], index: int, window: Window) -> Sequence[Item]:
        """All of it but what comes after the loops, which is returned. edges: leaves with their storages."""
        reading = readers(self.nodes, wanted, edges)
        before, loop, after = trace_schedule(self.nodes, wanted - reading)
        self.lazy |= only_collected(self.nodes, (Item(1, tuple(sorted(reading))),))
        self.run(before)
        hi, extra = rounds(index, window)
        block: list[Stmt] = []
        if loop is not None:
            self.loop(loop, between(window))
            steps = self.body.pop()
            block = self._read(sorted(reading), edges)
            inside = [If(("lt", affine("u"), affine(f"windows{index}")), tuple(block))] if extra and block else block
            self.body.append(For("u", Bound("max", (ZERO,)), hi, 1, (*inside, steps)))
        return after

    def _read(self, members: Sequence[int], edges: Mapping[int, str]) -> list[Stmt]:
        """Cotangents times traces, as they stand at the boundary."""
        body: list[Stmt] = []
        local: dict[int, str] = {}
        for k in members:
            for arg in self.nodes[k].args:
                if arg in edges and arg not in local:
                    local[arg] = f"{self.label(arg)}_u"
                    body.append(Load(local[arg], edges[arg], (affine("u"),), self.vtype(arg, step=True)))
                elif arg in self.carried and arg not in local:
                    local[arg] = f"{self.label(arg)}_there"
                    body.append(Load(local[arg], self.carried[arg], (), self.vtype(arg, step=True)))
                elif arg not in members and arg not in local:
                    local[arg] = self.whole(arg)
        for k in members:
            node = self.nodes[k]
            if node.op == "collect":
                self.collected(body, k, local, "u")
            elif k not in self.lazy:
                args = tuple(local[arg] for arg in node.args)
                local[k] = self.label(k)
                body.append(Op((local[k],), node.op, args, node.attrs, (self.vtype(k, step=True),), node.span))
        return body


def readers(nodes: tuple[TNode, ...], wanted: set[int], edges: Mapping[int, str]) -> set[int]:
    """What is made of cotangents at boundaries, up to the sums over windows."""
    found: set[int] = set()
    for k in sorted(wanted):
        if any(arg in edges or (arg in found and nodes[arg].op != "collect") for arg in nodes[k].args):
            found.add(k)
    return found
