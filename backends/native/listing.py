"""Functions that call very many pieces: what they call, and with which arguments, as lists of numbers.

A compiler needs for a function more than proportional time to its calls and pointers, and nothing for a list. So all
pointers lie in one array, sizes in another, a call is its function's number and the places of its arguments, and what
is left of the text are its loops over time.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from recdsl.backends.native.texts import indent

MANY = 100
"""Calls from which a function is written so. Each costs a few nanoseconds more than a call of C."""
CALL = re.compile(r"^(part_\w+)\((.*)\);$")
ROOM = re.compile(r"^const long at_(\w+) = room;$")
SIZE = re.compile(r"^room \+= (SIZED\(.*\));$")
GIVEN = re.compile(r"^(?:const )?\w+ \*restrict const (\w+) = p\[\d+\];")
LAID = re.compile(r"^\w+ \*restrict const (\w+) = \(\w+ \*\)PLACED\(base, at_\w+, .*\);")
CLEARED = re.compile(r"^memset\((\w+), 0, (.*)\);$")
TABLE = re.compile(r"^static const \w+ (\w+)\[\] = ")
LOOP = re.compile(r"^for \(long (\w+) = ")
NUMBER = re.compile(r"^const long \w+ = ")
NAMED = re.compile(r"(\w+) = ")
ROOMS = ("long room = 0;", "if (!p) return room;")
PLACED = re.compile(r"^char \*const base = p\[\d+\];$")
LISTED = """typedef void (*piece_call)(void *const *, const long *, const unsigned *);
static __attribute__((noinline)) void listed(const piece_call *calls, void *const *q, const long *v,
                                             const unsigned *list, long count) {
    for (; count > 0; count--, list += list[1]) calls[list[0]](q, v, list + 2);
}
"""


@dataclass
class Places:
    """A function's pointers and numbers. given: those of the caller, in order; then rooms with the number of their
    size, then tables of constants. sizes, spans: C texts of rooms, and of what is set to zero, each once."""

    pointers: dict[str, int] = field(default_factory=dict[str, int])
    numbers: dict[str, int] = field(default_factory=dict[str, int])
    given: int = 0
    rooms: list[int] = field(default_factory=list[int])
    sizes: dict[str, int] = field(default_factory=dict[str, int])
    cleared: list[int] = field(default_factory=list[int])
    spans: dict[str, int] = field(default_factory=dict[str, int])

    def head(self, lines: Sequence[str]) -> list[str]:
        """Note what the first lines declare; gives the others."""
        rooms, kept = list[str](), list[str]()
        for k, line in enumerate(lines):
            if found := GIVEN.match(line):
                self.pointers[found[1]] = len(self.pointers)
                self.given += 1
            elif found := ROOM.match(line):
                rooms.append(found[1])
            elif found := SIZE.match(line):
                self.rooms.append(self.sizes.setdefault(found[1], len(self.sizes)))
            elif found := CLEARED.match(line):
                self.cleared += [self._pointer(found[1], rooms), self.spans.setdefault(found[2], len(self.spans))]
            elif not (LAID.match(line) or PLACED.match(line) or line in ROOMS):
                kept = list(lines[k:])
                break
        for name in rooms:
            self._pointer(name, rooms)
        for found in filter(None, map(TABLE.match, kept)):
            self.pointers[found[1]] = len(self.pointers)
        return kept

    def _pointer(self, name: str, rooms: Sequence[str]) -> int:
        """The place of a pointer; rooms lie behind what is given, in their own order."""
        if rooms and rooms[0] not in self.pointers:
            self.pointers |= {room: self.given + k for k, room in enumerate(rooms)}
        return self.pointers[name]

    def declarations(self, used: Mapping[str, str], numbers: int) -> list[str]:
        """C text that fills the arrays. used: pointers that text names, with their types."""
        count = len(self.rooms)
        lines = [f"static const unsigned rooms[] = {{{_list(self.rooms)}}};"]
        lines += [f"const long sizes[] = {{{', '.join(self.sizes) or 0}}};", "long room = 0;"]
        lines += [f"for (long k = 0; k < {count}; k++) room += sizes[rooms[k]];", "if (!p) return room;"]
        lines += [f"void *q[{len(self.pointers)}];", f"long v[{max(numbers, 1)}];"]
        lines += [f"memcpy(q, p, {self.given} * sizeof *q);", f"char *const base = p[{self.given}], *next = base;"]
        lines += [f"for (long k = 0; k < {count}; next += sizes[rooms[k]], k++)"]
        lines += [f"q[{self.given} + k] = PLACED(next, 0, sizes[rooms[k]] - GAP);"]
        if self.cleared:
            lines += [f"static const unsigned cleared[] = {{{_list(self.cleared)}}};"]
            lines += [f"const size_t spans[] = {{{', '.join(self.spans)}}};"]
            lines += [f"for (long k = 0; k < {len(self.cleared)}; k += 2)"]
            lines += ["memset(q[cleared[k]], 0, spans[cleared[k + 1]]);"]
        return [*lines, *(f"{kind} {name} = q[{self.pointers[name]}];" for name, kind in used.items())]


@dataclass
class Listing:
    """The calls of a function. pieces: those it needs, by name, with which arguments are pointers."""

    places: Places
    pieces: dict[str, tuple[bool, ...]] = field(default_factory=dict[str, tuple[bool, ...]])
    order: dict[str, int] = field(default_factory=dict[str, int])
    numbers: list[int] = field(default_factory=list[int])

    def add(self, name: str, arguments: Sequence[str]) -> bool:
        """Note a call, if its arguments are all pointers and whole numbers that have a place."""
        places = self.places
        if not all(x in places.pointers or x in places.numbers for x in arguments):
            return False
        self.pieces.setdefault(name, tuple(x in places.pointers for x in arguments))
        number = self.order.setdefault(name, len(self.order))
        taken = [places.pointers[x] if x in places.pointers else places.numbers[x] for x in arguments]
        self.numbers += [number, len(taken) + 2, *taken]
        return True

    def declarations(self) -> list[str]:
        calls = ", ".join(f"via_{name}" for name in self.pieces)
        return [f"static const piece_call calls[] = {{{calls}}};",
                f"static const unsigned list[] = {{{_list(self.numbers)}}};"]  # fmt: skip

    def thunks(self) -> list[tuple[str, str]]:
        """(name, text) of the functions that the list calls."""
        return [(f"via_{name}", _thunk(name, kinds)) for name, kinds in self.pieces.items()]


def listing(text: str, types: Mapping[str, str], least: int = MANY) -> tuple[str, list[tuple[str, str]]]:
    """The function with its calls in a list, and what must stand before it; as it is, if it has few of them.

    types: of the names that it declares.
    """
    lines = [line.strip() for line in text.splitlines()]
    if "long room = 0;" not in lines or sum(1 for line in lines if CALL.match(line)) < least:
        return text, []
    where = lines.index("long room = 0;")
    places = Places()
    kept = places.head(lines[where:])
    for name in dict.fromkeys(x for line in kept if (found := CALL.match(line)) for x in _arguments(found[2])):
        if types.get(name) == "const long":
            places.numbers[name] = len(places.numbers)
    made = Listing(places)
    body = _body(kept, made)
    noted = [note for line in lines[:where] for note in _noted(line, places.numbers)]
    declared = places.declarations(_named(body, places, types), len(places.numbers))
    whole = indent([*lines[:where], *made.declarations(), *declared, *noted, *body])
    return whole, [("listed", LISTED), *made.thunks()]


def _named(body: Sequence[str], places: Places, types: Mapping[str, str]) -> dict[str, str]:
    """Pointers that text names, with their types: other pointers to the same memory are at work beside them."""
    tables = {found[1] for found in filter(None, map(TABLE.match, body))}
    words = dict.fromkeys(re.findall(r"\w+", "\n".join(body)))
    kept = [name for name in words if name in places.pointers and name not in tables]
    return {name: types[name].replace("restrict ", "") for name in kept}


def _body(kept: Sequence[str], made: Listing) -> list[str]:
    """The text behind the declarations, with runs of calls as one call each."""
    out = list[str]()
    first = count = 0
    for line in (*kept, ""):
        found = CALL.match(line)
        start = len(made.numbers)
        if found and made.add(found[1], _arguments(found[2])):
            first, count = (first, count + 1) if count else (start, 1)
            continue
        if count:
            out.append(f"listed(calls, q, v, list + {first}, {count});")
            count = 0
        table = TABLE.match(line)
        out += [line, *_noted(line, made.places.numbers)]
        out += [f"q[{made.places.pointers[table[1]]}] = (void *){table[1]};"] if table else []
    return out[:-1]


def _noted(line: str, numbers: Mapping[str, int]) -> list[str]:
    """Behind a line that gives a number a value: that it is kept for calls."""
    loop = LOOP.match(line)
    names = [loop[1]] if loop else NAMED.findall(line) if NUMBER.match(line) else []
    return [f"v[{numbers[name]}] = {name};" for name in names if name in numbers]


def _arguments(text: str) -> list[str]:
    return text.split(", ") if text else []


def _list(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers)) or "0"


def _thunk(name: str, kinds: Sequence[bool]) -> str:
    taken = ", ".join(f"{'q' if pointer else 'v'}[i[{k}]]" for k, pointer in enumerate(kinds))
    return f"static void via_{name}(void *const *q, const long *v, const unsigned *i) {{ {name}({taken}); }}\n"
