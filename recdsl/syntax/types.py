"""Types and what may follow them: `float[hid, inp] ~ normal(0, 0.1) sparse(0.1) frozen`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from recdsl.diagnostics import Problem, Problems, suggest
from recdsl.errors import syntax as errors
from recdsl.source import Span
from recdsl.syntax.ast import Expression, TypeExpr
from recdsl.syntax.build import Builder
from recdsl.syntax.expressions import whole_piece
from recdsl.syntax.grammar import EQUATIONS
from recdsl.syntax.parse import Piece, as_token, as_tree, parse, plain
from recdsl.syntax.text import Text

if TYPE_CHECKING:
    from lark import Token, Tree

    from recdsl.syntax.parse import Parsed

TYPES = ("float", "onehot", "class", "token", "bool")
INITIALISERS = ("uniform", "normal", "glorot", "orthogonal", "he", "lecun", "ring", "zeros", "ones", "constant")
MASKS = ("sparse", "blocks")
WORDS = ("frozen", "kept")


@dataclass
class Declaration:
    """A type with its modifiers, each where it was written."""

    type: TypeExpr | None = None
    init: Expression | None = None
    literal: Expression | None = None
    masks: list[Expression] = field(default_factory=list[Expression])
    frozen: Span | None = None
    kept: Span | None = None


def parse_declaration(text: Text, problems: Problems) -> Declaration | None:
    """A declaration; without a type where the text begins with `=`. None after reporting problems."""
    piece = whole_piece(text, problems, "a type such as `float[hid]`")
    if piece is None:
        return None
    untyped = piece.value.lstrip().startswith("=")
    tree = parse(piece, EQUATIONS, "initial" if untyped else "declaration", problems)
    if tree is None:
        return None
    reader = _Reader(piece, problems)
    if untyped:
        _, start, *words = as_tree(tree).children
        reader.literal(start)
        for word in words:
            reader.word(as_token(word))
    else:
        first, *modifiers = as_tree(tree).children
        reader.type(as_tree(first))
        for modifier in modifiers:
            reader.modifier(as_tree(modifier))
    return None if reader.failed else reader.made


class _Reader:
    def __init__(self, piece: Piece, problems: Problems) -> None:
        self.piece, self.problems = piece, problems
        self.builder = Builder(piece, problems)
        self.made = Declaration()
        self.failed = False

    def fail(self, problem: Problem) -> None:
        self.problems.add(problem)
        self.failed = True

    def type(self, tree: Tree[Token]) -> None:
        name = as_token(tree.children[0])
        kind, place = str(name), self.piece.span_of(name)
        if kind not in TYPES:
            advice = "the type comes first: `float[...] kept`" if kind == "kept" else suggest(kind, TYPES)
            advice = advice or f"types are {', '.join(TYPES)}"
            self.fail(errors.UnknownType(place, kind, advice))
            return
        parts = [part for part in tree.children[1:] if not _is_punctuation(part)]
        axes = [self.builder.build(part) for part in parts]
        end = self.piece.span_of(as_token(tree.children[-1])).end
        span = Span(place.source, place.start, end)
        wrong = _axes_problem(span, kind, len(axes), len(tree.children) > 1)
        if wrong is not None:
            self.fail(wrong)
        sound = [axis for axis in axes if axis is not None]
        self.failed = self.failed or len(sound) < len(axes)
        self.made.type = TypeExpr(kind, tuple(sound), span)

    def modifier(self, tree: Tree[Token]) -> None:
        parts = tree.children
        match plain(str(tree.data)):
            case "literal":
                self.once(parts[0])
                self.literal(parts[1])
            case "drawn":
                self.once(parts[0])
                self.made.init = self.call(parts[1:], INITIALISERS, "initialiser")
            case "mask":
                mask = self.call(parts, MASKS, "mask")
                self.made.masks.extend([] if mask is None else [mask])
            case _:
                self.word(as_token(parts[0]))

    def once(self, sign: Parsed) -> None:
        if self.made.init is not None or self.made.literal is not None:
            place = self.piece.span_of(as_token(sign))
            self.fail(errors.BadModifier(place, "a second start value", "keep one of `~ ...` and `= ...`"))

    def call(self, parts: list[Parsed], known: tuple[str, ...], what: str) -> Expression | None:
        name = as_token(parts[0])
        if str(name) not in known:
            near = suggest(str(name), (*known, "frozen") if what == "mask" else known)
            self.fail(errors.UnknownInitialiser(self.piece.span_of(name), what, str(name), near or _list(known)))
            return None
        if len(parts) == 1:
            built = self.builder.build_call(name, None, name)
        else:
            built = self.builder.build_call(name, as_tree(parts[2]), as_token(parts[3]))
        self.failed = self.failed or built is None
        return built

    def word(self, token: Token) -> None:
        place = self.piece.span_of(token)
        if token == "kept":
            if self.made.kept is not None:
                self.fail(errors.BadModifier(place, "`kept` stands here twice"))
            self.made.kept = place
            return
        if token != "frozen":
            advice = f"write `{token}(...)`" if token in MASKS else "write `~` before an initialiser"
            near = suggest(str(token), WORDS)
            known = str(token) in INITIALISERS or str(token) in MASKS
            self.fail(errors.BadModifier(place, f"unexpected `{token}` after the type", advice if known else near))
        elif self.made.frozen is not None:
            self.fail(errors.BadModifier(place, "`frozen` stands here twice"))
        self.made.frozen = place

    def literal(self, tree: Parsed) -> None:
        self.made.literal = self.builder.build(tree)
        self.failed = self.failed or self.made.literal is None


def _axes_problem(span: Span, kind: str, count: int, brackets: bool) -> Problem | None:
    found = {0: "none", 1: "one size"}.get(count, f"{count} sizes")
    if kind == "bool" and brackets:
        advice = "an array of truth values is `float[...]` with 0 and 1"
        return errors.TypeAxes(span, kind, "no size", found, advice)
    if kind in ("onehot", "class", "token") and count != 1:
        return errors.TypeAxes(span, kind, "exactly one size", found, f"write `{kind}[n]`, n the number of symbols")
    if kind == "float" and brackets and not count:
        return errors.TypeAxes(span, kind, "at least one size inside `[ ]`", "none", "a single number is `float`")
    return None


def _is_punctuation(part: Parsed) -> bool:
    return plain(str(getattr(part, "type", ""))) in ("LSQB", "RSQB", "COMMA")


def _list(words: tuple[str, ...]) -> str:
    return f"there are {', '.join(words)}"


def literal_problem(value: Expression) -> Problem | None:
    """What is wrong with a parameter's start value: it is a number, or nested lists of numbers with equal rows."""
    shapes: list[tuple[int, ...]] = []
    for node in value.nodes:
        if node.kind == "number":
            shapes.append(())
        elif node.kind != "list":
            advice = "random starts are written after `~`"
            return errors.BadLiteral(node.span, "a start value is a number or a list of numbers", advice)
        elif not node.args:
            return errors.BadLiteral(node.span, "an empty list")
        else:
            rows = {shapes[index] for index in node.args}
            if len(rows) > 1:
                return errors.BadLiteral(node.span, "the rows of this list differ in length")
            shapes.append((len(node.args), *rows.pop()))
    return None
