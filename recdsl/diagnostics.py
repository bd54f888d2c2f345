"""What an error is: a frozen dataclass with a code, a place, and words; and the one exception that carries them.

`render` shows them to people, `to_json` to editors; `catalogue` lists all kinds of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, ClassVar, Protocol
from unicodedata import combining, east_asian_width

from recdsl.source import Source, Span

WIDTH = 100
_MARGIN = 20

# User text in a message is cut here, names are compared for suggestions up to there.
_LONGEST_FIELD = 1_000
_LONGEST_WORD = 128
_MOST_WORDS = 2_000
_MOST_PROBLEMS = 1_000


@dataclass(frozen=True)
class Note:
    """A second place that helps to understand the first."""

    span: Span
    message: str


@dataclass(frozen=True)
class Problem:
    """Base of all errors in a spec. Subclasses live in `recdsl/errors/<phase>.py`.

    `message` and `hint` are templates filled from the fields; `explain` is the long text of
    `recdsl explain CODE`.
    """

    code: ClassVar[str] = "RD0000"
    message: ClassVar[str] = ""
    hint: ClassVar[str] = ""
    explain: ClassVar[str] = ""

    span: Span
    notes: tuple[Note, ...] = field(default=(), kw_only=True)

    def _fields(self) -> dict[str, object]:
        return {item.name: _cut(getattr(self, item.name)) for item in fields(self)}

    def text(self) -> str:
        return self.message.format_map(self._fields())

    def help(self) -> str:
        return self.hint.format_map(self._fields())


def _cut(value: object) -> object:
    if isinstance(value, str) and len(value) > _LONGEST_FIELD:
        return value[:_LONGEST_FIELD] + "..."
    return value


class SpecError(Exception):
    """One or more problems in a spec: all that could be found in one go, in file order."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        # Not a set: its order, and so that of problems in one place, would change from run to run.
        once = dict.fromkeys(problems)
        self.problems = tuple(sorted(once, key=lambda p: (p.span.source.path, p.span.start, p.code)))
        super().__init__("\n".join(headline(problem) for problem in self.problems))


class Problems:
    """A collector, so that one run reports every error of a phase (in a hopeless text, the first thousand)."""

    def __init__(self) -> None:
        self.found: list[Problem] = []

    def add(self, problem: Problem) -> None:
        if not self.full:
            self.found.append(problem)

    @property
    def full(self) -> bool:
        """Whether looking for more is of no use."""
        return len(self.found) >= _MOST_PROBLEMS

    def check(self) -> None:
        """Raise what was collected, if anything was."""
        if self.found:
            raise SpecError(self.found)


def visible(text: str) -> str:
    """The text with control and invisible characters as escapes: `\\x1b` instead of the start of a terminal command."""
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(char: str) -> str:
    return char if char.isprintable() else ascii(char)[1:-1]


def headline(problem: Problem) -> str:
    """`PATH:LINE:COL: error[CODE]: message`."""
    return visible(f"{problem.span}: error[{problem.code}]: {problem.text()}")


def suggest(word: str, known: Iterable[str]) -> str:
    """`did you mean `x`?`, or an empty string."""
    words = sorted(set(known))
    if len(words) > _MOST_WORDS:
        words = [near for near in words if near[:1] == word[:1]][:_MOST_WORDS]
    if len(word) > _LONGEST_WORD:
        return ""
    near = get_close_matches(word, words, n=1, cutoff=0.6)
    return f"did you mean `{near[0]}`?" if near else ""


class Explained(Protocol):
    """What the class of an error has to say about all its errors."""

    code: ClassVar[str]
    message: ClassVar[str]
    hint: ClassVar[str]
    explain: ClassVar[str]


@cache
def catalogue() -> dict[str, type[Explained]]:
    """Every code with its class, over all modules of `recdsl.errors`, in order of codes."""
    package = import_module("recdsl.errors")
    found: dict[str, type[Explained]] = {}
    for info in iter_modules(package.__path__):
        module = import_module(f"recdsl.errors.{info.name}")
        for item in vars(module).values():
            # Each class once, where it is defined; the bases have no text of their own.
            if isinstance(item, type) and item.__module__ == module.__name__ and getattr(item, "explain", ""):
                assert item.code not in found, f"{item.code} is taken twice"  # type: ignore[attr-defined]
                found[item.code] = item  # type: ignore[attr-defined,assignment]
    return dict(sorted(found.items()))


def render(problems: Iterable[Problem]) -> str:
    """All problems with their excerpts, a blank line between them. Plain text: no markup, no colours."""
    return "\n\n".join(render_one(problem) for problem in problems)


def render_one(problem: Problem) -> str:
    """The headline, the line it points at, notes with theirs, and the help."""
    lines = [headline(problem), *excerpt(problem.span)]
    for note in problem.notes:
        lines += [f"  note: {visible(str(note.span))}: {visible(note.message)}", *excerpt(note.span)]
    hint = problem.help()
    return "\n".join([*lines, f"  help: {visible(hint)}"] if hint else lines)


def excerpt(span: Span) -> list[str]:
    """The first line of a span with its characters underlined; nothing for an empty source."""
    if not span.source.text:
        return []
    line = span.source.line(span.line)
    first = span.column - 1
    last = max(first + 1, min(first + span.end - span.start, len(line)))
    before, marked, after = _window(line, first, last)
    number = str(span.line)
    gutter = " " * len(number)
    caret = " " * _width(before) + "^" * max(1, _width(marked))
    return [f" {number} | {before}{marked}{after}".rstrip(), f" {gutter} | {caret}"]


def _window(line: str, first: int, last: int) -> tuple[str, str, str]:
    """The line in three parts: before, at and after the mark; long lines are cut around it."""
    start = 0 if last <= WIDTH else max(0, first - _MARGIN)
    end = min(len(line), start + WIDTH)
    before = ("..." if start else "") + _shown(line[start:first])
    return before, _shown(line[first : min(last, end)]), _shown(line[last:end]) + ("..." if end < len(line) else "")


def _shown(text: str) -> str:
    return visible(text.replace("\t", " "))


def _width(text: str) -> int:
    """Columns on a terminal."""
    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def to_json(problem: Problem) -> dict[str, Any]:
    """A diagnostic as the Language Server Protocol has it: positions from 0, columns in UTF-16 units."""
    related = [
        {"location": {"uri": note.span.source.path, "range": _range(note.span)}, "message": note.message}
        for note in problem.notes
    ]
    return {
        "range": _range(problem.span),
        "severity": 1,
        "code": problem.code,
        "source": "recdsl",
        "message": problem.text(),
        "relatedInformation": related,
        "data": {"hint": problem.help(), "path": problem.span.source.path},
    }


def warning_json(text: str, line: int, path: str) -> dict[str, Any]:
    """A warning about a line (from 1) of a spec that is legal, in the same form."""
    whole = {"start": {"line": line - 1, "character": 0}, "end": {"line": line, "character": 0}}
    return {
        "range": whole,
        "severity": 2,
        "source": "recdsl",
        "message": text,
        "relatedInformation": [],
        "data": {"path": path},
    }


def _range(span: Span) -> dict[str, dict[str, int]]:
    return {"start": _position(span.source, span.start), "end": _position(span.source, span.end)}


def _position(source: Source, offset: int) -> dict[str, int]:
    line, column = source.position(min(offset, len(source.text)))
    start = source.start_of(line)
    before = source.text[start : start + column - 1]
    return {"line": line - 1, "character": column - 1 + sum(char > "\uffff" for char in before)}
