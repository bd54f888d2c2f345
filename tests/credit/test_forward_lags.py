"""Lags of forward rules, measured: the gradient of one step's losses with respect to what a parameter did in one step.

Below the first dropped lag nothing is missing, beyond the longest kept lag nothing is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import recdsl.backends.reference.traced as definition
from recdsl.backends.init import initial
from recdsl.backends.reference.result import Call
from recdsl.credit.influence import effective, states
from recdsl.credit.plan import CreditPlan, RoutingClass, Row, Scope, Tracing, Window
from recdsl.diagnostics import SpecError
from recdsl.driver import analyse, explain
from recdsl.graph.step import StepGraph
from recdsl.testing import random_case

torch.set_num_threads(1)
Shifted: Any = vars(definition)["_Shifted"]
STEPS = 7
RULES = (
    "rtrl", "columns", "snap(1)", "snap(2)", "rflo", "columns(window=4, every=2)", "snap(1, window=3)",
)  # fmt: skip


class Once(Shifted):
    """The definition, with a shift that acts in one step only. An initial value acts in step 0."""

    only = 0
    now = 0

    def _step(self, t: int, carried: Mapping[str, Tensor]) -> Any:
        self.now = t
        return super()._step(t, carried)

    def _shifted(self, value: Tensor) -> Tensor:
        return super()._shifted(value) if self.now == self.only else value

    def by_loss_step(self, only: int) -> list[Tensor]:
        """Per step from `only` on: the derivative of that step's losses by each scalar's shift."""
        self.only = only
        found: list[Tensor] = []
        size, every = self._window()
        runs: dict[int, Any] = {}
        for t in range(only, STEPS):
            self.boundary = STEPS if size == 1 else max(0, (t // every + 1) * every - size)
            if self.boundary not in runs:
                self.now = 0
                runs[self.boundary], _ = self.run(STEPS, 0)
            self.now, steps = t, runs[self.boundary]
            parts = [self.initial(self.graph.losses[k].node, steps[t]).sum() for k in self.routing.losses]
            total = sum(parts, torch.zeros((), dtype=self.dtype))
            found.append(torch.zeros(self.count, dtype=self.dtype))
            if total.requires_grad:
                (found[-1],) = torch.autograd.grad(
                    total, [self.shift], retain_graph=True, allow_unused=True, materialize_grads=True
                )
        return found


def measured(graph: StepGraph, routing: RoutingClass, params: Mapping[str, Tensor], source: int) -> list[Tensor]:
    """[lag][use, scalar]: derivatives over all pairs of a use and a loss."""
    g = torch.Generator().manual_seed(0)
    batch = {
        i.name: torch.randint(i.size, (STEPS, 1), generator=g)
        if i.type.dtype == "int"
        else torch.randn((STEPS, 1, *i.type.shape), generator=g, dtype=torch.float64)
        for i in graph.inputs
    }
    flags = torch.zeros((STEPS, 1), dtype=torch.bool)
    call = Call(batch, ~flags, flags, 0, None, {})
    runs = [Once(graph, routing, params, call, source, torch.float64).by_loss_step(only) for only in range(STEPS)]
    return [torch.stack([runs[use][lag] for use in range(STEPS - lag)]) for lag in range(STEPS)]


def free(graph: StepGraph, routing: RoutingClass) -> RoutingClass:
    """Everything is kept."""
    scopes = tuple(Scope(k, c.name, ((),), ((),)) for k in effective(graph) for c in states(graph))
    made = replace(routing, window=Window(1, 1), cuts=frozenset[tuple[int, int]](), tracing=Tracing("all"))
    return replace(made, scopes=scopes)


def lags(
    graph: StepGraph, plan: CreditPlan, params: Mapping[str, Tensor], name: str
) -> tuple[Row, list[int], list[int]]:
    """(row, lags at which something is missing, lags at which something is there) of one parameter."""
    row = next(row for row in plan.rows if row.parameter == name)
    routing = next(c for c in plan.classes if name in c.parameters)
    missing, there = set[int](), set[int]()
    for source in (k for k, names in effective(graph).items() if name in names):
        kept, full = (measured(graph, way, params, source) for way in (routing, free(graph, routing)))
        missing |= {k for k in range(STEPS) if bool(((kept[k] - full[k]).abs() > 1e-12).any())}
        there |= {k for k in range(STEPS) if bool((kept[k].abs() > 1e-12).any())}
    return row, sorted(missing), sorted(there)


def assert_sound(row: Row, missing: list[int], there: list[int]) -> None:
    first, longest = row.first_dropped_lag, row.longest_kept_lag
    assert all(first is not None and lag >= first for lag in missing), (row, missing)
    assert longest is None or all(lag <= longest for lag in there), (row, there)


@pytest.mark.parametrize("rule", RULES)
def test_lags_of_random_models(rule: str) -> None:
    tight = rows = 0
    for seed in range(200, 210):
        case = random_case(seed, (("default", rule),))
        try:
            plan = case.plan
        except SpecError:
            continue
        for name in [name for c in plan.classes for name in c.parameters][:3]:
            row, missing, there = lags(case.graph, plan, case.params, name)
            assert_sound(row, missing, there)
            rows += bool(missing)
            tight += bool(missing) and missing[0] == row.first_dropped_lag
    assert rows == 0 if rule == "rtrl" else tight >= 0.6 * rows > 0


TWO_LAYERS = """
recdsl: 1
name: two-layers
sizes: {i: 2, n: 3}
inputs: {x: "float[i]"}
targets: {y: float}
params:
  W, V: float[n, i] ~ normal(0, 0.7)
  U: float[n, n] ~ normal(0, 0.7)
  u, s, w: float[n] ~ normal(0, 0.7)
