"""What is printed reads back as the same tree."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from syntax_support import expression, text, tree

from recdsl.diagnostics import Problems
from recdsl.source import Source, Span
from recdsl.syntax.ast import Expression, Node, Spec
from recdsl.syntax.expressions import parse_expression, parse_value
from recdsl.syntax.printer import print_expression, print_spec, quoted
from recdsl.syntax.same import same
from recdsl.syntax.spec import read_spec
from recdsl.syntax.yaml_reader import Scalar, read_mapping

GOOD = sorted((Path(__file__).parent.parent / "good").glob("*.yaml"))
PLACE = Span(Source("x", ""), 0, 0)


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_good_specs_read_back(path: Path) -> None:
    found = read_spec(str(path))
    printed = print_spec(found)
    again = read_spec(printed)
    assert same(found, again)
    assert print_spec(again) == printed


MINIMAL = [
    ("((a + b)) + (c)", "a + b + c"),
    ("a - (b - c)", "a - (b - c)"),
    ("(a * b) * (c / d)", "a * b * (c / d)"),
    ("-(a + b) ** (-c)", "-(a + b) ** -c"),
    ("(-a) ** b", "(-a) ** b"),
    ("(a ** b) ** c", "(a ** b) ** c"),
    ("(-2) ** 2", "(-2) ** 2"),
    ("2 ** 3", "2 ** 3"),
    ("(2).T", "(2).T"),
    ("(not a) and (b or c)", "not a and (b or c)"),
    ("not (a and b)", "not (a and b)"),
    ("(a < b) < c", "(a < b) < c"),
    ("(f(x)).T[a=(b)]", "f(x).T[a=b]"),
    ("(a@b).T", "(a @ b).T"),
    ("[a;b+c]", "[a; b + c]"),
    ("f( k = [ 1 ,2] )", "f(k=[1, 2])"),
    ("h [ t - 1 ]", "h[t-1]"),
    ("+a - +b", "+a - +b"),
]


@pytest.mark.parametrize(("written", "printed"), MINIMAL)
def test_brackets_are_as_few_as_can_be(written: str, printed: str) -> None:
    problems = Problems()
    found = parse_expression(text(written), problems)
    problems.check()
    assert found is not None
    assert print_expression(found) == printed
    assert expression(printed) == tree(found)


def test_words_that_yaml_would_take_for_values_are_quoted() -> None:
    found = read_spec("recdsl: 1\nstep: h = x\nloss: mse(h, 0)\ncredit: 'null'\ndata: 'true'\n")
    assert same(found, read_spec(print_spec(found)))


def test_same_ignores_places_only() -> None:
    spec = "recdsl: 1\nstep: h = {}\nloss: mse(h, 0)\n"
    base = read_spec(spec.format("x + 1"))
    assert same(base, read_spec("# moved\n" + spec.format("(x+1)")))
    for other in ("x + 1.0", "x - 1", "1 + x", "x + y", "x + 1 + 1", "x"):
        assert not same(base, read_spec(spec.format(other)))


NAMES = st.sampled_from(("a", "b", "h", "t", "x1", "long_name", "past.read", "h.Wz"))
SIMPLE = st.sampled_from(("a", "k", "gate", "class", "orb"))
NUMBERS = st.one_of(
    st.integers(-(10**6), 10**6), st.floats(allow_nan=False, allow_infinity=False), st.just(10**30), st.just(-0.0)
)
KINDS = st.sampled_from(("leaf", "leaf", "binary", "compare", "unary", "call", "many", "pick", "transpose"))
OPERATORS = st.sampled_from(("+", "-", "*", "/", "@", "**", "%", "and", "or"))
COMPARISONS = st.sampled_from(("<", "<=", ">", ">=", "==", "!="))


@st.composite
def expressions(draw: st.DrawFn) -> Expression:
    """Any expression that the grammar can say, built from its end."""
    nodes: list[Node] = []
    roots: list[int] = []

    def add(kind: str, value: object, args: int, *keywords: str) -> None:
        taken = roots[len(roots) - args - len(keywords) :] if args + len(keywords) else []
        del roots[len(roots) - len(taken) :]
        named = tuple(zip(keywords, taken[args:], strict=True))
        nodes.append(Node(kind, value, tuple(taken[:args]), named, PLACE))  # type: ignore[arg-type]
        roots.append(len(nodes) - 1)

    for _ in range(draw(st.integers(1, 25))):
        kind = draw(KINDS)
        have = len(roots)
        if kind == "binary" and have >= 2:
            add("binary", draw(OPERATORS), 2)
        elif kind == "compare" and have >= 2:
            add("compare", draw(COMPARISONS), 2)
        elif kind == "unary" and have and nodes[roots[-1]].kind != "number":
            add("unary", draw(st.sampled_from(("-", "+", "not"))), 1)
        elif kind == "call":
            words = draw(st.lists(SIMPLE, unique=True, max_size=min(2, have)))
            add("call", draw(SIMPLE), draw(st.integers(0, min(3, have - len(words)))), *words)
        elif kind == "many" and have >= 2:
            add(draw(st.sampled_from(("list", "concat"))), None, draw(st.integers(2, min(4, have))))
        elif kind == "pick" and have >= 2:
            add("pick", draw(SIMPLE), 2)
        elif kind == "transpose" and have:
            add("transpose", None, 1)
        elif draw(st.booleans()):
            add("number", draw(NUMBERS), 0)
        elif draw(st.booleans()):
            add("delay", (draw(NAMES), draw(st.integers(1, 99))), 0)
        else:
            add("name", draw(NAMES), 0)
    while len(roots) > 1:
        add("binary", draw(OPERATORS), 2)
    return Expression(tuple(nodes))


@settings(deadline=None, max_examples=400)
@given(expressions())
def test_any_expression_reads_back(found: Expression) -> None:
    problems = Problems()
    again = parse_expression(text(print_expression(found)), problems)
    problems.check()
    assert same(found, again), print_expression(found)


WORDS = st.text(max_size=20).filter(lambda word: not any("\ud800" <= char <= "\udfff" for char in word))


@settings(deadline=None)
@given(WORDS)
def test_any_text_in_a_call_reads_back(word: str) -> None:
    nodes = (Node("text", word, (), (), PLACE), Node("call", "f", (), (("k", 0),), PLACE))
    problems = Problems()
    again = parse_value(text(print_expression(Expression(nodes))), problems)
    problems.check()
    assert again is not None
    assert again.nodes[0].value == word


@settings(deadline=None)
@given(WORDS)
def test_any_text_in_yaml_reads_back(word: str) -> None:
    node = read_mapping(Source("x.yaml", f"k: {quoted(word)}\n")).items[0][1]
    assert isinstance(node, Scalar)
    assert node.value == word
    assert quoted(word).isprintable()


SIZES = st.sampled_from(("n", "m", "2 * n", "n + m", "n / 2", "7"))
TYPES = st.one_of(
    st.builds("float[{}, {}]".format, SIZES, SIZES),
    st.builds("{}[{}]".format, st.sampled_from(("float", "onehot", "class", "token")), SIZES),
    st.sampled_from(("bool", "float")),
)
STARTS = st.sampled_from(
    ("~ normal(0, 0.1)", "~ glorot", "= 0", "= -1e-3", "= [[1, 0], [0, 1]]", "~ he sparse(0.1) frozen", "blocks(2) = 1")
)
STATE_STARTS = st.sampled_from(("", " = 1", " = [0, 1]", " = start", " = 2 * start"))
RULES = st.sampled_from(("bptt", "tbptt(window=5, every=2)", "none", "rule(cuts=[h[t-1], enc.*], name='a b')"))
SETTINGS = st.sampled_from(("3", "1e-3", "true", "null", "adam(lr=1e-3)", "'\"a b: c\"'", "cuda:0", "[a, 1]", ".inf"))
LOSSES = st.sampled_from(
    (
        "mse(h, y)",
        "{value: 'mse(h, y)', weight: 0.5}",
        "{value: td(h), at: every(3), trains: [enc.*, W]}",
        "{value: f(h), at: last}",
    )
)
BLOCK = """
  {}:
    doc: "x: y # z"
    arguments: {{x: "float[n]"}}
    sizes: {{size: required, act: tanh, more: "[1, a]"}}
    states: {{s: }}
    step: |
      y = act(x) * size
    fold: size
    last: {{params: {{V: "float = 1"}}, step: y = V * x}}
    returns: y"""


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    names = iter(f"v{index}" for index in range(1000))

    def section(key: str, values: st.SearchStrategy[str]) -> str:
        lines = [f"  {next(names)}: {value}" for value in draw(st.lists(values, max_size=3))]
        return "\n".join([f"{key}:", *lines])

    values = [print_expression(draw(expressions())) for _ in range(draw(st.integers(1, 3)))]
    equations = [f"  {next(names)}, {next(names)} = {value}" for value in values]
    parts = [
        "recdsl: 1",
        f"doc: {quoted(draw(WORDS))}",
        section("sizes", st.sampled_from(("3", "data", "v0 / 2", "0x10"))),
        section("inputs", TYPES),
        section("targets", TYPES),
        section("params", st.builds("{} {}".format, TYPES, STARTS)),
        section("states", st.builds("{}{}".format, TYPES, STATE_STARTS)),
        "blocks:" + "".join(BLOCK.format(next(names)) for _ in range(draw(st.integers(0, 2)))),
        "\n".join(["step: |", *equations]),
        section("loss", LOSSES) + f"\n  {next(names)}: mse(h)\n  reduce: {draw(st.sampled_from(('mean', 'sum')))}",
        section("credit", RULES) + "\n  default: bptt" + draw(st.sampled_from(("", "\n  require: exact for a.*"))),
        f"data: {draw(RULES)}",
        section("train", SETTINGS),
    ]
    return read_spec("\n".join(draw(st.permutations(parts))) + "\n")


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(specs())
def test_any_spec_reads_back(found: Spec) -> None:
    printed = print_spec(found)
    again = read_spec(printed)
    assert same(found, again), printed
    assert print_spec(again) == printed
