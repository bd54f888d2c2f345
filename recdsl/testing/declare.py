"""Credit declarations from their text, for graphs built by hand: `declare("enc.*", "tbptt(window=5, every=2)")`."""

from __future__ import annotations

import re

from recdsl.source import Source, Span
from recdsl.syntax.ast import CreditDecl, Expression, Name, Node

_CALL = re.compile(r"([A-Za-z_]\w*)(\((.*)\))?")


def declare(selector: str, rule: str) -> CreditDecl:
    """A word, or a call whose arguments are numbers or words, by position or keyword."""
    source = Source("<credit>", f"{selector}: {rule}")
    base = len(selector) + 2
    found = _CALL.fullmatch(rule)
    assert found is not None, rule
    whole = Span(source, base, len(source.text))
    nodes: list[Node] = []
    args: list[int] = []
    keywords: list[tuple[str, int]] = []
    for piece in re.finditer(r"[^,]+", found[3] or ""):
        keyword, _, text = piece[0].rpartition("=")
        start = base + found.start(3) + piece.end() - len(text.lstrip())
        nodes.append(_literal(text.strip(), Span(source, start, start + len(text.strip()))))
        (keywords.append((keyword.strip(), len(nodes) - 1)) if keyword else args.append(len(nodes) - 1))
    kind = "call" if found[2] else "name"
    nodes.append(Node(kind, found[1], tuple(args), tuple(keywords), whole))
    return CreditDecl(Name(selector, Span(source, 0, len(selector))), Expression(tuple(nodes)))


def _literal(text: str, span: Span) -> Node:
    if re.fullmatch(r"-?\d+", text):
        return Node("number", int(text), (), (), span)
    if re.fullmatch(r"-?[\d.]+(e-?\d+)?", text):
        return Node("number", float(text), (), (), span)
    return Node("name", text, (), (), span)
