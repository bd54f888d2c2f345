"""The language of equations: what it means, and what is said when it goes wrong."""

from __future__ import annotations

import pytest
from syntax_support import equations, expression, places, tree

MEANINGS = [
    ("a + b * c", "(+ a (* b c))"),
    ("a - b - c", "(- (- a b) c)"),
    ("a @ b @ c", "(@ (@ a b) c)"),
    ("a * b / c % d @ e", "(@ (% (/ (* a b) c) d) e)"),
    ("-a ** 2", "(unary - (** a 2))"),
    ("a ** -b", "(** a (unary - b))"),
    ("a ** b ** c", "(** a (** b c))"),
    ("-a * b", "(* (unary - a) b)"),
    ("a - -b", "(- a (unary - b))"),
    ("+a", "(unary + a)"),
    ("not a == b", "(unary not (== a b))"),
    ("not not a", "(unary not (unary not a))"),
    ("a or b and not c", "(or a (and b (unary not c)))"),
    ("(a or b) and c", "(and (or a b) c)"),
    ("a < b and b <= c or c != d", "(or (and (< a b) (<= b c)) (!= c d))"),
    ("a + b > c * d", "(> (+ a b) (* c d))"),
    ("(a < b) == c", "(== (< a b) c)"),
    ("h[t-1] + g[t - 12]", "(+ h@1 g@12)"),
    ("h.c[t-2]", "h.c@2"),
    ("past.read", "past.read"),
    ("W.T @ x", "(@ (transpose W) x)"),
    ("h.W.T", "(transpose h.W)"),
    ("(a + b).T.T", "(transpose (transpose (+ a b)))"),
    ("f(x).T[gate=0]", "(pick gate (transpose (call f x)) 0)"),
    ("z[gate=i + 1]", "(pick gate z (+ i 1))"),
    ("h[t-1][gate=0]", "(pick gate h@1 0)"),
    ("f()", "(call f)"),
    ("f(a, b,)", "(call f a b)"),
    ("f(a, k=1, l=[b, c])", "(call f a k=1 l=(list b c))"),
    ("f(g(x), k=h[t-1])", "(call f (call g x) k=h@1)"),
    ("[]", "(list)"),
    ("[a]", "(list a)"),
    ("[[1, 2], [3, 4],]", "(list (list 1 2) (list 3 4))"),
    ("[a; b; c + d]", "(concat a b (+ c d))"),
    ("android + orb + nota", "(+ (+ android orb) nota)"),
    ("-3", "-3"),
    ("- 0.5", "-0.5"),
    ("2 ** -1", "(** 2 -1)"),
    ("(-2) ** 2", "(** -2 2)"),
    ("-2 ** 2", "(unary - (** 2 2))"),
    ("2_000", "2000"),
    ("017", "17"),
    ("1e-3", "0.001"),
    ("1_0.5_0E+2", "1050.0"),
    (".5 + 1.", "(+ 0.5 1.0)"),
    ("t", "t"),
]


@pytest.mark.parametrize(("written", "meaning"), MEANINGS, ids=[written for written, _ in MEANINGS])
def test_meaning(written: str, meaning: str) -> None:
    assert expression(written) == meaning


def test_lines() -> None:
    found, problems = equations(
        "# first\nh = tanh(\n  W @ x  # goes on (\n  + b\n)\n\n  a , b = f(x)# end\ny = [a;\n b]\n   # last"
    )
    assert problems == []
    assert [[name.text for name in line.targets] for line in found] == [["h"], ["a", "b"], ["y"]]
    assert [line.span.line for line in found] == [2, 7, 8]
    assert tree(found[2].value) == "(concat a b)"


def test_numbers_keep_their_kind() -> None:
    found, _ = equations("a = 3\nb = 3.0\nc = 1e0")
    assert [line.value.root.value.__class__ for line in found] == [int, float, float]


