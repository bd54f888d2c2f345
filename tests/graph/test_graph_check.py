"""The invariant checker rejects broken graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from graph_support import step_of

from recdsl.graph.check import GraphError, verify
from recdsl.graph.step import Node, StepGraph
from recdsl.graph.types import Axis, Type

HEAD = 'sizes: {n: 2}\ninputs: {x: "float[n]"}\nparams: {k: "float[n] = 1"}'


def _graph() -> StepGraph:
    return step_of("h = tanh(k * h[t-1] + x)", HEAD, "mse(h, 0)")


def _with(graph: StepGraph, which: str, **changes: object) -> StepGraph:
    def changed(node: Node) -> Node:
        return replace(node, **changes) if node.op == which else node  # type: ignore[arg-type]

    return replace(graph, nodes=tuple(changed(node) for node in graph.nodes))


def test_a_built_graph_holds() -> None:
    assert verify(_graph()).nodes


MUTANTS: dict[str, Callable[[StepGraph], StepGraph]] = {
    "argument after the node": lambda g: _with(g, "tanh", args=(len(g.nodes) - 1,)),
    "wrong type": lambda g: _with(g, "tanh", type=Type("float", (Axis("m", 2),))),
    "wrong arity": lambda g: _with(g, "tanh", args=(0, 0)),
    "unknown op": lambda g: _with(g, "tanh", op="fanh"),
    "empty axis": lambda g: _with(g, "input", type=Type("float", (Axis("n", 0),))),
    "no loss node": lambda g: replace(g, losses=(replace(g.losses[0], node=0),)),
    "carry without leaf": lambda g: replace(g, carries=(replace(g.carries[0], read=0),)),
    "carry of another type": lambda g: replace(g, carries=(replace(g.carries[0], write=g.losses[0].node),)),
    "varying start": lambda g: replace(g, carries=(replace(g.carries[0], init=0),)),
    "unknown kind": lambda g: replace(g, carries=(replace(g.carries[0], kind="line"),)),
    "parameter gone": lambda g: replace(g, parameters=()),
    "carry gone": lambda g: replace(g, carries=()),
    "output twice": lambda g: replace(g, outputs=(*g.outputs, *g.outputs)),
    "reduction": lambda g: replace(g, reduce="median"),
    "shifted ids": lambda g: replace(g, nodes=g.nodes[1:]),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_mutants_are_rejected(mutant: str) -> None:
    with pytest.raises(GraphError):
        verify(MUTANTS[mutant](_graph()))
