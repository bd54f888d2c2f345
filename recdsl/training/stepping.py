"""One step of a model as a plain module: (inputs, state) -> (outputs, state), for torch.export."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from recdsl.backends import find
from recdsl.graph.step import Node, StepGraph
from recdsl.ops import primitive
from recdsl.training.gradcheck import random
from recdsl.training.loading import load
from recdsl.training.pipeline import COMPILER, Compiled, Compiler


class CannotExport(Exception):
    """The model has no such form yet; the text says why."""


class Step(nn.Module):
    """The step graph evaluated by torch ops. Parameters are shared with the compiled model.

    Targets and losses are left out. A state's entry is [batch, *axes], and so is an input's or output's.
    """

    def __init__(self, graph: StepGraph, model: Any) -> None:
        super().__init__()
        self.graph = graph
        needed = required(graph)
        self.nodes = tuple(node for node in graph.nodes if node.id in needed)
        self.inputs = {item.name: item for item in graph.inputs if not item.target}
        self.shown = tuple((name, node) for name, node in graph.outputs if node in needed)
        self.places: dict[str, str] = {}
        for node in self.nodes:
            if node.op == "parameter":
                self.places[node.name] = f"p{len(self.places)}"
                value: Tensor = model.recdsl_tensor(node.name).detach()
                self.register_buffer(self.places[node.name], value.clone(memory_format=torch.contiguous_format))

    def forward(
        self, inputs: dict[str, Tensor], state: dict[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """One step of a batch."""
        size = next(iter(inputs.values())).shape[0]
        values: dict[int, Tensor] = {}
        carried = {carry.read: state[carry.name] for carry in self.graph.carries}
        for node in self.nodes:
            values[node.id] = carried[node.id] if node.id in carried else self._value(node, values, inputs)
        shapes = {node.id: (size, *node.type.shape) for node in self.nodes}
        outputs = {name: values[node].expand(shapes[node]).clone() for name, node in self.shown}
        written = {carry.name: values[carry.write].expand(shapes[carry.write]) for carry in self.graph.carries}
        return outputs, {name: value.clone() for name, value in written.items()}

    def _value(self, node: Node, values: dict[int, Tensor], inputs: dict[str, Tensor]) -> Tensor:
        if node.op == "parameter":
            return self.get_buffer(self.places[node.name])
        if node.op == "input":
            return inputs[node.name]
        dtype = self.dtype
        if node.op == "constant":
            kind = {"float": dtype, "int": torch.long, "bool": torch.bool}[node.type.dtype]
            return torch.tensor(node.attr("value"), dtype=kind).expand(node.type.shape)
        types = [self.graph.nodes[arg].type for arg in node.args]
        return primitive(node.op).value(
            torch, [values[arg] for arg in node.args], (*node.attrs, ("dtype", dtype)), types
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of parameters and states."""
        return next((value.dtype for value in self.buffers()), torch.get_default_dtype())


def required(graph: StepGraph) -> frozenset[int]:
    """Nodes that outputs and next states need, without anything that reads a target. Raises CannotExport."""
    tainted: set[int] = set()
    for node in graph.nodes:
        if node.op == "target" or any(arg in tainted for arg in node.args):
            tainted.add(node.id)
    wanted = [node for _, node in graph.outputs if node not in tainted]
    for carry in graph.carries:
        if carry.write in tainted:
            raise CannotExport(f"the state `{carry.name}` depends on a target")
        wanted += [carry.read, carry.write]
    found: set[int] = set()
    while wanted:
        node = wanted.pop()
        if node not in found:
            found.add(node)
            wanted += graph.nodes[node].args
    if any(graph.nodes[node].op == "step_number" for node in found):
        raise CannotExport("it reads the step number `t`")
    return frozenset(found)


def exported(graph: StepGraph, model: Any, batch: int = 2) -> Any:
    """The `torch.export.ExportedProgram` of one step, for any batch size. Raises CannotExport.

    Its result has been compared with the compiled model's on a random step.
    """
    step = Step(graph, model).eval()
    if not step.inputs:
        raise CannotExport("it has no inputs, so a step has no batch size")
    inputs, state = example(step, batch)
    dynamic = {0: torch.export.Dim("batch", min=1)}
    shapes = (dict.fromkeys(inputs, dynamic), dict.fromkeys(state, dynamic))
    try:
        program = torch.export.export(step, (inputs, state), dynamic_shapes=shapes)
    except Exception as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise CannotExport(f"torch.export refused it ({first[:200]})") from error
    compare(program, step, model)
    return program


def example(step: Step, batch: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """A random step."""
    generator = torch.Generator().manual_seed(0)
    dtype = step.dtype
    inputs = {name: random(item, 1, batch, generator)[0] for name, item in step.inputs.items()}
    inputs = {name: value.to(dtype) if value.is_floating_point() else value for name, value in inputs.items()}
    shapes = {carry.name: (batch, *step.graph.nodes[carry.read].type.shape) for carry in step.graph.carries}
    state = {name: torch.tanh(torch.randn(shape, generator=generator)).to(dtype) for name, shape in shapes.items()}
    return inputs, state


def compare(program: Any, step: Step, model: Any) -> None:
    """The exported step against the compiled model on another batch size. Raises CannotExport if they differ."""
    inputs, state = example(step, 3)
    outputs, after = program.module()(inputs, state)
    with torch.no_grad():
        result = model({name: value[None] for name, value in inputs.items()}, state={**state, "t": torch.tensor(0)})
    pairs = [(outputs[name], result.outputs[name][0]) for name in outputs]
    pairs += [(after[name], result.state[name]) for name in after]
    tolerance = 1e-9 if step.dtype == torch.float64 else 1e-4
    for got, expected in pairs:
        if not torch.allclose(got, expected, rtol=tolerance, atol=tolerance):
            raise CannotExport("the exported step does not compute what the model does")


def step_file(path: str, overrides: Sequence[str]) -> bytes:
    """The exported step of a run folder's model, or of a spec's initial one, as a file's contents.

    Raises SpecError, RunError, CannotExport.
    """
    from recdsl.driver import analyse

    if "\n" not in path and Path(path).is_dir():
        graphs: list[StepGraph] = []

        def build(stored: str, changes: Sequence[str]) -> Compiled:
            graphs.append(analyse(stored, changes).graph)
            return COMPILER.build(stored, changes)

        model: Any = load(path, overrides, compiler=Compiler(COMPILER.read, build)).module
        graph = graphs[-1]
    else:
        compilation = analyse(path, overrides)
        model, graph = find("torch").module(compilation, None), compilation.graph
    buffer = BytesIO()
    torch.export.save(exported(graph, model), buffer)
    return buffer.getvalue()
