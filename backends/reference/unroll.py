"""The forward equations, one step after the other, with the places where a rule stops gradient."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recdsl.backends.reference import declared, tape
from recdsl.backends.reference.result import Call
from recdsl.credit.plan import RoutingClass
from recdsl.graph.step import Carry, Node, StepGraph
from recdsl.graph.types import Type

Edges = frozenset[tuple[int, int]]
Values = dict[int, Tensor]


class Unroll:
    """The unrolled network of one call under one rule: `cuts` are edges whose value is detached for their consumer."""

    def __init__(
        self,
        graph: StepGraph,
        params: Mapping[str, Tensor],
        call: Call,
        cuts: Edges,
        dtype: torch.dtype,
        routing: RoutingClass | None = None,
    ) -> None:
        """routing: whose edges are scaled or fed back; None: no one's."""
        self.graph, self.params, self.call, self.cuts, self.dtype = graph, params, call, cuts, dtype
        self.scales = {(a, b): weight for a, b, weight in routing.scales} if routing else {}
        self.feedback = {(a, b): name for a, b, name in routing.feedback} if routing else {}

    def run(self, stop: int, boundary: int) -> tuple[list[Values], dict[str, Tensor]]:
        """Values of steps 0 .. stop - 1 and what is carried out of the last of them.

        In a masked row, `values[carry.write]` is what was carried in: an output that is a state stands still.
        Everything carried is detached on entering step `boundary`, where that is above 0.
        """
        carried = self._start()
        steps: list[Values] = []
        for t in range(stop):
            if t == boundary > 0:
                carried = {name: value.detach() for name, value in carried.items()}
            values, carried = self._step(t, carried)
            steps.append(values)
        return steps, carried

    def _start(self) -> dict[str, Tensor]:
        state = self.call.state
        if state is not None:
            known = [carry for carry in self.graph.carries if not carry.taped]
            return {carry.name: self._given(state[carry.name], carry) for carry in known} | self._empty()
        fixed = self.invariant()
        started = {carry.name: self._wide(self.initial(carry.init, fixed), carry) for carry in self.graph.carries}
        return started | self._empty()

    def _empty(self) -> dict[str, Tensor]:
        """Tapes without slots, [B, 0, *axes]."""
        shapes = {c.name: self.graph.nodes[c.read].type.shape for c in self.graph.carries if c.taped}
        return {n: torch.zeros((self.call.samples, 0, *s), dtype=self.dtype) for n, s in shapes.items()}

    def _step(self, t: int, carried: Mapping[str, Tensor]) -> tuple[Values, dict[str, Tensor]]:
        """One step: reset, evaluate, carry. A masked row carries what it entered with, after the reset."""
        values = self.invariant()
        entering: dict[str, Tensor] = {}
        for carry in self.graph.carries:
            if carry.taped:
                values[carry.read] = entering[carry.name] = carried[carry.name]
                continue
            restart = self.call.reset[t] if carry.resets else torch.zeros_like(self.call.reset[t])
            reset = _column(restart, carried[carry.name])
            initial = self._wide(self.initial(carry.init, values), carry)
            crossed = self.crossed(carry.name, carried[carry.name], t)
            entering[carry.name] = self.entered(carry.name, torch.where(reset, initial, crossed), t)
            values[carry.read] = entering[carry.name]
        for node in self.graph.nodes:
            if node.id not in values:
                values[node.id] = self._node(node, values, t)
        leaving: dict[str, Tensor] = {}
        shown: Values = {}
        seen = self.read(values, t)
        for carry in self.graph.carries:
            if carry.taped:
                leaving[carry.name] = self._wound(carry, values[carry.write], t)
                continue
            new = self._wide(self.initial(carry.write, values), carry)
            valid = _column(self.call.valid[t], new)
            if carry.kind == "state":
                made = self._wide(self.initial(carry.write, seen), carry)
                shown[carry.write] = torch.where(valid, made, entering[carry.name])
            new = new.detach() if (carry.write, carry.read) in self.cuts else self.leaves(new)
            new = self._weighted(new, (carry.write, carry.read))
            leaving[carry.name] = torch.where(valid, new, entering[carry.name])
        return seen | shown, leaving

    def _wound(self, carry: Carry, slots: Tensor, t: int) -> Tensor:
        """A tape as a step leaves it: masked steps leave no stamp."""
        if carry.kind != "stamp":
            return slots
        last = torch.where(self.call.valid[t], slots[:, -1], -torch.ones_like(slots[:, -1]))
        return torch.cat((slots[:, :-1], last.unsqueeze(1)), 1)

    def invariant(self) -> Values:
        """What does not vary: parameters, constants, and what is computed from them."""
        values: Values = {}
        for node in self.graph.nodes:
            if node.id not in self.graph.varying:
                values[node.id] = self._node(node, values, 0)
        return values

    def _node(self, node: Node, values: Values, t: int) -> Tensor:
        if node.op == "parameter":
            return self.params[node.name]
        if node.op == "constant":
            return torch.tensor(node.attr("value"), dtype=self._dtype(node)).expand(node.type.shape)
        if node.op == "step_number":
            return torch.tensor(self.call.start + t, dtype=self._dtype(node))
        if node.op in ("input", "target"):
            return self.call.batch[node.name][t]
        args = [self._weighted(self.operand(arg, node, values), (arg, node.id)) for arg in node.args]
        types = [self.graph.nodes[arg].type for arg in node.args]
        if node.op in ("append", "fetch", "nearest"):
            return tape.value(node, args, types, self.dtype)
        made = declared.value(node.op, args, node.attrs, types, self.dtype)
        for place, arg in enumerate(node.args):
            if (arg, node.id) in self.feedback:
                made = self._fed_back(node, args, types, place)
        return made

    def _weighted(self, value: Tensor, edge: tuple[int, int]) -> Tensor:
        """The value, with a derivative so many times as large."""
        weight = self.scales.get(edge)
        return value if weight is None else value.detach() + weight * (value - value.detach())

    def _fed_back(self, node: Node, args: list[Tensor], types: list[Type], place: int) -> Tensor:
        """W x with credit for W as it is, and for x through the matrix B: W x and B x, each with half of the graph."""
        random = self.params[self.feedback[node.args[place], node.id]]
        still = [arg.detach() if k == place else arg for k, arg in enumerate(args)]
        other = [arg if k == place else random.expand(arg.shape) for k, arg in enumerate(args)]
        kept = declared.value(node.op, still, node.attrs, types, self.dtype)
        back = declared.value(node.op, other, node.attrs, types, self.dtype)
        return kept + (back - back.detach())

    # -- what rules change ----------------------------------------------------------------------------------------
    def operand(self, arg: int, node: Node, values: Values) -> Tensor:
        """What a node reads of another."""
        return values[arg].detach() if (arg, node.id) in self.cuts else values[arg]

    def initial(self, node: int, values: Values) -> Tensor:
        """What a state starts from."""
        return values[node]

    def crossed(self, name: str, value: Tensor, t: int) -> Tensor:
        """What comes over the boundary before step t."""
        return value

    def entered(self, name: str, value: Tensor, t: int) -> Tensor:
        """What step t sees of a carried value."""
        return value

    def leaves(self, value: Tensor) -> Tensor:
        """What a step that is not masked hands on."""
        return value

    def read(self, values: Values, t: int) -> Values:
        """What losses and outputs see of a step."""
        return values

    def _dtype(self, node: Node) -> torch.dtype:
        return {"float": self.dtype, "int": torch.int64, "bool": torch.bool}[node.type.dtype]

    def _given(self, value: Tensor, carry: Carry) -> Tensor:
        """A row of an incoming state: a constant."""
        return value.detach().to(self._dtype(self.graph.nodes[carry.read]))

    def _wide(self, value: Tensor, carry: Carry) -> Tensor:
        """With the batch in front."""
        return value.expand(self.call.samples, *self.graph.nodes[carry.read].type.shape)


def _column(flags: Tensor, like: Tensor) -> Tensor:
    """bool [B] -> [B, 1, ...] to broadcast against `like`."""
    return flags.reshape(-1, *(1,) * (like.dim() - 1))
