"""Program -> C text: every entry that can be lowered, and why the others cannot."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from recdsl.backends.native.block_nests import NORM, write
from recdsl.backends.native.lanes import Lanes, lanes
from recdsl.backends.native.moves import Moving, Rule, moves
from recdsl.backends.native.outline import Cut, cut
from recdsl.backends.native.parts import LATER, head
from recdsl.backends.native.rows import CALLS, Sum, sparse
from recdsl.backends.native.texts import comment
from recdsl.backends.native.uses import statements
from recdsl.backends.native.values import NotLoweredError
from recdsl.backends.native.writer import EXPORT, EntryWriter
from recdsl.program.interface import Assembled
from recdsl.program.ir import Add, Load, Program, Storage, Store, VType
from recdsl.program.passes.chained import chained
from recdsl.program.passes.left import read_left
from recdsl.program.passes.single import single
from recdsl.resources import read_text

MACROS = """
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#ifndef GIVEN_T
#define GIVEN_T(n) n[0]
#define GIVEN_B(n) n[1]
#endif
#define ROUND(n) (((n) + 63) / 64 * 64)
#ifndef __SANITIZE_ADDRESS__
#define GAP 0
#define SIZED(n) ROUND(n)
#define PLACED(base, at, n) (base + at)
#define LEFT(base, size)
#else  /* behind the room of each value lies some that the sanitizer forbids */
#define GAP 256
#define SIZED(n) (ROUND(n) + GAP)
#define PLACED(base, at, n) (__asan_poison_memory_region(base + at + (n), SIZED(n) - (n)), base + at)
#define LEFT(base, size) __asan_unpoison_memory_region(base, size)
void __asan_poison_memory_region(void const volatile *, unsigned long);
void __asan_unpoison_memory_region(void const volatile *, unsigned long);
#endif
"""


@dataclass(frozen=True)
class Function:
    """A C function: its name, what it takes and gives, the results' types in order, its text, one thread's too.
    requests, sums: of stores for all samples, what it asks the runtime for, and results that this makes (`rows.py`)."""

    symbol: str
    entry: str
    arguments: tuple[str, ...]
    results: tuple[str, ...]
    scalars: tuple[str, ...]
    storages: dict[str, Storage]
    text: str = ""
    single: str = ""
    requests: tuple[tuple[Any, ...], ...] = ()
    sums: Mapping[str, Sum] = field(default_factory=dict[str, Sum])

    def named(self, variant: str) -> str:
        """The text with a name of the variant's own."""
        return re.sub(rf"\b{self.symbol}(?=_of\b|\()", f"{variant}_{self.symbol}", self.text)

    def static(self, variant: str) -> str:
        """The text of one thread for use in its own file, with a name of the variant's own."""
        return self.single.replace(f"{EXPORT} {self.symbol}(", f"static long {variant}_{self.symbol}(", 1)

    @property
    def shown(self) -> tuple[str, ...]:
        """What the runtime gets: results but for rows and places, then sums at rows."""
        parts = {name for total in self.sums.values() for pair in total.pairs for name in pair}
        return (*(name for name in self.results if name not in parts), *self.sums)


@dataclass(frozen=True)
class Lowering:
    """One variant's C text, but for the lines that say the precision. later: that of a library of its own, with the
    entries in `LATER`, which is compiled when one of them is first called. left: (entry, reason) of what has no C."""

    source: str
    later: str
    functions: tuple[Function, ...]
    left: tuple[tuple[str, str], ...]
    program: Program


def lower(assembled: Assembled) -> Lowering:
    """All entries of one variant of a model."""
    program = assembled.program
    tape = tape_of(program)
    functions: list[Function] = []
    left: list[tuple[str, str]] = []
    for number, (name, _) in enumerate(program.entries):
        symbol = f"f{number}"
        try:
            split, sums = sparse(program, name)
            made = EntryWriter(split, name, tape, program.scalars, strips=True).write(symbol)
        except NotLoweredError as error:
            left.append((name, str(error)))
            continue
        storages = {storage.name: storage for storage in split.storages}
        given = (made.arguments, made.results, program.scalars, storages, made.text, made.single, made.requests, sums)
        functions.append(Function(symbol, name, *given))
    late = [made for made in functions if made.entry.endswith(LATER)]
    first = [made for made in functions if made not in late]
    return Lowering(_whole(first), _whole(late) if late else "", tuple(functions), tuple(left), program)


def _whole(functions: Sequence[Function]) -> str:
    return prelude() + "\n" + joined([cut(made.text) for made in functions])


