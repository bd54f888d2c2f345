"""Rules written out: every choice that the other rules are presets of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from recdsl.credit.plan import Tracing, Window
from recdsl.credit.rule import Argument, Expansion, Given, Rule, RuleError, Words, drift, tail
from recdsl.credit.rules.sab import RULE as SAB
from recdsl.credit.rules.synthetic import RULE as SYNTHETIC

CUTS = {"none": "", "products": "products", "spikes": "spikes"}
ZERO = Words("zero")
KINDS = {
    "number": "a whole number",
    "name": "a name",
    "real": "a number",
    "learning": "`bootstrap` or `bp_lambda(share)`",
}
ABOUT_TRACES = ("cuts", "read", "feedback", "filter", "drift")
"""Arguments that mean nothing without a scope."""


class Written(Rule):
    """Arguments that depend on each other are read here instead of being filled into a preset."""

    @property
    def usage(self) -> str:
        return "rule(scope=none|all|support(n)|column|rank|rank(joint)|kronecker, window=..., every=..., cuts=..., ...)"

    def expand(self, given: Mapping[str, Given]) -> Expansion:
        """What a call with these arguments asks for. Raises RuleError."""
        mean, alpha = _weights(given.get("weights"))
        tracing = _scope(given.get("scope"))
        size, every = _window(given, 1 if tracing is not None else None)
        if given.get("boundary", ZERO) != ZERO:
            return _boundary(given, size, every)
        if tracing is None:
            _about_traces(given)
            return Expansion(Window(size, every), None, mean, alpha)
        if size != 1 and "read" in given:
            raise RuleError("read", "with a window, influence is read where the window begins: leave `read` out")
        if mean:
            raise RuleError("weights", "random truncation is for rules that look back: leave `scope` out")
        tracing = replace(
            tracing,
            cuts=CUTS[_one_of("cuts", given.get("cuts"), tuple(CUTS))],
            read=_one_of("read", given.get("read"), ("pre", "post")),
            feedback=_one_of("feedback", given.get("feedback"), ("symmetric", "random")),
            filter=_one_of("filter", given.get("filter"), ("none", "readout")),
            **drift(given.get("drift")),
        )
        if tracing.filter == "readout" and tracing.scope != "column":
            raise RuleError("filter", "`filter` is for `scope=column`: other scopes hold readouts by themselves")
        if tracing.random and (tracing.read, tracing.cuts, tracing.feedback) != ("pre", "", "symmetric"):
            reason = f"`scope={tracing.scope}` estimates all influence: it takes no `read`, `cuts` or `feedback`"
            raise RuleError("scope", reason)
        if size == 1:
            stepwise = tracing.scope in ("all", "support") and "window" in given
            return Expansion(Window(1, 1), replace(tracing, stepwise=stepwise))
        return Expansion(Window(size or 1, every), self._read(tracing, size))


def _one_of(name: str, given: Given | None, known: tuple[str, ...]) -> str:
    """The word of an argument, the first if it is left out."""
    word = known[0] if given is None else str(given)
    if word not in known:
        raise RuleError(name, f"`{name}` is `{word}`, but one of {', '.join(f'`{each}`' for each in known)}")
    return word


def _about_traces(given: Mapping[str, Given]) -> None:
    for name in ABOUT_TRACES:
        if name in given:
            raise RuleError(name, f"`{name}` is about traces: give a `scope`, or leave it out")


def _boundary(given: Mapping[str, Given], size: int | None, every: int) -> Expansion:
    """A rule that looks back, and what comes from behind its windows."""
    words = given["boundary"]
    for name in ("scope", "weights"):
        if name in given and given[name] not in (Words("none"), Words("one")):
            raise RuleError(name, f"`{name}` goes with `boundary=zero` alone: leave one of them out")
    _about_traces(given)
    if size is None:
        raise RuleError("boundary", f"`boundary={words}` needs a `window`: without one there is nothing behind it")
    if every != size:
        raise RuleError("every", f"`boundary={words}` is for windows that do not overlap: leave `every` out")
    match words:
        case Words("memories", () | ("sliding",) as variant, () | (("replay", _),) as more):
            sliding: dict[str, Given] = {"variant": "sliding"} if variant else {}
            return _preset(SAB, {"truncate": size, **sliding, **dict(more)})
        case Words("synthetic"):
            return _answered(words, size)
        case _:
            raise RuleError(
                "boundary", "`boundary` is `zero`, `memories`, `memories(sliding)` or `synthetic(hidden=...)`"
            )


def _answered(words: Words, size: int) -> Expansion:
    """Windows of a rule with a net behind them; its arguments are those of `synthetic`, the window aside."""
    known = {argument.name: argument for argument in SYNTHETIC.arguments if argument.name != "window"}
    if len(words.inner) > len(known):
        raise RuleError("boundary", f"`{words}` has more than {len(known)} arguments")
    own: dict[str, Given] = {"window": size}
    for name, value in (*zip(known, words.inner, strict=False), *words.named):
        if name not in known or name in own:
            reason = "is given twice" if name in own else f"is none of {', '.join(f'`{each}`' for each in known)}"
            raise RuleError("boundary", f"`{name}` of `synthetic` {reason}")
        own[name] = _typed(known[name], value)
    return _preset(SYNTHETIC, own)


def _preset(rule: Rule, given: Mapping[str, Given]) -> Expansion:
    """What a rule asks for whose arguments stand behind `boundary`."""
    try:
        return rule.expand(given)
    except RuleError as error:
        raise RuleError("boundary", error.reason) from error


def _typed(argument: Argument, value: Given) -> Given:
    """A value of the kind that an argument takes."""
    if argument.kind == "learning" and isinstance(value, str):
        return Words(value)
    kinds = {"number": int, "name": str, "real": int | float, "learning": Words}
    if not isinstance(value, kinds[argument.kind]):
        raise RuleError("boundary", f"`{argument.name}` of `synthetic` is `{value}`, but {KINDS[argument.kind]}")
    return value


def _weights(given: Given | None) -> tuple[int, float]:
    """(mean steps between random truncations, tail of their schedule)"""
    match given:
        case None | Words("one", ()):
            return 0, 0.0
        case Words("truncation", (int() as mean,)) if mean > 1:
            return mean, 0.0
        case Words("truncation", (int() as mean, alpha)) if mean > 1:
            return mean, tail(Words("decreasing", (alpha,)))
        case _:
            reason = (
                "`weights` is `one`, `truncation(mean)` or `truncation(mean, alpha)`, with a mean of at least 2 steps"
            )
            raise RuleError("weights", reason)


def _scope(given: Given | None) -> Tracing | None:
    match given:
        case None | Words("none", ()):
            return None
        case Words("all" | "rank" | "kronecker" as scope, ()):
            return Tracing(scope)
        case Words("rank", (str() as batch,)) if batch in ("sample", "joint"):
            return Tracing("rank", batch=batch)
        case Words("column", ()):
            return Tracing("column")
        case Words("column", (str() as axis,)):
            return Tracing("column", axis=axis)
        case Words("support", (int() as depth,)) if depth > 0:
            return Tracing("support", depth)
        case _:
            known = "`none`, `all`, `support(n)`, `column`, `column(axis)`, `rank`, `rank(joint)`, `kronecker`"
            raise RuleError("scope", f"`scope` is {known}")


def _window(given: Mapping[str, Given], preset: int | None) -> tuple[int | None, int]:
    """(steps that a loss looks back, steps between two passes)"""
    size = given.get("window", preset)
    every = given.get("every", size or 1)
    for name, value in (("window", size), ("every", every)):
        if isinstance(value, int) and value < 1:
            raise RuleError(name, f"`{name}` of `rule` is {value}, but at least 1")
    assert size is None or isinstance(size, int)
    assert isinstance(every, int)
    if size is None and "every" in given:
        raise RuleError("every", "`every` needs a `window`: without one a loss looks back over the whole call")
    if size is not None and every > size:
        raise RuleError("every", f"`every` is {every}, more than the window of {size} steps")
    return size, every


RULE = Written(
    name="rule",
    doc="A rule written out. Without arguments it is bptt; with a scope, traces are carried along instead.",
    arguments=(
        Argument("cuts", "uses of states that traces go past: none, products or spikes", kind="words"),
        Argument(
            "scope",
            "where influence is traced: none, all, support(n), column, column(axis), rank, rank(joint), kronecker",
            kind="words",
        ),
        Argument("window", "steps that a loss looks back over, its own included; left out: the call", kind="count"),
        Argument("every", "steps between two reverse passes; left out: the window", kind="count"),
        Argument(
            "boundary",
            "what comes from behind a window: zero, memories (through these alone), memories(sliding), synthetic(...)",
            kind="call",
        ),
        Argument("weights", "random weights of paths: one, truncation(mean), truncation(mean, alpha)", kind="words"),
        Argument("feedback", "how errors reach the states: symmetric or random", kind="words"),
        Argument("filter", "whether traces of a column go on over readouts that leak: none or readout", kind="words"),
        Argument(
            "read", "the states that a loss reads influence of: pre or post; those that enter its window", kind="words"
        ),
        Argument(
            "drift",
            "what becomes of traces when parameters change: accept, decay(rho), reset, rerun(steps)",
            kind="drift",
        ),
    ),
    window=None,
    every=1,
)