def test_spans_are_exact() -> None:
    found, _ = equations("y = f(a + b.c, k=h[t-1]) ** 2\n")
    assert [node.span.text for node in found[0].value.nodes] == [
        *("a", "b.c", "a + b.c", "h[t-1]"),
        *("f(a + b.c, k=h[t-1])", "2", "f(a + b.c, k=h[t-1]) ** 2"),
    ]
    assert found[0].span.text == "y = f(a + b.c, k=h[t-1]) ** 2"
    found, _ = equations("y = [a; -b].T[gate=(0)]\n")
    assert [node.span.text for node in found[0].value.nodes] == [
        *("a", "b", "-b", "[a; -b]", "[a; -b].T", "0", "[a; -b].T[gate=(0)]"),
    ]


def test_arguments_stand_before_their_node() -> None:
    found, _ = equations("y = f(a, b=[c; d ** 2], e=-g)[k=1] + not_ * (h < 2)\n")
    nodes = found[0].value.nodes
    for index, node in enumerate(nodes):
        assert all(inner < index for inner in (*node.args, *(at for _, at in node.keywords)))
    used = [inner for node in nodes for inner in (*node.args, *(at for _, at in node.keywords))]
    assert sorted(used) == list(range(len(nodes) - 1))


# what is written, the problems, and words of the first one's message or help
MISTAKES = [
    ("y = 2 x", ["RD0206 1:7"], "`2 * x`"),
    ("y = W x", ["RD0206 1:7"], "`W @ x`"),
    ("y = (a) (b)", ["RD0213 1:9"], "`*`"),
    ("y = 3(a)", ["RD0213 1:6"], "`*`"),
    ("y = [a](b)", ["RD0213 1:8"], "`*`"),
    ("y = a = 3", ["RD0206 1:7"], "`==` compares"),
    ("y == 3", ["RD0207 1:1"], "`=` assigns"),
    ("y += 3", ["RD0207 1:1"], "`y = y[t-1] + ...`"),
    ("h[t] = 3", ["RD0207 1:1"], "write `h = ...`"),
    ("h.c = 3", ["RD0207 1:1"], "dot"),
    ("tanh(x)", ["RD0207 1:1"], "`y = ...`"),
    ("3 = x", ["RD0207 1:1"], "plain name"),
    ("= x", ["RD0207 1:1"], "plain name"),
    ("y =", ["RD0206 1:4"], "missing after `=`"),
    ("y = a +", ["RD0206 1:8"], "missing after `+`"),
    ("y = a + * b", ["RD0206 1:9"], "expected a value"),
    ("y = a // b", ["RD0206 1:8"], "no `//`"),
    ("y = a *** b", ["RD0206 1:9"], "x ** 2"),
    ("y = (a + )", ["RD0206 1:10"], "missing after `+`"),
    ("y = f(a b)", ["RD0206 1:9"], "operator"),
    ("y = f(a,,b)", ["RD0206 1:9"], "missing before `,`"),
    ("y = a, b", ["RD0206 1:6"], "[a; b]"),
    ("y = a; z = b", ["RD0206 1:6"], "one assignment a line"),
    ("y = [a, b; c]", ["RD0206 1:10"], ""),
    ("y = a < b < c", ["RD0209 1:11"], "a < b and b < c"),
    ("y = a if b else c", ["RD0206 1:7"], "where(condition, a, b)"),
    ("y = x ^ 2", ["RD0201 1:7"], "x ** 2"),
    ("y = a && b", ["RD0201 1:7"], "`and`"),
    ("y = !a", ["RD0201 1:5"], "not x"),
    ("y = 'a'", ["RD0201 1:5"], "quoted"),
    ("y = M'", ["RD0201 1:6"], "M.T"),
    ("y = x[0:3]", ["RD0201 1:8"], "slice("),
    ("y = a \\\n  + b", ["RD0201 1:7", "RD0207 2:3"], "inside brackets"),
    ("y := 3", ["RD0201 1:3"], "="),
    ("y = a ? b", ["RD0201 1:7"], "where("),
    ("y = {a}", ["RD0201 1:5"], "[a, b]"),
    ("y = ~a", ["RD0206 1:5"], ""),
    ("y = h[t]", ["RD0208 1:7"], "just `h`"),
    ("y = h[t-0]", ["RD0208 1:7"], "just `h`"),
    ("y = h[t+1]", ["RD0208 1:7"], "future"),
    ("y = h[t-k]", ["RD0208 1:7"], "literal whole number"),
    ("y = h[t-1.5]", ["RD0208 1:7"], "literal whole number"),
    ("y = h[t*2]", ["RD0208 1:7"], "h[t-1]"),
    ("y = h[0]", ["RD0208 1:7"], "h[axis=0]"),
    ("y = h[-1]", ["RD0208 1:7"], "h[t-1]"),
    ("y = h[t-100001]", ["RD0208 1:7"], "1000"),
    ("y = (a + b)[t-1]", ["RD0208 1:13"], "a line and a name of its own"),
    ("y = h[]", ["RD0206 1:7"], "expected a value"),
    ("y = x.sum()", ["RD0213 1:10"], "sum(x"),
    ("y = (a + b).c", ["RD0214 1:13"], ".T"),
    ("y = a.T.b", ["RD0214 1:9"], ".T"),
    ("y = f(k=1, a)", ["RD0213 1:12"], "positional"),
    ("y = f(k=1, k=2)", ["RD0213 1:12"], "twice"),
    ("y = f(a", ["RD0203 1:6"], "`)`"),
    ("y = f(a]", ["RD0205 1:8"], "`)`"),
    ("y = a)", ["RD0204 1:6"], "delete it"),
    ("y = [a", ["RD0203 1:5"], "`]`"),
    ("y = α", ["RD0202 1:5"], "`alpha`"),
    ("y = a − b", ["RD0202 1:7"], "`-`"),
    ("y = ａ", ["RD0202 1:5"], "`a`"),
    ("y = hа", ["RD0202 1:6"], "ASCII"),
    ("y = a × b", ["RD0202 1:7"], "`*`"),
    ("y = a\u200b", ["RD0202 1:6"], "delete"),
    ("y = 1e999", ["RD0223 1:5"], "too large"),
    ("y = " + "9" * 401, ["RD0223 1:5"], "401 characters"),
    ("y = " + "a" * 129, ["RD0212 1:5"], "129 characters"),
    ("and = 3", ["RD0207 1:1"], "plain name"),
    ("y = lambda x", ["RD0206 1:12"], ""),
]


