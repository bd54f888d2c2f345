"""Reading maps and scalars of the YAML tree, with errors for what is of the wrong kind."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from recdsl.diagnostics import Problems, suggest
from recdsl.errors import keys as errors
from recdsl.errors.syntax import BadNumber
from recdsl.source import Span
from recdsl.syntax.ast import Expression, Name, Node
from recdsl.syntax.edit import set_keyword
from recdsl.syntax.expressions import parse_expression, parse_value
from recdsl.syntax.names import split_names
from recdsl.syntax.text import Text
from recdsl.syntax.yaml_reader import Mapping, Scalar, YamlNode

Item = tuple[Scalar, YamlNode]


def describe(node: YamlNode) -> str:
    """What a value is, in words."""
    if not isinstance(node, Scalar):
        return node.what
    if node.value is None and node.text.value == "":
        return "nothing"
    if isinstance(node.value, bool) or node.value is None:
        return f"`{node.text.value}`"
    if isinstance(node.value, int | float):
        return f"the number {node.text.value}"
    shown = " ".join(node.text.value.split())
    return f"the text `{shown[:40]}{'...' if len(shown) > 40 else ''}`"


def advise(word: str, known: Sequence[str]) -> str:
    """The nearest known word, or all of them."""
    return suggest(word, known) or f"the keys are {', '.join(known)}"


def items(node: YamlNode, key: str, problems: Problems, example: str) -> tuple[Item, ...]:
    """The entries of a map; anything else is an error."""
    if isinstance(node, Mapping):
        return _whole(node)
    if not (isinstance(node, Scalar) and node.value is None):
        problems.add(errors.WrongKind(node.span, key, "a map", describe(node), f"for example `{example}`"))
    return ()


def _whole(node: Mapping) -> tuple[Item, ...]:
    """The entries of a map, less the pieces of a call that braces have cut at its commas: the call's opening bracket
    is reported, its rest is no key."""
    if not node.span.text.startswith("{"):
        return node.items
    found: list[Item] = []
    cut = False
    for key, value_ in node.items:
        if cut and is_empty(value_):
            cut = _closes(key) <= 0
            continue
        found.append((key, value_))
        cut = isinstance(value_, Scalar) and value_.text.style == "" and _closes(value_) < 0
    return tuple(found)


def _closes(node: Scalar) -> int:
    """How many brackets a text closes, less those it opens."""
    text_ = node.text.value
    return sum(map(text_.count, ")]")) - sum(map(text_.count, "(["))


def is_empty(node: YamlNode) -> bool:
    """A key without a value, as opposed to one with the value `null`."""
    return isinstance(node, Scalar) and node.value is None and node.text.start == node.text.end


def groups(
    node: YamlNode, key: str, problems: Problems, example: str
) -> tuple[tuple[tuple[Scalar, ...], YamlNode], ...]:
    """The entries of a map of declarations. In braces a comma ends an entry, so `{a, b: float}` reads as
    `a` without a value and `b: float`: names without a value join the next one that has a value."""
    found: list[tuple[tuple[Scalar, ...], YamlNode]] = []
    waiting: list[Scalar] = []
    braces = node.span.text.startswith("{")
    entries = items(node, key, problems, example)
    for index, (name, value_) in enumerate(entries):
        waiting.append(name)
        if not (braces and is_empty(value_) and index + 1 < len(entries)):
            found.append((tuple(waiting), value_))
            waiting = []
    return tuple(found)


def known_items(
    node: YamlNode, key: str, problems: Problems, known: Sequence[str], example: str
) -> dict[str, YamlNode]:
    """A map with a fixed set of keys, by key; unknown ones are reported."""
    found: dict[str, YamlNode] = {}
    for name, value in items(node, key, problems, example):
        word = name.text.value
        if word in known:
            found[word] = value
        elif not problems.full:
            problems.add(errors.UnknownKey(name.span, word, key, advise(word, known)))
    return found


def require(
    found: Iterable[str], needed: Sequence[tuple[str, str]], where: str, span: Span, problems: Problems
) -> None:
    """Report keys that are missing, each with an example."""
    present = set(found)
    for key, example in needed:
        if key not in present:
            problems.add(errors.MissingKey(span, key, where, example))


def text(node: YamlNode, key: str, problems: Problems, expected: str, example: str = "") -> Text | None:
    """The text of a scalar that says something."""
    advice = f"for example `{example}`" if example else ""
    if not isinstance(node, Scalar):
        problems.add(errors.WrongKind(node.span, key, expected, describe(node), advice))
        return None
    if node.value is None and node.text.style == "" and node.text.value in ("", "~"):
        problems.add(errors.NeedsValue(node.span, key, f"{expected} belongs here" + (f": {advice}" if advice else "")))
        return None
    return node.text


def plain_text(node: YamlNode, key: str, problems: Problems) -> str:
    """Free text such as `doc`."""
    found = text(node, key, problems, "text")
    return "" if found is None else found.value


def names(keys: Sequence[Scalar], problems: Problems) -> tuple[Name, ...]:
    """The names that keys such as `W, U` declare."""
    return tuple(name for key in keys for name in split_names(key.text, problems))


def literal(node: Scalar) -> Expression:
    """A scalar that is not text, as an expression: a number, or one of the words true, false and null."""
    value = node.value
    if isinstance(value, bool) or value is None:
        return Expression((Node("name", "null" if value is None else str(value).lower(), (), (), node.span),))
    return Expression((Node("number", value, (), (), node.span),))


def expression(node: YamlNode, key: str, problems: Problems, expected: str, example: str) -> Expression | None:
    """A scalar in the language of equations, which has no infinities."""
    if isinstance(node, Scalar) and isinstance(node.value, float) and not math.isfinite(node.value):
        problems.add(BadNumber(node.span, node.text.value, "is not finite"))
        return None
    if isinstance(node, Scalar) and isinstance(node.value, int | float) and not isinstance(node.value, bool):
        return literal(node)
    found = text(node, key, problems, expected, example)
    parsed = None if found is None else parse_expression(found, problems, expected)
    return _patched(parsed, node, problems, equations=True)


def value(node: YamlNode, key: str, problems: Problems, expected: str, example: str) -> Expression | None:
    """A scalar or list in the language of calls."""
    if isinstance(node, Scalar) and not isinstance(node.value, str) and node.text.value != "":
        return literal(node)
    if not isinstance(node, Scalar) and not isinstance(node, Mapping):
        return _list([value(item, key, problems, expected, example) for item in node.items], node.span)
    found = text(node, key, problems, expected, example)
    parsed = None if found is None else parse_value(found, problems, expected)
    return _patched(parsed, node, problems, equations=False)


def _patched(parsed: Expression | None, node: YamlNode, problems: Problems, *, equations: bool) -> Expression | None:
    """The expression with the keywords that overrides set."""
    if parsed is None or not isinstance(node, Scalar):
        return parsed
    for keyword, new in node.patches:
        made = (
            expression(new, keyword.text.value, problems, "a value", "")
            if equations
            else value(new, keyword.text.value, problems, "a value", "")
        )
        if made is None:
            return None
        edited = set_keyword(parsed, keyword.text.value, made)
        if edited is None:
            words = new.text.source.text
            reason = f"sets an option, but `{parsed.span.text}` is not a call"
            problems.add(errors.BadOverride(keyword.span, words, reason))
            return None
        parsed = edited
    return parsed


def _list(parts: list[Expression | None], span: Span) -> Expression | None:
    """A YAML list as one list expression."""
    nodes: list[Node] = []
    roots: list[int] = []
    for part in parts:
        if part is None:
            return None
        base = len(nodes)
        for node in part.nodes:
            args = tuple(index + base for index in node.args)
            keywords = tuple((name, index + base) for name, index in node.keywords)
            nodes.append(Node(node.kind, node.value, args, keywords, node.span))
        roots.append(len(nodes) - 1)
    return Expression((*nodes, Node("list", None, tuple(roots), (), span)))
