"""`credit:`, owner sets and `require:` -> the credit plan."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import ceil
from typing import Any

from recdsl.credit.classes import Way, admitted, routing
from recdsl.credit.deferral import decided
from recdsl.credit.deferral import remarks as deferred_remarks
from recdsl.credit.feedback import buffers, product, readouts
from recdsl.credit.flow import Edge
from recdsl.credit.heads import flops, head
from recdsl.credit.lasting import across_calls
from recdsl.credit.memories import spared
from recdsl.credit.notes import remarks
from recdsl.credit.passes import joined
from recdsl.credit.plan import CreditPlan, Head, RoutingClass, Row, Tracing
from recdsl.credit.read import FULL, Choice, Reading, read
from recdsl.credit.replay import remarks as replay_remarks
from recdsl.credit.scopes import CUTS, ScopeError, leaky_readouts
from recdsl.credit.select import near, parameters
from recdsl.credit.stores import wanted
from recdsl.credit.tracing import Tracer, late, scopes
from recdsl.credit.verdict import Case, Judge
from recdsl.diagnostics import Problems
from recdsl.errors.credit import BadRequire, NoMatch, NoScope, Weaker
from recdsl.graph.part import shared
from recdsl.graph.step import Parameter, StepGraph
from recdsl.syntax.ast import CreditDecl, Name

_REQUIRE = re.compile(r"(exact|unbiased)(?:\s+for\s+(\S+))?")
SHOWN = 4
"""Edges that an error names."""
_RANK = {"exact": 0, "frozen": 0, "unbiased": 1, "biased": 2}


def plan(
    graph: StepGraph,
    credit: Sequence[CreditDecl] = (),
    require: Name | None = None,
    stages: Mapping[str, int] | None = None,
    *,
    stream: bool = False,
) -> CreditPlan:
    """All reverse passes of a model and the verdict of each parameter. Raises SpecError with every problem found.

    stages: numbers of parameters that are trained at times of their own. stream: whether losses follow a call in later
    ones that take over its state.
    """
    problems = Problems()
    reading = read(graph, credit, problems)
    problems.check()
    trained = [p.name for p in graph.parameters if not p.frozen]
    numbers = stages or {}
    ways = {n: replace(_way(graph, reading.rules[n], reading, problems), stage=numbers.get(n, 0)) for n in trained}
    rows_ = {name: store for store in reading.stores for name in wanted(graph, store)}
    ways |= {name: _way(graph, _of_rows(reading.rules[name]), reading, problems) for name in rows_}
    problems.check()
    routed_ = [_altered(graph, made, reading) for made in routing(graph, ways)]
    fed = buffers(graph, [(a, b) for made in routed_ for a, b, _ in made.feedback])
    classes = tuple(_traced(graph, _named(graph, made, fed), reading, problems) for made in routed_)
    classes = _answered(graph, classes, reading, problems, stream)
    problems.check()
    judge = Judge(graph)
    tracer = Tracer(graph) if any(made.tracing is not None for made in classes) else None
    if tracer is not None:
        classes = tuple(part for made in classes for part in decided(graph, made, tracer))
    home = {name: made for made in classes for name in made.parameters}
    rows: list[Row] = []
    slots = {name for memory in graph.memories if memory.common for name in shared(graph, memory.name)}
    for parameter in graph.parameters:
        if parameter.name in slots:
            continue
        choice = reading.rules[parameter.name]
        if parameter.frozen:
            rows.append(Row(parameter.name, "", "frozen", (), None, None, (), 0, 0))
            continue
        losses = admitted(graph, parameter.name)
        routed = home[parameter.name]
        case = Case(
            parameter.name,
            choice.text,
            choice.window,
            reading.cuts,
            losses,
            routed.altered,
            spared=routed.spared,
            budget=routed.budget,
            thinned=routed.thinning > 0,
        )
        row = judge.row(case) if routed.tracing is None or tracer is None else tracer.row(case, routed)
        row = row if routed.head is None else _learned(row, routed.head, routed.window.every)
        row = _random(row, judge.crosses(case)) if routed.thinning else row
        row = replace(row, qualifiers=(*row.qualifiers, *judge.altered(case, routed)))
        rows.append(across_calls(judge, case, row, reading.stores))
    told = (*remarks(graph, classes, reading.stores), *deferred_remarks(classes))
    together = joined(graph, classes, [ways[made.parameters[0]].stage for made in classes])
    made = CreditPlan(classes, tuple(rows), told, tuple(fed.values()), reading.stores, together)
    made = replace(made, remarks=(*made.remarks, *replay_remarks(graph, made)))
    if require is not None:
        _required(graph, made, require, problems)
    problems.check()
    return made


def _of_rows(choice: Choice) -> Choice:
    """The rule of a store's rows: that of the other parameters, if it is a window; else the whole call."""
    plain = choice.tracing is None and choice.answering is None and not choice.thinning
    return choice if plain else FULL


def _altered(graph: StepGraph, made: RoutingClass, reading: Reading) -> RoutingClass:
    """The edges of a class that carry another derivative; buffers are named when those of all classes are known.

    An edge that the class cuts carries none.
    """
    own = _fed_back(graph, made.tracing)
    scales = tuple((a, b, weight) for (a, b), weight in sorted(reading.scales.items()) if weight != 1.0)
    return replace(
        made,
        scales=tuple((a, b, weight) for a, b, weight in scales if (a, b) not in made.cuts),
        feedback=tuple((a, b, "") for a, b in sorted((own | reading.feedback) - made.cuts)),
    )


