"""Routing classes, selectors, and every error with its place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from credit_support import SQUARE, VECTOR, A, chain, elman, planned, rows, target

from recdsl.credit import rules
from recdsl.credit.build import plan
from recdsl.credit.plan import Window
from recdsl.diagnostics import SpecError, headline
from recdsl.graph.step import StepGraph
from recdsl.testing import random_case
from recdsl.testing.maker import Maker


def two_heads(*trains: tuple[str, ...], stopped: bool = False) -> StepGraph:
    """enc w1 -> h; heads p2 and q3 with a loss each."""
    m = Maker()
    w = m.parameter(VECTOR, stem="w")
    h = m.assign("h", m.unary("tanh", m.binary("*", w, m.input("x", "float", (A,)))))
    first = m.assign("a", m.binary("*", m.parameter(VECTOR, stem="p"), h))
    second = m.assign("b", m.binary("*", m.parameter(VECTOR, stem="q"), m.unary("stop", h) if stopped else h))
    m.loss("one", "mse", first, target(m, "y"), 1.0, trains[0], "all")
    m.loss("two", "mse", second, target(m, "z"), 1.0, trains[1], "all")
    return m.graph("mean")


def test_every_rule_has_a_file():
    files = {path.stem for path in Path(rules.__file__).parent.glob("*.py")} - {"__init__"}
    assert set(rules.catalogue()) == files
    assert all(rule.doc and rule.usage for rule in rules.catalogue().values())


def test_one_class_where_nothing_differs():
    made = planned(two_heads((), ()))
    assert [(c.parameters, c.losses) for c in made.classes] == [(("w1", "p2", "q3"), (0, 1))]
    assert all(c.outputs for c in made.classes)


def test_a_loss_that_cannot_reach_makes_no_class():
    """two trains q3 alone, and cannot reach w1 or p2 anyway."""
    made = planned(two_heads((), ("q3",), stopped=True))
    assert [(c.parameters, c.losses) for c in made.classes] == [(("w1", "p2", "q3"), (0, 1))]


def test_an_owner_set_makes_a_class():
    """two would reach w1 but must not train it."""
    made = planned(two_heads((), ("q3",)))
    assert {c.parameters: c.losses for c in made.classes} == {("w1", "p2"): (0,), ("q3",): (1,)}


def test_windows_make_classes():
    made = planned(elman(), ("U*", "tbptt(window=5)"), ("default", "tbptt(5, every=5)"))
    assert len(made.classes) == 1
    made = planned(elman(), ("U*", "tbptt(window=5)"), ("W1", "none"))
    assert {c.parameters: c.window for c in made.classes} == {
        ("W1",): Window(1, 1), ("U2",): Window(5, 5), ("s3", "V4"): Window(None, 1),
    }  # fmt: skip


def test_every_trained_parameter_is_in_one_class():
    for seed in range(60):
        case = random_case(seed)
        made = plan(case.graph, case.model.credit)
        names = sorted(name for c in made.classes for name in c.parameters)
        assert names == sorted(p.name for p in case.graph.parameters if not p.frozen)
        assert [row.parameter for row in made.rows] == [p.name for p in case.graph.parameters]
        assert made == plan(case.graph, case.model.credit)


def test_cuts_are_edges_and_not_links():
    graph = chain(3)
    (made,) = planned(graph, ("e[t-3]", "cut")).classes
    leaf = graph.leaf["carry:e[t-3]"]
    assert made.cuts == {(leaf, n.id) for n in graph.nodes if leaf in n.args} != frozenset()


def test_recurrence_selects_every_carried_use():
    graph = elman()
    assert planned(graph, ("recurrence", "cut")).classes[0].cuts == planned(graph, ("h[t-1]", "cut")).classes[0].cuts
    assert planned(graph, ("recurrence", "tbptt(3)")).classes[0].window == Window(3, 3)


def test_a_block_selects_its_parameters():
    assert rows(elman(), ("W1", "tbptt(window=2)"))["W1"].rule == "tbptt(window=2)"


ERRORS = [
    ("default", "tbtt(window=3)", "RD0501", 10, "tbptt"),
    ("default", "sab", "RD0503", 10, "needs `truncate`"),
    ("h[t-1]", "scale(half)", "RD0507", 9, "scale(0.5)"),
    ("W1", "scale(0.5)", "RD0507", 5, "use of a state"),
    ("default", "tbptt", "RD0503", 10, "needs `window`"),
    ("default", "tbptt(window=0)", "RD0503", 23, "at least 1"),
    ("default", "tbptt(window=3, every=4)", "RD0503", 32, "more than the window"),
    ("default", "tbptt(3, step=4)", "RD0503", 24, "no argument `step`"),
    ("default", "tbptt(1, 1, 1)", "RD0503", 22, "at most 2 arguments"),
    ("default", "tbptt(3, window=3)", "RD0503", 26, "twice"),
    ("default", "tbptt(window=2.5)", "RD0503", 23, "whole number"),
    ("default", "bptt(3)", "RD0503", 15, "at most 0 arguments"),
    ("Ws1", "bptt", "RD0504", 1, "did you mean"),
    ("enc.*", "bptt", "RD0504", 1, "parameters: W1"),
    ("g[t-1]", "cut", "RD0506", 1, "h[t-1]"),
    ("h[t-2]", "cut", "RD0506", 1, "h[t-1]"),
    ("h[t-1]", "bptt", "RD0507", 9, "takes `cut`"),
    ("W1", "cut", "RD0507", 5, "use of a state"),
    ("default", "through", "RD0507", 1, "memories: none"),
]


@pytest.mark.parametrize(("selector", "rule", "code", "column", "words"), ERRORS)
def test_errors(selector: str, rule: str, code: str, column: int, words: str):
    with pytest.raises(SpecError) as caught:
        planned(elman(), (selector, rule))
    (problem,) = caught.value.problems
    assert problem.code == code
    assert problem.span.column == column
    assert words in headline(problem) + problem.help()


def test_two_rules_for_one_parameter():
    with pytest.raises(SpecError, match="RD0505"):
        planned(elman(), ("W*", "bptt"), ("W1", "none"))
    assert rows(elman(), ("W*", "none"), ("W1", "tbptt(1)"))["W1"].verdict == "biased"


def test_all_errors_at_once():
    with pytest.raises(SpecError) as caught:
        planned(elman(), ("nothing", "bptt"), ("h[t-9]", "cut"), ("default", "what"))
    assert len(caught.value.problems) == 3


def test_require():
    truncated = ("default", "tbptt(3)")
    assert rows(elman(), truncated, require="exact for V*")["V4"].verdict == "exact"
    with pytest.raises(SpecError) as caught:
        planned(elman(), truncated, require="exact")
    assert {p.code for p in caught.value.problems} == {"RD0508"}
    assert "from lag 1 on, at `h[t-1] -> h`" in str(caught.value)
    for text, code in (("exactly", "RD0509"), ("exact for nobody", "RD0504")):
        with pytest.raises(SpecError, match=code):
            planned(elman(), require=text)


def test_frozen_parameters_have_no_class():
    m = Maker()
    w = m.parameter(SQUARE, stem="W")
    out = m.assign("out", m.matmul(w, m.input("x", "float", (A,))))
    m.loss("loss", "mse", out, target(m), 1.0, (), "all")
    m.params["W1"] = replace(m.params["W1"], frozen=True)
    made = planned(m.graph("mean"), ("W*", "bptt"))
    assert made.classes == ()
    assert [row.verdict for row in made.rows] == ["frozen"]
