"""What can be wrong with `memory:` (RD08xx)."""

from __future__ import annotations

from dataclasses import dataclass

from recdsl.diagnostics import Problem


@dataclass(frozen=True)
class NeverWritten(Problem):
    """A store that nothing is written to."""

    code = "RD0801"
    message = "nothing is written to the memory `{name}`"
    hint = "add for example `write: {{value: h}}`"
    explain = (
        "A memory holds what `write:` puts into it; one that is only read would give zeros at every step. "
        "`write: {{key: e, value: onehot(y), every: 2, when: x > 0}}`; `key` defaults to `value`."
    )

    name: str


@dataclass(frozen=True)
class NeverRead(Problem):
    """A read that no equation or loss uses."""

    code = "RD0802"
    message = "nothing uses `{read}`"
    hint = "{suggestion}"
    explain = (
        "What a memory gives is a value of the step under the name `NAME.read` (or, with several under `reads:`, "
        "`NAME.READ`). An equation or a loss uses it."
    )

    read: str
    suggestion: str


@dataclass(frozen=True)
class UnknownWord(Problem):
    """A way of scoring, selecting, normalising or evicting that nobody knows."""

    code = "RD0803"
    message = "unknown {what} `{word}`"
    hint = "{suggestion}"
    explain = (
        "score: dot, cosine(sharpness), mlp(width), inverse_distance(delta), separable. select: all, topk(k), "
        "threshold(x). index: exact, faiss(lists, probes). normalise: softmax, shifted_relu, sum, mean(hit). "
        "evict: oldest, least_used(decay), lowest(x). merge: max(within), step(rate, within)."
    )

    what: str
    word: str
    suggestion: str


@dataclass(frozen=True)
class WordArgument(Problem):
    """An argument that a way of scoring, selecting or evicting does not take, lacks, or cannot use."""

    code = "RD0804"
    message = "{reason}"
    hint = "{usage}"
    explain = "`topk(k)` and `slots` are whole numbers of at least 1; `cosine(sharpness=10)` and others above 0."

    reason: str
    usage: str


@dataclass(frozen=True)
class QueryAxes(Problem):
    """A query that cannot be compared with the keys."""

    code = "RD0805"
    message = "`{score}` compares a query {query} with keys {key} of `{name}`"
    hint = "{suggestion}"
    explain = (
        "`dot`, `cosine` and `inverse_distance` need a query with the axes of the keys. `mlp(width)` and `separable` "
        "have parameters of their own for each of the two, so their axes may differ."
    )

    name: str
    score: str
    query: str
    key: str
    suggestion: str


@dataclass(frozen=True)
class NoEffect(Problem):
    """An option that means nothing beside the others."""

    code = "RD0806"
    message = "`{option}` has no effect {where}"
    hint = "{suggestion}"
    explain = (
        "`threshold`, `tau` and `underfull` say how `normalise: shifted_relu` sets its threshold, and `underfull` what "
        "happens while fewer slots are filled than `topk(k)` selects. Anywhere else they would be ignored."
    )

    option: str
    where: str
    suggestion: str


@dataclass(frozen=True)
class NoIndex(Problem):
    """An index whose library is not installed."""

    code = "RD0808"
    message = "`index: {name}` needs the package {name}, which is not installed"
    hint = "run `{command}`, or leave `index` out: then all rows are scored"
    explain = (
        "`index: faiss(...)` looks for rows in some lists of an inverted file instead of scoring all of them. faiss is "
        "an optional dependency: `pip install recdsl[index]` or `pip install faiss-cpu`."
    )

    name: str
    command: str


@dataclass(frozen=True)
class OneNumber(Problem):
    """A condition or priority that is not one per sample."""

    code = "RD0807"
    message = "`{option}` is {found}, not {wanted}"
    hint = "{suggestion}"
    explain = (
        "`when:` is a condition, such as `surprise > 0.5`, and `lowest(x)` a number: one for each sample, since an "
        "item is written or not, kept or not, as a whole."
    )

    option: str
    found: str
    wanted: str
    suggestion: str
