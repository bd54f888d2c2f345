"""Traces without a loop of their own, where every entry of a state carries what is traced by a factor of its own.

With `J <- c J + I`, entry by entry, what a call adds to a gradient and to the last trace telescopes (c is the step's
Jacobian inside the scope, one number an entry and pair of states):

    sum_t q_t J_t = sum_t l_t I_t + l_0 c_0 J_0,   l_t = q_t + c_(t+1) l_(t+1)
    J_T           = sum_t p_t I_t + p_0 c_0 J_0,   p_t = c_(t+1) p_(t+1),   p_T = 1

so that vectors go back through the steps instead of traces forward, and an immediate influence `I = u x^T` meets them
in one product of matrices over all steps. It is the same sum, in another order (semantics 4.3, theorem 0): no path is
added and none is lost. A call whose cotangents are known when it ends needs no more; a rule that weighs traces at each
step by itself (`td`), or reads them at boundaries, keeps its loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recdsl.credit.plan import RoutingClass
from recdsl.graph.step import Carry, StepGraph
from recdsl.graph.types import Axis, Type
from recdsl.jacobian.compose import confined
from recdsl.jacobian.pieces import Axes, Key, Piece, Tie, chosen, fit, free, scaled, spread, summed, tied, whole
from recdsl.jacobian.step import StepJacobian
from recdsl.ops.base import add_all
from recdsl.program.stacks import Member, Stack, laid_out
from recdsl.program.sweep import Sweep, decay_factor, flag_of
from recdsl.program.timeline import TimelineBuilder, TNode

Own = Mapping[tuple[int, str], tuple[Key, ...]]
"""By parameter and carry: the stored patterns of the parameter's own axes."""


@dataclass(frozen=True)
class Model:
    """What the stacks of a class have in common. own: stored patterns. entering: by carry, the node a step reads."""

    graph: StepGraph
    routing: RoutingClass
    jacobian: StepJacobian
    carries: Mapping[str, Carry]
    entering: Mapping[str, int]
    own: Own

    def rows(self, name: str) -> Axes:
        return self.jacobian.axes(self.carries[name].read)


@dataclass(frozen=True)
class Back:
    """A reverse recurrence of vectors, by carry: of what a step leaves, what it sees, and what it was handed."""

    left: Mapping[str, int]
    seen: Mapping[str, int]
    handed: Mapping[str, int]


@dataclass(frozen=True)
class Injection:
    """What a step adds to the trace of a member on a carry: behind the step, or (a reset) in front of it."""

    member: Member
    name: str
    piece: Piece
    behind: bool


def entrywise(stack: Stack, rows: Mapping[str, Axes]) -> bool:
    """Whether each entry of each state has traces of its own, in one order of axes."""
    slots = len(stack.seed) - 1
    return stack.flat and all(
        len(keys) == 1
        and len(rows[name]) == slots
        and keys[0] == tuple(Tie(k, k, 0, 0, axis.size) for k, axis in enumerate(rows[name]))
        for name, keys in stack.stored.items()
    )


