"""Runs an assembled program with the plain interpreter: what a backend's runtime does, by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from recdsl.backends.reference import Result
from recdsl.backends.reference.answered import followed
from recdsl.backends.reference.result import Call
from recdsl.backends.reference.schedule import counted, divisors
from recdsl.backends.torch.module import ragged_pair
from recdsl.program.assemble import assemble
from recdsl.program.interface import Assembled
from recdsl.program.interpreter import Machine
from recdsl.testing import Case

torch.set_num_threads(1)


def assembled(case: Case, *, optimise: bool = True) -> Assembled:
    """The plain program, or the one with mask and reset where the case has either."""
    if case.mask is None and case.reset is None:
        return assemble(case.graph, case.plan, optimise=optimise)
    return assemble(*ragged_pair(case.graph, case.plan), optimise=optimise)


def run(case: Case, made: Assembled) -> Result:
    """The entries `start`, `forward` and one of the backward ones."""
    return played(case, made)[0]


def played(case: Case, made: Assembled) -> tuple[Result, dict[str, Tensor]]:
    """The same, and the traces that the call leaves."""
    steps, samples = extent(case)
    counts = {f"windows{k}": -(-steps // c.window.every) for k, c in enumerate(case.plan.classes)}
    machine = Machine(made.program, torch, {"T": steps, "B": samples, **counts})
    for name, value in fed(case, made).items():
        if name in machine.cells:
            machine.put(name, value)
    assert machine.run("start")
    start_state(case, made, machine)
    assert machine.run("forward")
    face = made.interface
    outputs = {name: wide(case, name, machine.get(storage)) for storage, name in face.outputs}
    losses = {loss.name: machine.get(storage) for loss, storage in zip(case.graph.losses, face.losses, strict=True)}
    held = {name for name, _ in face.traces}
    state = {name: machine.get(storage) for storage, name in face.next_states if name not in held}
    state["t"] = torch.tensor((0 if case.state is None else int(case.state["t"])) + steps)
    assert machine.run("backward_outputs" if case.cotangents else "backward")
    if any(name == "windows" for name, _ in made.program.entries):
        assert machine.run("windows_outputs" if case.cotangents else "windows")
    if face.traced:
        assert machine.run("traces_outputs" if case.cotangents else "traces")
    gradients = {name: machine.get(storage) for storage, name in face.gradients}
    loss = torch.zeros((), dtype=torch.float64)
    for item in case.graph.losses:
        loss = loss + item.weight * losses[item.name]
    traces = {name: machine.get(storage) for storage, name in face.next_states if name in held}
    return Result(outputs, loss, losses, state, gradients), traces


def extent(case: Case) -> tuple[int, int]:
    first = next(iter(case.batch.values()))
    return first.shape[0], first.shape[1]


def wide(case: Case, name: str, value: Tensor) -> Tensor:
    """An output that does not vary stands at every step."""
    shape = case.graph.nodes[dict(case.graph.outputs)[name]].type.shape
    return value.expand(*extent(case), *shape) if value.dim() == len(shape) else value


def fed(case: Case, made: Assembled) -> dict[str, Any]:
    """Every storage that is given from outside, but the incoming state."""
    shape = extent(case)
    valid = torch.ones(shape, dtype=torch.bool) if case.mask is None else case.mask
    first = 0 if case.state is None else int(case.state["t"])
    given: dict[str, Tensor] = {name: clean(value, valid) for name, value in case.batch.items()}
    given |= {"mask": valid, "reset": torch.zeros(shape, dtype=torch.bool) if case.reset is None else case.reset}
    given["t"] = torch.arange(first, first + shape[0], dtype=torch.float64)[:, None].expand(shape)
    data: dict[str, Any] = {storage: given[name] for storage, name in made.interface.inputs}
    data |= {storage: case.params[name] for storage, name in made.interface.parameters}
    data["fresh"] = 1.0 if case.state is None else 0.0
    chosen = [counted(loss, valid, state=case.state) for loss in case.graph.losses]
    for k, (pairs, number) in enumerate(zip(chosen, divisors(case.graph, chosen), strict=True)):
        data[f"w{k}"] = pairs.to(torch.float64) / number
        data[f"g{k}"] = data[f"w{k}"] * case.graph.losses[k].weight
    return data | cuts(case, made, shape) | cotangents(case, made, shape) | answers(case, made, chosen)


def cuts(case: Case, made: Assembled, shape: tuple[int, int]) -> dict[str, Tensor]:
    """What credit is multiplied by that enters a step over so many others: 0 where one of them begins a window."""
    found: dict[str, Tensor] = {}
    for name, k, lag in made.interface.thinned:
        if not (grid := case.plan.classes[k].grid):
            continue
        begins = [any(s > 0 and s % grid == 0 for s in range(t - lag + 1, t + 1)) for t in range(shape[0])]
        found[name] = (~torch.tensor(begins)).to(torch.float64)[:, None].expand(shape)
    return found


def answers(case: Case, made: Assembled, chosen: list[Tensor]) -> dict[str, Any]:
    """For each net that answers for windows: where something follows, and what it learns from."""
    found: dict[str, Any] = {}
    call = oracle_call(case)
    for k in made.interface.heads:
        routing = case.plan.classes[k]
        assert routing.head is not None
        every, beyond = routing.window.every, routing.head.beyond
        places = [*range(0, call.steps, every), call.steps]
        goes = torch.stack([followed(call, place, beyond) for place in places]).to(torch.float64)
        learns = goes.clone()
        learns[-1] = 0.0
        if case.state is None or not beyond or routing.head.asked.condition:
            learns[0] = 0.0
        numbers = divisors(case.graph, chosen)
        share = max([numbers[loss] for loss in routing.losses], default=1.0)
        found |= {f"goes{k}": goes / share, f"learn{k}": learns / max(1.0, float(learns.sum()))}
        found |= {f"unit{k}": 1.0, f"share{k}": share}
    return found


def oracle_call(case: Case) -> Call:
    shape = extent(case)
    valid = torch.ones(shape, dtype=torch.bool) if case.mask is None else case.mask
    reset = torch.zeros(shape, dtype=torch.bool) if case.reset is None else case.reset
    return Call({}, valid, reset, 0, None, {})


def cotangents(case: Case, made: Assembled, shape: tuple[int, int]) -> dict[str, Tensor]:
    declared = {storage.name: storage for storage in made.program.storages}
    found: dict[str, Tensor] = {}
    for storage, name in made.interface.output_cotangents:
        if storage not in declared:
            continue
        own = case.graph.nodes[dict(case.graph.outputs)[name]].type.shape
        value = case.cotangents.get(name, torch.zeros((*shape, *own), dtype=torch.float64))
        found[storage] = value if declared[storage].type.lead else value.sum((0, 1))
    return found


def clean(value: Tensor, valid: Tensor) -> Tensor:
    """Zeros at masked steps."""
    keep = valid.reshape(*valid.shape, *(1,) * (value.dim() - 2))
    return torch.where(keep, value, torch.zeros_like(value))


def start_state(case: Case, made: Assembled, machine: Machine) -> None:
    """The initial values that `start` has computed, or the case's state."""
    _, samples = extent(case)
    storages = {name: storage for storage, name in made.interface.states}
    if case.state is not None:
        values: dict[str, Tensor] = {name: case.state[name] for name in storages if name in case.state}
        for name, shape in made.interface.traces:
            values[name] = torch.zeros((samples, *shape), dtype=torch.float64)
    else:
        values = {name: machine.get(init) for init, carries in made.interface.inits for name in carries}
        values = {name: value.expand(samples, *value.shape) for name, value in values.items()}
    for name, storage in storages.items():
        machine.put(storage, values[name])
