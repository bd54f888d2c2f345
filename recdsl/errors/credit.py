"""What can be wrong with `credit:` (RD05xx)."""

from __future__ import annotations

from dataclasses import dataclass

from recdsl.diagnostics import Problem


@dataclass(frozen=True)
class UnknownRule(Problem):
    """A rule that nobody knows."""

    code = "RD0501"
    message = "unknown credit rule `{name}`"
    hint = "{suggestion}"
    explain = (
        "The value of `credit`, or of one of its selectors, is a rule such as `bptt`, `tbptt(window=10)` or `none`; "
        "a use of a state, `h[t-1]`, takes `cut`, `scale(0.5)` or `feedback(random)`."
    )

    name: str
    suggestion: str


@dataclass(frozen=True)
class RuleNotYet(Problem):
    """A rule or action that the language has but this version lacks."""

    code = "RD0502"
    message = "`{name}` is not supported yet"
    hint = "supported: {known}"
    explain = "The word is part of the language, but this version cannot execute it and will not pretend to."

    name: str
    known: str


@dataclass(frozen=True)
class RuleArgument(Problem):
    """An argument that the rule does not take, lacks, or cannot use."""

    code = "RD0503"
    message = "{reason}"
    hint = "{usage}"
    explain = (
        "`tbptt(window=k, every=m)`: every m steps the newest m losses look back over k steps, so 1 <= m <= k. With "
        "m above k, losses older than the window would silently count for nothing."
    )

    reason: str
    usage: str


@dataclass(frozen=True)
class NoMatch(Problem):
    """A selector that selects nothing."""

    code = "RD0504"
    message = "`{selector}` matches no parameter"
    hint = "{suggestion}"
    explain = (
        "A selector is `default`, `recurrence`, a parameter (`W`), a pattern of parameters or a block (`enc.*`), or "
        "a use of a state (`h[t-1]`)."
    )

    selector: str
    suggestion: str


@dataclass(frozen=True)
class TwoRules(Problem):
    """One parameter under two rules."""

    code = "RD0505"
    message = "parameter `{parameter}` has two rules: `{first}: {rule}` and `{second}: {other}`"
    hint = "let the selectors name different parameters; `default` covers the rest"
    explain = "Each parameter has one rule. Only `default` gives way to a selector that names the parameter."

    parameter: str
    first: str
    rule: str
    second: str
    other: str


@dataclass(frozen=True)
class UnknownUse(Problem):
    """A use of a state that the model does not make."""

    code = "RD0506"
    message = "the step reads no `{use}` of a state"
    hint = "{suggestion}"
    explain = "`h[t-1]: cut` stops credit through the places that read `h[t-1]`; there must be one."

    use: str
    suggestion: str


@dataclass(frozen=True)
class WrongAction(Problem):
    """A rule where an action belongs, or the other way round."""

    code = "RD0507"
    message = "`{selector}` cannot take `{action}`"
    hint = "{expected}"
    explain = "Parameters take rules; a use of a state takes `cut`, `scale` or `feedback`; `recurrence` takes either."

    selector: str
    action: str
    expected: str


@dataclass(frozen=True)
class Weaker(Problem):
    """A verdict below what `require` asks for; all parameters of a rule with it in one. said: which ones."""

    code = "RD0508"
    message = "{said} under `{rule}`, but {required} is required: {reason}"
    hint = "use `bptt`, a longer window, or drop the requirement"
    explain = (
        "`require: exact` makes the compiler refuse a gradient that is not equal to the derivative of the loss for "
        "every length, input and parameter. `recdsl explain SPEC` shows the edges where credit is dropped. From the "
        "command line, `credit=snap(1)` stands in place of the whole section, its `require` included; "
        "`credit.default=snap(1)` leaves it there."
    )

    said: str
    rule: str
    required: str
    reason: str


@dataclass(frozen=True)
class BadRequire(Problem):
    """`require:` that cannot be read."""

    code = "RD0509"
    message = "cannot read `require: {words}`"
    hint = "write `exact`, or `exact for enc.*`"
    explain = "`require` takes a verdict, `exact` or `unbiased`, and optionally `for` with a selector of parameters."

    words: str


@dataclass(frozen=True)
class StoreArgument(Problem):
    """An argument of `through` or `stop` that says nothing."""

    code = "RD0521"
    message = "{reason}"
    hint = "{usage}"
    explain = (
        "`past: stop` keeps credit from what the memory holds, `past: through` lets it pass. Values, keys and the "
        "query of a read are three uses: `through(key=stop)` gives it through values alone, `stop(query=stop)` none."
    )

    reason: str
    usage: str


@dataclass(frozen=True)
class OverlappingWindows(Problem):
    """A memory that windows are to spare, beside windows that overlap."""

    code = "RD0522"
    message = "`{memory}: through` does not fit `{rule}`, whose windows overlap"
    hint = "write `tbptt(window={size})`, or leave out `{memory}: through`"
    explain = (
        "With `past: through`, or under `sab(truncate=k)`, windows cut what is carried but not what is stored, so "
        "credit goes back over the whole call and every loss must see the same cuts. Where windows overlap, each loss "
        "has its own."
    )

    memory: str
    rule: str
    size: int


@dataclass(frozen=True)
class NoScope(Problem):
    """A forward rule that has no meaning on this graph."""

    code = "RD0510"
    message = "`{rule}` does not fit this model: {reason}"
    hint = "{remedy}"
    explain = (
        "`columns` and `rflo` track a parameter's influence on its own column: the states of a layer share one axis, "
        "and a parameter belongs to the column that it is used in. `rtrl` and `snap` track it wherever it goes. "
        "`synthetic` brings along a net, `credit.synthetic`, that reads the states and maybe an input or a target."
    )

    rule: str
    reason: str
    remedy: str


@dataclass(frozen=True)
class BrokenRule(Problem):
    """A rule that another package announces but that cannot be used."""

    code = "RD0511"
    message = "the rule `{rule}` of the package `{package}` cannot be used: {reason}"
    hint = "repair or remove the package"
    explain = (
        "Packages add rules by entry points in the group `recdsl.rules`, whose value is a `recdsl.credit.rule.Rule`. "
        "Its name must be the entry point's, and no other rule may have it: which one was meant would depend on the "
        "order of installation."
    )

    rule: str
    package: str
    reason: str


@dataclass(frozen=True)
class NoProduct(Problem):
    """Feedback for a use of a state that is no product with a matrix."""

    code = "RD0512"
    message = "`{use}` is not multiplied with a matrix of parameters, so no other matrix can take its place"
    hint = "`feedback(random)` is for a use such as `U @ h[t-1]`; `scale(0.5)` and `cut` are for any"
    explain = (
        "Under `h[t-1]: feedback(random)` the products `U @ h[t-1]` keep their value and the gradient of U, but credit "
        "for h comes back through a fixed random matrix of U's shape (feedback alignment, Lillicrap et al. 2016)."
    )

    use: str
