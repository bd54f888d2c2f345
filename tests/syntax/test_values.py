"""The language of `data`, `credit` and `train`."""

from __future__ import annotations

import pytest
from syntax_support import places, value

from recdsl.diagnostics import SpecError

MEANINGS = [
    ("bptt", "bptt"),
    ("tbptt(window=64)", "(call tbptt window=64)"),
    ("images(source=fashion-mnist, as=flat)", "(call images source='fashion-mnist' as=flat)"),
    ("user_module:function", "'user_module:function'"),
    ("pkg.mod:make(n=3)", "(call pkg.mod:make n=3)"),
    ("csv(path=./data/x-1.csv)", "(call csv path='./data/x-1.csv')"),
    ("csv(path=/srv/x.csv)", "(call csv path='/srv/x.csv')"),
    ('csv(path="a b, (c)")', "(call csv path='a b, (c)')"),
    ("csv(path='a\\b')", "(call csv path='a\\\\b')"),
    ('csv(sep="\\t\\u0041\\"")', "(call csv sep='\\tA\"')"),
    ("adam(lr=-1e-3, betas=[0.9, .999],)", "(call adam lr=-0.001 betas=(list 0.9 0.999))"),
    ("rule(cuts=[h[t-1], c[ t - 2 ], enc.*])", "(call rule cuts=(list h@1 c@2 'enc.*'))"),
    ("f([], [[1]], g())", "(call f (list) (list (list 1)) (call g))"),
    ("reinstate(exact, encode=e)", "(call reinstate exact encode=e)"),
    ("f(2_000, +3)", "(call f 2000 3)"),
    ("and(or=not)", "(call and or=not)"),
]


@pytest.mark.parametrize(("written", "meaning"), MEANINGS, ids=[written for written, _ in MEANINGS])
def test_meaning(written: str, meaning: str) -> None:
    assert value(written) == meaning


MISTAKES = [
    ("adam(lr=1", ["RD0203 1:5"]),
    ("adam lr", ["RD0206 1:6"]),
    ("f(a,,b)", ["RD0206 1:5"]),
    ("f(a=1, 2)", ["RD0213 1:8"]),
    ("f(a=1, a=2)", ["RD0213 1:8"]),
    ("f(a-b=1)", ["RD0213 1:3"]),
    ("a-b(1)", ["RD0213 1:4"]),
    ("(a)", ["RD0206 1:1"]),
    ("1 + 2", ["RD0201 1:3"]),
    ("2020-01-01", ["RD0201 1:1"]),
    ("f(x=1e999)", ["RD0223 1:5"]),
    ("f('a)", ["RD0201 1:3"]),
    ("λ", ["RD0202 1:1"]),
    ("h[t-0]", ["RD0208 1:1"]),
    ('f("\\q")', ["RD0201 1:3"]),
    ("f(" + "a" * 129 + ")", ["RD0212 1:3"]),
    ("", ["RD0224 1:1"]),
    ("[" * 201 + "]" * 201, ["RD0210 1:201"]),
]


@pytest.mark.parametrize(("written", "found"), MISTAKES, ids=[written[:20] for written, _ in MISTAKES])
def test_mistakes(written: str, found: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        value(written)
    assert places(caught.value.problems) == found
