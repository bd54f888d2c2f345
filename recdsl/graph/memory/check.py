"""A declared memory -> a `Store`: words known, numbers found, options that mean something."""

from __future__ import annotations

from collections.abc import Mapping
from math import inf

from recdsl.diagnostics import suggest
from recdsl.errors.axes import TooLarge
from recdsl.errors.memory import NoEffect, UnknownWord, WordArgument
from recdsl.graph.calls import Given, bind
from recdsl.graph.expressions import Evaluator
from recdsl.graph.memory.store import Evict, Index, Merge, Read, Score, Select, Shift, Store, Write
from recdsl.graph.parameters import captured
from recdsl.graph.scope import Item, Stop
from recdsl.graph.sizes import Number
from recdsl.source import Span
from recdsl.syntax.ast import Expression, ReadDecl, StoreDecl, WriteDecl

SCORES: Mapping[str, str] = {
    "dot": "dot()",
    "cosine": "cosine(sharpness=1)",
    "mlp": "mlp(width)",
    "inverse_distance": "inverse_distance(delta=1e-3)",
    "separable": "separable()",
}
SELECTIONS: Mapping[str, str] = {"all": "all()", "topk": "topk(k)", "threshold": "threshold(x)"}
NORMALISATIONS: Mapping[str, str] = {
    "softmax": "softmax()",
    "shifted_relu": "shifted_relu()",
    "sum": "sum()",
    "mean": "mean(hit=1e30)",
}
INDEXES: Mapping[str, str] = {"exact": "exact()", "faiss": "faiss(lists=0, probes=0)"}
EVICTIONS: Mapping[str, str] = {"oldest": "oldest()", "least_used": "least_used(decay=0.95)", "lowest": "lowest(x)"}
MERGES: Mapping[str, str] = {"max": "max(within=1e-4)", "step": "step(rate, within=1e-4)"}
LARGEST = 2**33
"""Bytes of one value."""
MOST_SLOTS = LARGEST // 4
SAME = 1e-4
"""How far apart keys may be that count as one: further than rounding moves them."""
RELEASE_FLOOR = 1e-7
"""What the code released with Ke et al. (2018) adds to thresholds and sums (`10e-8`)."""


def checked(ev: Evaluator, decl: StoreDecl) -> Store | None:
    """The store, or None where it is incomplete. Raises Stop."""
    if decl.write is None or not decl.reads:
        return None
    slots = None if decl.slots is None else ev.size_of(decl.slots, "`slots`").value
    if slots is not None and slots > MOST_SLOTS:  # numbers of all slots are listed before an item is known
        assert decl.slots is not None
        raise Stop(
            TooLarge(decl.slots.span, f"a number for each slot of `{decl.name.text}`", slots, 4 * slots, LARGEST)
        )
    life = decl.life.text if decl.life is not None else "sequence" if slots is None else "model"
    place = "" if decl.place is None else decl.place.text
    reads = tuple(_read(ev, decl, read) for read in decl.reads)
    evict, write = _evict(ev, decl.evict), _write(ev, decl.write)
    return Store(decl.name.text, slots, life, evict, write, reads, decl.name.span, decl.storage, place)


def _every(ev: Evaluator, every: Expression | None) -> int:
    return 1 if every is None else ev.size_of(every, "`every`").value


def _write(ev: Evaluator, decl: WriteDecl) -> Write:
    merge = _merge(ev, decl)
    return Write(decl.key, decl.value, _every(ev, decl.every), decl.when, decl.span, decl.eval is True, merge)


def _merge(ev: Evaluator, decl: WriteDecl) -> Merge | None:
    if decl.merge is None:
        return None
    kind, given = _called(ev, "merge", decl.merge, MERGES)
    span = decl.merge.span
    if decl.key is None:
        raise Stop(WordArgument(span, "`merge` compares keys, and `write` has none", "write `key:` beside `value:`"))
    within = _number(ev, given.get("within", Number(SAME)), "`within`", span)
    rate = _number(ev, given["rate"], "`rate`", span) if kind == "step" else 1.0
    if within < 0:
        raise Stop(WordArgument(span, f"`within` is {within:g}", "it is a distance, from 0 on"))
    if not 0 < rate <= 1:
        raise Stop(WordArgument(span, f"`rate` is {rate:g}", "it is above 0 and at most 1"))
    return Merge(kind, rate, within)


def _called(ev: Evaluator, what: str, expression: Expression, known: Mapping[str, str]) -> tuple[str, Given]:
    """A word, or a call of it, with its arguments by name."""
    call = captured(ev, expression) if expression.root.kind in ("name", "call") else None
    if call is None or call.name not in known:
        word = expression.span.text if call is None else call.name
        near = suggest(word, known) or f"there are {', '.join(known)}"
        raise Stop(UnknownWord(expression.span, what, word, near))
    return call.name, bind(call, known[call.name])


def _number(ev: Evaluator, item: Item, what: str, span: Span, *, low: float | None = None) -> float:
    value = float(ev.number(item, what, span).value)
    if low is not None and value <= low:
        raise Stop(WordArgument(span, f"{what} is {value:g}", f"it is above {low:g}"))
    return value


