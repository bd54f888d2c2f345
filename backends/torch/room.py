"""Rooms that change hands: a sequence that nothing reads any more is written over by one that is made of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from recdsl.program.ir import Add, For, If, Load, Op, Program, Stmt, Storage, Store, VType


def alike(one: VType, other: VType) -> bool:
    """Whether two values of one step can lie in the same room."""
    return one.dtype == other.dtype == "float" and [a.size for a in one.axes] == [a.size for a in other.axes]


def read_by(statements: Iterable[Stmt]) -> set[str]:
    """Values and storages that statements read, at any depth."""
    found: set[str] = set()
    stack = list(statements)
    while stack:
        statement = stack.pop()
        if isinstance(statement, Op):
            found.update(statement.args)
        elif isinstance(statement, Load):
            found.add(statement.storage)
        elif isinstance(statement, Store | Add):
            found.add(statement.value)
        elif isinstance(statement, For | If):
            stack.extend(statement.body)
    return found


def loaded_elsewhere(program: Program, entry: str) -> set[str]:
    """What the other functions of a program read."""
    return read_by(statement for name, body in program.entries if name != entry for statement in body)


def hosts(
    body: Sequence[Stmt],
    stores: dict[str, Store],
    chained: dict[str, str],
    storages: dict[str, Storage],
    elementwise: Sequence[str],
) -> list[tuple[Store, str]]:
    """Stores of a loop with the sequences, read at the same step for the last time, that could take them."""
    first, last = _places(body, chained)
    loads: dict[str, list[Load]] = {}
    for statement in body:
        if isinstance(statement, Load) and statement.index:
            loads.setdefault(statement.storage, []).append(statement)
    found: list[tuple[Store, str]] = []
    for value, store in stores.items():
        if not store.index or str(store.index[0]) == "" or value not in first:
            continue
        for name, reads in loads.items():
            (load, *others) = reads
            if others or load.index != store.index or not alike(load.type, storages[store.storage].type):
                continue
            writer = body[first[value]]
            assert isinstance(writer, Op)
            shared = writer.args[:1] if writer.op == "addmm" else writer.args
            factors = writer.args[1:] if writer.op == "addmm" else ()
            in_place = writer.op in elementwise and load.result in shared and load.result not in factors
            end = last.get(load.result, -1)
            if end < first[value] or (end == first[value] and in_place):
                found.append((store, name))
    return found


def _places(body: Sequence[Stmt], chained: dict[str, str]) -> tuple[dict[str, int], dict[str, int]]:
    """Where each stored value's room is first written, and where each value is last read, through views of it."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    roots: dict[str, str] = {}
    for place, statement in enumerate(body):
        if isinstance(statement, Op):
            final = statement.results[0]
            while final in chained:
                final = chained[final]
            first.setdefault(final, place)
            for arg in statement.args:
                last[arg] = last[roots.get(arg, arg)] = place
            if statement.op in ("slice", "rename", "transpose", "broadcast", "stop"):
                roots[statement.results[0]] = roots.get(statement.args[0], statement.args[0])
        elif isinstance(statement, Store):
            last[statement.value] = last[roots.get(statement.value, statement.value)] = place
    return first, last
