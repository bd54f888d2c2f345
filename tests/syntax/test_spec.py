"""Whole specs: the keys, the sections, and what is said about wrong ones."""

from __future__ import annotations

import pytest
from syntax_support import failed, failure, places, spec, tree

from recdsl.diagnostics import SpecError
from recdsl.syntax.printer import print_expression
from recdsl.syntax.spec import read_spec

CHAR_GRU = """recdsl: 1
name: char-gru
sizes: {vocab: data, hidden: 256}
inputs: {x: "onehot[vocab]"}
targets: {next: "class[vocab]"}
step: |
  h = gru(x, size=hidden)
  logits = linear(h, size=vocab)
loss: cross_entropy(logits, next)
credit: tbptt(window=64)
data: text(source=shakespeare, length=64)
train: {batch: 32, steps: 2_000, optimizer: adam(lr=2e-3), clip: 1.0, seed: 1}
"""


def test_the_example_of_the_design() -> None:
    found = read_spec(CHAR_GRU)
    assert (found.name, found.doc, found.reduce, found.require) == ("char-gru", "", "mean", None)
    assert [line.targets[0].text for line in found.step] == ["h", "logits"]
    (loss,) = found.losses
    assert (loss.name.text, tree(loss.value), loss.weight, loss.trains, loss.at) == (
        *("loss", "(call cross_entropy logits next)", 1.0, (), "all"),
    )
    (credit,) = found.credit
    assert (credit.selector.text, tree(credit.rule)) == ("default", "(call tbptt window=64)")
    assert found.data is not None
    assert tree(found.data) == "(call text source=shakespeare length=64)"
    assert {item.name.text: tree(item.value) for item in found.train} == {
        "batch": "32",
        "steps": "2000",
        "optimizer": "(call adam lr=0.002)",
        "clip": "1.0",
        "seed": "1",
    }
    assert (loss.span.line, credit.rule.span.column, found.train[2].value.nodes[0].span.text) == (9, 9, "2e-3")


def test_the_smallest_spec() -> None:
    found = read_spec("recdsl: 1\nstep: h = 1\nloss: mse(h, 0)\n")
    assert (found.name, found.data) == ("model", None)
    assert (found.sizes, found.inputs, found.credit, found.train) == ((), (), (), ())


def test_empty_sections_are_as_good_as_none() -> None:
    found = spec("sizes:\ninputs: {}\nparams: ~\nstates:\nblocks:\ntrain:\n")
    assert (found.sizes, found.inputs, found.params, found.blocks, found.train) == ((), (), (), (), ())


LOSSES = [
    ("loss: mse(h, y)", [("loss", "mse(h, y)", 1.0, (), "all")], "mean"),
    ("loss: {value: 'mse(h, y)', reduce: sum}", [("loss", "mse(h, y)", 1.0, (), "all")], "sum"),
    ("loss: {value: 'mse(h, y)', weight: 0.5, at: last}", [("loss", "mse(h, y)", 0.5, (), "last")], "mean"),
    (
        "loss:\n  a: mse(h, y)\n  b: {value: mae(h - y), weight: 2, trains: 'enc.*, W', at: every(3)}\n  reduce: sum",
        [("a", "mse(h, y)", 1.0, (), "all"), ("b", "mae(h - y)", 2.0, ("enc.*", "W"), ("every", 3))],
        "sum",
    ),
    ("loss: {a: {value: mse(h), trains: [enc.*, W]}}", [("a", "mse(h)", 1.0, ("enc.*", "W"), "all")], "mean"),
]


@pytest.mark.parametrize(("body", "losses", "reduce"), LOSSES)
def test_losses(body: str, losses: list[tuple[object, ...]], reduce: str) -> None:
    found = spec(body)
    assert found.reduce == reduce
    assert losses == [
        (item.name.text, print_expression(item.value), item.weight, tuple(name.text for name in item.trains), item.at)
        for item in found.losses
    ]


