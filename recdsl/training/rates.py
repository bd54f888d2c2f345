"""Learning rates of groups of parameters: `train: lr`, by the selectors that `credit:` has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from recdsl.credit.select import matches, near
from recdsl.diagnostics import Problems
from recdsl.errors.training import RateTwice, RateUnknown
from recdsl.graph.step import StepGraph
from recdsl.training.settings import Rate


def check(rates: Sequence[Rate], graph: StepGraph) -> None:
    """Each selector names parameters that are trained, and no two give one of them different rates.

    Raises SpecError (RD0625, RD0626).
    """
    problems = Problems()
    chosen: dict[str, Rate] = {}
    for rate in rates:
        names = [p.name for p in graph.parameters if not p.frozen and matches(rate.selector, p.name)]
        if not names:
            problems.add(RateUnknown(rate.span, rate.selector, _hint(graph, rate.selector)))
        for name in names:
            first = chosen.setdefault(name, rate)
            if first.value != rate.value:
                problems.add(RateTwice(rate.span, f"`{name}`", f"`{first.selector}`", f"`{rate.selector}`"))
                break
    problems.check()


def _hint(graph: StepGraph, selector: str) -> str:
    if selector.startswith("credit."):
        return "the net of a credit rule has its rate there: `synthetic(lr=1e-3)`"
    if any(matches(selector, p.name) for p in graph.parameters):
        return "what it names is `frozen`"
    return near(graph, selector)


def by_parameter(rates: Sequence[Rate], names: Iterable[str]) -> Mapping[str, float]:
    """The rates of the parameters that have one of their own, of rates that are checked."""
    return {name: rate.value for name in names for rate in rates if matches(rate.selector, name)}
