"""Small graphs on which credit is easily given wrongly, and the gradient of every rule on them in float64."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Generator, Tensor

from recdsl.backends import find
from recdsl.backends.reference import Reference
from recdsl.credit.plan import Row
from recdsl.driver import Compilation, analyse

torch.set_num_threads(1)

RULES = ("bptt", "tbptt(window=4)", "none", "rtrl", "snap(1)", "snap(2)", "snap(3)", "columns", "rflo", "eprop")
RANDOM = ("uoro", "uoro(batch=joint)", "artbp(mean=4)")
"""Right on average."""
SAMPLES = 2
HEAD = """\
recdsl: 1
name: NAME
sizes: {inp: 2, n: 3, slot: 3, cell: 2, out: 2}
inputs: {x: "float[inp]"}
targets: {y: "float[out]"}
"""
END = "loss: mse(p, y)\n"
SLOTS = """\
params:
  R, K: float[slot, inp] ~ glorot
  V: float[cell, inp] ~ glorot
  U: float[cell, cell] ~ orthogonal
states: {M: "float[slot, cell]"}
step: |
  seen = softmax(R @ x) @ M[t-1]
  where_to = softmax(K @ x)
  what = tanh(V @ x + U @ seen)
  M = (1 - where_to) * M[t-1] + where_to * what
  p = linear(seen, size=out)
"""


def _layers(*cells: str) -> str:
    """Cells on top of each other, with a linear readout of the last."""
    lines = [f"  h{k} = {cell}({f'h{k - 1}' if k else 'x'}, size=n)\n" for k, cell in enumerate(cells)]
    return "step: |\n" + "".join(lines) + f"  p = linear(h{len(cells) - 1}, size=out)\n"


GRAPHS = {
    "gru": _layers("gru"),
    "lstm": _layers("lstm"),
    "two_grus": _layers("gru", "gru"),
    "two_rnns": _layers("elman", "elman"),
    "soft_slots": SLOTS,
}


@dataclass(frozen=True)
class Measured:
    """A parameter's row of the plan, its gradient under the rule, and the whole gradient."""

    row: Row
    got: Tensor
    whole: Tensor

    @property
    def exact(self) -> bool:
        return self.row.verdict == "exact"

    @property
    def apart(self) -> float:
        """|got - whole| / |whole|; 0 where both are zero."""
        return float((self.got - self.whole).norm() / max(float(self.whole.norm()), 1e-300))

    @property
    def vanishes(self) -> bool:
        return not bool(self.whole.any())


def text(graph: str, credit: str = "") -> str:
    """A spec; `credit` is a block of lines."""
    return HEAD.replace("NAME", graph) + GRAPHS[graph] + END + credit


@cache
def compiled(graph: str, rule: str) -> Compilation:
    """rule: a call for everything, or, where it holds a newline, a block of lines."""
    return analyse(text(graph, rule)) if "\n" in rule else analyse(text(graph), [f"credit={rule}"])


@cache
def numbers(graph: str, steps: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(parameters, batch): random, so that no gradient vanishes by chance."""
    generator = Generator().manual_seed(7)
    made = compiled(graph, "bptt").graph
    params = {p.name: 1.6 * _uniform(p.type.shape, generator) - 0.8 for p in made.parameters}
    batch = {i.name: 4 * _uniform((steps, SAMPLES, *i.type.shape), generator) - 2 for i in made.inputs}
    return params, batch


def _uniform(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.rand(shape, generator=generator, dtype=torch.float64)


@cache
def whole(graph: str, steps: int) -> dict[str, Tensor]:
    """The gradient of full BPTT by plain autograd."""
    made = compiled(graph, "bptt")
    return Reference(made.graph, made.plan).full(*numbers(graph, steps)).gradients


@cache
def measured(graph: str, rule: str, steps: int) -> dict[str, Measured]:
    """The compiled module's gradient of every parameter."""
    params, batch = numbers(graph, steps)
    made = compiled(graph, rule)
    module = find("torch").module(made, torch.float64)
    module.load_state_dict(params)
    module(batch).loss.backward()
    got = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in module.named_parameters()}
    return {row.parameter: Measured(row, got[row.parameter], whole(graph, steps)[row.parameter])
            for row in made.plan.rows}  # fmt: skip


def draws(graph: str, rule: str, steps: int, count: int) -> list[dict[str, Tensor]]:
    """Gradients of a rule with random draws, one for each of `count` calls."""
    params, batch = numbers(graph, steps)
    module = find("torch").module(compiled(graph, rule), torch.float64)
    module.load_state_dict(params)
    torch.manual_seed(5)
    found: list[dict[str, Tensor]] = []
    for _ in range(count):
        module.zero_grad()
        module(batch).loss.backward()
        found.append({name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None})
    return found


def definition(graph: str, rule: str, steps: int) -> dict[str, Tensor]:
    """The gradient by the rule's own definition."""
    made = compiled(graph, rule)
    return Reference(made.graph, made.plan).run(*numbers(graph, steps)).gradients
