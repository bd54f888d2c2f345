"""Brackets and line breaks, before any grammar: which characters form one logical line, and are its brackets sound?"""

from __future__ import annotations

import re
from dataclasses import dataclass

from recdsl.diagnostics import Problems
from recdsl.errors import syntax as errors
from recdsl.syntax.limits import EXPRESSION_BYTES, NESTING
from recdsl.syntax.text import Text

_PARTS = re.compile(r"#[^\n]*|\n|[()\[\]]|[^#\n()\[\]]+")
_PARTS_WITH_STRINGS = re.compile(r"\"(?:[^\"\\\n]|\\[^\n])*\"|'[^'\n]*'|[()\[\]]|[^()\[\]\"']+|[\"']")
_ASSIGNMENT = re.compile(r"[ \t]*[A-Za-z_][A-Za-z0-9_]*(?:[ \t]*,[ \t]*[A-Za-z_][A-Za-z0-9_]*)*[ \t]*=(?!=)")
_CLOSES = {")": "(", "]": "["}
_CLOSED_BY = {"(": ")", "[": "]"}


@dataclass(frozen=True)
class Line:
    """Characters `start` to `end` of a text; `sound` is False where a problem has already been reported."""

    start: int
    end: int
    sound: bool


class _Scanner:
    def __init__(self, text: Text, problems: Problems) -> None:
        self.text, self.problems = text, problems
        self.lines: list[Line] = []
        self.stack: list[tuple[str, int]] = []
        self.start = 0
        self.sound = True
        self.last = ""
        """The last character that is neither blank nor comment."""

    def finish(self, end: int) -> None:
        """End the logical line; a bracket that is still open is an error at its place."""
        if self.stack:
            bracket, position = self.stack[-1]
            place = self.text.span(position, position + 1)
            self.problems.add(errors.Unclosed(place, bracket, self.advice(bracket)))
            self.sound = False
        if end - self.start > EXPRESSION_BYTES:
            place = self.text.span(self.start, self.start + 1)
            self.problems.add(errors.ExpressionTooBig(place, EXPRESSION_BYTES, "characters"))
            self.sound = False
        if not self.sound or self.last:
            self.lines.append(Line(self.start, end, self.sound))
        self.stack, self.start, self.sound, self.last = [], end + 1, True, ""

    def advice(self, bracket: str) -> str:
        after = self.text.source.text[self.text.end :].lstrip()[:1]
        if self.text.style == "" and after == ",":
            return "inside { } a comma ends the value: put the value in quotes"
        return f"write `{_CLOSED_BY[bracket]}` where it ends"

    def newline(self, position: int) -> None:
        if not self.stack:
            self.finish(position)
        elif self.last not in ",([;=+-*/@%<>" and _ASSIGNMENT.match(self.text.value, position + 1):
            # A keyword argument would follow a comma; so this is the next assignment.
            self.finish(position)

    def bracket(self, char: str, position: int) -> None:
        if char in _CLOSED_BY:
            if len(self.stack) == NESTING:
                if self.sound:
                    place = self.text.span(position, position + 1)
                    self.problems.add(errors.NestedTooDeep(place, NESTING))
                self.sound = False
            self.stack.append((char, position))
            return
        place = self.text.span(position, position + 1)
        if not self.stack:
            if self.sound:
                self.problems.add(errors.Unopened(place, char))
            self.sound = False
            return
        opening = self.stack.pop()[0]
        if opening != _CLOSES[char] and self.sound:
            self.problems.add(errors.Mismatched(place, char, opening, _CLOSED_BY[opening]))
            self.sound = False


def logical_lines(text: Text, problems: Problems) -> list[Line]:
    """The lines of a step; a line goes on inside brackets. Blank and comment lines are left out."""
    scanner = _Scanner(text, problems)
    for match in _PARTS.finditer(text.value):
        part = match.group()
        if part == "\n":
            scanner.newline(match.start())
        elif part in ("(", ")", "[", "]"):
            scanner.bracket(part, match.start())
            scanner.last = part
        elif not part.startswith("#"):
            scanner.last = part.rstrip()[-1:] or scanner.last
    scanner.finish(len(text.value))
    return scanner.lines


def one_line(text: Text, problems: Problems, *, strings: bool = False) -> Line | None:
    """The whole text as one expression; None if it is blank."""
    scanner = _Scanner(text, problems)
    for match in (_PARTS_WITH_STRINGS if strings else _PARTS).finditer(text.value):
        part = match.group()
        if part in ("(", ")", "[", "]"):
            scanner.bracket(part, match.start())
        if strings or not part.startswith("#"):
            scanner.last = part.strip()[-1:] or scanner.last
    scanner.finish(len(text.value))
    return scanner.lines[0] if scanner.lines else None
