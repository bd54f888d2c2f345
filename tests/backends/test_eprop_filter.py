"""e-prop through readouts that leak: eligibility traces low-passed by the readout, as in the paper."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from backend_support import call_of
from program_runs import assembled, run
from torch import Tensor

import recdsl.credit.build as build_stage
import recdsl.credit.scopes as scopes_stage
from recdsl import compile as compile_spec
from recdsl import explain
from recdsl.driver import analyse
from recdsl.testing import Case, assert_matches, reference

ALPHA, RHO, BETA, KAPPA, THRESHOLD = 0.9, 0.95, 0.2, 0.8, 0.6
SPEC = f"""
recdsl: 1
name: alif
sizes: {{inp: 3, hid: 4, out: 2}}
inputs: {{x: "float[inp]"}}
targets: {{y: "float[out]"}}
params:
  W: float[hid, inp] ~ normal(0, 1)
  U: float[hid, hid] ~ normal(0, 1)
  O: float[out, hid] ~ normal(0, 1)
  b: float[out] = 0.1
step: |
  v = {ALPHA} * v[t-1] + W @ x + U @ z[t-1] - {THRESHOLD} * z[t-1]
  a = {RHO} * a[t-1] + z[t-1]
  z = spike(v - {THRESHOLD} - {BETA} * a, surrogate=triangle)
  r = {KAPPA} * r[t-1] + O @ z + b
loss: {{value: "mse(r, y)", reduce: sum}}
credit: RULE
"""
LATE = SPEC.replace("O @ z +", "O @ z[t-1] +")
PLAIN = SPEC.replace(f"r = {KAPPA} * r[t-1] + ", "r = ")
TWO_LAYERS = """
recdsl: 1
sizes: {inp: 2, low: 3, top: 3, out: 2}
inputs: {x: "float[inp]"}
targets: {y: "float[out]"}
params:
  W: float[low, inp] ~ normal(0, 1)
  V: float[top, low] ~ normal(0, 1)
  R: float[top, top] ~ normal(0, 1)
  O: float[out, top] ~ normal(0, 1)
step: |
  u = 0.9 * u[t-1] + W @ x
  s = spike(u - 0.5, surrogate=triangle)
  v = 0.8 * v[t-1] + V @ s + R @ z[t-1]
  z = spike(v - 0.5, surrogate=triangle)
  r = 0.7 * r[t-1] + O @ z
loss: mse(r, y)
credit: RULE
"""


def made(spec: str, rule: str, steps: int = 30) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor, Tensor]:
    """(parameters and buffers, gradients, x, y) of one sample."""
    torch.manual_seed(0)
    model: Any = compile_spec(spec.replace("RULE", rule), dtype=torch.float64)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(steps, 1, 3, generator=generator, dtype=torch.float64)
    y = torch.randn(steps, 1, 2, generator=generator, dtype=torch.float64)
    model({"x": x, "y": y}).loss.backward()
    params = {name: model.recdsl_tensor(name).detach() for name in ("W", "U", "O", "b")}
    fed = dict[str, Tensor](("B", value.detach()) for name, value in model.named_buffers() if "feedback" in name)
    return params | fed, {name: value.grad for name, value in model.named_parameters()}, x[:, 0], y[:, 0]


def by_hand(params: dict[str, Tensor], x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Bellec et al. 2020: one low-pass of each eligibility trace by the readout's decay, times the learning signal."""
    back = params.get("B", params["O"])
    v, a, z = (torch.zeros(4, dtype=x.dtype) for _ in range(3))
    r, slope = torch.zeros(2, dtype=x.dtype), torch.zeros(4, dtype=x.dtype)
    sums = {"O": torch.zeros(4, dtype=x.dtype), "b": torch.zeros((), dtype=x.dtype)}
    kept = {name: [torch.zeros_like(params[name]) for _ in range(3)] for name in ("W", "U")}
    grads = {name: torch.zeros_like(params[name]) for name in ("W", "U", "O", "b")}
    for t in range(len(x)):
        old, before = z, slope
        v = ALPHA * v + params["W"] @ x[t] + params["U"] @ old - THRESHOLD * old
        a = RHO * a + old
        drive = v - THRESHOLD - BETA * a
        z, slope = (drive > 0).to(x.dtype), torch.clamp(1 - drive.abs(), min=0)
        r = KAPPA * r + params["O"] @ z + params["b"]
        error = (r - y[t]) * 2 / 2
        for name, given in (("W", x[t]), ("U", old)):
            membrane, adaptation, low = kept[name]
            adaptation = RHO * adaptation + before[:, None] * (membrane - BETA * adaptation)
            membrane = ALPHA * membrane + given[None, :]
            low = KAPPA * low + slope[:, None] * (membrane - BETA * adaptation)
            kept[name] = [membrane, adaptation, low]
            grads[name] += (back.T @ error)[:, None] * low
        sums = {"O": KAPPA * sums["O"] + z, "b": KAPPA * sums["b"] + 1}
        grads["O"] += error[:, None] * sums["O"]
        grads["b"] += error * sums["b"]
    return grads


@pytest.mark.parametrize("rule", ["eprop", "eprop(filter=readout)", "eprop(feedback=random)"])
def test_the_readout_low_passes_eligibility_traces(rule: str) -> None:
    params, found, x, y = made(SPEC, rule)
    assert ("B" in params) == ("random" in rule)
    expected = by_hand(params, x, y)
    assert all(float(value.abs().max()) > 1e-3 for value in expected.values())
    assert_matches(found, expected, "gradient of", 1e-10)


