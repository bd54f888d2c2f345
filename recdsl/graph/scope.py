"""What names mean at one place: the step of the spec, or the step of one expanded block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from recdsl.diagnostics import Note, Problem
from recdsl.errors.names import DefinedTwice, ReservedName
from recdsl.graph.sizes import Number, Size
from recdsl.graph.types import Axis
from recdsl.source import Span
from recdsl.syntax.ast import Name


class Stop(Exception):
    """Ends the work on one expression; carries what is wrong with it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.text())
        self.problem = problem


class Silent(Exception):
    """Ends the work on one expression whose problem is reported already."""


@dataclass(frozen=True)
class Ref:
    """A value of the step: a node, or UNKNOWN."""

    id: int


@dataclass(frozen=True)
class Word:
    """A bare name, not looked up yet: it may be a value, a size, an axis or an option."""

    text: str
    span: Span


@dataclass(frozen=True)
class Text:
    """A quoted string."""

    text: str


@dataclass(frozen=True)
class Items:
    """A list of constants or words."""

    items: tuple[Item, ...]


@dataclass(frozen=True)
class Function:
    """An option that names a function or block, such as `activation=tanh`."""

    name: str


@dataclass(frozen=True)
class Results:
    """What a block call gives, in the order of its `returns`."""

    ids: tuple[int, ...]


Item = Ref | Number | Word | Text | Items | Function | Results


@dataclass(frozen=True)
class Target:
    """A target: visible to losses only."""

    id: int


@dataclass(frozen=True)
class Parameterised:
    """A parameter (behind its mask, where it has one)."""

    id: int


@dataclass(frozen=True)
class Argument:
    """A value given to a block, or an input of the spec."""

    id: int


Entry = Ref | Number | Function | Items | Text | Target | Parameterised | Argument


@dataclass
class Scope:
    """The names of one step.

    `prefix` stands before names in the graph ("h." in the block assigned to `h`); `outer` maps the names that the
    block returns to the graph's names they become. `calls` are the blocks around, outermost first, and `home` is the
    name that the outermost is assigned to: where the user finds what is made here.
    """

    prefix: str = ""
    names: dict[str, Entry] = field(default_factory=dict[str, Entry])
    outer: Mapping[str, str] = field(default_factory=dict[str, str])
    assigned: frozenset[str] = frozenset()
    calls: tuple[str, ...] = ()
    losses: bool = False
    home: Span | None = None
    places: dict[str, Span] = field(default_factory=dict[str, Span])

    def full(self, name: str) -> str:
        """The graph's name of a local name."""
        return self.outer.get(name, f"{self.prefix}{name}")

    def size(self, name: str) -> Size | None:
        entry = self.names.get(name)
        return entry.size if isinstance(entry, Number) else None

    def axis_name(self, name: str) -> str:
        """How the axis that is called `name` here is called in the graph."""
        size = self.size(name)
        return size.text if size else name

    def define(self, name: Name, entry: Entry) -> None:
        """Give a name its meaning. Raises Stop if it has one."""
        self.claim(name)
        self.names[name.text] = entry

    def claim(self, name: Name) -> None:
        """Take a name for one definition. Raises Stop if it is taken or `t`."""
        if name.text == "t":
            raise Stop(ReservedName(name.span, "t", "a value", "it is the step number"))
        first = self.places.get(name.text)
        if first is not None:
            assigned = name.text in self.assigned
            earlier = f"; the value of the step before is `{name.text}[t-1]`" if assigned else ""
            raise Stop(DefinedTwice(name.span, name.text, earlier, notes=(Note(first, "first defined here"),)))
        self.places[name.text] = name.span

    def known(self) -> list[str]:
        """Names for suggestions."""
        return [*self.names, *self.assigned]


def show_axes(axes: tuple[Axis, ...]) -> str:
    return ", ".join(f"`{axis}`" for axis in axes) or "none"
