"""What a rule is: data. One file per rule in `recdsl/credit/rules/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from recdsl.credit.plan import Window


class RuleError(Exception):
    """Arguments that contradict each other. `argument` is the one to point at."""

    def __init__(self, argument: str, reason: str) -> None:
        super().__init__(reason)
        self.argument, self.reason = argument, reason


@dataclass(frozen=True)
class Argument:
    """A whole number of at least 1. `like`: the argument whose value it takes if absent; empty: it must be given."""

    name: str
    doc: str
    like: str = ""


@dataclass(frozen=True)
class Rule:
    """A rule by name. `window` and `every` are numbers or names of arguments; window None: the whole call."""

    name: str
    doc: str
    arguments: tuple[Argument, ...]
    window: int | str | None
    every: int | str

    @property
    def usage(self) -> str:
        """`tbptt(window, every=window)`."""
        words = [f"{a.name}={a.like}" if a.like else a.name for a in self.arguments]
        return f"{self.name}({', '.join(words)})" if words else self.name

    def expand(self, given: Mapping[str, int]) -> Window:
        """The window of a call with these arguments. Raises RuleError."""
        values: dict[str, int] = {}
        for argument in self.arguments:
            value = given.get(argument.name, values.get(argument.like))
            if value is None:
                raise RuleError("", f"`{self.name}` needs `{argument.name}`")
            if value < 1:
                raise RuleError(argument.name, f"`{argument.name}` of `{self.name}` is {value}, but at least 1")
            values[argument.name] = value
        size = values[self.window] if isinstance(self.window, str) else self.window
        every = values[self.every] if isinstance(self.every, str) else self.every
        if size is not None and every > size:
            raise RuleError("every", f"`every` is {every}, more than the window of {size} steps")
        return Window(size, every)