def test_credit_by_selector() -> None:
    found = spec(
        "credit:\n  enc.*: columns(window=10)\n  h[t - 1]: cut\n  recurrence: bptt\n  default: none\n"
        "  require: exact for head . *"
    )
    assert [(item.selector.text, print_expression(item.rule)) for item in found.credit] == [
        *(("enc.*", "columns(window=10)"), ("h[t-1]", "cut"), ("recurrence", "bptt"), ("default", "none")),
    ]
    assert found.require is not None
    assert found.require.text == "exact for head.*"
    alone = spec("credit: {require: exact}").require
    assert alone is not None
    assert alone.text == "exact"


def test_settings_are_scalars_calls_and_lists() -> None:
    body = """train:
  stream: true
  clip: null
  device: cuda:0
  metrics: [accuracy, bits(last=3)]
  more: "[a, b]"
  most: .inf
"""
    assert {item.name.text: tree(item.value) for item in spec(body).train} == {
        "stream": "true",
        "clip": "null",
        "device": "'cuda:0'",
        "metrics": "(list accuracy (call bits last=3))",
        "more": "(list a b)",
        "most": "inf",
    }


def test_data_may_be_a_bare_name() -> None:
    for written, meaning in (("digits", "digits"), ("pkg.mod:make", "'pkg.mod:make'")):
        data = spec(f"data: {written}").data
        assert data is not None
        assert tree(data) == meaning


# body, problems, words of the first one's message and help
MISTAKES = [
    ("stp: 1", ["RD0101 1:1"], "did you mean `step`?"),
    ("foo: 1", ["RD0101 1:1"], "recdsl, name, doc"),
    ("recdsl: 2", ["RD0103 1:9"], "the number 2"),
    ("recdsl: '1'", ["RD0103 1:9"], "text"),
    ("recdsl: true", ["RD0103 1:9"], "`true`"),
    ("recdsl:", ["RD0103 1:8"], "nothing"),
    ("memory:\n  past: 3", ["RD0104 2:9"], "its keys are slots"),
    ("name: [a]", ["RD0104 1:7"], "a list"),
    ("name: ../x", ["RD0108 1:7"], "letters"),
    ("name: .hidden", ["RD0108 1:7"], "letters"),
    ("name:", ["RD0110 1:6"], "no value"),
    ("doc: {a: 1}", ["RD0104 1:6"], "a map"),
    ("step:", ["RD0110 1:6"], "step: |"),
    ("step:\n  - h = x", ["RD0104 2:3"], "a list"),
    ("step: {h: x}", ["RD0104 1:7"], "a map"),
    ("step: 3", ["RD0207 1:7"], "assigns"),
    ("step: ''", ["RD0224 1:7"], "nothing here"),
    ("loss: h +", ["RD0206 1:10"], "missing after"),
    ("loss:", ["RD0110 1:6"], "mse(y, target)"),
    ("loss: [a]", ["RD0104 1:7"], "a list"),
    ("loss: {}", ["RD0110 1:7"], "mse(y, target)"),
    ("loss: {reduce: sum}", ["RD0110 1:7"], "mse(y, target)"),
    ("loss: {vlue: mse(h), weight: 2}", ["RD0102 1:22"], "value"),
    ("loss: {value: mse(h), reduce: max}", ["RD0106 1:31"], "`sum`"),
    ("loss: {a: {wight: 1}}", ["RD0102 1:8", "RD0101 1:12"], "value"),
    ("loss: {a: {value: mse(h), weight: x}}", ["RD0104 1:35"], "a number"),
    ("loss: {a: {value: mse(h), weight: .nan}}", ["RD0104 1:35"], "a number"),
    ("loss: {a: {value: mse(h), weight: true}}", ["RD0104 1:35"], "`true`"),
    ("loss: {a: {value: mse(h), at: first}}", ["RD0106 1:31"], "every(n)"),
    ("loss: {a: {value: mse(h), at: every(0)}}", ["RD0106 1:31"], "at least 1"),
    ("loss: {a: {value: mse(h), trains: 'a, b-c'}}", ["RD0111 1:39"], "not a selector"),
    ("loss: {a-b: mse(h)}", ["RD0108 1:8"], "a_b"),
    ("credit: 3", ["RD0216 1:9"], "tbptt(window=64)"),
    ("credit: true", ["RD0216 1:9"], "tbptt(window=64)"),
    ("credit: [bptt]", ["RD0216 1:9"], "tbptt(window=64)"),
    ("credit:", ["RD0110 1:8"], "tbptt(window=64)"),
    ("credit: bptt()x", ["RD0206 1:15"], "end"),
    ("credit: {a b: bptt, 'a b!': bptt}", ["RD0111 1:10", "RD0111 1:21"], "selector"),
    ("credit: {require: exact head}", ["RD0106 1:19"], "exact for"),
    ("credit: {require: exact for a-b}", ["RD0111 1:29"], "selector"),
    ("data: 3", ["RD0216 1:7"], "text(source"),
    ("data: {a: 1}", ["RD0104 1:7"], "a map"),
    ("data: text(", ["RD0203 1:11"], "`)`"),
    ("train: fast", ["RD0104 1:8"], "a map"),
    ("train: {steps: }", ["RD0110 1:16"], "setting"),
    ("train: {steps: {a: 1}}", ["RD0104 1:16"], "a map"),
    ("train: {optimizer: adam(lr=1, eps=2), steps: 3}", ["RD0203 1:24"], "quotes"),
    ("train: {flush: 3}", ["RD0105 1:9"], "not supported yet"),
    ("blocks: {b: 3}", ["RD0104 1:13"], "a map"),
    ("blocks: {b: {step: y = x}}", ["RD0102 1:10"], "returns: y"),
    ("blocks: {b: {step: y = x, returns: y, ste: 1}}", ["RD0101 1:39"], "`step`"),
    ("blocks: {b: {step: y = x, returns: 2y}}", ["RD0108 1:36"], "_2y"),
    ("blocks: {b: {step: y = x, returns: y, fold: n}}", ["RD0106 1:45"], "sizes"),
    ("blocks: {b: {step: y = x, returns: y, last: {params: {}}}}", ["RD0102 1:45"], "step"),
    ("blocks: {2b: {step: y = x, returns: y}}", ["RD0108 1:10"], "_2b"),
    ("step: |\n  h = x\n  y = h(t-1)", ["RD0215 3:7"], "`h[t-1]`"),
    ("states: {g: float}\nstep: h = g(t - 12)", ["RD0215 2:11"], "`g[t-12]`"),
]


