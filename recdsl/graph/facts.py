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
    name = f"{make.__module__}.{make.__qualname__}"

    @wraps(make)
    def found(*args: P.args, **kwargs: P.kwargs) -> R:
        graph, *more = args
        assert isinstance(graph, StepGraph)
        if not kept:
            return make(*args, **kwargs)
        known: dict[Any, Any] = graph.__dict__.setdefault("_facts", {})
        key = (name, *more, *sorted(kwargs.items()))
        if key not in known:
            known[key] = make(*args, **kwargs)
        return known[key]

    return found
