"""Lark trees to flat expressions, and the checks that a grammar cannot make. Nothing recurses."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from recdsl.diagnostics import Problem, Problems
from recdsl.errors import syntax as errors
from recdsl.source import Span
from recdsl.syntax.ast import Expression, Node, Scalar
from recdsl.syntax.limits import EXPRESSION_NODES, NUMBER_LENGTH
from recdsl.syntax.parse import Piece, as_token, as_tree, plain
from recdsl.syntax.scalars import number

if TYPE_CHECKING:
    from lark import Token, Tree

    from recdsl.syntax.parse import Parsed

MOST_STEPS_BACK = 1_000
IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
CALLEE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:[.:][A-Za-z_][A-Za-z0-9_]*)*")
_PUNCTUATION = ("COMMA", "SEMICOLON", "LPAR", "RPAR", "LSQB", "RSQB")


@dataclass(frozen=True)
class _Make:
    """Turn the last `count` results into one node; `keywords` name the last of them."""

    kind: str
    value: Scalar | tuple[str, int]
    count: int
    keywords: tuple[str, ...] = ()
    start: int | None = None
    end: int | None = None


class Builder:
    """Builds expressions from the trees of one piece of text."""

    def __init__(self, piece: Piece, problems: Problems) -> None:
        self.piece, self.problems = piece, problems
        self.nodes: list[Node] = []
        self.work: list[Parsed | _Make] = []
        self.failed = False

    def build(self, root: Parsed) -> Expression | None:
        """The expression, or None after reporting problems."""
        return self._run([root])

    def build_call(self, name: Token, arguments: Tree[Token] | None, end: Token) -> Expression | None:
        """A call from its parts, as the declarations have them."""
        self.nodes, self.work, self.failed = [], [], False
        self._call(name, arguments, end)
        return self._run([])

    def _run(self, work: list[Parsed | _Make]) -> Expression | None:
        if work:
            self.nodes, self.work, self.failed = [], work, False
        results: list[int] = []
        while self.work:
            item = self.work.pop()
            if isinstance(item, _Make):
                first = len(results) - item.count
                args = tuple(results[first:])
                del results[first:]
                results.append(self._make(item, args))
            else:
                self._open(item)
            if len(self.nodes) > EXPRESSION_NODES:
                self._fail(errors.ExpressionTooBig(self.nodes[0].span, EXPRESSION_NODES, "parts"))
                return None
        return None if self.failed else Expression(tuple(self.nodes))

    def _fail(self, problem: Problem) -> None:
        self.problems.add(problem)
        self.failed = True

    def _make(self, item: _Make, args: tuple[int, ...]) -> int:
        if item.kind == "unary" and item.value in ("+", "-") and self.nodes[args[0]].kind == "number":
            return self._sign(item, args[0])
        start = self.nodes[args[0]].span.start if item.start is None else self._at(item.start)
        end = self.nodes[args[-1]].span.end if item.end is None else self._end(item.end)
        positional = item.count - len(item.keywords)
        keywords = tuple(zip(item.keywords, args[positional:], strict=True))
        span = Span(self.piece.text.source, start, end)
        self.nodes.append(Node(item.kind, item.value, args[:positional], keywords, span))
        return len(self.nodes) - 1

    def _sign(self, item: _Make, index: int) -> int:
        """A signed literal is a number: `-0.1` is one node."""
        node = self.nodes[index]
        assert isinstance(node.value, int | float)
        span = Span(node.span.source, self._at(item.start or 0), node.span.end)
        self.nodes[index] = Node("number", -node.value if item.value == "-" else node.value, (), (), span)
        return index

    def _at(self, offset: int) -> int:
        return self.piece.text.span(offset, offset + 1).start

    def _end(self, offset: int) -> int:
        return self.piece.text.span(offset - 1, offset).end

    def _offset(self, token: Token) -> int:
        return self.piece.base + (token.start_pos or 0)

    def _leaf(self, kind: str, value: Scalar | tuple[str, int], first: Token, last: Token | None = None) -> None:
        end = self._offset(last or first) + len(last or first)
        self.work.append(_Make(kind, value, 0, (), self._offset(first), end))

    def _open(self, item: Parsed) -> None:
        from lark import Token

        if isinstance(item, Token):
            self._token(item)
            return
        parts = item.children
        match plain(str(item.data)):
            case "binary":
                self._push("binary", str(parts[1]), [parts[0], parts[2]])
            case "compare":
                self._push("compare", str(parts[1]), [parts[0], parts[2]])
            case "unary":
                sign = as_token(parts[0])
                self._push("unary", str(sign), [parts[1]], start=self._offset(sign))
            case "attribute":
                self._attribute(item)
            case "index":
                self._index(item)
            case "pick":
                end = self._offset(as_token(parts[-1])) + 1
                self._push("pick", str(parts[2]), [parts[0], parts[4]], end=end)
            case "call":
                self._open_call(item)
            case kind:
                start, end = self._offset(as_token(parts[0])), self._offset(as_token(parts[-1])) + 1
                items = [] if len(parts) == 2 else _without_punctuation(as_tree(parts[1]))
                self._push(kind, None, items, start=start, end=end)

    def _push(
        self,
        kind: str,
        value: Scalar,
        parts: list[Parsed],
        keywords: tuple[str, ...] = (),
        start: int | None = None,
        end: int | None = None,
    ) -> None:
        self.work.append(_Make(kind, value, len(parts), keywords, start, end))
        self.work.extend(reversed(parts))

    def _token(self, token: Token) -> None:
        match plain(token.type):
            case "NUMBER" | "SIGNED":
                self._leaf("number", self._number(token), token)
            case "STRING":
                self._leaf("text", self._string(token), token)
            case "DELAY":
                name, _, rest = str(token).partition("[")
                lag = int(rest.rstrip(" ]").partition("-")[2]) if len(rest) < NUMBER_LENGTH else 0
                if not 1 <= lag <= MOST_STEPS_BACK:
                    reason = f"a delay is from 1 to {MOST_STEPS_BACK} steps"
                    self._fail(errors.BadDelay(self.piece.span_of(token), rest.rstrip("]"), reason))
                self._leaf("delay", (name, lag), token)
            case "WORD" if not IDENTIFIER.fullmatch(str(token)):
                self._leaf("text", str(token), token)
            case _:
                self._leaf("name", str(token), token)

    def _number(self, token: Token) -> int | float:
        if len(token) > NUMBER_LENGTH:
            reason = f"has {len(token)} characters; the limit is {NUMBER_LENGTH}"
            self._fail(errors.BadNumber(self.piece.span_of(token), f"{token[:12]}...", reason))
            return 0
        value = number(str(token))
        if isinstance(value, float) and math.isinf(value):
            self._fail(errors.BadNumber(self.piece.span_of(token), str(token), "is too large for a float"))
        return value

    def _string(self, token: Token) -> str:
        if token.startswith("'"):
            return str(token[1:-1])
        try:
            return str(json.loads(str(token).replace("\t", "\\t")))
        except ValueError:
            advice = 'escapes are those of JSON: \\n, \\", \\\\, \\u0041'
            self._fail(errors.BadCharacter(self.piece.span_of(token), "\\", advice))
            return ""

    def _attribute(self, tree: Tree[Token]) -> None:
        name = tree.children[2]
        if name == "T":
            self._push("transpose", None, [tree.children[0]], end=self._offset(as_token(name)) + 1)
            return
        dotted = _dotted(tree)
        if dotted is None:
            self._fail(errors.BadDot(self.piece.span_of(as_token(name)), str(name)))
            self.work.append(tree.children[0])
        else:
            self._leaf("name", dotted[0], dotted[1], dotted[2])

    def _index(self, tree: Tree[Token]) -> None:
        base, inner, close = tree.children[0], tree.children[2], as_token(tree.children[3])
        dotted = _dotted(base)
        opening = as_token(tree.children[1])
        start, end = self._offset(opening) + 1, self._offset(close)
        written = self.piece.text.value[start:end].strip()
        lag, reason = _lag(inner, dotted[0] if dotted else "h")
        if dotted is None and lag:
            lag, reason = 0, "only a name has a past: give the value a line and a name of its own"
        if dotted is None or not lag:
            place = self.piece.text.span(start, end)
            self._fail(errors.BadDelay(place, written, reason))
            self.work.append(base)
            return
        self._leaf("delay", (dotted[0], lag), dotted[1], close)

    def _open_call(self, tree: Tree[Token]) -> None:
        from lark import Token

        callee, arguments, close = tree.children[0], as_tree(tree.children[2]), as_token(tree.children[3])
        opening = self.piece.span_of(as_token(tree.children[1]))
        if isinstance(callee, Token) and CALLEE.fullmatch(callee) and self._adjacent(callee, tree):
            self._call(callee, arguments, close)
            return
        name = _dotted(callee)
        dotted = name is not None and "." in name[0]
        reason = "a name with a dot cannot be called" if dotted else "only a name can be called"
        advice = "functions are called by their name: `sum(x, axis=hid)`" if dotted else "is a `*` missing before `(`?"
        self._fail(errors.BadCall(opening, reason, advice))
        self.work.append(callee)

    def _adjacent(self, callee: Token, tree: Tree[Token]) -> bool:
        """Whether the opening bracket follows the name: of `(a) (b)` the tree is that of `a (b)`."""
        start, end = self._offset(callee) + len(callee), self._offset(as_token(tree.children[1]))
        return not self.piece.text.value[start:end].strip()

    def _call(self, name: Token, arguments: Tree[Token] | None, end: Token) -> None:
        from lark import Token

        parts: list[Parsed] = []
        keywords: list[str] = []
        for part in [] if arguments is None else _without_punctuation(arguments):
            if isinstance(part, Token) or plain(str(part.data)) != "keyword":
                parts.append(part)
                if keywords:
                    reason = f"a positional argument after the keyword `{keywords[-1]}`"
                    self._fail(errors.BadCall(self._place(part), reason, "positional arguments come first"))
                continue
            key = as_token(part.children[0])
            if str(key) in keywords:
                self._fail(errors.BadCall(self.piece.span_of(key), f"the keyword `{key}` is given twice"))
            if not IDENTIFIER.fullmatch(key):
                self._fail(errors.BadCall(self.piece.span_of(key), f"`{key}` cannot be a keyword"))
            keywords.append(str(key))
            parts.append(part.children[2])
        closing = self._offset(end) + len(end)
        self._push("call", str(name), parts, tuple(keywords), self._offset(name), closing)

    def _place(self, part: Parsed) -> Span:
        """The first token of a tree: enough to point at it."""
        from lark import Token

        while not isinstance(part, Token):
            part = part.children[0]
        return self.piece.span_of(part)


def _without_punctuation(tree: Tree[Token]) -> list[Parsed]:
    from lark import Token

    return [part for part in tree.children if not isinstance(part, Token) or plain(part.type) not in _PUNCTUATION]


def _dotted(part: Parsed) -> tuple[str, Token, Token] | None:
    """`a.b.c` as one name with its first and last token; None if the tree is anything else."""
    from lark import Token

    names: list[Token] = []
    while not isinstance(part, Token):
        if plain(str(part.data)) != "attribute" or part.children[2] == "T":
            return None
        names.append(as_token(part.children[2]))
        part = part.children[0]
    if plain(part.type) != "NAME":
        return None
    names.append(part)
    names.reverse()
    return ".".join(names), names[0], names[-1]


def _lag(index: Parsed, name: str) -> tuple[int, str]:
    """k of `t - k`, or 0 and the advice to give."""
    from lark import Token

    previous = f"the previous value is `{name}[t-1]`"
    if isinstance(index, Token):
        if index == "t":
            return 0, f"the present value is just `{name}`"
        return 0, f"{previous}; to pick along an axis name it: `{name}[axis=0]`"
    parts = index.children
    if plain(str(index.data)) != "binary" or parts[0] != "t":
        return 0, f"{previous}; to pick along an axis name it: `{name}[axis=0]`"
    if parts[1] == "+":
        return 0, f"the future cannot be read; {previous}"
    if parts[1] != "-":
        return 0, previous
    lag = parts[2]
    if not isinstance(lag, Token) or not re.fullmatch(r"[0-9_]{1,400}", lag):
        return 0, f"the number of steps is a literal whole number: `{name}[t-2]`"
    steps = int(lag)
    if steps == 0:
        return 0, f"the present value is just `{name}`"
    return (steps, "") if steps <= MOST_STEPS_BACK else (0, f"a delay is at most {MOST_STEPS_BACK} steps")
