"""Step graphs from text, and their values by the ops' own definitions in float64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from recdsl.diagnostics import SpecError
from recdsl.graph.build import build
from recdsl.graph.check import verify
from recdsl.graph.step import Node, StepGraph
from recdsl.ops import primitive
from recdsl.syntax.spec import read_spec

torch.set_num_threads(1)
DTYPES = {"float": torch.float64, "int": torch.int64, "bool": torch.bool}


def graph_of(text: str, **sizes: int) -> StepGraph:
    """The verified graph of a spec."""
    return verify(build(read_spec(text), sizes))


def step_of(equations: str, head: str = "", loss: str = "mse(0, 0)", **sizes: int) -> StepGraph:
    """The graph of a spec given by its equations and declarations."""
    lines = "\n".join(f"  {line}" for line in equations.strip().splitlines())
    return graph_of(f"recdsl: 1\n{head}\nstep: |\n{lines}\nloss: {loss}\n", **sizes)


def problems(text: str, **sizes: int) -> list[tuple[str, int, int]]:
    """(code, line, column) of each problem of a spec; empty if it has none."""
    try:
        build(read_spec(text), sizes)
    except SpecError as error:
        return [(problem.code, problem.span.line, problem.span.column) for problem in error.problems]
    return []


def parameters(graph: StepGraph, seed: int = 0) -> dict[str, Tensor]:
    """Random values of all parameters."""
    generator = torch.Generator().manual_seed(seed)
    return {p.name: torch.randn(p.type.shape, generator=generator, dtype=torch.float64) for p in graph.parameters}


def values(graph: StepGraph, leaves: Mapping[tuple[str, str], Any]) -> list[Tensor]:
    """All nodes of one step, given the leaves by (op, name)."""
    found: list[Tensor] = []
    for node in graph.nodes:
        found.append(_value(graph, node, leaves, found))
    return found


def _value(graph: StepGraph, node: Node, leaves: Mapping[tuple[str, str], Any], found: Sequence[Tensor]) -> Tensor:
    if node.op == "constant":
        value = torch.as_tensor(node.attr("value"), dtype=DTYPES[node.type.dtype])
        return value.expand(node.type.shape) if value.dim() < len(node.type.axes) else value
    key = (node.op, node.name)
    if key in leaves:
        return torch.as_tensor(leaves[key], dtype=DTYPES[node.type.dtype])
    types = [graph.nodes[arg].type for arg in node.args]
    return primitive(node.op).value(torch, [found[arg] for arg in node.args], node.attrs, types)


def unroll(
    graph: StepGraph, params: Mapping[str, Tensor], steps: Sequence[Mapping[str, Any]]
) -> list[dict[str, Tensor]]:
    """Outputs and losses of each step, from the initial state; a step gives the inputs and targets."""
    given: dict[tuple[str, str], Any] = {("parameter", name): value for name, value in params.items()}
    zeros = {("carry", c.name): torch.zeros(graph.nodes[c.read].type.shape) for c in graph.carries}
    blank = {("target" if e.target else "input", e.name): torch.zeros(e.type.shape) for e in graph.inputs}
    first = values(graph, {**given, **zeros, **blank, ("step_number", "t"): 0})
    carried = {("carry", c.name): first[c.init] for c in graph.carries}
    results: list[dict[str, Tensor]] = []
    for number, step in enumerate(steps):
        inputs = {(op, name): value for name, value in step.items() for op in ("input", "target")}
        found = values(graph, {**given, **carried, **blank, **inputs, ("step_number", "t"): number})
        carried = {("carry", c.name): found[c.write] for c in graph.carries}
        named = {name: found[place] for name, place in graph.outputs}
        results.append({**named, **{f"loss:{loss.name}": found[loss.node] for loss in graph.losses}})
    return results
