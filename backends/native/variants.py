"""The variants of a model's program (with and without mask and reset, in pieces, deferred), each as C when needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recdsl.backends.native.call import Row, row
from recdsl.backends.native.store import Store
from recdsl.pause import paused

if TYPE_CHECKING:
    from recdsl.backends.native.lower import Lowering
    from recdsl.program.interface import Assembled

    Programs = Callable[[], Mapping[str, Assembled]]


@dataclass(frozen=True)
class Variant:
    """What is run: C text, but for the lines that say the precision, that of a library of its own (see `Lowering`), and
    functions by entry. left: (entry, reason) of what has no C."""

    source: str
    later: str
    functions: tuple[tuple[str, Row], ...]
    left: tuple[tuple[str, str], ...]


class Variants(Mapping[str, "Lowering"]):
    """Lowered programs by name, from the first time that one is asked for. programs: made when the first one is."""

    def __init__(self, names: tuple[str, ...], programs: Programs, store: Store) -> None:
        self.names, self.programs, self.store = names, programs, store
        self.lowered: dict[str, Lowering] = {}
        self.found: dict[str, Variant] = {}

    @classmethod
    def of(cls, lowered: Mapping[str, Lowering]) -> Variants:
        """Those that are there already; nothing is kept."""
        made = cls(tuple(lowered), dict, Store.none())
        made.lowered.update(lowered)
        return made

    def __getitem__(self, name: str) -> Lowering:
        if name not in self.lowered:
            from recdsl.backends.native import lower as lowering  # with all that writes C

            with paused():
                self.lowered[name] = lowering.lower(self.programs()[name])
        return self.lowered[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def variant(self, name: str) -> Variant:
        """From the store, or lowered, and then kept there."""
        if name not in self.found:
            kept = self.store.find(name)
            self.found[name] = Variant(*kept) if kept is not None else self._made(name)
        return self.found[name]

    def _made(self, name: str) -> Variant:
        made = self[name]
        functions: list[Any] = []
        for item in made.functions:
            functions.append((item.entry, row(item, item.symbol)))
        found = Variant(made.source, made.later, tuple(functions), made.left)
        self.store.keep(name, (found.source, found.later, found.functions, found.left))
        return found
