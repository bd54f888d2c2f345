"""Places in the spec of what blocks have made: a node inside `h = gru(x)` points into the block's own file."""

from __future__ import annotations

import re

from recdsl.graph.step import StepGraph
from recdsl.source import Source, Span


def spec_source(graph: StepGraph) -> Source | None:
    """The text that the losses stand in, which is the spec; None for a graph made by hand."""
    return next((loss.span.source for loss in graph.losses if loss.span is not None), None)


def in_spec(span: Span | None, name: str, source: Source | None) -> Span | None:
    """The span, if it lies in the spec; else the equation of the step that assigns the first part of `name`.

    A block call takes the name that it is assigned to, one equation a name, so `h.z` was made by `h = ...`. If there is
    no such line, the span stays as it is.
    """
    if span is None or source is None or span.source is source:
        return span
    step = re.search(r"^step[ ]*:", source.text, re.MULTILINE)
    word = re.escape(name.partition(".")[0].partition("[")[0])
    target = re.compile(rf"^[ ]*(?:[A-Za-z0-9_]+ *, *)*({word}) *(?:,[^=\n]*)?=(?!=)", re.MULTILINE)
    found = target.search(source.text, step.end()) if step else None
    return Span(source, found.start(1), found.end(1)) if found else span
