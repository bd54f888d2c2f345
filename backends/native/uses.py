"""Where each value of an entry is made and read, and where storages are written: one walk, before C is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from recdsl.program.ir import Add, At, Call, Effect, For, If, Load, Op, Range, Scalar, Stmt, Store


@dataclass(eq=False)
class Def:
    """One definition: its place in the walk, the loop that it stands in, its readers, and where it was needed last."""

    name: str
    at: int
    loops: tuple[int, ...]
    parent: int = 0
    readers: list[tuple[Stmt, int]] = field(default_factory=list)
    last: int = -1
    inside: bool = False  # read in a loop that does not contain the definition


class Uses:
    """`defs` by identity of the statement; `ends` where each loop ends; `stores` and `loads` of each storage."""

    def __init__(self, body: Sequence[Stmt]) -> None:
        self.defs: dict[int, Def] = {}
        self.at: dict[int, int] = {}
        self.ends: dict[int, int] = {}
        self.parents: dict[int, int] = {}
        self.ifs: set[int] = set()
        self.stores: dict[str, list[tuple[int, Stmt, tuple[int, ...]]]] = {}
        self.loads: dict[str, list[tuple[int, Load, tuple[int, ...]]]] = {}
        self.entering: dict[int, list[Def]] = {}
        self._count = 0
        self._pending: list[tuple[Def, int]] = []
        self._walk(body, {}, (), 0)
        for found, outer in self._pending:
            found.last = max(found.last, self.ends[outer])

    def _walk(self, body: Sequence[Stmt], env: dict[str, Def], loops: tuple[int, ...], parent: int) -> None:
        for stmt in body:
            self._count += 1
            self.parents[id(stmt)] = parent
            place = self.at[id(stmt)] = self._count
            for name in read(stmt):
                self._use(env[name], stmt, place, loops)
            if isinstance(stmt, For):
                self._inner(stmt.body, env, (*loops, id(stmt)), id(stmt))
                self._count += 1
                self.ends[id(stmt)] = self._count
            elif isinstance(stmt, If):
                self.ifs.add(id(stmt))
                self._inner(stmt.body, env, loops, id(stmt))
            elif isinstance(stmt, Store | Add):
                self.stores.setdefault(stmt.storage, []).append((place, stmt, loops))
            elif isinstance(stmt, Load):
                self.loads.setdefault(stmt.storage, []).append((place, stmt, loops))
            for name in made(stmt):
                env[name] = self.defs[id(stmt)] = Def(name, place, loops, parent, last=place)

    def _inner(self, body: Sequence[Stmt], env: dict[str, Def], loops: tuple[int, ...], parent: int) -> None:
        """A body whose names mean nothing behind it."""
        names = [name for stmt in body for name in made(stmt)]
        outer = {name: env[name] for name in names if name in env}
        self._walk(body, env, loops, parent)
        for name in names:
            env.pop(name, None)
        env |= outer

    def _use(self, found: Def, stmt: Stmt, place: int, loops: tuple[int, ...]) -> None:
        found.readers.append((stmt, place))
        found.last = max(found.last, place)
        if len(loops) > len(found.loops):
            outer = loops[len(found.loops)]
            found.inside = True
            self._pending.append((found, outer))
            self.entering.setdefault(outer, []).append(found)


def read(stmt: Stmt) -> Iterator[str]:
    """Names that a statement itself reads."""
    if isinstance(stmt, Op | Call | Effect):
        yield from (arg for arg in stmt.args if arg != "_")
    elif isinstance(stmt, Store | Add):
        yield stmt.value
    if isinstance(stmt, Load | Store | Add):
        yield from (part.value for part in stmt.index if isinstance(part, At))


def made(stmt: Stmt) -> tuple[str, ...]:
    """Names that a statement defines."""
    if isinstance(stmt, Op | Call | Effect):
        return tuple(name for name in stmt.results if name != "_")
    return (stmt.result,) if isinstance(stmt, Load | Scalar) else ()


def from_outside(body: Sequence[Stmt]) -> list[str]:
    """Names from outside that a body reads."""
    found, known = list[str](), set[str]()
    for stmt in statements(body):
        found += [name for name in read(stmt) if name not in known]
        known.update(made(stmt))
    return list(dict.fromkeys(found))


def statements(body: Sequence[Stmt]) -> Iterator[Stmt]:
    """All statements, those of inner bodies behind their loop."""
    for stmt in body:
        yield stmt
        if isinstance(stmt, For | If):
            yield from statements(stmt.body)


def whole(index: Sequence[object]) -> bool:
    """Whether an access takes a range of rows, or everything."""
    return not index or (len(index) == 1 and isinstance(index[0], Range))
