"""Small graphs whose verdicts are known by thought."""

from __future__ import annotations

from recdsl.credit.build import plan
from recdsl.credit.plan import CreditPlan, Row
from recdsl.graph.step import StepGraph
from recdsl.graph.types import Axis, Type
from recdsl.source import Source, Span
from recdsl.syntax.ast import Name
from recdsl.testing.declare import declare
from recdsl.testing.maker import Maker, Value

A = Axis("a", 2)
VECTOR, SQUARE = Type("float", (A,)), Type("float", (A, A))


def target(m: Maker, name: str = "y") -> Value:
    return m.input(name, "float", (A,), target=True)


def elman(trains: tuple[str, ...] = ()) -> StepGraph:
    """h = tanh(W1 @ x + U2 @ h[t-1]), from s3; out = V4 @ h."""
    m = Maker()
    x, w, u = m.input("x", "float", (A,)), m.parameter(SQUARE, stem="W"), m.parameter(SQUARE, stem="U")
    start = m.parameter(VECTOR, stem="s")
    m.state("h", (A,), start.text)
    h = m.assign("h", m.unary("tanh", m.binary("+", m.matmul(w, x), m.matmul(u, m.past("h")))))
    out = m.assign("out", m.matmul(m.parameter(SQUARE, stem="V"), h))
    m.loss("loss", "mse", out, target(m), 1.0, trains, "all")
    return m.graph("mean")


def chain(lag: int) -> StepGraph:
    """A finite impulse response: e = tanh(W1 @ x); out = V2 @ e[t-lag]."""
    m = Maker()
    x, w = m.input("x", "float", (A,)), m.parameter(SQUARE, stem="W")
    m.state("e", (A,), 0.0)
    m.assign("e", m.unary("tanh", m.matmul(w, x)))
    out = m.assign("out", m.matmul(m.parameter(SQUARE, stem="V"), m.past("e", lag)))
    m.loss("loss", "mse", out, target(m), 1.0, (), "all")
    return m.graph("mean")


def rows(graph: StepGraph, *rules: tuple[str, str], require: str = "") -> dict[str, Row]:
    return {row.parameter: row for row in planned(graph, *rules, require=require).rows}


def planned(graph: StepGraph, *rules: tuple[str, str], require: str = "") -> CreditPlan:
    credit = tuple(declare(selector, rule) for selector, rule in rules)
    return plan(graph, credit, name(require) if require else None)


def name(text: str) -> Name:
    return Name(text, Span(Source("<require>", text), 0, len(text)))
