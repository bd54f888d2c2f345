"""Verdicts that can be checked by thought."""

from __future__ import annotations

import pytest
from credit_support import SQUARE, VECTOR, A, chain, elman, rows, target

from recdsl.graph.types import Type
from recdsl.testing.maker import Maker


def lags(graph_rows: dict[str, object], name: str) -> tuple[object, ...]:
    row = graph_rows[name]
    return tuple(getattr(row, key) for key in ("verdict", "first_dropped_lag", "longest_kept_lag"))


def test_bptt_is_exact_and_unbounded():
    found = rows(elman())
    assert {row.verdict for row in found.values()} == {"exact"}
    assert found["W1"].longest_kept_lag is None
    assert found["V4"].longest_kept_lag == 0
    assert found["W1"].qualifiers == ()


@pytest.mark.parametrize(
    ("window", "every", "first", "longest"), [(5, 2, 4, 4), (5, 5, 1, 4), (5, 1, 5, 4), (1, 1, 1, 0)]
)
def test_tbptt_of_a_recurrent_net(window: int, every: int, first: int, longest: int):
    """semantics 4.2: guaranteed lags 0 .. k - m, longest k - 1; the readout is exact."""
    found = rows(elman(), ("default", f"tbptt(window={window}, every={every})"))
    assert lags(dict(found), "W1") == ("biased", first, longest)
    assert lags(dict(found), "s3") == ("biased", first, longest)
    assert lags(dict(found), "V4") == ("exact", None, 0)
    assert [d.edge for d in found["U2"].dropped] == ["h[t-1] -> h"]


def test_none_is_a_window_of_one():
    assert lags(dict(rows(elman(), ("default", "none"))), "W1") == ("biased", 1, 0)


@pytest.mark.parametrize("lag", [1, 2, 3, 4, 5])
def test_finite_impulse_response(lag: int):
    """Exact iff the longest lag is at most window - every; nothing shorter than the line is dropped."""
    found = rows(chain(lag), ("default", "tbptt(window=5, every=2)"))
    if lag <= 3:
        assert lags(dict(found), "W1") == ("exact", None, lag)
        assert found["W1"].qualifiers == ("unmasked",)
    else:
        assert lags(dict(found), "W1") == ("biased", lag, 4 if lag == 4 else None)
    assert found["V2"].verdict == "exact"
    assert found["V2"].qualifiers == ()


def test_a_learned_start_that_matters_for_one_step():
    """The loss reads h[t-1] and h forgets: the start is seen by step 0 alone, which no boundary precedes."""
    m = Maker()
    x, start = m.input("x", "float", (A,)), m.parameter(VECTOR, stem="s")
    m.state("h", (A,), start.text)
    m.assign("h", m.unary("tanh", x))
    out = m.assign("out", m.binary("*", m.past("h"), m.parameter(VECTOR, stem="w")))
    m.loss("loss", "mse", out, target(m), 1.0, (), "all")
    found = rows(m.graph("mean"), ("default", "none"))
    assert lags(dict(found), "s1") == ("exact", None, 0)
    assert found["s1"].qualifiers == ("unmasked",)


def test_a_cut_use_is_dropped_at_its_own_lag():
    found = rows(elman(), ("h[t-1]", "cut"))
    assert lags(dict(found), "W1") == ("biased", 1, 0)
    assert lags(dict(found), "V4") == ("exact", None, 0)
    assert [d.edge for d in found["W1"].dropped] == ["h[t-1] -> h"]


def test_a_cut_of_one_use_leaves_the_others():
    m = Maker()
    x, w = m.input("x", "float", (A,)), m.parameter(SQUARE, stem="W")
    m.state("h", (A,), 0.0)
    new = m.binary("+", m.matmul(w, x), m.binary("*", m.past("h", 1), m.past("h", 2)))
    out = m.assign("h", m.unary("tanh", new))
    m.loss("loss", "mse", out, target(m), 1.0, (), "all")
    found = rows(m.graph("mean"), ("h[t-2]", "cut"))["W1"]
    assert (found.verdict, found.first_dropped_lag, found.longest_kept_lag) == ("biased", 2, None)
    assert [d.edge for d in found.dropped] == ["h[t-2] -> h"]


def test_stop_is_the_models_own():
    """What the model stops is no path, so nothing is dropped by a window."""
    m = Maker()
    x, w = m.input("x", "float", (A,)), m.parameter(SQUARE, stem="W")
    m.state("h", (A,), 0.0)
    out = m.assign("h", m.unary("tanh", m.binary("+", m.matmul(w, x), m.unary("stop", m.past("h")))))
    m.loss("loss", "mse", out, target(m), 1.0, (), "all")
    assert lags(dict(rows(m.graph("mean"), ("default", "none"))), "W1") == ("exact", None, 0)


def test_a_state_taken_over_as_it_is():
    """g = h[t-1] uses the state without an op: the edge from leaf to leaf is cut, a delay line's link is not."""
    m = Maker()
    x, w = m.input("x", "float", (A,)), m.parameter(SQUARE, stem="W")
    m.state("h", (A,), 0.0)
    m.state("g", (A,), 0.0)
    m.assign("h", m.unary("tanh", m.matmul(w, x)))
    m.assign("g", m.past("h"))
    out = m.assign("out", m.binary("+", m.past("g"), m.past("h", 3)))
    m.loss("loss", "mse", out, target(m), 1.0, (), "all")
    found = rows(m.graph("mean"), ("h[t-1]", "cut"))["W1"]
    assert (found.verdict, found.first_dropped_lag, found.longest_kept_lag) == ("biased", 2, 3)
    assert [d.edge for d in found.dropped] == ["h[t-1] -> g"]


def test_declared_jacobians_are_named():
    m = Maker()
    w = m.parameter(VECTOR, stem="w")
    out = m.assign("h", m.unary("relu", m.binary("*", w, m.input("x", "float", (A,)))))
    bias = m.parameter(Type("float", (A,)), stem="b")
    m.loss("loss", "mse", m.assign("out", m.binary("+", out, bias)), target(m), 1.0, (), "all")
    found = rows(m.graph("mean"))
    assert found["w1"].qualifiers == ("declared-jacobian",)
    assert found["b2"].qualifiers == ()


def test_costs():
    """Once forward, twice reverse, the reverse pass repeated for overlapping windows."""
    full = rows(elman())["V4"]
    assert full.flops % 3 == 0
    assert full.bytes == 4 * (2 + 2 + 2 + 1 + 1)
    forward = full.flops // 3
    overlapping = rows(elman(), ("default", "tbptt(window=4, every=2)"))["V4"]
    assert overlapping.flops == forward * (1 + 2 * 2)


def test_long_delay_lines_are_quick():
    found = rows(chain(400), ("default", "tbptt(window=1000, every=1)"))["W1"]
    assert (found.verdict, found.longest_kept_lag) == ("exact", 400)
