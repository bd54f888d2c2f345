"""The invariant of a program, verified after every pass in tests.

Names are assigned once and used in scope; types follow; leading axes are never lost but in accumulates and in ops
that say so; a load finds what an earlier statement stored, for every size and iteration; each tagged edge is used
once per instance, and as its edge table says; a loop that updates a parameter reads it anew; functions are closed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from recdsl.program.check_edges import check_edges, check_table, check_updates
from recdsl.program.check_storage import check_storages
from recdsl.program.check_types import Scope, check_entry, check_function
from recdsl.program.ir import Effect, Program
from recdsl.program.walk import places

KINDS = ("input", "output", "parameter", "constant", "carry", "buffer", "ring", "accumulate", "store", "noise")
LIFETIMES = ("loop", "call", "stream", "model")


@dataclass(frozen=True)
class Violation:
    """What is wrong, and in which entry (empty: in the program's head)."""

    entry: str
    message: str

    def __str__(self) -> str:
        return f"{self.entry}: {self.message}" if self.entry else self.message


class InvalidProgram(Exception):
    """A program that its checker refuses."""

    def __init__(self, program: Program, violations: list[Violation]) -> None:
        self.violations = violations
        super().__init__("\n".join([f"program `{program.name}` is invalid:", *map(str, violations)]))


def check(program: Program) -> list[Violation]:
    """All violations. Regions and edges are looked at only where names and types are sound."""
    found = [Violation("", message) for message in _head(program)]
    found += [Violation("", message) for function in program.functions for message in check_function(function)]
    if found:
        return found
    scope = Scope(program)
    for entry, body in program.entries:
        found += [Violation(entry, message) for message in check_entry(scope, body)]
    if found:
        return found
    for entry, body in program.entries:
        messages = [*check_storages(program, entry), *check_edges(program, entry), *check_updates(body)]
        found += [Violation(entry, message) for message in dict.fromkeys(messages)]
    return [*found, *(Violation("", message) for message in check_table(program))]


def verify(program: Program) -> Program:
    """The program itself. Raises InvalidProgram."""
    violations = check(program)
    if violations:
        raise InvalidProgram(program, violations)
    return program


def _head(program: Program) -> Iterator[str]:
    for what, names in (
        ("storage", [storage.name for storage in program.storages]),
        ("function", [function.name for function in program.functions]),
        ("entry", [entry for entry, _ in program.entries]),
    ):
        yield from (f"{what} `{name}` is declared twice" for name, times in Counter(names).items() if times > 1)
    for storage in program.storages:
        if storage.kind not in KINDS or storage.lifetime not in LIFETIMES:
            yield f"storage `{storage.name}`: kind `{storage.kind}`, lifetime `{storage.lifetime}`"
        if (storage.kind == "store") != bool(storage.fields):
            yield f"storage `{storage.name}`: a store, and only a store, has fields"
    entries = [entry for entry, _ in program.entries]
    for later, first in program.follows:
        if first not in entries or later not in entries or entries.index(first) >= entries.index(later):
            yield f"entry `{later}` cannot follow `{first}`"


def effects(program: Program, entry: str) -> dict[str, list[str]]:
    """The ordered chain of effects on each resource. A pass must leave every one of them as it was."""
    chains: dict[str, list[str]] = {}
    for place in places(dict(program.entries)[entry]):
        if isinstance(place.stmt, Effect):
            around = "/".join(var for _, var, _ in place.loops)
            chains.setdefault(place.stmt.resource, []).append(f"{around}:{place.stmt.kind}")
    return chains
