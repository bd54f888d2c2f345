"""Facts of a step graph that many ask for: made once for each graph, and gone with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from recdsl.graph.step import StepGraph

P = ParamSpec("P")
R = TypeVar("R")
kept = True
"""Whether facts are kept: tests that plant faults in what makes them say no."""


def once(make: Callable[P, R]) -> Callable[P, R]:
    """A function of a graph (and of what can be hashed) that gives what it gave before. Nobody may change that."""
    return _found(make, "_facts")


def once_for_nodes(make: Callable[P, R]) -> Callable[P, R]:
    """The same for what does not ask which parameters are trained: graphs that differ in this alone share it."""
    return _found(make, NODES)


def share(graph: StepGraph, other: StepGraph) -> None:
    """Two graphs that differ in their parameters alone."""
    assert graph.nodes is other.nodes
    other.__dict__[NODES] = graph.__dict__.setdefault(NODES, {})


NODES = "_facts_of_nodes"


def _found(make: Callable[P, R], where: str) -> Callable[P, R]:
    name = f"{make.__module__}.{make.__qualname__}"

    @wraps(make)
    def found(*args: P.args, **kwargs: P.kwargs) -> R:
        graph, *more = args
        assert isinstance(graph, StepGraph)
        if not kept:
            return make(*args, **kwargs)
        known: dict[Any, Any] = graph.__dict__.setdefault(where, {})
        key = (name, *more, *sorted(kwargs.items()))
        if key not in known:
            known[key] = make(*args, **kwargs)
        return known[key]

    return found