def cut_graph(params: dict[str, Tensor], x: Tensor, y: Tensor, late: bool) -> dict[str, Tensor]:
    """Full backpropagation with the recurrent product and the reset detached."""
    p = {name: value.clone().requires_grad_() for name, value in params.items()}
    v, a, z = (torch.zeros(4, dtype=x.dtype) for _ in range(3))
    r, total = torch.zeros(2, dtype=x.dtype), torch.zeros((), dtype=x.dtype)
    for t in range(len(x)):
        old = z
        v = ALPHA * v + p["W"] @ x[t] + p["U"] @ old.detach() - THRESHOLD * old.detach()
        a = RHO * a + old
        drive = v - THRESHOLD - BETA * a
        slope = torch.clamp(1 - drive.detach().abs(), min=0)
        z = (drive > 0).to(x.dtype) + slope * (drive - drive.detach())
        r = KAPPA * r + p["O"] @ (old if late else z) + p["b"]
        total = total + (r - y[t]).pow(2).mean()
    names = sorted(p)
    return dict(zip(names, torch.autograd.grad(total, [p[name] for name in names]), strict=True))


@pytest.mark.parametrize("spec", [SPEC, LATE])
def test_it_is_the_derivative_of_the_cut_network(spec: str) -> None:
    params, found, x, y = made(spec, "eprop")
    assert_matches(found, cut_graph(params, x, y, spec == LATE), "gradient of", 1e-10)


def test_without_the_filter_nothing_passes_a_readout_that_leaks() -> None:
    _, found, _, _ = made(SPEC, "eprop(filter=none)", 5)
    assert float(found["W"].abs().max()) == 0.0
    rows = {row.parameter: row for row in explain(SPEC.replace("RULE", "eprop(filter=none)")).rows}
    assert "no-credit" in rows["W"].qualifiers


def test_where_no_readout_leaks_the_filter_changes_nothing() -> None:
    one, other = (analyse(PLAIN.replace("RULE", rule)).plan for rule in ("eprop", "eprop(filter=none)"))
    assert [c.scopes for c in one.classes] == [c.scopes for c in other.classes]
    assert_matches(made(PLAIN, "eprop")[1], made(PLAIN, "eprop(filter=none)")[1], "gradient of", 1e-14)


def test_verdicts_and_costs() -> None:
    rows = {row.parameter: row for row in explain(SPEC.replace("RULE", "eprop")).rows}
    assert [rows[name].verdict for name in ("W", "U", "O", "b")] == ["biased", "biased", "exact", "exact"]
    assert rows["W"].first_dropped_lag == 1
    assert not any("outside" in item.edge for item in rows["W"].dropped)
    bare = {row.parameter: row for row in explain(PLAIN.replace("RULE", "eprop")).rows}
    assert rows["W"].bytes - bare["W"].bytes == 4 * 2 * 12  # for each readout unit a trace of the matrix's size


def test_layers_below_are_no_readouts() -> None:
    assert scopes_stage.leaky_readouts(analyse(TWO_LAYERS.replace("RULE", "eprop")).graph) == {"r"}
    gated = TWO_LAYERS.replace("0.7 * r[t-1]", "sigmoid(x[inp=0]) * r[t-1]")
    assert scopes_stage.leaky_readouts(analyse(gated.replace("RULE", "eprop")).graph) == set()


@cache
def cases() -> tuple[tuple[Case, dict[str, Tensor]], ...]:
    """Random calls, the odd ones with mask, reset and an incoming state, and their definitions."""
    found: list[tuple[Case, dict[str, Tensor]]] = []
    for spec in (SPEC, LATE, TWO_LAYERS):
        for rule in ("eprop", "eprop(filter=none)", "eprop(drift=decay(0.7))", "eprop(feedback=random)"):
            for seed in (0, 1):
                case = call_of(analyse(spec.replace("RULE", rule)), seed)
                found.append((case, reference(case).gradients))
    return tuple(found)


def test_programs_equal_the_definition() -> None:
    for case, expected in cases():
        assert_matches(run(case, assembled(case)).gradients, expected, "gradient of", 1e-10)


# -- mutants: the compiler's own idea of the rule is changed, and the equations of the paper must see it ---------
Plant = Callable[[pytest.MonkeyPatch], None]


def no_readouts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(scopes_stage, "leaky_readouts", lambda graph: set())


def no_feedback_before_readouts(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(build_stage, "readouts", lambda graph, spared=(): frozenset())


def all_recurrent(patch: pytest.MonkeyPatch) -> None:
    """A product with earlier spikes that only readouts take counts as recurrent."""
    patch.setitem(scopes_stage.CUTS, "spikes", lambda graph: scopes_stage.lateral(graph) | spikes(graph))


spikes = scopes_stage.CUTS["spikes"]
MUTANTS: dict[str, tuple[Plant, str, str]] = {
    "readouts do not filter": (no_readouts, SPEC, "eprop"),
    "no feedback before readouts": (no_feedback_before_readouts, SPEC, "eprop(feedback=random)"),
    "readouts of earlier spikes are cut": (all_recurrent, LATE, "eprop"),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_rejected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plant, spec, rule = MUTANTS[name]
    params, _, x, y = made(spec, rule)
    expected = by_hand(params, x, y) if spec == SPEC else cut_graph(params, x, y, late=True)
    with monkeypatch.context() as patch:
        plant(patch)
        try:
            _, found, _, _ = made(spec, rule)
            assert_matches(found, expected, "gradient of", 1e-10)
        except Exception:
            return
    raise AssertionError(name)
