"""Which parameters are trained when: `train: stages`, for networks that grow (Javed et al., JMLR 24(256), 2023).

At each stage the model is compiled anew with the others as constants: their traces cost nothing any more, and verdicts
are those of the parameters that are left (semantics 4.5 d).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from recdsl.credit.select import matches
from recdsl.diagnostics import Problems, suggest
from recdsl.errors.training import StageIdle, StageTwice, StageUnknown
from recdsl.graph.facts import share
from recdsl.graph.step import StepGraph
from recdsl.training.settings import Stage


@dataclass(frozen=True)
class Stages:
    """By parameter, the number of its stage (from 1) and when it is trained; others are trained all the time."""

    numbers: Mapping[str, int]
    spans: Mapping[str, tuple[int, int | None]]

    @property
    def boundaries(self) -> tuple[int, ...]:
        """The updates at which what is trained changes."""
        found = {edge for span in self.spans.values() for edge in span if edge}
        return tuple(sorted(found))

    def constant(self, step: int) -> frozenset[str]:
        """Parameters that update `step` does not train."""
        return frozenset(
            name for name, (start, until) in self.spans.items() if step < start or (until is not None and step >= until)
        )

    def graph(self, graph: StepGraph, step: int) -> StepGraph:
        """The graph of update `step`: what it does not train is frozen."""
        constant = self.constant(step)
        if not constant:
            return graph
        parameters = (replace(p, frozen=p.frozen or p.name in constant) for p in graph.parameters)
        made = replace(graph, parameters=tuple(parameters))
        share(graph, made)
        return made


def resolved(stages: Sequence[Stage], graph: StepGraph, steps: int) -> Stages:
    """Stages by parameter, of a run of so many updates. Raises SpecError (RD0620 to RD0622)."""
    problems = Problems()
    trained = [p.name for p in graph.parameters if not p.frozen]
    numbers: dict[str, int] = {}
    spans: dict[str, tuple[int, int | None]] = {}
    for number, stage in enumerate(stages, 1):
        names = [n for n in trained if matches(stage.parameters, n)]
        if not names:
            near = suggest(stage.parameters, trained)
            problems.add(StageUnknown(stage.span, stage.parameters, near or f"there are {', '.join(trained[:8])}"))
        for name in names:
            if name in numbers:
                problems.add(StageTwice(stage.span, name))
            numbers[name], spans[name] = number, (stage.start, stage.until)
    found = Stages(numbers, spans)
    for step in (0, *found.boundaries) if stages and not problems.found else ():
        if step < steps and found.constant(step).issuperset(trained):
            problems.add(StageIdle(stages[0].span, step))
    problems.check()
    return found
