"""The net that a rule brings along to answer for the losses behind a window: what it reads, and its parameters."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from recdsl.credit.flow import flow_of
from recdsl.credit.plan import Answering, Head, RoutingClass
from recdsl.credit.scopes import ScopeError
from recdsl.diagnostics import suggest
from recdsl.graph.step import Carry, Input, Parameter, StepGraph
from recdsl.graph.types import Axis, Type

NAME = "credit.synthetic"
FLOAT_BYTES = 4
LARGEST = 2**33
"""Bytes of a net."""


def head(graph: StepGraph, routing: RoutingClass, asked: Answering, count: int, beyond: bool) -> Head | None:
    """The net of a class, the `count`-th of the model; None where no carried value takes part in its credit.

    Raises ScopeError for a condition that the model does not have, and for a name that the model uses itself.
    """
    condition = _condition(graph, asked.condition) if asked.condition else 0
    carries = answered(graph, routing)
    if not carries:
        return None
    if any(not memory.common for memory in graph.memories):
        hint = "give the parameters another rule, such as `bptt` or `sab`"
        raise ScopeError("", "a net for the slots of a memory is not supported yet", hint)
    name = NAME if count == 0 else f"{NAME}{count + 1}"
    if any(f"{p.name}.".startswith(f"{name}.") or f"{name}.".startswith(f"{p.name}.") for p in graph.parameters):
        raise ScopeError("", f"its net is called `{name}`, and so is a part of the model", "call that something else")
    size = sum(graph.nodes[carry.read].type.numel for carry in carries)
    parameters = net(name, size, size + condition, asked.hidden)
    if large(parameters):
        raise ScopeError("", large(parameters), "make `hidden` smaller")
    return Head(name, asked, tuple(carry.name for carry in carries), parameters, beyond)


def answered(graph: StepGraph, routing: RoutingClass) -> tuple[Carry, ...]:
    """Carried numbers between the class's parameters and its losses, by name. Delayed inputs have none."""
    flow = flow_of(graph)
    leaves = [graph.leaf[f"parameter:{name}"] for name in routing.parameters if f"parameter:{name}" in graph.leaf]
    reached = flow.forward(leaves, routing.cuts)
    live = flow.backward([graph.losses[k].root for k in routing.losses], routing.cuts)
    between = reached & live
    found = [
        carry
        for carry in graph.carries
        if carry.kind != "input" and graph.nodes[carry.read].type.dtype == "float" and carry.read in between
    ]
    return tuple(sorted(found, key=lambda carry: carry.name))


def width(item: Input) -> int:
    """Entries of a condition: one for each class, or those of its type."""
    return item.size if item.kind in ("onehot", "class", "token") else item.type.numel


def _condition(graph: StepGraph, name: str) -> int:
    """Its entries."""
    known = {item.name: item for item in graph.inputs if item.kind != "bool"}
    if name not in known:
        hint = suggest(name, known) or f"inputs and targets: {', '.join(known) or 'none'}"
        raise ScopeError("", f"there is no input or target `{name}` that its net could read", hint)
    return width(known[name])


def net(name: str, size: int, entries: int, hidden: int) -> tuple[Parameter, ...]:
    """Parameters of a net from so many entries to so many answers. The last layer starts at zero, so that the first
    answers are zero (Jaderberg et al. 2017)."""
    answer, read, between = Axis("answer", size), Axis("read", entries), Axis("hidden", hidden)
    zeros = ("constant", (0.0,))
    if not hidden:
        return (
            Parameter(f"{name}.W", Type("float", (answer, read)), zeros, (), False, None),
            Parameter(f"{name}.b", Type("float", (answer,)), zeros, (), False, None),
        )
    bound = sqrt(1.0 / entries)
    return (
        Parameter(f"{name}.W1", Type("float", (between, read)), ("uniform", (-bound, bound)), (), False, None),
        Parameter(f"{name}.b1", Type("float", (between,)), ("uniform", (-bound, bound)), (), False, None),
        Parameter(f"{name}.W2", Type("float", (answer, between)), zeros, (), False, None),
        Parameter(f"{name}.b2", Type("float", (answer,)), zeros, (), False, None),
    )


def large(parameters: Sequence[Parameter]) -> str:
    """Why a net is not made; empty if it can be."""
    size = FLOAT_BYTES * sum(item.type.numel for item in parameters)
    return f"its net takes {size:,} bytes, more than {LARGEST:,}" if size > LARGEST else ""


def flops(made: Head) -> int:
    """Of one answer and of what is learned from it, for one sample: forward, and twice that backward."""
    return 3 * sum(2 * item.type.numel for item in made.parameters)
