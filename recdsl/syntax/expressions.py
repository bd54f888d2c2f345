"""The little languages: equations, expressions, calls. Each function reports what is wrong and returns None."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recdsl.diagnostics import Problems
from recdsl.errors import syntax as errors
from recdsl.source import Span
from recdsl.syntax.ast import Equation, Expression, Name
from recdsl.syntax.build import Builder
from recdsl.syntax.grammar import CALLS, EQUATIONS
from recdsl.syntax.parse import Piece, as_token, as_tree, parse, plain
from recdsl.syntax.scan import Line, logical_lines, one_line
from recdsl.syntax.text import Text

if TYPE_CHECKING:
    from lark import Token


def parse_equations(text: Text, problems: Problems) -> tuple[Equation, ...]:
    """All lines of a step that are sound. Each line is parsed by itself, so that no error hides another."""
    lines = logical_lines(text, problems)
    if not lines:
        example = "for example `h = tanh(W @ x + U @ h[t-1])`"
        problems.add(errors.Nothing(text.whole_span, "assignments, one a line", example))
    found = [_equation(text, line, problems) for line in lines if line.sound and not problems.full]
    return tuple(equation for equation in found if equation is not None)


def _equation(text: Text, line: Line, problems: Problems) -> Equation | None:
    piece = Piece(text, line.start, text.value[line.start : line.end])
    tree = parse(piece, EQUATIONS, "equation", problems)
    if tree is None:
        return None
    targets, _, value = as_tree(tree).children
    tokens = [as_token(part) for part in as_tree(targets).children]
    names = [piece_name(piece, token) for token in tokens if plain(token.type) == "NAME"]
    expression = Builder(piece, problems).build(value)
    if expression is None:
        return None
    span = Span(text.source, names[0].span.start, expression.span.end)
    return Equation(tuple(names), expression, span)


def piece_name(piece: Piece, token: Token) -> Name:
    """A name where it stands."""
    return Name(str(token), piece.span_of(token))


def whole_piece(text: Text, problems: Problems, expected: str, *, strings: bool = False) -> Piece | None:
    """The whole text as one piece whose brackets are sound."""
    line = one_line(text, problems, strings=strings)
    if line is None:
        problems.add(errors.Nothing(text.whole_span, expected))
        return None
    return Piece(text, 0, text.value) if line.sound else None


def parse_expression(text: Text, problems: Problems, expected: str = "an expression") -> Expression | None:
    """One expression in the language of equations."""
    piece = whole_piece(text, problems, expected)
    tree = None if piece is None else parse(piece, EQUATIONS, "expression", problems)
    return None if piece is None or tree is None else Builder(piece, problems).build(tree)


def parse_value(text: Text, problems: Problems, expected: str = "a value") -> Expression | None:
    """A call, word, number, text or list in the language of `data`, `credit` and `train`."""
    piece = whole_piece(text, problems, expected, strings=True)
    tree = None if piece is None else parse(piece, CALLS, "value", problems)
    return None if piece is None or tree is None else Builder(piece, problems).build(tree)