@pytest.mark.parametrize(("body", "found", "words"), MISTAKES, ids=[body for body, _, _ in MISTAKES])
def test_mistakes(body: str, found: list[str], words: str) -> None:
    problems = failed(body)
    assert places(problems) == found
    assert words in f"{problems[0].text()} {problems[0].help()}"


def test_missing_keys_are_all_named() -> None:
    with pytest.raises(SpecError) as caught:
        read_spec("name: a\nsizes: {}\n")
    assert [problem.text() for problem in caught.value.problems] == [
        "a spec needs the key `recdsl`",
        "a spec needs the key `step`",
        "a spec needs the key `loss`",
    ]


def test_a_function_of_the_step_number_is_no_delay() -> None:
    assert spec("step: |\n  h = exp(t-1)\n  y = f(t-1, 2)\n")


def test_problems_of_all_sections_come_at_once() -> None:
    body = "recdsl: 3\nsizes: {a: b +}\nparams: {W: float}\nstep: h = 2 x\nloss: mse(\ncredit: (\ntrain: {a: f(}\nx: 1"
    assert failure(body) == [
        *("RD0103 1:9", "RD0206 2:15", "RD0220 3:13", "RD0206 4:13", "RD0203 5:10", "RD0203 6:9", "RD0203 7:13"),
        "RD0101 8:1",
    ]


def test_a_thousand_equations_do_not_take_long() -> None:
    lines = "".join(f"  h{n} = tanh(W @ x + U @ h{n}[t-1] + b)\n" for n in range(1000))
    assert len(spec(f"step: |\n{lines}").step) == 1000
