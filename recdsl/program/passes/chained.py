"""Influences that are left made from each other, where that takes fewer products.

A step that makes one state from another (`c`, then `h = o * tanh(c)`) leaves influences `J_c = a J_c' + b J_h' + u` and
`J_h = d J_c' + e J_h' + v` in which d, v and a part of e are `r a`, `r u` and `r b` with one factor r: `J_h` is
`r J_c + (e - r b) J_h'`. The factor is looked for among values of the step and products of two, and what is left over
among its values; polynomials (`polynomials.py`) show that nothing changes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from recdsl.graph.types import Axis
from recdsl.program.ir import Load, Op, Program, Stmt, Store, VType
from recdsl.program.passes.left import live
from recdsl.program.passes.polynomials import Monomial, Place, Polynomial, Polynomials, plus, times

CANDIDATES = 24  # values of which a factor may be made
MOST = 8  # influences that are looked at


Coefficients = dict[str, Polynomial]
"""Of influences that enter, by their names."""


@dataclass(frozen=True)
class Chain:
    """`made` is the product of `factors` and `source`, more of what entered (`rests`: coefficients and influences), and
    in some parts (`driven`) the drive as it was, of the stack `drive`."""

    made: str
    source: str
    factors: tuple[str, ...]
    rests: tuple[tuple[str, str], ...]
    driven: tuple[bool, ...]
    drive: Op | None


def chained(program: Program, states: Mapping[str, str]) -> Program:
    """A program of one line. states: the storage that an influence comes from, by the one that it is left in."""
    ((entry, body),) = program.entries
    found = _Chains(program, states)
    left = [s.value for s in body if isinstance(s, Store) and s.storage in states and found.fits(s.value)]
    for source, made in itertools.permutations(list(dict.fromkeys(left))[:MOST], 2):
        chain = found.chain(source, made)
        if chain is not None:
            return replace(program, entries=((entry, live(found.written(body, chain))),))
    return program


@dataclass
class _Chains:
    """entered: influences as they come in, with how many axes they have. order: of values in the line."""

    program: Program
    states: Mapping[str, str]
    polynomials: Polynomials = field(init=False)
    types: dict[str, VType] = field(default_factory=dict[str, VType])
    order: dict[str, int] = field(default_factory=dict[str, int])
    entered: set[str] = field(default_factory=set[str])

    def __post_init__(self) -> None:
        self.polynomials = Polynomials(self.program)
        ((_, body),) = self.program.entries
        for k, stmt in enumerate(body):
            if isinstance(stmt, Op):
                self.types[stmt.results[0]], self.order[stmt.results[0]] = stmt.types[0], k
            elif isinstance(stmt, Load):
                self.types[stmt.result], self.order[stmt.result] = stmt.type, k
                if stmt.storage in self.states.values():
                    self.entered.add(stmt.result)

    def fits(self, name: str) -> bool:
        """Whether a value is an influence that is a sum."""
        op = self.polynomials.made.get(name)
        return isinstance(op, Op) and op.op == "add" and not op.joint and len(op.types[0].axes) > 1

    def chain(self, source: str, made: str) -> Chain | None:
        """None where it would not pay, or cannot be shown."""
        one, other = self.types[source], self.types[made]
        if (one.lead, one.axes) != (other.lead, other.axes) or self.order[source] > self.order[made]:
            return None
        drive = self._stack(made)
        places = list(self._parts(other.axes, drive))
        lower, upper = ([self._split(name, at) for at in places] for name in (source, made))
        below, above = ({} if split is None else split[0] for split in (lower[0], upper[0]))
        drives: list[tuple[Polynomial, Polynomial]] = []
        for a, b in zip(lower, upper, strict=True):
            if a is None or b is None or a[0] != below or b[0] != above:
                return None  # what it has of those that entered differs from part to part
            drives.append((a[1], b[1]))
        at = self._at(other.axes)[:-1]
        for factors in self._ratios(made, at, below, above):
            chain = self._checked(Chain(made, source, factors, (), (), drive), at, below, above, drives)
            if chain is not None:
                return chain
        return None

    # -- polynomials ----------------------------------------------------------------------------------------------
    def _at(self, axes: Sequence[Axis]) -> tuple[Place, ...]:
        at = tuple((f"i{k} of {axis.size}", 0) if axis.size > 1 else ("", 0) for k, axis in enumerate(axes))
        self.polynomials.sizes.update({name: axis.size for (name, _), axis in zip(at, axes, strict=True)})
        return at

    def _stack(self, name: str) -> Op | None:
        """The stack that a sum begins with, along its last axis."""
        op = self.polynomials.made.get(name)
        while isinstance(op, Op) and op.op == "add":
            found = [self.polynomials.made.get(arg) for arg in op.args]
            op = next((x for x in found if isinstance(x, Op) and x.op in ("add", "concat")), None)
        if not isinstance(op, Op) or op.op != "concat" or dict(op.attrs)["at"] != len(op.types[0].axes) - 1:
            return None
        return op

    def _parts(self, axes: tuple[Axis, ...], drive: Op | None) -> Iterator[tuple[Place, ...]]:
        begin = 0
        for arg in drive.args if drive is not None else ():
            (*_, last) = self.types[arg].axes
            own = self._at((*axes[:-1], last))
            yield (*own[:-1], (own[-1][0], begin))
            begin += last.size
        if drive is None:
            yield self._at(axes)

    def _split(self, name: str, at: tuple[Place, ...]) -> tuple[Coefficients, Polynomial] | None:
        """What an influence has of each that entered, and what it has besides."""
        found: dict[str, dict[Monomial, float]] = {}
        rest: dict[Monomial, float] = {}
        for monomial, number in self.polynomials.of(name, at).items():
            inner = [entry for entry in monomial if entry[0] in self.entered and entry[1] == at]
            others = tuple(entry for entry in monomial if entry not in inner)
            if not inner:
                rest[monomial] = number
            elif len(inner) > 1 or any(at[-1] in place for _, place in others):
                return None
            else:
                found.setdefault(inner[0][0], {})[others] = number
        return dict(found), rest

    def _values(self, made: str, at: tuple[Place, ...]) -> dict[str, Polynomial]:
        """Values of the step along the other axes that the influence is made of."""
        seen, ahead, found = set[str](), [made], dict[str, Polynomial]()
        for name in ahead:
            op = self.polynomials.made.get(name)
            if name in seen or not isinstance(op, Op) or self.types[name].dtype != "float":
                continue
            seen.add(name)
            ahead += op.args
            if len(self.types[name].axes) == len(at) and op.op != "constant":
                found[name] = self.polynomials.of(name, at)
        return found

    def _ratios(
        self, made: str, at: tuple[Place, ...], below: Coefficients, above: Coefficients
    ) -> Iterator[tuple[str, ...]]:
        """Values, and products of two, that the one influence has more of something than the other."""
        values = dict(itertools.islice(self._values(made, at).items(), CANDIDATES * 4))
        for name in below.keys() & above.keys():
            singles = [(v, times(p, below[name])) for v, p in values.items()]
            yield from ((v,) for v, p in singles if p == above[name])
            small = [(v, p) for v, p in singles if len(p) <= len(above[name])][:CANDIDATES]
            for (v, p), (w, _) in itertools.combinations(small, 2):
                if times(p, values[w]) == above[name]:
                    yield v, w

    def _checked(
        self,
        chain: Chain,
        at: tuple[Place, ...],
        below: Coefficients,
        above: Coefficients,
        drives: Sequence[tuple[Polynomial, Polynomial]],
    ) -> Chain | None:
        """The chain in full. None where something that is left over is no value, or it saves nothing."""
        values = self._values(chain.made, at)
        factor: Polynomial = {(): 1.0}
        for name in chain.factors:
            factor = times(factor, values[name])
        rests: list[tuple[str, str]] = []
        for name in sorted(below.keys() | above.keys()):
            rest = plus(above.get(name, {}), times(factor, below.get(name, {})), -1.0)
            value = next((v for v, p in values.items() if p == rest), None) if rest else ""
            if value is None:
                return None
            rests += [(value, name)] if value else []
        driven: list[bool] = []
        for one, other in drives:
            rest = plus(other, times(factor, one), -1.0)
            if rest and (rest != other or chain.drive is None):
                return None
            driven.append(bool(rest))
        before = len(above) + sum(bool(other) for _, other in drives) / len(drives)
        if 1 + len(rests) + sum(driven) / len(drives) >= before:
            return None
        return replace(chain, rests=tuple(rests), driven=tuple(driven))

    # -- text -----------------------------------------------------------------------------------------------------
    def written(self, body: Sequence[Stmt], chain: Chain) -> list[Stmt]:
        """The line with the influence made so."""
        place = self.order[chain.made]
        kind = self.types[chain.made]
        lines: list[Stmt] = []

        def op(name: str, args: tuple[str, ...], type: VType, result: str = "", **attrs: object) -> str:
            made = result or f"chained.{len(lines)}"
            self.types[made] = type
            lines.append(Op((made,), name, args, tuple(sorted(attrs.items())), (type,)))
            return made

        def product(value: str, influence: str) -> str:
            out = tuple(range(len(kind.axes)))
            return op("contract", (value, influence), kind, x=out[:-1], y=out, out=out)

        factor = chain.factors[0]
        for other in chain.factors[1:]:
            factor = op("mul", (factor, other), self._wider(factor, other))
        terms = [product(factor, chain.source), *(product(value, name) for value, name in chain.rests)]
        if chain.drive is not None and any(chain.driven):
            parts: list[str] = []
            for arg, kept in zip(chain.drive.args, chain.driven, strict=True):
                zero = replace(self.types[arg], lead=())
                parts.append(arg if kept else op("constant", (), zero, value=0.0))
            terms.append(op("concat", tuple(parts), chain.drive.types[0], **dict(chain.drive.attrs)))
        total = terms[0]
        for term in terms[1:-1]:
            total = op("add", (total, term), kind)
        if len(terms) > 1:
            op("add", (total, terms[-1]), kind, chain.made)
        else:
            op("rename", (total,), kind, chain.made, axes=kind.axes)
        return [*body[:place], *lines, *body[place + 1 :]]

    def _wider(self, one: str, other: str) -> VType:
        kinds = (self.types[one], self.types[other])
        return replace(kinds[0], lead=tuple(dict(kinds[0].lead + kinds[1].lead).items()))
