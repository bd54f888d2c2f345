"""Types and what follows them, in the sections that hold them."""

from __future__ import annotations

import pytest
from syntax_support import failed, failure, places, spec

from recdsl.syntax.printer import print_expression, print_param, print_state, print_type

TYPES = ["float", "float[n]", "float[hid, inp + hid]", "float[2 * n, n]", "onehot[n]", "class[9]", "token[n]", "bool"]


@pytest.mark.parametrize("written", TYPES)
def test_types(written: str) -> None:
    assert print_type(spec(f'inputs: {{x: "{written}"}}').inputs[0].type) == written


PARAMS = [
    ("float ~ normal(0, 0.1)", "float ~ normal(0, 0.1)"),
    ("float[a,b]~glorot", "float[a, b] ~ glorot()"),
    ("float[a, b] ~ uniform(-0.1, 0.1) sparse(0.1) frozen", "float[a, b] ~ uniform(-0.1, 0.1) sparse(0.1) frozen"),
    ("float[a, b] blocks(4) ~ he(gain=2) sparse(0.5)", "float[a, b] ~ he(gain=2) blocks(4) sparse(0.5)"),
    ("float = 1", "float = 1"),
    ("float = -1.5 frozen", "float = -1.5 frozen"),
    ("float[a, b] = [[1, 0], [0, -1]]", "float[a, b] = [[1, 0], [0, -1]]"),
]


@pytest.mark.parametrize(("written", "meaning"), PARAMS)
def test_params(written: str, meaning: str) -> None:
    found = spec(f"params:\n  W: {written}").params[0]
    assert print_param(found) == meaning
    assert (found.init is None) != (found.literal is None)


STATES = [
    ("float[val, key]", "float[val, key]"),
    ("float[hid] = 1", "float[hid] = 1"),
    ("float[hid] = [0, 0, 1]", "float[hid] = [0, 0, 1]"),
    ("float[hid] = start", "float[hid] = start"),
    ("float[hid] = 2 * start", "float[hid] = 2 * start"),
    ("= start", "= start"),
    ("", ""),
]


@pytest.mark.parametrize(("written", "meaning"), STATES)
def test_states(written: str, meaning: str) -> None:
    assert print_state(spec(f"states:\n  h: {written}").states[0]) == meaning


def test_several_names_share_a_declaration() -> None:
    body = """params:
  W, U: float[a] = 0
inputs: {"x, y": float}
targets: {u, v: "float[a]"}
states: {h, c}
sizes: {"a, b": 3}
"""
    found = spec(body)
    assert [item.name.text for item in found.params] == ["W", "U"]
    assert [item.name.text for item in found.inputs] == ["x", "y"]
    assert [(item.name.text, print_type(item.type)) for item in found.targets] == [("u", "float[a]"), ("v", "float[a]")]
    assert [(item.name.text, item.type) for item in found.states] == [("h", None), ("c", None)]
    assert [item.name.text for item in found.sizes] == ["a", "b"]
    assert [item.name.span.text for item in found.params] == ["W", "U"]


def test_sizes() -> None:
    found = spec("sizes: {a: 64, b: data, c: a / 2 + 1, d: 0x10, e: 2_000}").sizes
    shown = {item.name.text: None if item.value is None else print_expression(item.value) for item in found}
    assert shown == {"a": "64", "b": None, "c": "a / 2 + 1", "d": "16", "e": "2000"}


MISTAKES = [
    ("inputs: {x: flaot}", ["RD0217 1:13"], "`float`"),
    ("inputs: {x: int}", ["RD0217 1:13"], "types are"),
    ("inputs: {x: onehot}", ["RD0218 1:13"], "onehot[n]"),
    ('inputs: {x: "class[a, b]"}', ["RD0218 1:14"], "2 sizes"),
    ('inputs: {x: "bool[a]"}', ["RD0218 1:14"], "float[...]"),
    ('inputs: {x: "float[]"}', ["RD0218 1:14"], "`float`"),
    ('inputs: {x: "float[a"}', ["RD0203 1:19"], "`]`"),
    ('inputs: {x: "float[a] = 1"}', ["RD0219 1:25"], "params and states"),
    ('inputs: {x: "float[a] frozen"}', ["RD0219 1:23"], "params"),
    ('inputs: {x: "float[a b]"}', ["RD0206 1:22"], "operator"),
    ("inputs: {x: 3}", ["RD0206 1:13"], "expected a name"),
    ("inputs: {x: [a]}", ["RD0104 1:13"], "a list"),
    ("inputs: {x: }", ["RD0110 1:13"], "type"),
    ("inputs: [x]", ["RD0104 1:9"], "a map"),
    ("inputs: {2x: float}", ["RD0108 1:10"], "_2x"),
    ("inputs: {a-b: float}", ["RD0108 1:10"], "a_b"),
    ("inputs: {and: float}", ["RD0108 1:10"], "operators"),
    ("inputs: {hа: float}", ["RD0202 1:10"], "ASCII"),
    ("params: {W: float}", ["RD0220 1:13"], "~ glorot"),
    ("params: {W: = 1}", ["RD0219 1:13"], "type"),
    ("params: {W: float ~ norml}", ["RD0221 1:21"], "`normal`"),
    ("params: {W: float ~ normal(0, 1) ~ zeros}", ["RD0203 1:27"], "quotes"),
    ('params: {W: "float ~ normal(0, 1) ~ zeros"}', ["RD0219 1:35"], "keep one"),
    ("params: {W: float = 1 spars(2)}", ["RD0221 1:23"], "`sparse`"),
    ("params: {W: float = 1 forzen}", ["RD0219 1:23"], "`frozen`"),
    ("params: {W: float = 1 frozen frozen}", ["RD0219 1:30"], "twice"),
    ("params: {W: float sparse}", ["RD0219 1:19"], "sparse(...)"),
    ("params: {W: float normal}", ["RD0219 1:19"], "`~`"),
    ('params: {W: "float[a] = [[1, 2], [3]]"}', ["RD0222 1:25"], "length"),
    ('params: {W: "float[a] = []"}', ["RD0222 1:25"], "empty"),
    ("params: {W: float = 2 * x}", ["RD0222 1:25"], "after `~`"),
    ("params: {W: float = start}", ["RD0222 1:21"], "`~`"),
    ('states: {h: "float ~ normal(0, 1)"}', ["RD0219 1:22"], "= start"),
    ('states: {h: "float = 1 frozen"}', ["RD0219 1:24"], "params"),
    ('states: {h: "float[a] = [1, [2]]"}', ["RD0222 1:25"], "length"),
    ("sizes: {a: true}", ["RD0104 1:12"], "a size"),
    ("sizes: {a: }", ["RD0110 1:12"], "size"),
    ("sizes: {a: [1]}", ["RD0104 1:12"], "a size"),
    ("sizes: {a: b +}", ["RD0206 1:15"], "missing after"),
]


@pytest.mark.parametrize(("body", "found", "words"), MISTAKES, ids=[body for body, _, _ in MISTAKES])
def test_mistakes(body: str, found: list[str], words: str) -> None:
    problems = failed(body)
    assert places(problems) == found
    assert words in f"{problems[0].text()} {problems[0].help()}"


def test_all_mistakes_are_found_at_once() -> None:
    body = "inputs: {x: flaot, y: bol}\nparams:\n  W: float\n  2V: float = 1 2\nstates: {h: float = (}\nstep: h = a b"
    assert failure(body) == [
        *("RD0217 1:13", "RD0217 1:23", "RD0220 3:6", "RD0108 4:3", "RD0206 4:17", "RD0203 5:21", "RD0206 6:13"),
    ]
