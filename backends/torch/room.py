"""Rooms that change hands: a sequence that nothing reads any more is written over by one that is made of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from recdsl.backends.torch.operations import BINARY, UNARY, VIEWS
from recdsl.program.ir import Add, At, For, If, Load, Op, Program, Stmt, Store, VType

ELEMENTWISE = (*UNARY, *BINARY, "relu", "lerp", "addcmul", "subcmul", "addmm")  # may write over what they read


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
            found.update((statement.storage, *chosen_by(statement)))
        elif isinstance(statement, Store | Add):
            found.update((statement.value, *chosen_by(statement)))
        elif isinstance(statement, For | If):
            stack.extend(statement.body)
    return found


def chosen_by(statement: Load | Store | Add) -> tuple[str, ...]:
    """The values that choose rows."""
    return tuple(part.value for part in statement.index if isinstance(part, At))


def loaded_elsewhere(program: Program, entry: str) -> set[str]:
    """What the other functions of a program read."""
    return read_by(statement for name, body in program.entries if name != entry for statement in body)


def hosts(
    body: Sequence[Stmt],
    stores: dict[str, Store],
    chained: dict[str, str],
    done: set[str],
) -> list[tuple[Store, str]]:
    """Stores of a loop, each with a sequence out of `done` that was read at the same step for the last time.

    The sequence whose last read is nearest is taken, so that what is in the cache is written over.
    """
    first, last = _places(body, chained)
    dying: dict[int, list[Load]] = {}
    for name, loads in _loads(body).items():
        if name in done and len(loads) == 1:
            dying.setdefault(last.get(loads[0].result, 0), []).append(loads[0])
    wanted = {first[value]: store for value, store in stores.items() if value in first}
    found: list[tuple[Store, str]] = []
    pool: dict[tuple[object, ...], list[Load]] = {}
    for place, statement in enumerate(body):
        store = wanted.get(place)
        early = [load for load in dying.get(place, ()) if rewrites(statement, load.result)]
        for load in early:
            pool.setdefault(_shape(load), []).append(load)
        if store is not None and isinstance(statement, Op):
            sizes = (*(axis.size for axis in statement.types[0].axes), str(store.index))
            if pool.get(sizes) and statement.types[0].dtype == "float":
                found.append((store, pool[sizes].pop().storage))
        for load in dying.get(place, ()):
            if load not in early:
                pool.setdefault(_shape(load), []).append(load)
    return found


def _loads(body: Sequence[Stmt]) -> dict[str, list[Load]]:
    """The rows that a loop reads, by storage."""
    found: dict[str, list[Load]] = {}
    for statement in body:
        if isinstance(statement, Load) and statement.index and statement.type.dtype == "float":
            found.setdefault(statement.storage, []).append(statement)
    return found


def _shape(load: Load) -> tuple[object, ...]:
    return (*(axis.size for axis in load.type.axes), str(load.index))


def rewrites(statement: Stmt, name: str) -> bool:
    """Whether the statement may write its result over what it reads under a name."""
    if not isinstance(statement, Op) or statement.op not in ELEMENTWISE:
        return False
    return statement.op != "addmm" or name not in statement.args[1:]


def last_reads(body: Sequence[Stmt]) -> dict[str, int]:
    """The last statement that reads each value, through views of it."""
    return _places(body, {})[1]


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
            if statement.op in (*VIEWS, "straight_through", "view"):
                roots[statement.results[0]] = roots.get(statement.args[0], statement.args[0])
        elif isinstance(statement, Store | Add | Load):
            read = chosen_by(statement) if isinstance(statement, Load) else (statement.value, *chosen_by(statement))
            for name in read:
                last[name] = last[roots.get(name, name)] = place
    return first, last