def _score(ev: Evaluator, expression: Expression | None) -> Score:
    if expression is None:
        return Score("dot")
    kind, given = _called(ev, "score", expression, SCORES)
    if kind == "mlp":
        return Score(kind, width=ev.size(given["width"], "the width", expression.span))
    name = {"cosine": "sharpness", "inverse_distance": "delta"}.get(kind, "")
    default = 1e-3 if kind == "inverse_distance" else 1.0
    number = _number(ev, given.get(name, Number(default)), f"`{name}`", expression.span, low=0.0) if name else 1.0
    return Score(kind, number)


def _select(ev: Evaluator, expression: Expression | None) -> Select:
    if expression is None:
        return Select("all")
    kind, given = _called(ev, "selection", expression, SELECTIONS)
    if kind == "topk":
        return Select(kind, ev.size(given["k"], "`k`", expression.span).value)
    return Select(kind, _number(ev, given["x"], "the threshold", expression.span) if kind == "threshold" else 0.0)


def _evict(ev: Evaluator, expression: Expression | None) -> Evict:
    if expression is None:
        return Evict("oldest")
    root = expression.root
    if root.kind == "call" and root.value == "lowest" and len(root.args) == 1 and not root.keywords:
        return Evict("lowest", priority=Expression(expression.nodes[: root.args[0] + 1]))  # its only subtree
    if root.value == "lowest":
        raise Stop(WordArgument(expression.span, "`lowest` takes one value", "for example `evict: lowest(surprise)`"))
    kind, given = _called(ev, "eviction", expression, EVICTIONS)
    if kind == "oldest":
        return Evict(kind)
    decay = _number(ev, given.get("decay", Number(0.95)), "`decay`", expression.span)
    if not 0 <= decay <= 1:
        raise Stop(WordArgument(expression.span, f"`decay` is {decay:g}", "it is in [0, 1]"))
    return Evict(kind, decay)


def _read(ev: Evaluator, store: StoreDecl, decl: ReadDecl) -> Read:
    words = {name.text: word.text for name, word in decl.options}
    release = words.get("compat") == "release"
    normal = decl.normalise
    how, hit = ("", inf) if normal is None else _normalised(ev, normal)
    score = Score("separable") if release and decl.score is None else _score(ev, decl.score)
    how = how or ("shifted_relu" if release else "sum" if score.kind == "inverse_distance" else "softmax")
    select, null = _select(ev, decl.select), words.get("null_slot", "true" if release else "false") == "true"
    _useful(decl, select, how)
    name, own = decl.name.text, decl.name.text == "read"
    prefix = f"{store.name.text}.score" if own else f"{store.name.text}.{name}.score"
    every = _every(ev, decl.every)
    shift = _shift(words, release=release)
    full, index = f"{store.name.text}.{name}", _index(ev, decl.index)
    return Read(full, prefix, decl.query, score, select, how, shift, every, null, decl.span, hit, index)


def _normalised(ev: Evaluator, expression: Expression) -> tuple[str, float]:
    """How scores are normalised, and from which score on a slot is hit (infinite: none is)."""
    how, given = _called(ev, "normalisation", expression, NORMALISATIONS)
    return how, _number(ev, given["hit"], "`hit`", expression.span) if "hit" in given else inf


def _index(ev: Evaluator, expression: Expression | None) -> Index | None:
    """How a search looks for rows; None: by all scores."""
    if expression is None:
        return None
    kind, given = _called(ev, "index", expression, INDEXES)
    if kind == "exact":
        return None
    found = [ev.number(given.get(word, Number(n)), f"`{word}`", expression.span).value for word, n in COUNTS.items()]
    for word, value in zip(COUNTS, found, strict=True):
        if value != int(value) or value < (1 if word in given else 0):
            raise Stop(WordArgument(expression.span, f"`{word}` is {value:g}", "it is a whole number from 1 on"))
    return Index(int(found[0]), int(found[1]), expression.span)


COUNTS: Mapping[str, int] = {"lists": 0, "probes": 0}
"""Their least numbers, and what they are where they are not written: found when the index is built."""


def _shift(words: Mapping[str, str], *, release: bool) -> Shift:
    """The options of `shifted_relu`; `compat: release` changes the defaults to those of the released code."""
    kth = words.get("threshold", "kth" if release else "next") == "kth"
    underfull = words.get("underfull", "raw" if release else "shift")
    return Shift(kth, words.get("tau") == "stop", underfull, RELEASE_FLOOR if release else 0.0)


def _useful(decl: ReadDecl, select: Select, how: str) -> None:
    """Every option that is written must do something."""
    for option, _ in decl.options:
        if option.text in ("threshold", "tau", "underfull") and how != "shifted_relu":
            hint = "leave it out, or write `normalise: shifted_relu`"
            raise Stop(NoEffect(option.span, option.text, f"under `normalise: {how}`", hint))
        if option.text in ("threshold", "underfull") and select.kind != "topk":
            hint = "leave it out, or write `select: topk(k)`"
            raise Stop(NoEffect(option.span, option.text, f"under `select: {select.kind}`", hint))