class Telescope:
    """One stack of a class. immediate: by parameter, its influence inside a step by the node that holds it."""

    def __init__(
        self, model: Model, b: TimelineBuilder, stack: Stack, immediate: Mapping[int, Mapping[int, Sequence[Piece]]]
    ) -> None:
        self.model, self.b, self.stack, self.values = model, b, stack, model.jacobian.values
        self.names = sorted(stack.stored)
        self.injections = [
            found for m in stack.members for name in self.names for found in self._injected(m, name, immediate)
        ]

    @property
    def factored(self) -> bool:
        """Whether what is added is made of vectors, so that nothing as large as a trace is made at every step."""
        seeds = {m.source: self.model.jacobian.axes(m.source) for m in self.stack.members}
        return all(i.piece.lanes is not None or not free(i.piece.key, seeds[i.member.source]) for i in self.injections)

    def run(self, sweep: Sweep, held: Mapping[str, int]) -> tuple[list[tuple[int, int]], int | None, dict[str, int]]:
        """(member's source, gradient) of what the call adds; the gradient of the stack by what it was handed; and by
        carry the last trace. sweep: what losses ask; held: by carry, the traces that the call was handed."""
        factors = {name: self._factors(name) for name in self.names}
        entered, left = ({n: c for n, c in cots.items() if n in self.names} for cots in (sweep.entered, sweep.left))
        back = self._back(factors, entered, left, None) if entered or left else None
        gradients = [] if back is None else self._gradients(back)
        older = None if back is None else self._older(back, held)
        return gradients, older, {name: self._last(name, factors, held) for name in self.names}

    # -- the step's own Jacobians ---------------------------------------------------------------------------------
    def _factors(self, name: str) -> dict[str, int]:
        """By target, what multiplies the influence on `name`, entry by entry."""
        middle, key = self.model.rows(name), tied(self.model.rows(name))
        targets = {target: self.model.carries[target].write for target in self.names}
        made = self.model.jacobian.pieces(self.model.entering[name], dict.fromkeys(targets.values(), key))
        found: dict[str, int] = {}
        for target, write in targets.items():
            rows = self.model.rows(target)
            parts = [q for p in made.get(write, ()) for q in confined(self.b, p, (key,), rows, middle)]
            total = add_all(self.b, [fit(self.b, part.value, middle) for part in parts])
            if total is not None:
                found[target] = total
        return found

    def _injected(
        self, member: Member, name: str, immediate: Mapping[int, Mapping[int, Sequence[Piece]]]
    ) -> list[Injection]:
        b, model, carry = self.b, self.model, self.model.carries[name]
        rows, seed = model.rows(name), model.jacobian.axes(member.source)
        keys = model.own[member.source, name]
        parts = [
            q
            for p in immediate[member.source].get(carry.write, ())
            for q in confined(b, p, keys, rows, seed, factored=True)
        ]
        found = [Injection(member, name, piece, True) for piece in summed(b, parts)]
        flag = flag_of(model.graph, carry, model.entering[name])
        if carry.init == member.source and flag is not None:
            identity = Piece(tied(rows), b.constant(1.0, Type("float", rows)))
            for piece in confined(b, identity, keys, rows, seed):
                fresh = chosen(b, piece, self.values[flag], rows, seed, then=True)
                found.append(Injection(member, name, fresh, False))
        return found

    # -- vectors that go back through the steps -------------------------------------------------------------------
    def _back(
        self,
        factors: Mapping[str, Mapping[str, int]],
        entered: Mapping[str, int],
        left: Mapping[str, int],
        end: str | None,
    ) -> Back:
        """The recurrence for cotangents of states on both sides of a step, or (`end`) for a carry's last value."""
        b, types = self.b, {name: Type("float", self.model.rows(name)) for name in self.names}
        handed = self._reached(factors, entered, left, end)
        behind: dict[str, list[int]] = {name: [left[name]] if name in left else [] for name in self.names}
        moves: dict[str, int] = {}
        for name in self.names:
            if name in handed or name == end:
                b.span = self.model.carries[name].span
                given = [] if end is None else [b.constant(float(name == end), types[name])]
                moves[name] = b.move("next", [-1, *given], 1, types[name], f"d {name}")
                behind[name].insert(0, self._decayed(moves[name], name))
        sums = {name: add_all(b, parts) for name, parts in behind.items()}
        found = {name: b.constant(0.0, types[name]) if node is None else node for name, node in sums.items()}
        seen = {name: self._seen(name, factors[name], found, entered) for name in self.names}
        back = Back(found, seen, {name: self._handed(name, node) for name, node in seen.items()})
        for name, move in moves.items():
            b.aim(move, back.handed[name])
        return back

    def _reached(
        self,
        factors: Mapping[str, Mapping[str, int]],
        entered: Mapping[str, int],
        left: Mapping[str, int],
        end: str | None,
    ) -> set[str]:
        """Carries to which a step hands something back that is not zero."""
        found, before = set(entered), -1
        while len(found) > before:
            before = len(found)
            behind = found | set(left) | {end}
            found |= {name for name in self.names if not behind.isdisjoint(factors[name])}
        return found

    def _seen(
        self, name: str, factors: Mapping[str, int], behind: Mapping[str, int], entered: Mapping[str, int]
    ) -> int:
        """What reaches a state as the step sees it: through the step, and by itself."""
        b, type = self.b, Type("float", self.model.rows(name))
        parts = [b.op("mul", factor, behind[target]) for target, factor in factors.items()]
        own = [entered[name]] if name in entered else []
        return add_all(b, [*(p for p in parts if b.uniform(p) != 0.0), *own]) or b.constant(0.0, type)

    def _decayed(self, move: int, name: str) -> int:
        model = self.model
        rho = model.routing.tracing.decay if model.routing.tracing is not None else 1.0
        if rho == 1.0:
            return move
        factor = decay_factor(self.b, model.graph, model.carries[name], self.values, rho)
        return self.b.op("mul", move, factor)

    def _handed(self, name: str, seen: int) -> int:
        """A reset hands nothing back."""
        flag = flag_of(self.model.graph, self.model.carries[name], self.model.entering[name])
        return seen if flag is None else self.b.op("where", self.values[flag], self.b.const(0.0, seen), seen)

    # -- gradients ------------------------------------------------------------------------------------------------
    def _gradients(self, back: Back) -> list[tuple[int, int]]:
        """What the call itself adds, by parameter."""
        found: list[tuple[int, int]] = []
        for member in self.stack.members:
            seed = self.model.jacobian.axes(member.source)
            for piece in self._weighed(member, back):
                found.append((member.source, fit(self.b, self.b.op("collect", self._entries(piece, seed)), seed)))
        return found

    def _weighed(self, member: Member, back: Back) -> list[Piece]:
        """What is added to a member's traces, times the vectors; parts with one factor of lanes as one."""
        b, seed = self.b, self.model.jacobian.axes(member.source)
        parts: list[Piece] = []
        for item in self.injections:
            if item.member == member:
                rows = self.model.rows(item.name)
                vector = (back.left if item.behind else back.seen)[item.name]
                part = scaled(b, item.piece, vector, rows, seed)
                first = self.model.rows(self.names[0])
                axes = tuple(first) if part.lanes is not None else (*first, *b.type(part.value).axes[len(rows) :])
                parts.append(Piece(part.key, fit(b, part.value, axes), part.lanes))
        return summed(b, parts)

    def _entries(self, piece: Piece, seed: Axes) -> int:
        """A piece with the parameter's axes, in their order."""
        b, rows = self.b, len(self.model.rows(self.names[0]))
        lanes = free(piece.key, seed)
        where = {tie.seed: tie.axis for tie in piece.key} | {k: rows + n for n, k in enumerate(lanes)}
        out = tuple(where[k] for k in range(len(seed)))
        if piece.lanes is not None:
            xl, yl = tuple(range(rows)), tuple(range(rows, rows + len(lanes)))
            return b.op("contract", piece.value, self._plain(piece.lanes, seed, lanes), x=xl, y=yl, out=out)
        return b.op("transpose", piece.value, order=out) if out != tuple(range(rows)) else piece.value

    def _older(self, back: Back, held: Mapping[str, int]) -> int | None:
        """What the call reads of the traces that it was handed, with the axes of the stack."""
        b, parts = self.b, list[int]()
        for name in self.names:
            first = self._first(back.handed[name])
            if first is not None:
                count = len(self.model.rows(name))
                out = tuple(range(count + 1))
                total = b.op("contract", first, held[name], x=out[:-1], y=out, out=out)
                parts.append(fit(b, b.op("collect", total), self.stack.seed))
        return add_all(b, parts)

    def _first(self, node: int) -> int | None:
        """A vector as it arrives at the first step; None where it is zero."""
        if self.b.uniform(node) == 0.0:
            return None
        made = self.b.nodes[node]
        return self.b.add(TNode("arrive", (node,), (), made.type, True, made.name, made.span))

    # -- last traces ----------------------------------------------------------------------------------------------
    def _last(self, name: str, factors: Mapping[str, Mapping[str, int]], held: Mapping[str, int]) -> int:
        """The trace of a carry behind the last step."""
        b, rows = self.b, self.model.rows(name)
        back = self._back(factors, {}, {}, name)
        (key,) = self.stack.stored[name]
        axes = whole(Piece(key, -1), rows, self.stack.seed)
        columns = [self._column(name, member, back, axes) for member in self.stack.members]
        parts = [b.op("concat", *columns, at=len(axes) - 1, axis=axes[-1])]
        for other in self.names:
            first = self._first(back.handed[other])
            if first is not None:
                labels = tuple(range(len(axes)))
                wide = spread(b, fit(b, first, rows), labels[:-1], labels, axes)
                parts.append(b.op("mul", wide, fit(b, held[other], axes)))
        return add_all(b, parts) or b.constant(0.0, Type("float", axes))

    def _column(self, name: str, member: Member, back: Back, axes: Axes) -> int:
        """One member's part of a last trace."""
        b, rows, seed = self.b, self.model.rows(name), self.model.jacobian.axes(member.source)
        (key,) = self.stack.stored[name]
        parts = [self._tallied(piece, seed) for piece in self._weighed(member, back)]
        total = add_all(b, [fit(b, part.value, whole(part, rows, seed)) for part in parts])
        if total is None:
            return b.constant(0.0, Type("float", (*axes[:-1], Axis(axes[-1].name, member.size))))
        return laid_out(b, Piece(parts[0].key, total), member, rows, seed, key, self.stack)

    def _tallied(self, piece: Piece, seed: Axes) -> Piece:
        """The sum over the steps of a piece, for each sample."""
        b, value = self.b, piece.value
        if piece.lanes is not None:
            rows, lanes = len(b.type(value).axes), len(b.type(piece.lanes).axes)
            labels = tuple(range(rows + lanes))
            plain = self._plain(piece.lanes, seed, free(piece.key, seed))
            value = b.op("contract", value, plain, x=labels[:rows], y=labels[rows:], out=labels)
        return Piece(piece.key, tally(b, value))

    def _plain(self, lanes: int, seed: Axes, places: Sequence[int]) -> int:
        """A factor of lanes under the names of the parameter's axes: it is no larger than a state."""
        return fit(self.b, lanes, tuple(seed[k] for k in places))


def tally(b: TimelineBuilder, value: int) -> int:
    """The sum over steps, for each sample."""
    if b.uniform(value) == 0.0:
        return value
    return b.add(TNode("tally", (value,), (), b.type(value), True))
