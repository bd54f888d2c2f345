"""Functions that several threads run together.

Every thread runs the whole text. Most of it belongs to single samples, and a thread does that for samples of its own
from beginning to end. Large products over all samples are made in parts, and what is left is done by one thread; in
front of both and behind them all threads wait for each other.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

Kind = Literal["own", "loop", "parts", "alone"]
"""Of text: for each sample by itself (`loop`: over steps too), in parts that do not touch, or neither."""
FIRST, LAST = "FROM_B", "TO_B"
PRODUCT = "PARTED_PRODUCT("
END, EDGE = "@end", "@edge"
"""Behind marked text; where all threads go in a round."""
SHARED = (
    "const long u0 = us->me, u1 = us->count;",
    "const long b0 = B * u0 / u1, b1 = B * (u0 + 1) / u1;",
    "(void)b0; (void)b1;",
)
"""A thread's number, how many there are, and its samples."""
MOST = 100
"""Parts that are not of single samples, of functions that threads share: others are lists of calls as they are."""
WAIT = "if (u1 > 1) threads.wait();"
Section = tuple[Kind | None, list[str]]


def counted(variable: str, extent: str) -> str:
    """A loop from 0; over samples it is the thread's."""
    low, high = (FIRST, LAST) if extent == "B" else ("0", extent)
    return f"for (long {variable} = {low}; {variable} < {high}; {variable}++) {{"


def marked(kind: Kind, lines: Iterable[str]) -> list[str]:
    """Text that is noted to be of a kind."""
    return [f"@{kind}", *lines, END]


def plain(lines: Sequence[str]) -> list[str]:
    """Text without marks."""
    return [line for line in lines if not line.startswith("@")]


def each(lines: Sequence[str]) -> bool:
    """Whether all that is marked is done for each sample by itself."""
    return all(line in ("@own", "@loop", END) for line in lines if line.startswith("@"))


def looped(start: Sequence[str], body: Sequence[str], outermost: bool) -> list[str]:
    """A loop: all of it for each sample by itself, or one thread's. Where it is the outermost and has others inside, as
    one over windows does, threads go through each round together."""
    if each(body):
        return marked("loop", [*start, *plain(body), "}"])
    if outermost and "@loop" in body:
        return [EDGE, *start, *body, EDGE, "}"]
    return marked("alone", [*start, *plain(body), "}"])


def several(lines: Sequence[str]) -> bool:
    """Whether threads are worth it: there are steps that a sample takes by itself, and not too much has to wait."""
    return "@loop" in lines and sum(line in ("@parts", "@alone") for line in lines) <= MOST


def alone(lines: Sequence[str]) -> list[str]:
    """What one thread does."""
    return [bounded(line, "0", "B").replace(PRODUCT, "product_once(") for line in plain(lines)]


def together(lines: Sequence[str]) -> list[str]:
    """What each of several threads does, with `us` its team."""
    out: list[str] = []
    before: Kind | None = None
    for kind, part in _joined(_sections(lines)):
        if kind is None:
            if part == [EDGE] and before is not None:
                out.append(WAIT)
                before = None
            out += plain(part)
            continue
        if before is not None and (kind != before or kind == "parts"):
            out.append(WAIT)
        out += text(kind, part)
        before = kind
    return out


def _joined(sections: Iterable[Section]) -> Iterator[Section]:
    """Text that one thread does, as one where it follows itself."""
    for alike, group in itertools.groupby(sections, lambda section: section[0] == "alone"):
        if alike:
            yield "alone", [line for _, part in group for line in part]
        else:
            yield from group


def text(kind: Kind, lines: Sequence[str]) -> list[str]:
    if kind == "own":
        return [bounded(line, "b0", "b1") for line in lines]
    if kind == "alone":
        return ["if (u0 == 0) {", *alone(lines), "}"]
    return [bounded(line, "0", "B").replace(PRODUCT, "product_parts(u0, u1, ") for line in lines]


def bounded(line: str, first: str, last: str) -> str:
    """The line with bounds of samples."""
    if first == "0":
        line = line.replace(f"({LAST} - {FIRST})", "B")
        line = re.sub(rf" \+ {FIRST} \* (?:\w+ \* B|\w+)", "", line)
    return line.replace(FIRST, first).replace(LAST, last)


def _sections(lines: Sequence[str]) -> Iterator[Section]:
    """Marked text by its kind, and what stands between."""
    kind: Kind | None = None
    kinds: dict[str, Kind] = {"@own": "own", "@loop": "own", "@parts": "parts", "@alone": "alone"}
    part: list[str] = []
    for line in lines:
        if not line.startswith("@"):
            part.append(line)
            continue
        if part:
            yield kind, part
        if line == EDGE:
            yield None, [EDGE]
        kind, part = kinds.get(line), []
    if part:
        yield kind, part
