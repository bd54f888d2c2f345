"""The text form and its parser are inverse to each other."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from program_support import PROOFS, program

from recdsl.graph.types import Axis
from recdsl.program.affine import make
from recdsl.program.ir import Affine, At, Bound, For, If, Load, Op, Program, Range, Scalar, Storage, Store, VType
from recdsl.program.parse import parse
from recdsl.program.text import show
from recdsl.source import Source, Span

NAMES = sorted(path.stem for path in PROOFS.glob("*.program"))


@pytest.mark.parametrize("name", NAMES)
def test_proofs_survive(name: str) -> None:
    what = program(name)
    assert parse(show(what)) == what
    assert show(parse(show(what))) == show(what)


def test_spans_and_reasons_survive() -> None:
    source = Source("a.yaml", "step: h = tanh(x)")
    op = Op(("h",), "tanh", ("x",), (), (VType("float", (), ()),), Span(source, 6, 17), 'a "reason"')
    what = Program("p", (), (), (("forward", (op,)),))
    assert parse(show(what), [source]) == what
    assert parse(show(what, spans=False)).entries[0][1] == (replace(op, span=None),)


names = st.one_of(
    st.from_regex(r"[a-z]{1,4}(\.[a-z]{1,2})?", fullmatch=True),
    st.sampled_from(["for", "h[t-2]", "in", "max", "add", "%1"]),
)
affines = st.builds(make, st.integers(-9, 9), st.dictionaries(names, st.integers(-3, 3), max_size=2))
bounds = st.builds(Bound, st.sampled_from(["max", "min"]), st.lists(affines, min_size=1, max_size=3).map(tuple))
axes = st.builds(Axis, st.one_of(names, st.just("4")), st.just(4))
vtypes = st.builds(
    VType,
    st.sampled_from(["float", "int", "bool"]),
    st.lists(st.tuples(names, affines), max_size=2).map(tuple),
    st.lists(axes, max_size=2).map(tuple),
)
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5), axes)
values = st.recursive(leaves, lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=5)
attrs = st.lists(st.tuples(names, values), max_size=2).map(tuple)
places = st.lists(st.one_of(affines, st.builds(At, names), st.builds(Range, bounds, bounds)), max_size=2).map(tuple)
statements = st.one_of(
    st.builds(
        Op,
        st.tuples(names),
        names,
        st.lists(names, max_size=2).map(tuple),
        attrs,
        vtypes.map(lambda kind: (kind,)),
        st.none(),
        st.text(max_size=4),
        st.lists(names, min_size=0, max_size=2).map(tuple),
    ),
    st.builds(Scalar, names, affines, vtypes),
    st.builds(Load, names, names, places, vtypes),
    st.builds(Store, names, places, names),
)
blocks = st.recursive(
    statements,
    lambda inner: st.one_of(
        st.builds(For, names, bounds, bounds, st.sampled_from([1, -1, 3, -5]), st.lists(inner, max_size=3).map(tuple)),
        st.builds(
            If,
            st.tuples(st.sampled_from(["lt", "le", "eq", "ge", "ne", "divides", "indivisible"]), affines, affines),
            st.lists(inner, max_size=3).map(tuple),
        ),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(blocks, max_size=4).map(tuple),
    st.lists(st.builds(Storage, names, st.just("buffer"), vtypes, st.just("call"), attrs), max_size=2).map(tuple),
)
def test_any_program_survives(body: tuple[Op, ...], storages: tuple[Storage, ...]) -> None:
    what = Program("p", storages, (), (("forward", body),))
    assert parse(show(what)) == what


def test_long_bodies_do_not_recurse() -> None:
    kind = VType("float", (), ())
    body = tuple(Op((f"v{k}",), "tanh", (f"v{k - 1}",), (), (kind,)) for k in range(1, 3000))
    what = Program("p", (), (), (("forward", body),))
    assert parse(show(what)) == what


def test_facts_survive() -> None:
    what = parse("program p scalars n fact 2*n - T fact T - 1 entry e {}")
    assert what.facts == (make(0, {"n": 2, "T": -1}), make(-1, {"T": 1}))
    assert parse(show(what)) == what


def test_affine_text() -> None:
    body = (Scalar("x", Affine(-1, (("T", 1), ("s", -2))), VType("float", (), ())),)
    assert "scalar T - 2*s - 1" in show(Program("p", (), (), (("e", body),)))