@pytest.mark.parametrize(("written", "found", "words"), MISTAKES, ids=[written[:20] for written, _, _ in MISTAKES])
def test_mistakes(written: str, found: list[str], words: str) -> None:
    _, problems = equations(written)
    assert places(problems) == found
    assert words in f"{problems[0].text()} {problems[0].help()}"


def test_no_error_hides_another() -> None:
    found, problems = equations("a = 1\nb = 2 x\nc = )\nd = 4\ne = h[t]\nf = 6")
    assert places(problems) == ["RD0206 2:7", "RD0204 3:5", "RD0208 5:7"]
    assert [line.targets[0].text for line in found] == ["a", "d", "f"]


def test_an_open_bracket_ends_at_the_next_assignment() -> None:
    found, problems = equations("a = f(x\nb = 2\nc = f(x,\n  k=3)\nd = f(\n  k=3)")
    assert places(problems) == ["RD0203 1:6"]
    assert [line.targets[0].text for line in found] == ["b", "c", "d"]


def test_an_empty_step() -> None:
    assert places(equations("  \n# nothing\n")[1]) == ["RD0224 1:1"]


@pytest.mark.parametrize(
    "written",
    [" + ".join(["x"] * 1000), "-" * 5000 + "x", "x" + ".T" * 5000, " ** ".join(["x"] * 4000), "not " * 4000 + "x"],
)
def test_long_expressions(written: str) -> None:
    found, problems = equations(f"y = {written}")
    assert problems == []
    assert len(found[0].value.nodes) > 1000


@pytest.mark.parametrize(
    ("written", "code"),
    [
        ("(" * 5000 + "x" + ")" * 5000, "RD0210 1:205"),
        ("[" * 201 + "x" + "]" * 201, "RD0210 1:205"),
        ("+".join(["x"] * 5001), "RD0211 1:5"),
        ("x" + ".T" * 15_000, "RD0211 1:5"),
        ("x +" + " " * 66_000 + "x", "RD0211 1:1"),
    ],
)
def test_limits(written: str, code: str) -> None:
    assert places(equations(f"y = {written}")[1]) == [code]


def test_nesting_up_to_the_limit() -> None:
    assert equations("y = " + "(" * 200 + "x" + ")" * 200)[1] == []
