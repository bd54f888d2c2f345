"""`key=value` on the command line."""

from __future__ import annotations

import pytest
from syntax_support import failed, places, spec

from recdsl.syntax.printer import print_expression, print_spec

BODY = """sizes: {hidden: 64, vocab: data}
inputs: {x: "float[hidden]"}
loss: {main: {value: "td(h, 0, discount=0.9)"}}
credit: tbptt(window=4)
data: text(source=shakespeare, length=64)
train: {steps: 10, optimizer: "adam(lr=1e-3, betas=[0.9, 0.99])"}
"""

CHANGES = [
    ("sizes.hidden=32", "hidden: 32"),
    ("sizes.hidden = 2 * vocab", "hidden: 2 * vocab"),
    ("sizes.hidden=data", "hidden: data"),
    ("name=other", "name: other"),
    ("train.steps=1e3", "steps: 1000.0"),
    ("train.batch=7", "batch: 7"),
    ("train.optimizer=sgd(lr=1)", "optimizer: sgd(lr=1)"),
    ("train.lr=0.5", "optimizer: adam(lr=0.5, betas=[0.9, 0.99])"),
    ("train.optimizer.betas=[0, 1]", "optimizer: adam(lr=0.001, betas=[0, 1])"),
    ("train.optimizer.eps=1e-4", "optimizer: adam(lr=0.001, betas=[0.9, 0.99], eps=0.0001)"),
    ("train.stream=true", "stream: true"),
    ("train.metrics=[accuracy, bits]", 'metrics: "[accuracy, bits]"'),
    ("credit=snap(1)", "default: snap(1)"),
    ("credit.window=9", "default: tbptt(window=9)"),
    ("data=digits", "data: digits"),
    ("data.length=3", "data: text(source=shakespeare, length=3)"),
    ("data.source=fashion-mnist", "data: text(source=fashion-mnist, length=64)"),
    ("loss.main.weight=3", "weight: 3.0"),
    ("loss.main.value.discount=x[t-1]", "value: td(h, 0, discount=x[t-1])"),
    ("inputs.x=float", "x: float"),
    ("doc=a text", "doc: a text"),
]


@pytest.mark.parametrize(("override", "line"), CHANGES)
def test_changes(override: str, line: str) -> None:
    before, after = print_spec(spec(BODY)).split("\n"), print_spec(spec(BODY, override)).split("\n")
    assert line in [found.strip() for found in after]
    assert line not in [found.strip() for found in before]


def test_later_ones_win_and_add_up() -> None:
    found = print_spec(spec(BODY, "data.length=3", "data.length=4", "data.k=5", "credit=bptt", "credit=none"))
    assert "data: text(source=shakespeare, length=4, k=5)" in found
    assert "default: none" in found


def test_selectors_of_credit_hold_dots() -> None:
    body = "credit: {default: bptt, enc.*: tbptt(window=3)}"
    found = spec(body, "credit.enc.*=none", "credit.head.*=bptt", "credit.h[t-1]=cut", "credit.default=none").credit
    assert {item.selector.text: print_expression(item.rule) for item in found} == {
        "default": "none", "enc.*": "none", "head.*": "bptt", "h[t-1]": "cut",
    }


def test_sections_that_the_spec_lacks() -> None:
    found = print_spec(spec("", "train.steps=5", "data=digits(n=3)", "credit=none", "train.lr=0.1"))
    for line in ("steps: 5", "data: digits(n=3)", "default: none", "optimizer: adam(lr=0.1)"):
        assert line in found


@pytest.mark.parametrize("train", ["", "train: {steps: 3}\n"])
def test_a_learning_rate_needs_no_optimizer(train: str) -> None:
    (*_, setting) = spec(train, "train.lr=0.1").train
    assert (setting.name.text, print_expression(setting.value)) == ("optimizer", "adam(lr=0.1)")
    assert (setting.value.nodes[0].span.text, setting.name.span.start) == ("0.1", 6)
    assert places(failed(train + "step: |\n  h = 1\n", "train.lr=1)")) == ["RD0204 1:11"]


MISTAKES = [
    ("hidden=3", ["RD0107 1:1"], "no key of a spec"),
    ("lr=3", ["RD0107 1:1"], "`train.lr=1e-3`"),
    ("trian.steps=3", ["RD0107 1:1"], "`train`"),
    ("sizes.hiden=3", ["RD0107 1:7"], "`hidden`"),
    ("inputs.y=float", ["RD0107 1:8"], "has x"),
    ("params.W=float = 1", ["RD0107 1:1"], "does not have"),
    ("sizes.hidden", ["RD0107 1:1"], "`key=value`"),
    ("", ["RD0107 1:1"], "`key=value`"),
    ("=3", ["RD0107 1:1"], "`key=value`"),
    ("sizes..a=3", ["RD0107 1:1"], "`key=value`"),
    ("train" + ".a" * 10_000 + "=3", ["RD0107 1:1"], "`key=value`"),
    ("sizes.hidden=3\x1b", ["RD0107 1:1"], "printed"),
    ("sizes.hidden=2 x", ["RD0206 1:16"], "2 * x"),
    ("sizes.hidden=", ["RD0107 1:14"], "no value"),
    ("sizes.hidden.x=3", ["RD0107 1:14"], "no keys"),
    ("credit=tbptt(", ["RD0203 1:13"], "`)`"),
    ("credit.window=(", ["RD0203 1:15"], "`)`"),
    ("train=3", ["RD0104 1:7"], "a map"),
    ("train.steps.x=3", ["RD0107 1:13"], "no keys"),
    ("recdsl=2", ["RD0103 1:8"], "2"),
    ("loss.main.foo=2", ["RD0101 1:11"], "unknown key"),
    ("step.h=2", ["RD0107 1:6"], "no keys"),
    ("sizes.hidden=" + "9" * 500, ["RD0223 1:14"], "500 characters"),
]


@pytest.mark.parametrize(("override", "found", "words"), MISTAKES, ids=[one[:20] for one, _, _ in MISTAKES])
def test_mistakes(override: str, found: list[str], words: str) -> None:
    problems = failed(BODY + "step: |\n  h = x\n", override)
    assert places(problems) == found
    assert problems[0].span.source.path == "<override>"
    assert words in f"{problems[0].text()} {problems[0].help()}"
