"""A second witness of what a rule means, without autograd: tangents pushed forward by the ops' own jvp.

One sample at a time and one window at a time; masked steps are left out rather than masked, a reset starts anew. A
value that the rule cuts loses its tangent. The tangent of a window's losses in a direction v is <gradient, v>.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recdsl.backends.reference.schedule import counted, divisors
from recdsl.credit.plan import CreditPlan, RoutingClass
from recdsl.graph.step import Node, StepGraph
from recdsl.graph.types import Type
from recdsl.ops import primitive
from recdsl.testing.cases import Case
from recdsl.testing.evaluate import Evaluator

Pair = tuple[int, int | None]


def directional(case: Case, plan: CreditPlan, directions: Mapping[str, Tensor]) -> list[Tensor]:
    """Per routing class: <gradient of its parameters, directions>, a scalar. Raises ValueError for `td` losses."""
    _plain(case)
    valid = torch.ones(_shape(case), dtype=torch.bool) if case.mask is None else case.mask
    return [_class(case, routing, directions, valid) for routing in plan.classes]


def _plain(case: Case) -> None:
    """A temporal difference is no function whose tangent is its gradient: only the earlier prediction is to change."""
    names = [loss.name for loss in case.graph.losses if loss.td is not None]
    if names:
        raise ValueError(f"tangents of temporal differences are not their gradients: {', '.join(names)}")


def _shape(case: Case) -> tuple[int, int]:
    first = next(iter(case.batch.values()))
    return first.shape[0], first.shape[1]


def by_lag(case: Case, routing: RoutingClass, directions: Mapping[str, Tensor]) -> dict[int, list[float]]:
    """<gradient, directions> of the first sample, apart for each use of the parameters (step s) and loss (step t).

    By t - s; within a lag in the order of t. Each loss counts as it is, without weight and schedule. The case has
    neither mask nor reset nor an incoming state. Raises ValueError for `td` losses.
    """
    _plain(case)
    steps = _shape(case)[0]
    size, every = routing.window.size or steps, routing.window.every if routing.window.size else steps
    found: dict[int, list[float]] = {}
    for t in range(steps):
        for s in range(t + 1):
            run = _Sample(case, routing, directions, 0, s)
            for step in range(t + 1):
                if step == (t // every + 1) * every - size > 0:
                    run.forget()
                run.step(step)
            total = sum(float(run.tangent(case.graph.losses[k].node)) for k in routing.losses)
            found.setdefault(t - s, []).append(total)
    return found


def _class(case: Case, routing: RoutingClass, directions: Mapping[str, Tensor], valid: Tensor) -> Tensor:
    steps, samples = _shape(case)
    size = routing.window.size or steps
    every = routing.window.every if routing.window.size else steps
    chosen = [counted(loss, valid) for loss in case.graph.losses]
    divided = divisors(case.graph, chosen)
    total = torch.zeros((), dtype=torch.float64)
    for first in range(0, steps, every):
        boundary = first + every - size
        for b in range(samples):
            run = _Sample(case, routing, directions, b)
            for t in range(min(first + every, steps)):
                if t == boundary > 0:
                    run.forget()
                if not bool(valid[t, b]):
                    run.skip(t)
                    continue
                run.step(t)
                if t < first:
                    continue
                for k in routing.losses:
                    if bool(chosen[k][t, b]):
                        weight = case.graph.losses[k].weight / divided[k]
                        total = total + weight * run.tangent(case.graph.losses[k].node)
                for name, node in case.graph.outputs:
                    if routing.outputs and name in case.cotangents:
                        total = total + (case.cotangents[name][t, b] * run.tangent(node)).sum()
    return total


class _Sample:
    """One sample of a batch: values without leading axes, each with its tangent (None: zero)."""

    def __init__(
        self, case: Case, routing: RoutingClass, directions: Mapping[str, Tensor], sample: int, only: int | None = None
    ) -> None:
        """only: the one step whose uses of the parameters count (an initial value is used at step 0)."""
        self.case, self.routing, self.directions, self.sample = case, routing, directions, sample
        self.only = only
        self.graph: StepGraph = case.graph
        self.b = Evaluator()
        self.now: dict[int, Pair] = {}
        self.start = 0 if case.state is None else int(case.state["t"])
        self.carried: dict[str, Pair] = self._initial()
        if case.state is not None:
            for carry in self.graph.carries:
                type = self.graph.nodes[carry.read].type
                self.carried[carry.name] = (self.b.put(case.state[carry.name][sample], type), None)

    def _initial(self) -> dict[str, Pair]:
        found: dict[int, Pair] = {}
        for node in self.graph.nodes:
            if node.id not in self.graph.varying:
                found[node.id] = self._evaluate(node, found, 0)
        return {carry.name: found[carry.init] for carry in self.graph.carries}

    def forget(self) -> None:
        """The boundary of a window."""
        self.carried = {name: (value, None) for name, (value, _) in self.carried.items()}

    def skip(self, t: int) -> None:
        """A masked step does nothing, but for its reset."""
        if self.case.reset is not None and bool(self.case.reset[t, self.sample]):
            self.carried = self._initial()

    def step(self, t: int) -> None:
        self.skip(t)
        reads = {carry.read: self.carried[carry.name] for carry in self.graph.carries}
        self.now = dict[int, Pair]()
        for node in self.graph.nodes:
            found = reads.get(node.id)
            self.now[node.id] = self._evaluate(node, self.now, t) if found is None else found
        for carry in self.graph.carries:
            value, tangent = self.now[carry.write]
            cut = (carry.write, carry.read) in self.routing.cuts
            self.carried[carry.name] = (value, None if cut else tangent)

    def tangent(self, node: int) -> Tensor:
        found = self.now[node][1]
        return torch.zeros((), dtype=torch.float64) if found is None else self.b.values[found]

    def _evaluate(self, node: Node, known: Mapping[int, Pair], t: int) -> Pair:
        if node.op == "parameter":
            trained = node.name in self.routing.parameters and self.only in (None, t)
            move = self.b.put(self.directions[node.name], node.type) if trained else None
            return self.b.put(self.case.params[node.name], node.type), move
        if not node.args and node.op in ("constant", "input", "target", "step_number"):
            return self.b.put(self._leaf(node, t), node.type), None
        args = [known[arg] for arg in node.args]
        moves: list[int | None] = [None if (arg, node.id) in self.routing.cuts else known[arg][1] for arg in node.args]
        out = self.b.op(node.op, *(value for value, _ in args), **dict(node.attrs))
        if all(move is None for move in moves):
            return out, None
        op = primitive(node.op)
        return out, op.jvp(self.b, [value for value, _ in args], out, moves, node.attrs)

    def _leaf(self, node: Node, t: int) -> Tensor:
        if node.op == "constant":
            return torch.tensor(node.attr("value"), dtype=_dtype(node.type)).expand(node.type.shape)
        if node.op == "step_number":
            return torch.tensor(self.start + t, dtype=_dtype(node.type))
        return self.case.batch[node.name][t, self.sample]


def _dtype(type: Type) -> torch.dtype:
    return {"float": torch.float64, "int": torch.int64, "bool": torch.bool}[type.dtype]