def at_once(
    program: Program, entries: Sequence[str], sizes: Mapping[str, int], unread: Collection[str]
) -> Function | None:
    """One function for calls of one step, which does what `entries` do and leaves no more than states, losses and
    gradients. None where that takes loops, or has no C. sizes: of steps, batch and scalars. unread: results."""
    made = single(program, entries, sizes, unread)
    if made is program:
        return None
    try:
        found = EntryWriter(made, "forward", frozenset(), program.scalars).write("f0")
    except NotLoweredError:
        return None
    storages = {storage.name: storage for storage in program.storages}
    return Function(
        "f0", "forward", found.arguments, found.results, program.scalars, storages, found.single, found.single
    )


LONGEST = 120_000
"""Characters of a function that is not cut into pieces."""


@dataclass(frozen=True)
class Blocked:
    """A function that makes whole updates, and how what lasts lies."""

    function: Function
    lanes: Lanes


@dataclass(frozen=True)
class Lasting:
    """What an update changes. states: the storage that a state is read from, by the one that it is left in; moving: the
    parameters that an optimizer moves; rule: how it does; norm: whether the gradient's norm is asked for; wide: lanes
    of a vector."""

    states: Mapping[str, str]
    moving: tuple[Moving, ...]
    rule: Rule
    norm: bool
    wide: int


def in_blocks(
    program: Program, entries: Sequence[str], sizes: Mapping[str, int], unread: Collection[str], lasting: Lasting
) -> Blocked:
    """One function for calls of one step, which leaves states and parameters where it has found them (see `line.py`).
    Raises NotLoweredError where there is none."""
    made = single(program, entries, sizes, unread)
    if made is program:
        raise NotLoweredError("an update of several steps")
    made = chained(read_left(made, [item.gradient for item in lasting.moving], lasting.states), lasting.states)
    moved = moves(_in_place(made, lasting.states), lasting.moving, lasting.rule)
    line = moved.program
    storages = {storage.name: storage for storage in line.storages}
    ((_, body),) = line.entries
    touched = {stmt.storage for stmt in body if isinstance(stmt, Load | Store)}
    kept = [(item.storage, *map(item.slot, range(item.slots))) for item in lasting.moving]
    kept += [(name,) for name in sorted({*lasting.states.values()} & touched)]
    kept += [(s.name,) for s in line.storages if s.kind == "parameter" and all(s.name != group[0] for group in kept)]
    found = lanes(body, storages, kept, lasting.wide)
    packed = {name for group in kept for name in group}
    text = write(line, found, sizes["B"], packed, moved.squares if lasting.norm else (), "f0")
    if len(text.text) > LONGEST:
        raise NotLoweredError("a very long function")
    storages[NORM] = Storage(NORM, "output", VType("float", (), ()), "call")
    function = Function("f0", "forward", text.arguments, text.results, program.scalars, storages, text.text, text.text)
    return Blocked(function, found)


def _in_place(program: Program, states: Mapping[str, str]) -> Program:
    """The program with states left where they were read."""
    ((entry, body),) = program.entries
    line = tuple(replace(stmt, storage=states.get(stmt.storage, stmt.storage)) if isinstance(stmt, Store) else stmt
                 for stmt in body)  # fmt: skip
    kept = {*states.values()}
    storages = tuple(replace(s, lifetime="stream") if s.name in kept else s for s in program.storages)
    return replace(program, storages=storages, entries=((entry, line),))


def joined(cuts: Sequence[Cut]) -> str:
    """Functions behind their pieces, each piece once, and behind what they need of stores for all samples."""
    pieces = {name: body for made in cuts for name, body in made.pieces}
    texts = [*pieces.values(), *(made.text for made in cuts)]
    rows = [read_text("backends", "native", "rows.c")] if any(name in text for text in texts for name in CALLS) else []
    return "\n".join([*rows, *texts])


def prelude() -> str:
    """What stands before all functions, behind `head`."""
    return read_text("backends", "native", "prelude.c") + MACROS


def tape_of(program: Program) -> frozenset[str]:
    """Buffers that `forward` (or `again`) leaves for other entries."""
    kinds = {storage.name: storage.kind for storage in program.storages if storage.lifetime != "stream"}
    found: set[str] = set()
    for name, body in program.entries:
        touched = [s for s in statements(body) if isinstance(s, Load | Store | Add)]
        written = {s.storage for s in touched if isinstance(s, Store | Add)}
        if name not in ("start", "forward", "again"):
            found |= {s.storage for s in touched if kinds.get(s.storage) == "buffer" and s.storage not in written}
    return frozenset(found)


def text(assembled: Assembled) -> str:
    """What is compiled, in single precision, with the reasons for what is not."""
    made = lower(assembled)
    notes = [f"/* {entry} runs on torch: {comment(reason)} */\n" for entry, reason in made.left]
    later = f"\n/* a library of its own */\n{made.later}" if made.later else ""
    return head(single=True) + made.source + later + "".join(notes)
