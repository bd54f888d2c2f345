"""A value of the spec as the user wrote it: its characters, and where each of them stands in the file."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from recdsl.source import Source, Span

_BREAK = re.compile(r"[ \t]*(?:\r?\n[ \t]*)+")
_LINE_END = re.compile(r"\r?\n")
_BLANKS = re.compile(r"[ \t\r\n]*")
_ESCAPE_LENGTH = {"x": 4, "u": 6, "U": 10}


@dataclass(frozen=True, eq=False)
class Text:
    """`value` is a YAML scalar after YAML's own decoding; characters `start` to `end` of the file hold it.

    `style` is the scalar's style as PyYAML names it: None or "" (plain), "'", '"', "|" or ">".
    """

    source: Source
    value: str
    start: int
    end: int
    style: str = ""

    @classmethod
    def whole(cls, source: Source) -> Text:
        """All of a source, undecoded."""
        return cls(source, source.text, 0, len(source.text))

    @cached_property
    def whole_span(self) -> Span:
        return Span(self.source, self.start, self.end)

    @cached_property
    def offsets(self) -> Sequence[int]:
        """The file offset of each character of `value`, and of its end."""
        raw = self.source.text[self.start : self.end]
        if self.style == "|":
            return _literal_offsets(raw, self.value, self.start)
        if self.style == "" and raw.startswith(self.value):
            return range(self.start, self.start + len(self.value) + 1)
        return _flow_offsets(raw, self.value, self.start, self.style)

    def span(self, start: int, end: int) -> Span:
        """The place in the file of characters `start` to `end` of the value."""
        offsets = self.offsets
        first = offsets[min(start, len(offsets) - 1)]
        if end <= start:
            return Span(self.source, first, first)
        return Span(self.source, first, offsets[min(end, len(offsets)) - 1] + 1)


def _literal_offsets(raw: str, value: str, base: int) -> list[int]:
    """Offsets in a `|` block: each line of the value is the end of its line in the file."""
    offsets: list[int] = []
    header = _LINE_END.search(raw)
    position = header.end() if header else len(raw)
    for line in value.split("\n"):
        match = _LINE_END.search(raw, position)
        stop, after = (match.start(), match.end()) if match else (len(raw), len(raw))
        first = base + max(position, stop - len(line))
        offsets.extend(range(first, first + len(line) + 1))
        position = after
    return offsets


def _flow_offsets(raw: str, value: str, base: int, style: str) -> list[int]:
    """Offsets in a quoted, folded or many-line plain scalar: walk both texts side by side."""
    offsets: list[int] = []
    position, size = len(style), len(raw)
    if style == ">":
        header = _LINE_END.search(raw)
        position = header.end() if header else size
        indentation = _BLANKS.match(raw, position)
        position = indentation.end() if indentation else position
        offsets.extend([base + position] * _folded("", value, 0, style))
    while len(offsets) < len(value) and position < size:
        here = base + position
        escape = style == '"' and raw[position] == "\\"
        fold = _BREAK.match(raw, position + 1 if escape else position)
        if fold is not None:
            offsets.extend([here] * (0 if escape else _folded(fold.group(), value, len(offsets), style)))
            position = fold.end()
            continue
        offsets.append(here)
        if escape:
            position += _ESCAPE_LENGTH.get(raw[position + 1 : position + 2], 2)
        else:
            position += 2 if style == "'" and raw.startswith("''", position) else 1
    end = base + max(0, size - (1 if style in ("'", '"') else 0))
    offsets.extend([min(base + position, end)] * (len(value) + 1 - len(offsets)))
    return offsets[: len(value) + 1]


def _folded(blanks: str, value: str, index: int, style: str) -> int:
    """How many characters of the value the line breaks in `blanks` became: one space, or n - 1 line breaks."""
    if style == ">":
        return len(value) - index - len(value[index:].lstrip())
    return max(1, len(_LINE_END.findall(blanks)) - 1)
