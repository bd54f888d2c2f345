"""Program -> C text: every entry that can be lowered, and why the others cannot."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from recdsl.backends.native.outline import Cut, cut
from recdsl.backends.native.texts import comment
from recdsl.backends.native.uses import statements
from recdsl.backends.native.values import NotLoweredError
from recdsl.backends.native.writer import EntryWriter
from recdsl.program.interface import Assembled
from recdsl.program.ir import Add, Load, Program, Storage, Store
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
    """A C function: its name, what it takes and gives, the results' types in order, and its text."""

    symbol: str
    entry: str
    arguments: tuple[str, ...]
    results: tuple[str, ...]
    scalars: tuple[str, ...]
    storages: dict[str, Storage]
    text: str = ""


@dataclass(frozen=True)
class Lowering:
    """One variant's C text, but for the lines that say the precision. left: (entry, reason) of what has no C."""

    source: str
    functions: tuple[Function, ...]
    left: tuple[tuple[str, str], ...]
    program: Program


def lower(assembled: Assembled) -> Lowering:
    """All entries of one variant of a model."""
    program = assembled.program
    tape = tape_of(program)
    storages = {storage.name: storage for storage in program.storages}
    functions: list[Function] = []
    left: list[tuple[str, str]] = []
    for number, (name, _) in enumerate(program.entries):
        symbol = f"f{number}"
        try:
            made = EntryWriter(program, name, tape, program.scalars).write(symbol)
        except NotLoweredError as error:
            left.append((name, str(error)))
            continue
        functions.append(Function(symbol, name, made.arguments, made.results, program.scalars, storages, made.text))
    return Lowering(
        prelude() + "\n" + joined([cut(made.text) for made in functions]), tuple(functions), tuple(left), program
    )


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
    return Function("f0", "forward", found.arguments, found.results, program.scalars, storages, found.text)


def joined(cuts: Sequence[Cut]) -> str:
    """Functions behind their pieces, each piece once."""
    pieces = {name: body for made in cuts for name, body in made.pieces}
    return "\n".join([*pieces.values(), *(made.text for made in cuts)])


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
    return head(single=True) + made.source + "".join(notes)


def head(*, single: bool) -> str:
    """The lines that say the precision."""
    return f"#define REAL {'float' if single else 'double'}\n#define SINGLE {int(single)}\n"
