"""Credit declarations from their text, for graphs built by hand: `declare("enc.*", "tbptt(window=5, every=2)")`."""

from __future__ import annotations

from recdsl.diagnostics import Problems
from recdsl.source import Source, Span
from recdsl.syntax.ast import CreditDecl, Name
from recdsl.syntax.expressions import parse_value
from recdsl.syntax.text import Text


def declare(selector: str, rule: str) -> CreditDecl:
    """A selector with a word or a call, as in `credit:`. Raises SpecError."""
    source = Source("<credit>", f"{selector}: {rule}")
    problems = Problems()
    found = parse_value(Text(source, rule, len(selector) + 2, len(source.text)), problems)
    problems.check()
    assert found is not None
    return CreditDecl(Name(selector, Span(source, 0, len(selector))), found)
