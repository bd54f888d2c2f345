"""`memory:`: stores by name, each with what is written to it and how it is read."""

from __future__ import annotations

import re
from collections.abc import Mapping as Entries

from recdsl.diagnostics import Problems, suggest
from recdsl.errors import keys as errors
from recdsl.errors.memory import NeverWritten
from recdsl.syntax.ast import Expression, Name, ReadDecl, StoreDecl, WriteDecl
from recdsl.syntax.names import bad_name
from recdsl.syntax.sections import describe, expression, items, known_items, text
from recdsl.syntax.yaml_reader import Mapping, Scalar, YamlNode

KEYS = ("slots", "evict", "life", "storage", "write", "read", "reads")
WRITE_KEYS = ("key", "value", "every", "when", "merge", "eval")
OPTIONS: Entries[str, tuple[str, ...]] = {
    "threshold": ("next", "kth"),
    "tau": ("through", "stop"),
    "underfull": ("shift", "raw", "softmax", "equal"),
    "null_slot": ("true", "false"),
    "compat": ("release",),
}
"""Further keys of a read, and the words that each may be."""
READ_KEYS = ("query", "score", "select", "normalise", "every", "index", *OPTIONS)
LIVES = ("sequence", "stream", "model")
STORAGES = ("memory", "disk")
_PLACE = re.compile(r"disk\(\s*([^\s()'\"](?:[^\n'\"]*[^\s'\"])?)\s*\)")
_EXAMPLE = "past: {slots: 20, life: sequence, write: {value: h}, read: {query: h[t-1]}}"


def read_memory(node: YamlNode, problems: Problems) -> tuple[StoreDecl, ...]:
    """Every store; what is missing or wrong is reported and left out."""
    found: list[StoreDecl] = []
    for key, item in items(node, "memory", problems, _EXAMPLE):
        name = _name(key, problems)
        if not isinstance(item, Mapping):
            advice = f"its keys are {', '.join(KEYS)}"
            problems.add(errors.WrongKind(item.span, name.text, "a map", describe(item), advice))
            continue
        found.append(_store(name, item, problems))
    return tuple(found)


def _name(key: Scalar, problems: Problems) -> Name:
    wrong = bad_name(key.text.value, key.span)
    if wrong is not None:
        problems.add(wrong)
    return Name(key.text.value, key.span)


def _store(name: Name, node: Mapping, problems: Problems) -> StoreDecl:
    where = f"the memory `{name.text}`"
    found = known_items(node, where, problems, KEYS, "slots: 20")
    if "slots" not in found:
        problems.add(errors.MissingKey(name.span, "slots", where, "slots: 20"))
    if "write" not in found:
        problems.add(NeverWritten(name.span, name.text))
    slots = None
    if "slots" in found and not _says(found["slots"], "unbounded"):
        slots = expression(found["slots"], "slots", problems, "a number of slots, or `unbounded`", "20")
    storage, place = _storage(found.get("storage"), problems)
    return StoreDecl(
        name,
        slots,
        _expression(found, "evict", problems, "a rule of eviction", "oldest"),
        _word(found["life"], "life", LIVES, problems) if "life" in found else None,
        storage,
        _write(name, found["write"], problems) if "write" in found else None,
        _reads(name, found, problems),
        place,
    )


def _storage(node: YamlNode | None, problems: Problems) -> tuple[Name | None, Name | None]:
    """Where rows are, `memory`, `disk` or `disk(PATH)`, and the path."""
    if node is None:
        return None, None
    found = _PLACE.fullmatch(str(node.value).strip()) if isinstance(node, Scalar) else None
    if found is None:
        return _word(node, "storage", STORAGES, problems), None
    return Name("disk", node.span), Name(found[1], node.span)


def _says(node: YamlNode, word: str) -> bool:
    return isinstance(node, Scalar) and node.value == word