states: {h: "float[n] = s", g: "float[n] = 0"}
step: |
  h = tanh(W @ x + u * h[t-1])
  g = tanh(V @ x + U @ h[t-1] + g[t-1])
  v = READ
loss: {value: "mse(v, y)", reduce: sum}
credit: RULE
"""


@pytest.mark.parametrize(
    ("read", "rule", "expected"),
    [  # first dropped lag (None: exact), longest kept lag (None: no bound, or nothing is kept), of W, U and the start s
        ("w @ g", "rtrl", {"W": (None, None), "U": (None, None), "s": (None, None)}),
        ("w @ g[t-1]", "rtrl", {"W": (None, None), "U": (None, None), "s": (None, None)}),
        ("w @ g", "columns", {"W": (2, None), "U": (None, None), "s": (1, None)}),
        ("w @ g[t-1]", "columns", {"W": (2, None), "U": (None, None), "s": (1, None)}),
        ("w @ g", "snap(1)", {"W": (1, None), "U": (None, None), "s": (0, None)}),
        ("w @ g", "snap(2)", {"W": (None, None), "U": (None, None), "s": (None, None)}),
        ("w @ g", "columns(window=3)", {"W": (2, None), "U": (None, None)}),
        ("w @ g", "columns(window=3, every=1)", {"W": (4, None), "U": (None, None), "s": (3, None)}),
        ("w @ g[t-1]", "columns(window=4, every=2)", {"W": (4, None), "U": (None, None)}),
    ],
)
def test_lags_of_two_layers(read: str, rule: str, expected: dict[str, tuple[int | None, int | None]]) -> None:
    stages = analyse(TWO_LAYERS.replace("READ", read).replace("RULE", rule))
    params = initial(stages.graph.parameters, 3)
    for name, printed in expected.items():
        row, missing, there = lags(stages.graph, stages.plan, params, name)
        assert (row.first_dropped_lag, row.longest_kept_lag) == printed, row
        assert_sound(row, missing, there)
        assert min(missing, default=None) == row.first_dropped_lag, (row, missing)


@pytest.mark.parametrize(
    ("rule", "least", "most"),
    [
        ("rtrl(window=1)", 2 * 8**2 * 64, 3 * 8**2 * 64),
        ("rtrl", 6 * 8 * 64, 8 * 8 * 64),
        ("columns", 64, 12 * 64),
    ],
)
def test_printed_work_is_what_traces_take(rule: str, least: int, most: int) -> None:
    """For a dense network of n units 2 n^2 p step by step, 4 n p and 2 n^2 p / k from window to window of k = n steps,
    and a few products an entry for columns."""
    text = f"""
recdsl: 1
sizes: {{hid: 8}}
inputs: {{x: "float[hid]"}}
targets: {{y: "float[hid]"}}
params: {{U: "float[hid, hid] ~ normal(0, 1)"}}
step: h = tanh(U @ h[t-1] + x)
loss: mse(h, y)
credit: {rule}
"""
    (row,) = explain(text).rows
    assert least <= row.flops <= most


def test_a_parameter_without_any_credit_is_marked() -> None:
    """Random-feedback learning reads a layer's own states only: nothing reaches a layer that no loss reads. It has
    traces all the same, for gradients that arrive at `.outputs`, and their cost is printed."""
    text = """
recdsl: 1
sizes: {n: 4}
inputs: {x: "float[n]"}
targets: {y: "float[n]"}
step: |
  h = elman(x, size=n)
  k = elman(h, size=n)
  p = linear(k, size=n)
loss: mse(p, y)
credit: rflo
"""
    rows = {row.parameter: row for row in explain(text).rows}
    assert {name for name, row in rows.items() if "no-credit" in row.qualifiers} == {"h.W", "h.U", "h.b"}
    assert rows["h.W"].bytes == 4 * 16
    assert " no-credit" in str(explain(text)).splitlines()[1]
    assert " inf " not in str(explain(text)).splitlines()[1]
    assert rows["k.W"].longest_kept_lag == 0
    assert rows["k.W"].flops > 0
