"""Overrides from the command line: `sizes.hidden=64`, `train.lr=1e-3`, `credit=snap(1)`, applied to the YAML tree.

The values are then read and checked as if they stood in the file, with places in the pseudo-file `<override>`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from recdsl.diagnostics import Problems, suggest
from recdsl.errors.keys import BadOverride
from recdsl.source import Source, Span
from recdsl.syntax.limits import NUMBER_LENGTH, YAML_DEPTH
from recdsl.syntax.scalars import is_number, resolve
from recdsl.syntax.text import Text
from recdsl.syntax.yaml_reader import Mapping, Scalar, YamlNode

PLACE = "<override>"
# What these sections declare, equations refer to: an override may change it, not add to it.
_CLOSED = ("sizes", "inputs", "targets", "params", "states", "blocks")


class _Override:
    def __init__(self, words: str, problems: Problems) -> None:
        self.words, self.problems = words, problems
        self.source = Source(PLACE, words)
        self.path, _, _ = words.partition("=")

    def piece(self, start: int, end: int) -> Scalar:
        value = self.words[start:end]
        stripped = value.strip()
        start += len(value) - len(value.lstrip())
        text = Text(self.source, stripped, start, start + len(stripped))
        long = is_number(stripped) and len(stripped) > NUMBER_LENGTH
        return Scalar(text, stripped if long else resolve(stripped))

    @property
    def value(self) -> Scalar:
        return self.piece(len(self.path) + 1, len(self.words))

    def keys(self) -> list[Scalar]:
        """The parts of the path between its dots."""
        found: list[Scalar] = []
        start = 0
        for part in self.path.split("."):
            found.append(self.piece(start, start + len(part)))
            start += len(part) + 1
        return found

    @property
    def section(self) -> str:
        return self.path.split(".")[0].strip()

    @property
    def depth(self) -> int:
        """How many keys the path has."""
        return self.path.count(".") + 1

    def fail(self, place: Span, reason: str, advice: str = "") -> None:
        self.problems.add(BadOverride(place, self.words, reason, advice))


def apply(root: Mapping, overrides: Sequence[str], known: tuple[str, ...], problems: Problems) -> Mapping:
    """The tree with all overrides in it, in order."""
    for words in overrides:
        override = _Override(words, problems)
        whole = Span(override.source, 0, len(words))
        keys = override.keys()
        first = keys[0].text.value
        if "=" not in words or len(keys) > YAML_DEPTH or not all(key.text.value for key in keys):
            override.fail(whole, "is not of the form `key=value`", "for example `train.steps=500`")
        elif not all(char.isprintable() for char in words):
            override.fail(whole, "holds characters that cannot be printed")
        elif not override.value.text.value:
            override.fail(override.value.span, "has no value", "to leave a setting out write `null`")
        elif first not in known:
            advice = suggest(first, known) or "write the whole path, such as `train.lr=1e-3` or `sizes.hidden=64`"
            override.fail(keys[0].span, f"begins with `{first}`, which is no key of a spec", advice)
        else:
            changed = _set(root, keys, override, first in _CLOSED)
            root = changed if isinstance(changed, Mapping) else root
    return root


def _set(node: YamlNode | None, keys: list[Scalar], override: _Override, closed: bool) -> YamlNode:
    """The node with the value at the path. Recursion is bounded by the depth of the YAML tree."""
    if not keys:
        return override.value
    if isinstance(node, Scalar) and node.value is not None:
        if override.path.strip() == "credit.require":  # no argument of a rule that stands there alone
            return Mapping(((_word("default", keys[0], override), node), (keys[0], override.value)), node.span)
        return _patch(node, keys, override)
    if node is not None and not isinstance(node, Mapping | Scalar):
        override.fail(keys[0].span, "goes into a list; only maps and calls have keys")
        return node
    items = node.items if isinstance(node, Mapping) else ()
    span = node.span if isinstance(node, Mapping) else override.value.span
    if override.section == "train" and override.depth == len(keys) + 1 and keys[0].text.value == "lr":
        return _rate(Mapping(items, span), keys, override)
    for length in range(len(keys), 0, -1):
        # Selectors of `credit` hold dots themselves: `credit.enc.*=bptt`.
        name = ".".join(key.text.value for key in keys[:length])
        for index, (key, value) in enumerate(items):
            if key.text.value == name:
                new = _set(value, keys[length:], override, closed)
                return Mapping((*items[:index], (key, new), *items[index + 1 :]), span)
    return _add(Mapping(items, span), keys, override, closed)


def _add(node: Mapping, keys: list[Scalar], override: _Override, closed: bool) -> Mapping:
    names = [key.text.value for key, _ in node.items]
    word, path = keys[0].text.value, override.path.strip()
    top = path.split(".")[0]
    if closed and path != top:
        advice = suggest(word, names) or (f"`{top}` has {', '.join(names)}" if names else f"the spec has no `{top}`")
        override.fail(keys[0].span, f"names `{word}`, which the spec does not have", advice)
        return node
    if top == "credit" and path != top:
        start = keys[0].span.start
        key = override.piece(start, len(override.path))
        return Mapping((*node.items, (key, override.value)), node.span)
    new = _set(None, keys[1:], override, closed)
    return Mapping((*node.items, (keys[0], new)), node.span)


def _rate(train: Mapping, keys: list[Scalar], override: _Override) -> Mapping:
    """`train.lr`, the rate of all parameters that no selector names, or `train.lr.SELECTOR`."""
    at = next((k for k, (key, _) in enumerate(train.items) if key.text.value == "lr"), len(train.items))
    old = train.items[at][1] if at < len(train.items) else Mapping((), train.span)
    default = _word("default", keys[0], override)
    rates = old.items if isinstance(old, Mapping) else ((default, old),)
    place = override.piece(keys[1].span.start, len(override.path)) if keys[1:] else default
    index = next((k for k, (key, _) in enumerate(rates) if key.text.value == place.text.value), len(rates))
    if place.text.value == "default" and index == len(rates):
        return _learning_rate(train, keys[0], override)
    made = Mapping((*rates[:index], (place, override.value), *rates[index + 1 :]), old.span)
    return Mapping((*train.items[:at], (keys[0], made), *train.items[at + 1 :]), train.span)


def _word(word: str, place: Scalar, override: _Override) -> Scalar:
    """A word that stands where the user wrote another one, so that an error points there."""
    return Scalar(Text(override.source, word, place.span.start, place.span.end), word)


def _learning_rate(node: Mapping, key: Scalar, override: _Override) -> Mapping:
    """The rate of the optimizer."""
    for index, (name, value) in enumerate(node.items):
        if name.text.value == "optimizer" and isinstance(value, Scalar):
            new = replace(value, patches=(*value.patches, (_word("lr", key, override), override.value)))
            return Mapping((*node.items[:index], (name, new), *node.items[index + 1 :]), node.span)
    name, adam, lr = (_word(word, key, override) for word in ("optimizer", "adam", "lr"))
    return Mapping((*node.items, (name, replace(adam, patches=((lr, override.value),)))), node.span)


def _patch(node: Scalar, keys: list[Scalar], override: _Override) -> Scalar:
    """A key of a call: `data.length=32`."""
    if len(keys) > 1 or not isinstance(node.value, str) or node.text.style == "|":
        override.fail(keys[0].span, f"goes into `{node.text.value[:40]}`, which has no keys")
        return node
    return replace(node, patches=(*node.patches, (keys[0], override.value)))