def _expression(
    found: Entries[str, YamlNode], key: str, problems: Problems, expected: str, example: str
) -> Expression | None:
    return expression(found[key], key, problems, expected, example) if key in found else None


def _word(node: YamlNode, key: str, known: tuple[str, ...], problems: Problems) -> Name | None:
    """One of a few words; `true` and `false` among them."""
    shown = text(node, key, problems, "a word", known[0])
    if shown is None:
        return None
    word = shown.value.strip()
    if isinstance(node, Scalar) and word in known:
        return Name(word, node.span)
    advice = suggest(word, known) or f"it is {' or '.join(f'`{item}`' for item in known)}"
    problems.add(errors.BadChoice(node.span, key, word, advice))
    return None


def _write(store: Name, node: YamlNode, problems: Problems) -> WriteDecl | None:
    where = f"`write` of the memory `{store.text}`"
    if not isinstance(node, Mapping):
        advice = "for example `write: {value: h}`"
        problems.add(errors.WrongKind(node.span, "write", "a map", describe(node), advice))
        return None
    found = known_items(node, where, problems, WRITE_KEYS, "value: h")
    if "value" not in found:
        problems.add(errors.MissingKey(node.span, "value", where, "value: h"))
        return None
    value = _expression(found, "value", problems, "a value", "h")
    chosen = _word(found["eval"], "eval", ("true", "false"), problems) if "eval" in found else None
    if value is None:
        return None
    return WriteDecl(
        _expression(found, "key", problems, "a value", "h"),
        value,
        _expression(found, "every", problems, "a number of steps", "2"),
        _expression(found, "when", problems, "a condition", "x > 0"),
        None if chosen is None else chosen.text == "true",
        node.span,
        _expression(found, "merge", problems, "what becomes of a value whose key is stored", "max"),
    )


def _reads(store: Name, found: Entries[str, YamlNode], problems: Problems) -> tuple[ReadDecl, ...]:
    """`read:`, or several under `reads:`, or both."""
    if "read" not in found and "reads" not in found:
        problems.add(errors.MissingKey(store.span, "read", f"the memory `{store.text}`", "read: {query: h[t-1]}"))
    made: list[ReadDecl | None] = []
    if "read" in found:
        made.append(_read(store, Name("read", store.span), found["read"], problems))
    if "reads" in found:
        for key, item in items(found["reads"], "reads", problems, "near: {query: h[t-1]}"):
            made.append(_read(store, _name(key, problems), item, problems))
    return tuple(read for read in made if read is not None)


def _read(store: Name, name: Name, node: YamlNode, problems: Problems) -> ReadDecl | None:
    where = f"`{name.text}` of the memory `{store.text}`"
    if not isinstance(node, Mapping):
        advice = "for example `{query: h[t-1], score: dot}`"
        problems.add(errors.WrongKind(node.span, name.text, "a map", describe(node), advice))
        return None
    found = known_items(node, where, problems, READ_KEYS, "query: h[t-1]")
    if "query" not in found:
        problems.add(errors.MissingKey(node.span, "query", where, "query: h[t-1]"))
        return None
    query = _expression(found, "query", problems, "a value", "h[t-1]")
    options: list[tuple[Name, Name]] = []
    for key, item in node.items:
        if key.text.value in OPTIONS and key.text.value in found:
            word = _word(item, key.text.value, OPTIONS[key.text.value], problems)
            options += [] if word is None else [(Name(key.text.value, key.span), word)]
    if query is None:
        return None
    return ReadDecl(
        name,
        query,
        _expression(found, "score", problems, "a score", "cosine(sharpness=10)"),
        _expression(found, "select", problems, "a selection", "topk(5)"),
        _expression(found, "normalise", problems, "a normalisation", "softmax"),
        _expression(found, "every", problems, "a number of steps", "2"),
        _expression(found, "index", problems, "an index", "faiss(probes=16)"),
        tuple(options),
        node.span,
    )
