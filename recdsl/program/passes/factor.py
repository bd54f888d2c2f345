"""Linear forms: in a reverse loop, what multiplies a cotangent is gathered outside of the loop.

A cotangent is linear in the cotangents that cross steps. Each elementwise value of the loop is written as a sum of
`base * coefficient`, where a base is made in the loop and a coefficient is known for all steps beforehand; the
coefficients are then products of whole sequences, and the loop is left with one multiplication a term.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from recdsl.program.adjoint import Adjoint, topological
from recdsl.program.passes.rewrite import recurrent
from recdsl.program.schedule import needed
from recdsl.program.timeline import LEAVES, MOVES, TimelineBuilder, TNode

ONE = -1


@dataclass
class Form:
    """`sum of base * coefficient + rest`; ids of the new timeline; coefficient ONE is no factor at all."""

    terms: dict[int, tuple[int, int]]
    rest: int | None = None


def factor(adjoint: Adjoint, own: int) -> Adjoint:
    """The adjoint with linear forms gathered. Products are reassociated, so values differ in the last digit."""
    return _Factor(adjoint, own).run()


class _Factor:
    """One sweep over the adjoint's nodes, forward ones kept."""

    def __init__(self, adjoint: Adjoint, own: int) -> None:
        self.adjoint, self.nodes, self.own = adjoint, adjoint.nodes, own
        self.cycle = {k for k in recurrent(self.nodes) if k >= own}
        self.builder = TimelineBuilder(self.nodes[:own])
        self.new: dict[int, int] = {k: k for k in range(own)}
        self.forms: dict[int, Form] = {}
        self.readers: dict[int, int] = {}
        roots = [k for _, k in (*adjoint.gradients, *adjoint.entering, *adjoint.arrivals)]
        self.live = needed(self.nodes, roots, frozenset())
        for k in sorted(self.live):
            for arg in self.nodes[k].args:
                self.readers[arg] = self.readers.get(arg, 0) + 1

    def run(self) -> Adjoint:
        moves = [k for k in sorted(self.live) if k >= self.own and self.nodes[k].op in MOVES]
        for k in moves:
            node = self.nodes[k]
            self.builder.span = node.span
            self.new[k] = self.builder.again(node, (-1, *node.args[1:]))  # the others belong to the forward pass
        for k in topological(self.nodes):
            if k >= self.own and k not in self.new and k in self.live:
                self._visit(k)
        for k in moves:
            self.builder.aim(self.new[k], self._value(self.nodes[k].args[0]))
        gradients = tuple((name, self._value(k)) for name, k in self.adjoint.gradients)
        entering = tuple((name, self._value(k)) for name, k in self.adjoint.entering)
        arrivals = tuple((name, self._value(k)) for name, k in self.adjoint.arrivals)
        made = {"gradients": gradients, "entering": entering, "arrivals": arrivals}
        return replace(self.adjoint, nodes=tuple(self.builder.nodes), **made)

    # -- sweep ----------------------------------------------------------------------------------------------------
    def _visit(self, k: int) -> None:
        node = self.nodes[k]
        self.builder.span = node.span
        form = self._form(k, node) if k in self.cycle else None
        if form is None:
            waits = node.op == "concat" and k in self.cycle and self.readers.get(k, 0) == 1
            if not waits:  # a stack of cotangents waits for the factor that its one reader may have
                self._value(k)
        else:
            self.forms[k] = form
            if len(form.terms) + (form.rest is not None) > 1 and self.readers.get(k, 0) > 1:
                self._value(k)

    def _made(self, node: TNode, args: list[int]) -> int:
        if node.op in ("first", "arrive") and self.builder.uniform(args[0]) == 0.0:
            return self.builder.constant(0.0, node.type)
        if node.op in (*LEAVES, "first", "arrive"):
            return self.builder.add(TNode(node.op, tuple(args), node.attrs, node.type, node.time, node.name, node.span))
        return self.builder.op(node.op, *args, **dict(node.attrs))

    def _form(self, k: int, node: TNode) -> Form | None:
        """The linear form of an elementwise node; None where it is not one."""
        if node.op in ("add", "sub"):
            sign = 1 if node.op == "add" else -1
            return self._joined(self._of(node.args[0]), self._of(node.args[1]), sign)
        if node.op == "neg":
            return self._joined(Form({}), self._of(node.args[0]), -1)
        if node.op == "mul":
            return self._product(node)
        return None

    def _product(self, node: TNode) -> Form | None:
        inside = [arg for arg in node.args if arg in self.cycle]
        if len(inside) != 1:
            return None
        outside = node.args[0] if node.args[1] == inside[0] else node.args[1]
        factor = self._value(outside)
        spread = self._through_concat(inside[0], factor)
        if spread is not None:
            return Form({spread: (ONE, 1)})
        return self._scaled(self._of(inside[0]), factor)

    def _scaled(self, form: Form, factor: int) -> Form:
        b = self.builder
        terms = {
            base: (factor if coefficient == ONE else b.op("mul", coefficient, factor), sign)
            for base, (coefficient, sign) in form.terms.items()
        }
        return Form(terms, None if form.rest is None else b.op("mul", form.rest, factor))

    def _through_concat(self, k: int, factor: int) -> int | None:
        """A factor of stacked cotangents goes to each of them, where it joins their own factors."""
        node = self.nodes[k]
        if node.op != "concat" or self.readers.get(k, 0) != 1 or k in self.new:
            return None
        at, start, parts = node.attr("at"), 0, list[int]()
        for arg in node.args:
            axis = self.nodes[arg].type.axes[at]
            piece = self.builder.op("slice", factor, at=at, start=start, axis=axis)
            parts.append(self._written(self._scaled(self._of(arg), piece), arg))
            start += axis.size
        return self.builder.op("concat", *parts, at=at, axis=node.attr("axis"))

    def _joined(self, left: Form, right: Form, sign: int) -> Form:
        """left + sign * right."""
        b = self.builder
        terms = dict(left.terms)
        for base, (coefficient, own) in right.terms.items():
            other = (coefficient, own * sign)
            terms[base] = self._sum_of(base, terms[base], other) if base in terms else other
        rest = left.rest
        if right.rest is not None:
            if rest is None:
                rest = right.rest if sign > 0 else b.op("neg", right.rest)
            else:
                rest = b.op("add" if sign > 0 else "sub", rest, right.rest)
        return Form(terms, rest)

    def _sum_of(self, base: int, first: tuple[int, int], second: tuple[int, int]) -> tuple[int, int]:
        """Two coefficients of one base become one, with sign 1."""
        b = self.builder
        one = b.const(1.0, base)
        x, y = (one if c == ONE else c for c, _ in (first, second))
        if first[1] > 0:
            return b.op("add" if second[1] > 0 else "sub", x, y), 1
        return (b.op("sub", y, x), 1) if second[1] > 0 else (b.op("add", x, y), -1)

    # -- values ---------------------------------------------------------------------------------------------------
    def _of(self, k: int) -> Form:
        """A node as a form: its own where it has one that need not be made, else itself."""
        if k in self.cycle and k >= self.own:
            if k in self.forms and k not in self.new:
                return self.forms[k]
            return Form({self._value(k): (ONE, 1)})
        return Form({}, self._value(k))

    def _value(self, k: int) -> int:
        if k not in self.new:
            node = self.nodes[k]
            if k in self.forms:
                self.new[k] = self._written(self.forms[k], k)
            else:
                self.new[k] = self._made(node, [self._value(arg) for arg in node.args])
        return self.new[k]

    def _written(self, form: Form, k: int) -> int:
        """The nodes of a form: what is known beforehand first, products after it."""
        b = self.builder
        total = form.rest
        for base, (coefficient, sign) in form.terms.items():
            term = base if coefficient == ONE else b.op("mul", base, coefficient)
            if total is None:
                total = term if sign > 0 else b.op("neg", term)
            else:
                total = b.op("add" if sign > 0 else "sub", total, term)
        return b.const(0.0, k) if total is None else total
