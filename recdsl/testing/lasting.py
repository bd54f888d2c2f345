"""Claims about models with a store that lasts as long as the model: whole gradients go back over several calls.

The derivative is that of a call's losses by one shift of the parameters of all calls whose items it reads (semantics
4.12, 5.1). Each call is unrolled by definition (`backends/reference`) with rows that hold the graphs of the calls which
have made them. Of the module only the numbers in its rows are taken, and which item stands where.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recdsl.backends.init import initial
from recdsl.backends.reference.result import Call
from recdsl.backends.reference.schedule import counted, divisors
from recdsl.backends.reference.unroll import Unroll
from recdsl.credit.classes import admitted
from recdsl.graph.step import StepGraph
from recdsl.testing.additions import Draft, draft
from recdsl.testing.cases import random_call
from recdsl.testing.draws import Draws
from recdsl.testing.models import Model, random_model

CALLS = 3
STORE = "past"


def stored(seed: int, *, recurrent: bool = False) -> Draft | None:
    """The model of a seed around a store of the model's life, whose items a net makes of the input alone (`code`) or a
    step of all that it holds; None where nothing can read it. recurrent: the query depends on a state too, so that
    reads are made in a loop."""
    draws = Draws.seeded(seed)
    model = random_model(draws, ())
    made = draft(model)
    entering = next(i.type.axes[0].name for i in model.graph.inputs if i.name == "x")
    readouts = [name for name in made.vectors if name not in made.states]
    if not readouts:
        return None
    axis = draws.choose([*made.vectors.values(), entering])
    made.add("step", f"code = tanh({made.matrix(axis, entering)} @ x)")
    value, width = draws.choose([("code", axis), *made.vectors.items()])
    made.add("memory", f"{STORE}:")
    made.add("memory", f"  slots: {draws.between(2, 7)}")
    made.add("memory", f"  evict: {draws.choose(('oldest', 'least_used'))}")
    made.add("memory", f"  write: {{key: code, value: {value}}}")
    asked = f"{made.matrix(axis, entering)} @ x"
    for state in [name for name in made.states if name in made.vectors][: int(recurrent)]:
        asked += f" + {made.matrix(axis, made.vectors[state])} @ {state}[t-1]"
    query = f'query: "{asked}", score: {draws.choose(("dot", "cosine(sharpness=2)"))}'
    made.add("memory", f"  read: {{{query}, select: {draws.choose(('all', 'topk(2)'))}, normalise: softmax}}")
    site = draws.choose([*readouts, *(name for name in made.states if name in made.vectors)])
    made.join(site, f"{STORE}.read", width)
    return made


@dataclass
class Calls:
    """Calls of a model in a row. params: leaves. items: what was written so far, by part, the first item first."""

    graph: StepGraph
    params: dict[str, Tensor]
    items: list[dict[str, Tensor]]

    def run(self, batch: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """(loss, whole gradients) of the next call. kept: the store as the module has it before."""
        shape = next(iter(batch.values())).shape[:2]
        valid = torch.ones(shape, dtype=torch.bool)
        call = Call(batch, valid, torch.zeros_like(valid), 0, None, {})
        given = {**self.params, **kept, **dict(self._rows(kept))}
        steps, _ = Unroll(self.graph, given, call, frozenset(), torch.float64).run(call.steps, 0)
        chosen = [counted(loss, valid) for loss in self.graph.losses]
        total, found = torch.zeros((), dtype=torch.float64), {n: torch.zeros_like(p) for n, p in self.params.items()}
        for k, (loss, pairs, share) in enumerate(
            zip(self.graph.losses, chosen, divisors(self.graph, chosen), strict=True)
        ):
            values = [steps[t][loss.node].expand(shape[1])[pairs[t]].sum() for t in range(shape[0])]
            part = loss.weight / share * torch.stack(values).sum()
            total = total + part.detach()
            for name, gradient in self._gradients(part):
                if k in admitted(self.graph, name):
                    found[name] = found[name] + gradient
        for values in steps:
            shown = {made.part: values[made.item] for made in self._written}
            wide = {part: value.expand(shape[1], *self._shape(part)) for part, value in shown.items()}
            self.items += [{part: value[b] for part, value in wide.items()} for b in range(shape[1])]
        return total, found

    @property
    def _written(self) -> tuple[Any, ...]:
        return self.graph.memories[0].rows

    def _shape(self, part: str) -> tuple[int, ...]:
        """Of one item; a value that is the same for all samples may come as one."""
        return self.graph.nodes[next(made.item for made in self._written if made.part == part)].type.shape

    def _gradients(self, part: Tensor) -> Iterator[tuple[str, Tensor]]:
        leaves = {name: p for name, p in self.params.items() if p.requires_grad}
        if part.requires_grad:
            more: Any = {"allow_unused": True, "materialize_grads": True, "retain_graph": True}
            yield from zip(leaves, torch.autograd.grad(part, list(leaves.values()), **more), strict=True)

    def _rows(self, kept: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        """Rows with the numbers of the module's and the graphs of the items that they hold."""
        serials = kept[f"{STORE}.serial"].tolist()
        for made in self._written:
            rows = list(kept[f"{STORE}.{made.part}"])
            for slot, serial in enumerate(serials):
                if serial:
                    item = self.items[serial - 1][made.part]
                    rows[slot] = rows[slot] + (item - item.detach())
            yield f"{STORE}.{made.part}", torch.stack(rows)


def followed(compilation: Any, module: Any, seed: int) -> Iterator[tuple[Tensor, Tensor, dict[str, Tensor]]]:
    """(loss of the module, loss, whole gradients) of calls in a row; the module's gradients are made in between."""
    graph: StepGraph = compilation.graph
    names = [item for item in graph.parameters if not item.name.startswith(f"{STORE}.")]
    params = initial(names, seed)
    with torch.no_grad():
        for name, value in params.items():
            module.recdsl_tensor(name).copy_(value)
    trained = {item.name for item in names if not item.frozen}
    calls = Calls(graph, {n: p.clone().requires_grad_(n in trained) for n, p in params.items()}, [])
    for number in range(CALLS):
        case = random_call(Draws.seeded(100 * seed + number), Model("", graph, (), smooth=False), 1, 4)
        batch = {n: v.nan_to_num(0.5) if v.is_floating_point() else v.clamp(max=0) for n, v in case.batch.items()}
        kept = _kept(graph, module)
        module.zero_grad()
        result = module(batch)
        if result.loss.requires_grad:
            result.loss.backward()
        yield result.loss.detach(), *calls.run(batch, kept)


def _kept(graph: StepGraph, module: Any) -> dict[str, Tensor]:
    """The store, as a call finds it."""
    names = [item.name for item in graph.parameters if item.name.startswith(f"{STORE}.")]
    return {name: module.recdsl_tensor(name).detach().clone() for name in [*names, f"{STORE}.serial"]}
