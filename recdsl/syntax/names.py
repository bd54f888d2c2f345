"""The form of names and selectors. What names mean, and which are taken, the step graph checks."""

from __future__ import annotations

import re

from recdsl.diagnostics import Problem, Problems
from recdsl.errors import keys as errors
from recdsl.errors import syntax
from recdsl.source import Span
from recdsl.syntax import advice
from recdsl.syntax.ast import Name
from recdsl.syntax.limits import NAME_LENGTH
from recdsl.syntax.text import Text

IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
GRAMMAR_WORDS = ("and", "or", "not")
_PART = re.compile(r"[^,]+")
_AROUND = re.compile(r"\s*([.\[\]-])\s*")
_SELECTOR = re.compile(r"(?:\*|[A-Za-z_][A-Za-z0-9_]*(?:\.[A-Za-z0-9_]+)*(?:\.\*|\*)?)(?:\[t-[0-9]{1,6}\])?")


def bad_name(text: str, span: Span) -> Problem | None:
    """What is wrong with the form of a name."""
    foreign = next((index for index, char in enumerate(text) if not char.isascii()), None)
    if foreign is not None:
        return syntax.NotAscii(span, *advice.of_unicode(text[foreign]))
    if len(text) > NAME_LENGTH:
        return syntax.NameTooLong(span, len(text), NAME_LENGTH)
    if not IDENTIFIER.fullmatch(text):
        near = re.sub(r"[^A-Za-z0-9_]+", "_", text).strip("_")
        near = f"_{near}" if near[:1].isdigit() else near
        hint = f"write for example `{near}`" if near else "names are letters, digits and `_`"
        return errors.BadName(span, text, hint)
    if text in GRAMMAR_WORDS:
        return errors.BadName(span, text, "`and`, `or` and `not` are operators")
    return None


def split_names(text: Text, problems: Problems) -> tuple[Name, ...]:
    """`W, U` as names where they stand; those of the wrong form are reported and left out."""
    names: list[Name] = []
    for match in _PART.finditer(text.value):
        part = match.group()
        start = match.start() + len(part) - len(part.lstrip())
        word = part.strip()
        span = text.span(start, start + len(word))
        problem = bad_name(word, span)
        if problem is None:
            names.append(Name(word, span))
        else:
            problems.add(problem)
    if not text.value.strip(", \n\t"):
        problems.add(errors.BadName(text.whole_span, text.value, "names are letters, digits and `_`"))
    return tuple(names)


def selector(text: str, span: Span, problems: Problems) -> Name | None:
    """`enc.*`, `W`, `h[t-1]`: blanks around signs dropped, form checked."""
    word = _AROUND.sub(r"\1", text.strip())
    if _SELECTOR.fullmatch(word) and len(word) <= 2 * NAME_LENGTH:
        return Name(word, span)
    problems.add(errors.BadSelector(span, text, "this is not a selector"))
    return None
