"""RD01xx: the keys of a spec and the kinds of their values."""

from __future__ import annotations

from dataclasses import dataclass

from recdsl.diagnostics import Problem


@dataclass(frozen=True)
class UnknownKey(Problem):
    code = "RD0101"
    message = "unknown key `{key}` in {where}"
    hint = "{advice}"
    explain = (
        "Each part of a spec has a fixed set of keys, so that a misspelt key is not silently ignored. Top-level keys: "
        "recdsl, name, doc, sizes, inputs, targets, params, states, blocks, memory, step, loss, credit, data, train."
    )
    key: str
    where: str
    advice: str


@dataclass(frozen=True)
class MissingKey(Problem):
    code = "RD0102"
    message = "{where} needs the key `{key}`"
    hint = "add `{example}`"
    explain = (
        "Required keys of a spec are `recdsl: 1`, `step:` and `loss:`; of a block file `recdsl`, `block`, `step` and "
        "`returns`. All others may be left out."
    )
    key: str
    where: str
    example: str


@dataclass(frozen=True)
class WrongVersion(Problem):
    code = "RD0103"
    message = "the format version is {found}; this release reads version 1"
    hint = "write `recdsl: 1`, or install the release that the spec was written for"
    explain = (
        "`recdsl: 1` is the version of the spec format (not of the package). It changes only when specs must change."
    )
    found: str


@dataclass(frozen=True)
class WrongKind(Problem):
    code = "RD0104"
    message = "`{key}` must be {expected}, not {found}"
    hint = "{advice}"
    explain = (
        "The value has the wrong kind: a list where text is expected, a word where a number is, and so on. "
        "`steps: many` must be `steps: 2_000`; `step:` is a text (`step: |`), not a list."
    )
    key: str
    expected: str
    found: str
    advice: str = ""


@dataclass(frozen=True)
class NotSupported(Problem):
    code = "RD0105"
    message = "`{key}` is not supported yet"
    hint = "{advice}"
    explain = (
        "The key belongs to the language, but this release does not implement it. It is refused rather than ignored, "
        "since a model trained without it would be another model."
    )
    key: str
    advice: str = ""


@dataclass(frozen=True)
class BadChoice(Problem):
    code = "RD0106"
    message = "`{key}` cannot be `{found}`"
    hint = "{advice}"
    explain = "The key takes one of a few words, or a number in a range; the help line lists them. Example: `at: last`."
    key: str
    found: str
    advice: str


@dataclass(frozen=True)
class BadOverride(Problem):
    code = "RD0107"
    message = "the override `{written}` {reason}"
    hint = "{advice}"
    explain = (
        "Overrides are `key=value` with dots between the keys: `sizes.hidden=64`, `train.lr=1e-3`, `credit=snap(1)`, "
        "`data.length=32`. They change values of the spec, they do not add sizes or parameters to it."
    )
    written: str
    reason: str
    advice: str = ""


@dataclass(frozen=True)
class BadName(Problem):
    code = "RD0108"
    message = "`{name}` is not a name"
    hint = "{advice}"
    explain = (
        "Names are letters, digits and underscores, in ASCII, and do not begin with a digit. Words of the grammar "
        "(`and`, `or`, `not`) cannot be names; words of Python or C can."
    )
    name: str
    advice: str = ""


@dataclass(frozen=True)
class NotABlockFile(Problem):
    code = "RD0109"
    message = "{reason}"
    hint = "{advice}"
    explain = (
        "A block file begins with `recdsl: 1` and `block: NAME`, where NAME is also the file's name, and holds the "
        "keys doc, arguments, sizes, params, states, step, returns, fold, last. It is not a spec: it has no loss."
    )
    reason: str
    advice: str = ""


@dataclass(frozen=True)
class NeedsValue(Problem):
    code = "RD0110"
    message = "`{key}` has no value"
    hint = "{advice}"
    explain = (
        "A key stands without a value, as in `steps:` with nothing after it. Delete the key, or write its value. In a "
        "map in braces a comma ends the value."
    )
    key: str
    advice: str = ""


@dataclass(frozen=True)
class BadSelector(Problem):
    code = "RD0111"
    message = "`{written}` selects nothing: {reason}"
    hint = "selectors are `default`, `recurrence`, a name, `enc.*` for all of a block, or a use such as `h[t-1]`"
    explain = (
        "Selectors say to which parameters, blocks, memories or uses of states a rule or loss applies: `W`, `enc.W`, "
        "`enc.*`, `past`, `h[t-1]`, `recurrence`, `default`."
    )
    written: str
    reason: str
