"""What a rule is: data. One file per rule in `recdsl/credit/rules/`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf
from typing import Any

from recdsl.credit.plan import Answering, Tracing, Window


class RuleError(Exception):
    """Arguments that contradict each other. `argument` is the one to point at."""

    def __init__(self, argument: str, reason: str) -> None:
        super().__init__(reason)
        self.argument, self.reason = argument, reason


@dataclass(frozen=True)
class Words:
    """A word, with numbers or words in parentheses behind it: `reset`, `decay(0.9)`. named: those that have a name,
    where an argument takes any (kind "call"): `synthetic(hidden=8)`."""

    name: str
    inner: tuple[int | float | str | Words, ...] = ()
    named: tuple[tuple[str, int | float | str | Words], ...] = ()

    def __str__(self) -> str:
        words = [*map(str, self.inner), *(f"{name}={value}" for name, value in self.named)]
        return f"{self.name}({', '.join(words)})" if words else self.name


Given = int | float | str | Words
"""The value of an argument."""


@dataclass(frozen=True)
class Argument:
    """A whole number of at least `low` (kind "number"), a factor above 0 and at most 1 ("factor"), a number above 0
    ("real") or a name of the spec ("name"), which may be left out, one of `choices` ("choice"; the first, if it is left
    out), what becomes of traces when parameters change ("drift"), how the chance of a random truncation goes on
    ("schedule"), or what a net of the rule learns from ("learning"). A rule that reads its arguments by itself may have
    others: a number that may be left out ("count"), "words", and words with arguments of their own ("call").

    like: the argument whose value it takes if absent. default: the number that it is if absent. With neither it must be
    given. field: what it sets in a `Tracing` or `Answering`. later: words that this version cannot execute.
    """

    name: str
    doc: str
    like: str = ""
    kind: str = "number"
    field: str = ""
    choices: tuple[str, ...] = ()
    default: int = 0
    low: int = 1
    later: tuple[str, ...] = ()


FEEDBACK = Argument(
    "feedback",
    "how errors come back through the products that read states out: as they are, or through fixed random matrices",
    kind="choice",
    field="feedback",
    choices=("symmetric", "random"),
)
FILTER = Argument(
    "filter",
    "whether traces go on over readouts that leak, which low-pass them, or end at a neuron's own states",
    kind="choice",
    field="filter",
    choices=("readout", "none"),
)
SLIDES = "variant"
"""The field of an argument that says whether credit ends on a grid of steps, or so many steps from where it begins."""
MOST_SLIDING = 256
"""Steps of the latter: each takes a backward pass of its own."""
REPLAY = Argument(
    "replay",
    "whether long calls keep boundaries of pieces and run each piece again on the way back: where they would keep "
    "much, always or never",
    kind="choice",
    field="replay",
    choices=("auto", "always", "never"),
)
TAIL = 4.0
"""The exponent of `decreasing` without a number: the lengths of runs have a mean, a variance and a skewness."""
DRIFT = Argument(
    "drift", "what becomes of traces when parameters change: accept, decay(rho), reset or rerun(steps)", kind="drift"
)


def drift(given: Given | None) -> dict[str, Any]:
    """The fields of a `Tracing` that a policy sets (semantics 5.1). Raises RuleError."""
    match given:
        case None | Words("accept", ()):
            return {}
        case Words("reset", ()):
            return {"drift": "reset"}
        case Words("decay", (int() | float() as rho,)) if 0 < rho <= 1:
            return {"decay": float(rho)}
        case Words("decay"):
            reason = f"`drift={given}` needs one number above 0 and at most 1: what traces are multiplied by each step"
        case Words("rerun", (int() as steps,)) if steps > 0:
            return {"drift": "rerun", "rerun": steps}
        case Words("rerun"):
            reason = f"`drift={given}` needs one whole number: how many steps each update runs again"
        case _:
            reason = f"`drift={given}` is no policy: it is `accept`, `decay(rho)`, `reset` or `rerun(steps)`"
    raise RuleError("drift", reason)


def mixing(given: Given | None) -> dict[str, Any]:
    """The field of an `Answering` that says from what its net learns (semantics 4.10). Raises RuleError."""
    match given:
        case None | Words("bootstrap", ()):
            return {}
        case Words("bp_lambda", (int() | float() as share,)) if 0 <= share <= 1:
            return {"mixing": float(share)}
        case Words("bp_lambda"):
            reason = f"`learn={given}` needs one number from 0 to 1: the share of what follows behind the next answer"
        case _:
            reason = f"`learn={given}` is no way to learn: it is `bootstrap` or `bp_lambda(share)`"
    raise RuleError("learn", reason)


def tail(given: Given | None) -> float:
    """How the chance of a random truncation goes on behind the last one (semantics 4.9). Raises RuleError."""
    match given:
        case None | Words("constant", ()):
            return 0.0
        case Words("decreasing", ()):
            return TAIL
        case Words("decreasing", (int() | float() as alpha,)) if 1 < alpha < inf:
            return float(alpha)
        case Words("decreasing"):
            reason = f"`schedule={given}` needs one number above 1, since runs have no mean length otherwise"
        case _:
            reason = f"`schedule={given}` is no schedule: it is `constant` or `decreasing(alpha)`"
    raise RuleError("schedule", reason)


@dataclass(frozen=True)
class Expansion:
    """What a call of a rule asks for. thinning: mean steps between random truncations (0: none); tail: as in a
    `RoutingClass`. spares: whether the windows leave memories alone. budget, replay: as in a `RoutingClass`."""

    window: Window
    tracing: Tracing | None = None
    thinning: int = 0
    tail: float = 0.0
    spares: bool = False
    answering: Answering | None = None
    budget: int = 0
    replay: str = "never"


@dataclass(frozen=True)
class Rule:
    """A rule by name. `window` and `every` are numbers or names of arguments; window None: the whole call.

    tracing: set for forward rules; answering: where a learned net answers for what lies behind a window. Arguments with
    a `field` replace that field in them. Where the window of a forward rule is given, losses read influence on the
    states that enter their window. thinning: the argument that says how many steps a random truncation is apart from
    the next, on average. spares: windows do not cut memories. One that comes from another package is registered by an
    entry point of its name in the group `recdsl.rules`.
    """

    name: str
    doc: str
    arguments: tuple[Argument, ...]
    window: int | str | None
    every: int | str
    tracing: Tracing | None = None
    thinning: str = ""
    spares: bool = False
    answering: Answering | None = None

    @property
    def usage(self) -> str:
        """`tbptt(window, every=window)`."""
        words = [self._word(argument) for argument in self.arguments]
        return f"{self.name}({', '.join(words)})" if words else self.name

    def _word(self, argument: Argument) -> str:
        if argument.kind in ("name", "real"):
            return f"{argument.name}=..."
        if argument.kind == "choice":
            return f"{argument.name}={'|'.join(argument.choices)}"
        if argument.kind == "schedule":
            return f"{argument.name}=constant"
        if argument.kind == "drift":
            return f"{argument.name}=accept"
        if argument.kind == "learning":
            return f"{argument.name}=bootstrap"
        usual = argument.like or str(argument.default or "")
        return f"{argument.name}={usual}" if usual else argument.name

    def expand(self, given: Mapping[str, Given]) -> Expansion:
        """What a call with these arguments asks for. Raises RuleError."""
        values, factors = self._values(given), self._factors(given)
        size = values[self.window] if isinstance(self.window, str) else self.window
        every = values[self.every] if isinstance(self.every, str) else self.every
        if size is not None and every > size:
            raise RuleError("every", f"`every` is {every}, more than the window of {size} steps")
        fields = [(a.field, a.name) for a in self.arguments if a.field]
        known: Mapping[str, Given] = {**given, **values, **factors, **self._choices(given)}
        own: dict[str, Any] = {field: known[name] for field, name in fields if name in known}
        for argument in self.arguments:
            own |= drift(given.get(argument.name)) if argument.kind == "drift" else {}
            own |= mixing(given.get(argument.name)) if argument.kind == "learning" else {}
        mean = values[self.thinning] if self.thinning else 0
        if mean == 1:
            raise RuleError(self.thinning, f"`{self.thinning}` is 1, which would cut every step: at least 2")
        tails = [tail(given.get(a.name)) for a in self.arguments if a.kind == "schedule"]
        tracing = None if self.tracing is None else replace(self.tracing, **own)
        if tracing is not None and (self.window in given or size != 1):
            tracing = self._read(tracing, size)
        answering = None if self.answering is None else replace(self.answering, **own)
        made = Expansion(Window(size, every), tracing, mean, *tails, spares=self.spares, answering=answering)
        made = replace(made, replay=own.get("replay", "never"))
        sliding = own.get(SLIDES) == "sliding"
        if sliding and (size or 0) > MOST_SLIDING:
            reason = f"`{self.window}` is {size}, but at most {MOST_SLIDING} if it slides: each step is a backward pass"
            raise RuleError(str(self.window), reason)
        return replace(made, window=Window(None, 1), budget=size or 0) if sliding else made

    def _choices(self, given: Mapping[str, Given]) -> dict[str, str]:
        """The words, defaults filled in."""
        found: dict[str, str] = {}
        for argument in self.arguments:
            if argument.kind == "choice":
                word = str(given.get(argument.name, argument.choices[0]))
                if word in argument.later:
                    raise RuleError(argument.name, f"`{argument.name}={word}` of `{self.name}` is not supported yet")
                if word not in argument.choices:
                    known = " or ".join(f"`{choice}`" for choice in argument.choices)
                    raise RuleError(argument.name, f"`{argument.name}` of `{self.name}` is `{word}`, but {known}")
                found[argument.name] = word
        return found

    def _read(self, tracing: Tracing, size: int | None) -> Tracing:
        """With traces read where the window begins. What holds for traces alone does not fit reverse mode inside."""
        if size == 1:
            return replace(tracing, read="pre", stepwise=tracing.scope in ("all", "support"))
        changed = tracing.cuts or tracing.decay != 1 or tracing.feedback not in ("", "symmetric")
        if size is None or tracing.random or changed:
            reason = "a window of several steps goes with traces of all of a scope's influence: without cuts, decay,"
            raise RuleError("window", f"{reason} random matrices or random signs")
        return replace(tracing, read="window")

    def _factors(self, given: Mapping[str, Given]) -> dict[str, float]:
        """The factors."""
        found: dict[str, float] = {}
        for argument in self.arguments:
            if argument.kind == "factor":
                value = given.get(argument.name)
                if not isinstance(value, int | float):
                    raise RuleError("", f"`{self.name}` needs `{argument.name}`")
                if not 0 < value <= 1:
                    reason = f"`{argument.name}` of `{self.name}` is {value}, but above 0 and at most 1"
                    raise RuleError(argument.name, reason)
                found[argument.name] = float(value)
        return found

    def _values(self, given: Mapping[str, Given]) -> dict[str, int]:
        """The whole numbers, defaults filled in; the others are checked."""
        values: dict[str, int] = {}
        for argument in self.arguments:
            if argument.kind != "number":
                self._check(argument, given.get(argument.name))
                continue
            value = given.get(argument.name, values.get(argument.like, argument.default or None))
            if not isinstance(value, int):
                raise RuleError("", f"`{self.name}` needs `{argument.name}`")
            if value < argument.low:
                least = argument.low
                raise RuleError(argument.name, f"`{argument.name}` of `{self.name}` is {value}, but at least {least}")
            values[argument.name] = value
        return values

    def _check(self, argument: Argument, value: Given | None) -> None:
        if argument.kind == "real" and isinstance(value, int | float) and not 0 < value < inf:
            raise RuleError(argument.name, f"`{argument.name}` of `{self.name}` is {value}, but above 0")