def _fed_back(graph: StepGraph, tracing: Tracing | None) -> frozenset[Edge]:
    """Products that errors come back past, those before a readout that leaks included if traces go on over it."""
    if tracing is None or tracing.feedback != "random":
        return frozenset[Edge]()
    return readouts(graph, leaky_readouts(graph) if tracing.filter == "readout" else ())


def _named(graph: StepGraph, made: RoutingClass, fed: Mapping[int, Parameter]) -> RoutingClass:
    found = [(a, b, fed[k].name) for a, b, _ in made.feedback if (k := product(graph, (a, b))) is not None]
    return replace(made, feedback=tuple(found))


def _random(row: Row, crosses: bool) -> Row:
    """A path that crosses steps survives by chance, with a weight that makes up for it: right on average only."""
    if row.verdict != "exact" or not crosses:
        return row
    words = (word for word in row.qualifiers if word != "unmasked")
    return replace(row, verdict="unbiased", qualifiers=(*words, "random-truncation"))


def _learned(row: Row, made: Head, every: int) -> Row:
    """A net answers for what the windows drop, once in a window."""
    if row.verdict != "biased":
        return row
    more = ceil(flops(made) / every)
    more += 0 if made.asked.mixing is None else row.flops // 3  # a pass back over the states: as much as one forward
    return replace(row, qualifiers=(*row.qualifiers, "learned"), flops=row.flops + more)


def _way(graph: StepGraph, choice: Choice, reading: Reading, problems: Problems) -> Way:
    """A rule's own cuts join those of the spec. A forward rule has no windows that could cut a memory."""
    if choice.tracing is not None:
        own = CUTS[choice.tracing.cuts](graph)
        return Way(choice.window, reading.cuts | own, choice.tracing, choice.thinning, choice.tail)
    kept = spared(graph, reading.through, choice.text, choice.window, problems, every=choice.spares)
    more: dict[str, Any] = {"answering": choice.answering, "budget": choice.budget, "replay": choice.replay}
    return Way(choice.window, reading.cuts, None, choice.thinning, choice.tail, kept, **more)


def _traced(graph: StepGraph, made: RoutingClass, reading: Reading, problems: Problems) -> RoutingClass:
    """A forward class with its scopes; what the graph has none for is reported at the rule."""
    try:
        if made.tracing is None:
            return made
        if made.tracing.feedback == "random" and not _fed_back(graph, made.tracing):
            hint = "leave `feedback` out"
            raise ScopeError("", "no matrix of parameters is multiplied between the states and a loss", hint)
        found = replace(made, scopes=scopes(graph, made))
        return replace(found, late=late(graph, found))
    except ScopeError as error:
        choice = reading.rules[error.parameter if error.parameter in reading.rules else made.parameters[0]]
        assert choice.span is not None, "a rule that traces is written somewhere"
        problems.add(NoScope(choice.span, choice.text, str(error), error.hint))
        return made


def _answered(
    graph: StepGraph, classes: tuple[RoutingClass, ...], reading: Reading, problems: Problems, stream: bool
) -> tuple[RoutingClass, ...]:
    """The classes with the nets that their rules ask for."""
    found: list[RoutingClass] = []
    count = 0
    for made in classes:
        choice = reading.rules[made.parameters[0]]
        if choice.answering is not None:
            try:
                made = replace(made, head=head(graph, made, choice.answering, count, stream))
            except ScopeError as error:
                assert choice.span is not None, "a rule with arguments is written somewhere"
                problems.add(NoScope(choice.span, choice.text, str(error), error.hint))
            count += made.head is not None
        found.append(made)
    return tuple(found)


def _required(graph: StepGraph, made: CreditPlan, require: Name, problems: Problems) -> None:
    """Compare the verdicts with what `require` asks for."""
    found = _REQUIRE.fullmatch(require.text.strip())
    if found is None:
        problems.add(BadRequire(require.span, require.text))
        return
    wanted, selector = found[1], found[2]
    names = parameters(graph, selector) if selector else tuple(row.parameter for row in made.rows)
    if not names:
        problems.add(NoMatch(require.span, selector, near(graph, selector)))
    weaker: dict[tuple[str, str], list[Row]] = {}
    for row in made.rows:
        if row.parameter in names and _RANK[row.verdict] > _RANK[wanted]:
            weaker.setdefault((row.rule, row.verdict), []).append(row)
    for (rule, verdict), rows in weaker.items():
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        said = f"`{rows[0].parameter}`{more} {'are' if more else 'is'} {verdict}"
        problems.add(Weaker(require.span, said, rule, wanted, reason(rows[0])))


def reason(row: Row) -> str:
    """Why a verdict is not exact, in words."""
    if not row.dropped:
        return "draws are right on average only"
    edges = ", ".join(f"`{d.edge}`" + (f" (line {d.line})" if d.line else "") for d in row.dropped[:SHOWN])
    edges += f" and {len(row.dropped) - SHOWN} more" if len(row.dropped) > SHOWN else ""
    return f"credit is dropped from lag {row.first_dropped_lag} on, at {edges}"
