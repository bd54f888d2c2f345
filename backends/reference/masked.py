"""Which entries of which state each scalar of a parameter reaches within some steps, given the masks of weights.

Dependence is followed entry by entry through the step as it is written: beside every value stands a table of zeros and
ones over (scalar, entry of the value). A weight that a mask takes out passes nothing on; whatever else stands in an
equation may (semantics 4.4: R_j is the boolean reach of scalar j).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recdsl.backends.reference import declared
from recdsl.graph.step import LEAVES, Node, StepGraph
from recdsl.graph.types import Type
from recdsl.ops import primitive
from recdsl.ops.base import Elementwise

Table = Tensor
"""float [scalars, *axes]: 1 where the entry depends on the scalar."""
ROUNDS = 3
"""Random draws of parameters: an entry that is zero in all of them is zero because of a mask."""


class Dependence:
    """Of one step of a graph. masks: their values by name."""

    def __init__(self, graph: StepGraph, masks: Mapping[str, Tensor]) -> None:
        self.graph, self.masks = graph, masks
        self.present = self._present()

    def reach(self, source: int, steps: int) -> dict[str, Tensor]:
        """bool [scalars, *axes] by carried value: what a scalar of a node reaches in so many steps."""
        carries = {c.name: c for c in self.graph.carries if c.credited}
        count = max(1, self.graph.nodes[source].type.numel)
        shapes = {name: self.graph.nodes[carry.read].type.shape for name, carry in carries.items()}
        own = torch.eye(count, dtype=torch.float64).reshape(count, *self.graph.nodes[source].type.shape)
        seed = {source: own}
        newest = {name: torch.zeros(count, *shape, dtype=torch.float64) for name, shape in shapes.items()}
        begun = {name: own for name, carry in carries.items() if carry.init == source}
        newest = {**newest, **begun}
        used = self._after(seed, count)
        newest = {name: _one(table + used[carries[name].write]) for name, table in newest.items()}
        found = dict(newest)
        for _ in range(steps - 1):
            made = self._after({carries[name].read: table for name, table in newest.items()}, count)
            newest = {name: made[carry.write] for name, carry in carries.items()}
            found = {name: _one(found[name] + newest[name]) for name in found}
        return {name: table > 0 for name, table in found.items()}

    def _after(self, given: Mapping[int, Table], count: int) -> dict[int, Table]:
        """The tables of all nodes of a step; what is computed from parameters alone depends on nothing new."""
        tables: dict[int, Table] = {}
        for node in self.graph.nodes:
            nothing = torch.zeros(count, *node.type.shape, dtype=torch.float64)
            if node.id in given:
                tables[node.id] = given[node.id].expand(nothing.shape)
            elif node.op in LEAVES or node.id not in self.graph.varying or node.type.dtype != "float":
                tables[node.id] = nothing
            else:
                tables[node.id] = _one(self._node(node, tables, nothing))
        return tables

    def _node(self, node: Node, tables: Mapping[int, Table], nothing: Table) -> Table:
        if primitive(node.op).structure == "zero":
            return nothing
        types = [self.graph.nodes[arg].type for arg in node.args]
        parts = [self._through(node, place, tables[arg], types) for place, arg in enumerate(node.args)]
        return sum((part for part in parts if part is not None), nothing)

    def _through(self, node: Node, place: int, table: Table, types: list[Type]) -> Table | None:
        """What comes through one argument."""
        if types[place].dtype != "float":
            return None
        if node.op in ("where", "add", "sub", "div", "maximum", "minimum") or len(node.args) == 1:
            return self._alone(node, table, types)
        if node.op in ("contract", "mul"):
            other = self.present[node.args[1 - place]].expand(table.shape[0], *types[1 - place].shape)
            pair = [table, other] if place == 0 else [other, table]
            return declared.value(node.op, pair, node.attrs, types, torch.float64)
        if node.op == "concat":
            parts = [table if k == place else torch.zeros(table.shape[0], *t.shape) for k, t in enumerate(types)]
            return declared.value("concat", [p.to(torch.float64) for p in parts], node.attrs, types, torch.float64)
        if node.op == "gather":
            return table.sum(1 + node.attr("at"))
        if node.op == "scatter":
            return table.unsqueeze(1 + node.attr("at")).expand(table.shape[0], *node.type.shape)
        assert isinstance(primitive(node.op), Elementwise), node.op
        return table

    def _alone(self, node: Node, table: Table, types: list[Type]) -> Table:
        if node.op in ("rename", "transpose", "broadcast", "slice", "pad", "sum"):
            return declared.value(node.op, [table], node.attrs, types, torch.float64)
        if node.op in ("logsumexp", "reduce_max"):
            return table.sum(1 + node.attr("at"))
        if node.op == "softmax":
            return table.sum(1 + node.attr("at"), keepdim=True).expand(table.shape)
        return table

    def _present(self) -> dict[int, Tensor]:
        """0 where a value is zero because of a mask, else 1."""
        found: dict[int, Tensor] = {}
        generator = torch.Generator().manual_seed(0)
        for _ in range(ROUNDS):
            values: dict[int, Tensor] = {}
            for node in self.graph.nodes:
                shape = node.type.shape
                if node.id in self.graph.varying or node.type.dtype != "float":
                    present = torch.ones(shape, dtype=torch.float64)
                elif node.op == "parameter":
                    drawn = 0.1 + torch.rand(shape, generator=generator, dtype=torch.float64)
                    values[node.id] = self.masks.get(node.name, drawn)
                    present = (values[node.id] != 0).to(torch.float64)
                elif node.op == "constant":
                    values[node.id] = torch.tensor(node.attr("value"), dtype=torch.float64).expand(shape)
                    present = torch.ones(shape, dtype=torch.float64)
                else:
                    present = self._made(node, values)
                found[node.id] = torch.maximum(found[node.id], present) if node.id in found else present
        return found

    def _made(self, node: Node, values: dict[int, Tensor]) -> Tensor:
        one = torch.ones(node.type.shape, dtype=torch.float64)
        if any(arg not in values for arg in node.args):
            return one
        types = [self.graph.nodes[arg].type for arg in node.args]
        values[node.id] = declared.value(node.op, [values[arg] for arg in node.args], node.attrs, types, torch.float64)
        return (values[node.id] != 0).to(torch.float64)


def _one(table: Table) -> Table:
    return (table > 0).to(torch.float64)
