"""Gradients of one step read from the influences that it leaves, where that is the same and takes less.

A rule reads a gradient from the influences J' that enter a step: with the cotangent k of what the loss reads of the
states, each gradient is `k I + k D J'`. If all of it goes through states whose influence is `J = D J' + I`, no entry of
which the scope drops, that is `k J`, and J is computed anyway. Whether it is, polynomials show (`polynomials.py`): a
gradient is rewritten only if sums of products `k J` are, multiplied out, the gradient as it was.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from recdsl.graph.types import Axis
from recdsl.program.ir import Load, Op, Program, Scalar, Stmt, Store, VType
from recdsl.program.passes.polynomials import DEEPEST, Entry, Place, Polynomial, Polynomials, plus, times

TERMS = 4  # influences that a gradient is read from at most
THROUGH = ("add", "sub", "collect", "slice", "reshape", "rename", "broadcast", "transpose", "stop")


@dataclass(frozen=True)
class Term:
    """The product of a cotangent and an influence that is left, entry by entry of the gradient."""

    cotangent: Entry
    influence: Entry


def read_left(program: Program, gradients: Collection[str], states: Mapping[str, str]) -> Program:
    """A program of one line with such gradients. gradients: storages; states: the storage that a state or influence
    comes from, by the one that it is left in."""
    ((entry, body),) = program.entries
    made = _Reading(program, states)
    line: list[Stmt] = []
    for stmt in body:
        if isinstance(stmt, Store) and stmt.storage in gradients:
            line += made.rewritten(stmt)
        else:
            line.append(stmt)
    return replace(program, entries=((entry, live(line)),)) if made.count else program


@dataclass
class _Reading:
    """loaded: by influence that enters, the one that is left. summed: values that are sums over samples, or sums of
    such. products: influences times cotangents that have been written. count: gradients that were rewritten."""

    program: Program
    states: Mapping[str, str]
    polynomials: Polynomials = field(init=False)
    types: dict[str, VType] = field(default_factory=dict[str, VType])
    loaded: dict[str, str] = field(default_factory=dict[str, str])
    products: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    summed: set[str] = field(default_factory=set[str])
    wholes: dict[Entry, Polynomial | None] = field(default_factory=dict[Entry, "Polynomial | None"])
    count: int = 0
    names: int = 0

    def __post_init__(self) -> None:
        self.polynomials = Polynomials(self.program)
        ((_, body),) = self.program.entries
        source = {stmt.result: stmt.storage for stmt in body if isinstance(stmt, Load)}
        kept = {self.states[s.storage]: s.value for s in body if isinstance(s, Store) and s.storage in self.states}
        self.loaded = {name: kept[storage] for name, storage in source.items() if storage in kept}
        for stmt in body:
            if isinstance(stmt, Op):
                self.types[stmt.results[0]] = stmt.types[0]
                through = stmt.op in THROUGH and any(arg in self.summed for arg in stmt.args)
                self.summed |= {*stmt.results} if stmt.joint or stmt.op == "collect" or through else set()
            elif isinstance(stmt, Load):
                self.types[stmt.result] = stmt.type

    def rewritten(self, stmt: Store) -> list[Stmt]:
        """The store of a gradient, behind what it is read from."""
        axes = self.types[stmt.value].axes
        at = tuple((f"i{k} of {axis.size}", 0) if axis.size > 1 else ("", 0) for k, axis in enumerate(axes))
        self.polynomials.sizes.update({name: axis.size for (name, _), axis in zip(at, axes, strict=True)})
        terms = self._terms(stmt.value, at)
        lines: list[Stmt] = []
        parts = [self._read(term, at, axes, lines) for term in terms or ()]
        if not parts or None in parts:
            return [stmt]
        self.count += 1
        total = ""
        for part in parts:
            assert part is not None
            total = self._add(lines, "add", (total, part), self.types[stmt.value]) if total else part
        return [*lines, replace(stmt, value=total)]

    # -- which products -------------------------------------------------------------------------------------------
    def _terms(self, name: str, at: tuple[Place, ...]) -> list[Term] | None:
        """Products of cotangents and influences whose sum is the gradient."""
        factors = list(dict.fromkeys(self._factors(name, at)))
        rest = self._whole(name, at)
        found: list[Term] = []
        while rest and len(found) < TERMS:
            pairs = self._pairs(rest, factors, name in self.summed)
            term = next((t for t in pairs if _within(self._product(t), rest)), None)
            if term is None:
                return None
            found.append(term)
            rest = _without(rest, self._product(term))
        return found if found and not rest else None

    def _whole(self, name: str, at: tuple[Place, ...]) -> Polynomial | None:
        """The gradient of one sample. None where samples have more to do with each other than that they are summed."""
        if name not in self.summed:
            return self.polynomials.of(name, at)
        if (name, at) not in self.wholes:
            deep = self.polynomials.depth[name] >= DEEPEST
            self.wholes[name, at] = None if deep else self._one_sample(self.polynomials.made[name], at)
        return self.wholes[name, at]

    def _one_sample(self, op: Stmt, at: tuple[Place, ...]) -> Polynomial | None:
        inner = self.polynomials.operands(op, at) if isinstance(op, Op) else None
        if inner is None or not isinstance(op, Op) or op.op not in (*THROUGH, "contract"):
            return None
        if op.joint or op.op == "collect":
            parts = [self.polynomials.of(*entry) for entry in inner]
            return times(parts[0], parts[1]) if op.op == "contract" else parts[0] if op.op == "collect" else None
        if op.op == "contract" or not all(arg in self.summed for arg, _ in inner):
            return None
        one, *other = [self._whole(*entry) for entry in inner]
        if one is None or not other:
            return one
        return None if other[0] is None else plus(one, other[0], -1.0 if op.op == "sub" else 1.0)

    def _factors(self, name: str, at: tuple[Place, ...]) -> Iterator[Entry]:
        """What products of the gradient are made of, without influences, next ones first."""
        seen, ahead = set[Entry](), [(name, at)]
        for entry in ahead:
            op = self.polynomials.made.get(entry[0])
            if entry in seen or not isinstance(op, Op) or op.op not in (*THROUGH, "mul", "contract"):
                continue
            seen.add(entry)
            inner = self.polynomials.operands(op, entry[1]) or []
            ahead += inner
            if op.op in ("mul", "contract"):
                yield from (one for one in inner if one[0] not in self.loaded)

    def _pairs(self, rest: Polynomial, factors: list[Entry], summed: bool) -> Iterator[Term]:
        """Influences that are left in the place of those that the rest is made of, with everything that may be their
        cotangent. summed: over samples, of which the product has an entry each."""
        entries = dict.fromkeys(entry for monomial in rest for entry in monomial if entry[0] in self.loaded)
        for name, at in entries:
            influence = (self.loaded[name], at)
            for factor in factors if len(self.polynomials.of(*influence)) <= len(rest) else ():
                if bool(self.types[factor[0]].lead or self.types[influence[0]].lead) == summed:
                    yield Term(factor, influence)

    def _product(self, term: Term) -> Polynomial:
        return times(self.polynomials.of(*term.cotangent), self.polynomials.of(*term.influence))

    # -- what is written ------------------------------------------------------------------------------------------
    def _read(self, term: Term, at: tuple[Place, ...], axes: tuple[Axis, ...], lines: list[Stmt]) -> str | None:
        """The gradient's part, sliced out of the products with the whole influence; None where its axes are others."""
        (name, place), (influence, where) = term.cotangent, term.influence
        kind = self.types[influence]
        variables = [variable for variable, _ in where if variable]
        if variables != [variable for variable, _ in at if variable] or not self._along(place, where):
            return None
        total = self._whole_product(name, place, influence, where, lines)
        for k, (variable, begin) in enumerate(where):
            size = self.polynomials.sizes.get(variable, 1)
            if size < kind.axes[k].size:
                axis = Axis(kind.axes[k].name, size)
                kind = replace(kind, axes=(*kind.axes[:k], axis, *kind.axes[k + 1 :]))
                wide = replace(kind, lead=self.types[total].lead)
                total = self._add(lines, "slice", (total,), wide, at=k, start=begin, axis=axis)
        wanted = replace(self.types[total], axes=axes)
        if self.types[total].axes != axes:
            total = self._add(lines, "reshape", (total,), wanted, axes=axes)
        return total

    def _along(self, place: tuple[Place, ...], where: tuple[Place, ...]) -> bool:
        """Whether the cotangent's axes are some of the influence's, in full."""
        return all(begin == 0 and (not variable or (variable, 0) in where) for variable, begin in place)

    def _whole_product(
        self, name: str, place: tuple[Place, ...], influence: str, where: tuple[Place, ...], lines: list[Stmt]
    ) -> str:
        if (name, influence) in self.products:
            return self.products[name, influence]
        out = tuple(range(len(where)))
        own = tuple(out[where.index(at)] if at[0] else len(out) + k for k, at in enumerate(place))
        one, kind = self.types[name], self.types[influence]
        if any(k >= len(out) for k in own):  # axes of one entry
            kept = tuple(axis for axis, k in zip(one.axes, own, strict=True) if k < len(out))
            name_, own = self._add(lines, "reshape", (name,), replace(one, axes=kept), axes=kept), tuple(
                k for k in own if k < len(out))  # fmt: skip
        else:
            name_ = name
        lead = dict(one.lead) | dict(kind.lead)
        wide = replace(kind, lead=tuple(lead.items()))
        total = self._add(lines, "contract", (name_, influence), wide, x=own, y=out, out=out)
        if lead:
            joint = replace(wide, lead=())
            total = self._add(lines, "collect", (total,), joint, joint=tuple(lead))
        self.products[name, influence] = total
        return total

    def _add(
        self,
        lines: list[Stmt],
        op: str,
        args: tuple[str, ...],
        kind: VType,
        joint: tuple[str, ...] = (),
        **attrs: object,
    ) -> str:
        self.names += 1
        name = f"left.{self.names}"
        self.types[name] = kind
        lines.append(Op((name,), op, args, tuple(sorted(attrs.items())), (kind,), joint=joint))
        return name


def _within(part: Polynomial, whole: Polynomial) -> bool:
    """Whether a polynomial is some of the terms of another one."""
    return bool(part) and all(abs(whole.get(key, 0.0) - x) <= 1e-12 * abs(x) for key, x in part.items())


def _without(whole: Polynomial, part: Polynomial) -> Polynomial:
    """The other terms."""
    return plus(whole, part, -1.0)


def live(line: list[Stmt]) -> tuple[Stmt, ...]:
    """Without what nobody reads."""
    names = set[str]()
    kept: list[Stmt] = []
    for stmt in reversed(line):
        if isinstance(stmt, Op) and stmt.results[0] not in names:
            continue
        if isinstance(stmt, Load | Scalar) and stmt.result not in names:
            continue
        names |= {*stmt.args} if isinstance(stmt, Op) else {stmt.value} if isinstance(stmt, Store) else set()
        kept.append(stmt)
    return tuple(reversed(kept))
