"""Leaves that a class's rule adds to the timeline: what a call draws at random, what a net answers."""

from __future__ import annotations

from collections.abc import Mapping

from recdsl.credit.influence import states
from recdsl.credit.kronecker import blocks, draws
from recdsl.credit.plan import CreditPlan
from recdsl.graph.step import StepGraph
from recdsl.graph.types import FLOAT, Type
from recdsl.program.answers import behind_name, mixed_name
from recdsl.program.rank_one import sign_name
from recdsl.program.timeline import TimelineBuilder


def thinned(b: TimelineBuilder, plan: CreditPlan, index: int) -> dict[int, int]:
    """By lag, what a class multiplies credit by that crosses so many steps: a number a step and sample."""
    if not plan.classes[index].thinning and not plan.classes[index].grid:
        return {}
    lags = {node.attr("lag") for node in b.nodes if node.op == "prev"}
    return {lag: b.leaf("input", f".thin{index}_{lag}", FLOAT, time=True) for lag in sorted(lags)}


def behind(b: TimelineBuilder, graph: StepGraph, plan: CreditPlan, index: int) -> dict[str, int]:
    """By carry, what a class's net answers for the losses behind a window."""
    made = plan.classes[index].head
    return {} if made is None else _behind(b, graph, {name: behind_name(index, name) for name in made.carries})


def mixed(b: TimelineBuilder, graph: StepGraph, plan: CreditPlan, index: int) -> dict[str, int]:
    """By carry, what stands there where the net's targets are made; empty where that is its answer."""
    made = plan.classes[index].head
    if made is None or made.asked.mixing is None:
        return {}
    return _behind(b, graph, {name: mixed_name(index, name) for name in made.carries})


def _behind(b: TimelineBuilder, graph: StepGraph, names: Mapping[str, str]) -> dict[str, int]:
    types = {c.name: graph.nodes[c.read].type for c in graph.carries}
    return {name: b.leaf("behind", leaf, types[name], time=True) for name, leaf in names.items()}


def signs(b: TimelineBuilder, graph: StepGraph, plan: CreditPlan, index: int) -> dict[str, int]:
    """By carry, the random signs that a class mixes influences with."""
    tracing = plan.classes[index].tracing
    if tracing is None or not tracing.random:
        return {}
    if tracing.scope == "kronecker":
        labels = draws(blocks(graph, plan.classes[index].parameters))
        return {label: b.leaf("input", sign_name(index, label), FLOAT, time=True) for label in labels}
    shapes = {c.name: Type("float", graph.nodes[c.read].type.axes) for c in states(graph)}
    return {n: b.leaf("input", sign_name(index, n), type, time=True) for n, type in sorted(shapes.items())}
