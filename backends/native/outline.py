"""Long C functions in pieces: each loop nest becomes a function of its own, and nests that differ in names alone share
one. What a compiler needs for a function grows faster than the function, and models repeat themselves in layers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from recdsl.backends.native.listing import LOOP, MANY, NAMED, listing

LONG = 8_000
"""Characters from which a function is cut up. Below, calls would cost more than they save."""
NAME = re.compile(r"\b(?:[a-z]+\d+|[TB])\b")
"""What may be a name of the function's own: counters give all of them, but for T and B."""
POINTER = re.compile(r"^(?:const )?(real|integer|flag) \*restrict const (\w+) = ")
TABLE = re.compile(r"^static const (real|integer|flag) (\w+)\[\] = ")
NUMBER = re.compile(r"^const (long|real|integer|flag|int) (?=\w+ = )")
LOCAL = re.compile(r"\b(?:long|real|integer|flag|int) (\w+)(?= =|;)")


@dataclass(frozen=True)
class Cut:
    """A function that calls pieces. pieces: (name, text) of what must stand before it."""

    text: str
    pieces: tuple[tuple[str, str], ...]


def cut(text: str, least: int = LONG, many: int = MANY) -> Cut:
    """The function with its nests outside of it, if it has `least` characters; what it calls as a list, if these are
    `many`. A nest that uses a name whose type is not known here stays where it is."""
    if len(text) < least:
        return Cut(text, ())
    types: dict[str, str] = {}
    pieces: dict[str, str] = {}
    out: list[str] = []
    for part in _parts(text.splitlines()):
        made = _piece(part, types) if len(part) > 1 else None
        if made is None:
            out += part
            _declare(part[0].strip(), types)
        else:
            name, body, call = made
            pieces[name] = body
            out.append(part[0].replace("{", call))
    short, more = listing("\n".join(out) + "\n", types, many)
    return Cut(short, (*pieces.items(), *more))


def _parts(lines: Sequence[str]) -> Iterator[list[str]]:
    """Nests, which begin with a brace alone, and single lines."""
    nest: list[str] = []
    depth = 0
    for line in lines:
        words = line.strip()
        if nest or words == "{":
            nest.append(line)
            depth += words.endswith("{") - words.startswith("}")
            if depth:
                continue
            yield nest
            nest = []
        else:
            yield [line]


def _declare(line: str, types: dict[str, str]) -> None:
    """Note the types of the names that a line declares."""
    for pattern, const in ((POINTER, line.startswith("const")), (TABLE, True)):
        found = pattern.match(line)
        if found:
            types[found[2]] = f"{'const ' if const else ''}{found[1]} *restrict const"
            return
    loop, number = LOOP.match(line), NUMBER.match(line)
    if loop:
        types[loop[1]] = "const long"
    elif number:
        types.update(dict.fromkeys(NAMED.findall(line), f"const {number[1]}"))


def _piece(nest: Sequence[str], types: dict[str, str]) -> tuple[str, str, str] | None:
    """A nest as (name, function, call); the name follows from the text, so that equal texts are one function."""
    text = "\n".join(nest)
    found = dict.fromkeys(NAME.findall(text))
    own = set(LOCAL.findall(text))
    free = [name for name in found if name not in own]
    if any(name not in types for name in free):
        return None
    places = {name: f"x{k}" for k, name in enumerate(found)}
    body = NAME.sub(lambda match: places[match[0]], text)
    taken = ", ".join(f"{types[name]} {places[name]}" for name in free) or "void"
    name = f"part_{sha256(f'{taken}{body}'.encode()).hexdigest()[:16]}"
    function = f"static __attribute__((noinline)) void {name}({taken})\n{body}\n"
    return name, function, f"{name}({', '.join(free)});"
