"""Characters to Lark trees, with errors in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recdsl.diagnostics import Problem, Problems
from recdsl.errors import syntax as errors
from recdsl.source import Span
from recdsl.syntax import advice
from recdsl.syntax.grammar import CALLS, parser
from recdsl.syntax.limits import EXPRESSION_NODES, NAME_LENGTH
from recdsl.syntax.text import Text

if TYPE_CHECKING:
    from lark import Token, Tree
    from lark.parsers.lalr_interactive_parser import InteractiveParser

    Parsed = Tree[Token] | Token

# More tokens than this cannot make an expression within its limit of nodes.
_TOKENS = 4 * EXPRESSION_NODES


class Piece:
    """A part of a text that is parsed on its own: `base` is where it begins."""

    def __init__(self, text: Text, base: int, value: str) -> None:
        self.text, self.base, self.value = text, base, value

    def span_of(self, token: Token) -> Span:
        start = self.base + (token.start_pos or 0)
        return self.text.span(start, start + len(token))

    def last(self, offset: int) -> Span:
        """The character at `offset`, or, at the end, the last one that is not blank."""
        if offset >= len(self.value):
            offset = len(self.value.rstrip())
            return self.text.span(self.base + offset, self.base + offset)
        return self.text.span(self.base + offset, self.base + offset + 1)


def plain(kind: str) -> str:
    """A terminal's or rule's name without the prefix that Lark gives to imported ones."""
    return kind.rpartition("__")[2]


def as_token(part: Parsed) -> Token:
    """A part that the grammar makes a token."""
    from lark import Token

    assert isinstance(part, Token)
    return part


def as_tree(part: Parsed) -> Tree[Token]:
    """A part that the grammar makes a tree."""
    from lark import Token

    assert not isinstance(part, Token)
    return part


def parse(piece: Piece, grammar: tuple[str, tuple[str, ...]], rule: str, problems: Problems) -> Parsed | None:
    """The tree of one logical line, or None after reporting why there is none."""
    from lark.exceptions import UnexpectedCharacters, UnexpectedToken

    run = parser(*grammar).parse_interactive(piece.value, rule)
    seen: list[Token] = []
    try:
        for token in run.iter_parse():
            seen.append(token)
            if len(seen) > _TOKENS:
                problems.add(errors.ExpressionTooBig(piece.span_of(seen[0]), EXPRESSION_NODES, "parts"))
                return None
            if len(token) > NAME_LENGTH and plain(token.type) in ("NAME", "WORD"):
                problems.add(errors.NameTooLong(piece.span_of(token), len(token), NAME_LENGTH))
                return None
        return run.feed_eof(seen[-1] if seen else None)
    except UnexpectedCharacters as error:
        problems.add(_character(piece, error.pos_in_stream or 0, grammar is CALLS))
    except UnexpectedToken as error:
        accepted = _accepted(seen, error.token, grammar, rule)
        problems.add(_token(piece, seen, error.token, accepted, rule == "equation"))
    return None


def _accepted(seen: list[Token], bad: Token, grammar: tuple[str, tuple[str, ...]], rule: str) -> list[str]:
    """What could have stood in place of a bad token. The failed run has already reduced on it, so start afresh."""
    run = parser(*grammar).parse_interactive("", rule)
    for token in seen:
        if token is bad:
            break
        run.feed_token(token)
    return [plain(kind) for kind in sorted(run.choices()) if plain(kind).isupper() and _fits(run.copy(), kind)]


def _fits(run: InteractiveParser, kind: str) -> bool:
    from lark import Token
    from lark.exceptions import UnexpectedToken

    try:
        run.feed_token(Token(kind, ""))
    except UnexpectedToken:
        return False
    return True


def _character(piece: Piece, offset: int, call: bool) -> Problem:
    char = piece.value[offset]
    place = piece.last(offset)
    if not char.isascii():
        return errors.NotAscii(place, *advice.of_unicode(char))
    return errors.BadCharacter(place, char, advice.in_call(char) if call else advice.of_character(char))


def _token(piece: Piece, seen: list[Token], token: Token, accepted: list[str], equation: bool) -> Problem:
    kind = plain(token.type)
    before = [(plain(item.type), str(item)) for item in seen if item is not token]
    place = piece.last(len(piece.value)) if kind == "$END" else piece.span_of(token)
    if kind == "COMPARE" and "AND" in accepted:
        return errors.ChainedComparison(place)
    if equation and not any(name == "EQUAL" for name, _ in before):
        if not before:
            return errors.NotAnAssignment(place, "the left side is a plain name")
        return errors.NotAnAssignment(piece.span_of(seen[0]), _assignment(before, kind, str(token)))
    found = "end" if kind == "$END" else f"`{token}`"
    following = piece.value[token.start_pos or 0 :][:2] if kind != "$END" else ""
    return errors.Unexpected(
        place, found, advice.expected(accepted), advice.of_token(before, kind, str(token), following)
    )


def _assignment(before: list[tuple[str, str]], kind: str, text: str) -> str:
    name = before[0][1] if before else ""
    if kind == "LSQB":
        return f"the step defines the present: write `{name} = ...`; the past is read as `{name}[t-1]`"
    if kind == "COMPARE" and text == "==":
        return "`=` assigns; `==` compares"
    if kind in ("PLUS", "MINUS", "STAR", "SLASH"):
        return f"to add to the past write `{name} = {name}[t-1] {text} ...`" if name else ""
    if kind == "DOT":
        return "names with a dot belong to blocks and memories and cannot be assigned"
    return "give the value a name: `y = ...`"
