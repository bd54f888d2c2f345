"""PyYAML's errors in the words of this project."""

from __future__ import annotations

from typing import Any

import yaml

from recdsl.diagnostics import Note, Problem
from recdsl.errors import yaml as errors
from recdsl.source import Source, Span

# A piece of PyYAML's or libyaml's message -> what it means here, and what to do about it. First match wins.
_ADVICE = (
    (
        "mapping values are not allowed",
        "a second `:` in one value",
        "quote the value, or indent the lines of one map alike",
    ),
    (
        "found character",
        "this character cannot begin a value",
        "quote the value",
    ),
    (
        "',' or '}'",
        "a `{...}` map goes wrong here",
        'inside { } quote values that hold brackets or commas: {x: "float[a, b]"}',
    ),
    (
        "',' or ']'",
        "a `[...]` list goes wrong here",
        "inside [ ] quote values that hold brackets or commas",
    ),
    (
        "could not find expected ':'",
        "a line without `key:`",
        "is a `:` missing, or is the line above not closed?",
    ),
    (
        "expected <block end>",
        "this line does not fit the lines above",
        "indent the keys of one map alike; a quoted value ends at its closing quote",
    ),
    (
        "expected key",
        "this line does not fit the lines above",
        "indent the keys of one map alike",
    ),
    (
        "unexpected end of stream",
        "a quote is never closed",
        "close the quote",
    ),
    (
        "escape",
        "an unknown escape in double quotes",
        "write \\\\ for a backslash, or use single quotes",
    ),
)


def syntax_problem(source: Source, error: yaml.YAMLError) -> Problem:
    """The problem for a scanner, parser or reader error."""
    marked: Any = error
    mark = getattr(marked, "problem_mark", None) or getattr(marked, "context_mark", None)
    offset = min(mark.index if mark is not None else getattr(marked, "position", 0) or 0, len(source.text))
    tab = _tab_in_indentation(source, offset)
    if tab is not None:
        return errors.TabIndent(Span(source, tab, tab + 1))
    found = str(getattr(marked, "problem", None) or getattr(marked, "reason", None) or error)
    reason, advice = next(((words, help_) for key, words, help_ in _ADVICE if key in found), (found, ""))
    return errors.YamlSyntax(
        Span(source, offset, min(offset + 1, len(source.text))),
        reason,
        advice,
        notes=_notes(source, marked, offset),
    )


def _tab_in_indentation(source: Source, offset: int) -> int | None:
    """A tab before the first word of the line at `offset`, or of the line before it."""
    line = source.position(offset)[0]
    for number in (line, line - 1):
        if number < 1:
            continue
        text = source.line(number)
        blank = len(text) - len(text.lstrip(" \t"))
        if "\t" in text[:blank] and blank < len(text):
            return source.start_of(number) + text.index("\t")
    return None


def _notes(source: Source, error: Any, offset: int) -> tuple[Note, ...]:
    mark, context = getattr(error, "context_mark", None), getattr(error, "context", None)
    if mark is None or not context or mark.index == offset:
        return ()
    start = min(mark.index, len(source.text))
    return (Note(Span(source, start, min(start + 1, len(source.text))), str(context)),)
