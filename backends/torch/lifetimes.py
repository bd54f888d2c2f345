"""How long a room is held: up to the last line of the code that reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set

NAME = re.compile(r"[A-Za-z_]\w*")
EMPTY = re.compile(r"like\.new_empty\(([^()]*?),?\s?(dtype=[\w.]+)?\)")


def names_in(line: str) -> list[str]:
    """Every name in a line of code."""
    return [str(name) for name in NAME.findall(line)]


def last_lines(
    lines: Sequence[str], owners: Mapping[str, Set[str]], kept: Set[str]
) -> dict[int, list[tuple[str, list[str]]]]:
    """Behind which line which rooms are given back, with its indentation: the last that has one of their names.

    `owners`: the rooms that a name shares. What is leased inside a loop over windows goes back in the same round; what
    a loop over steps reads lives to the loop's end.
    """
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for number, line in enumerate(lines):
        for name in names_in(line):
            for leased in owners[name]:
                first.setdefault(leased, number)
                last[leased] = number
    found: dict[int, dict[str, list[str]]] = {}
    depths = [depth_of(line) for line in lines]
    for name in sorted(last.keys() - kept):
        level = min(depths[first[name] : last[name] + 1])  # above the least indentation both lie in one block
        end = block_end(lines, depths, last[name], level)
        found.setdefault(end, {}).setdefault(" " * level, []).append(name)
    return {number: sorted(names.items(), reverse=True) for number, names in found.items()}


def depth_of(line: str) -> int:
    """A line's indentation; the tail of a loop's header counts as inside it."""
    return len(line) - len(line.lstrip()) + (4 if line.lstrip() == "):" else 0)


def block_end(lines: Sequence[str], depths: Sequence[int], number: int, level: int) -> int:
    """The last line of the block at `level` that a line belongs to."""
    if depths[number] <= level and not lines[number].endswith(("(", ":")):
        return number
    return next((k - 1 for k in range(number + 1, len(lines)) if depths[k] <= level), len(lines) - 1)


def fix_empty(line: str) -> str:
    """`new_empty` takes its extents as one tuple."""
    return EMPTY.sub(lambda m: f"like.new_empty(({m[1]}){', ' + m[2] if m[2] else ''})", line)
