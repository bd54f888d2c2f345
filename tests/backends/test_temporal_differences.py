"""Losses of temporal differences: every rule against the definition, calls of one step against one call, verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from backend_support import compiled, generated
from program_runs import assembled, run
from torch import Tensor

from recdsl import compile as compile_spec
from recdsl import explain
from recdsl.backends.reference.drift import common_shift
from recdsl.diagnostics import SpecError
from recdsl.program.checker import verify
from recdsl.testing import Case, assert_close_gradients, assert_matches, properties, random_case, reference
from recdsl.testing.dual import by_lag, directional

FORWARD = ("rtrl", "columns", "snap(1)", "snap(2)", "rflo", "eprop")
REVERSE = ("bptt", "none", "tbptt(window=2)", "tbptt(window=3, every=2)")
MIXTURES = (("p1", "columns"), ("p2", "tbptt(window=2)"), ("default", "snap(1)")), (("p1", "rtrl"), ("default", "bptt"))
BLOCK = 8


def fitting(first: int, *rules: tuple[str, str], count: int = BLOCK) -> list[Case]:
    """Random cases under the given rules; those that a rule does not fit are left out."""
    found: list[Case] = []
    for seed in range(first, first + count):
        case = random_case(seed, rules or None, td=True)
        try:
            assert case.plan
        except SpecError:
            continue
        found.append(case)
    return found


@pytest.mark.parametrize("rule", [*FORWARD, *REVERSE])
def test_generated_modules_equal_the_definition(rule: str) -> None:
    for case in fitting(0, ("default", rule)):
        assert_close_gradients(compiled, case)


@pytest.mark.parametrize("rule", ["rtrl", "columns", "snap(1)", "tbptt(window=3, every=2)"])
def test_interpreted_programs_equal_the_definition(rule: str) -> None:
    for case in fitting(20, ("default", rule), count=5):
        made = assembled(case)
        verify(made.program)
        assert_matches(run(case, made).gradients, reference(case).gradients, f"{rule}: gradient of")


@pytest.mark.parametrize("rules", MIXTURES)
def test_mixtures_equal_the_definition(rules: tuple[tuple[str, str], ...]) -> None:
    for case in fitting(40, *rules):
        assert_close_gradients(compiled, case)


@pytest.mark.parametrize("first", [0, 8])
def test_any_rules_with_cuts_equal_the_definition(first: int) -> None:
    for case in fitting(first):
        assert_close_gradients(lambda made: generated(made, optimise=False), case)


@pytest.mark.parametrize("rule", FORWARD)
def test_calls_of_one_step_are_one_call(rule: str) -> None:
    """What a forward rule keeps in the state is all it needs: traces, and the gradients of the last predictions."""
    for case in fitting(60, ("default", rule)):
        losses = tuple(replace(loss, at="all") for loss in case.graph.losses)
        graph = replace(case.graph, losses=losses, reduce="sum")
        summed = replace(case, model=replace(case.model, graph=graph), cotangents={})
        module = generated(summed)
        module.load_state_dict(dict(case.params), strict=False)
        whole, state = gradients(module, summed, slice(None), case.state)
        parts: dict[str, Tensor] = {name: torch.zeros_like(value) for name, value in whole.items()}
        now = case.state
        for t in range(len(next(iter(case.batch.values())))):
            found, now = gradients(module, summed, slice(t, t + 1), now)
            parts = {name: parts[name] + value for name, value in found.items()}
        assert_matches(parts, whole, f"{rule}: gradient of")
        assert now is not None
        assert_matches(now, state, f"{rule}: state")


def gradients(
    module: torch.nn.Module, case: Case, steps: slice, state: Mapping[str, Tensor] | None
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Of a call of some of the steps, with the state that it leaves."""
    batch = {name: value[steps] for name, value in case.batch.items()}
    flags = [None if flag is None else flag[steps] for flag in (case.mask, case.reset)]
    module.zero_grad()
    result = module(batch, mask=flags[0], reset=flags[1], state=state)
    if result.loss.requires_grad:
        result.loss.backward()
    named = module.named_parameters()
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in named}, result.state


@pytest.mark.parametrize("rule", [*FORWARD, "tbptt(window=2)", "bptt"])
def test_exact_is_exact(rule: str) -> None:
    for case in fitting(80, ("default", rule)):
        bare = replace(case, cotangents={})
        own, full = reference(bare).gradients, reference(bare, full=True).gradients
        for row in bare.plan.rows:
            if row.verdict == "exact" and not (case.gaps and "unmasked" in row.qualifiers):
                assert_matches({"": own[row.parameter]}, {"": full[row.parameter]}, f"{rule}: {row.parameter}")


COLUMNAR = """
recdsl: 1
name: columnar
sizes: {obs: 3, column: 4}
inputs: {x: "float[obs]", cumulant: float, rate: float}
params:
  W, U: float[column, obs] ~ uniform(-1, 1)
  u, b: float[column] ~ uniform(-1, 1)
  w: float[column] ~ uniform(-1, 1)
step: |
  i = sigmoid(U @ x)
  h = i * tanh(W @ x + u * h[t-1] + b)
  v = w @ h
loss: {value: "td(v, cumulant, discount=rate)", reduce: sum}
credit: columns
train: {optimizer: "td_lambda(lr=1e-3, trace=0.7)"}
"""


def test_a_columnar_network_is_exact() -> None:
    assert {row.verdict for row in explain(COLUMNAR).rows} == {"exact"}
    assert {row.verdict for row in explain(COLUMNAR.replace("columns", "tbptt(window=5)")).rows} != {"exact"}


def test_the_published_update() -> None:
    """The sum of delta e by hand: e decays on arrival, then grad v is added (nnem-columnar.md, B.7 and B.8)."""
    model = compile_spec(COLUMNAR, dtype=torch.float64)
    draws = torch.Generator().manual_seed(3)
    x, c = (torch.randn(9, 1, *n, generator=draws, dtype=torch.float64) for n in ((3,), ()))
    g = torch.rand(9, 1, generator=draws, dtype=torch.float64)
    reset = torch.zeros(9, 1, dtype=torch.bool)
    reset[5] = True
    model({"x": x, "cumulant": c, "rate": g}, reset=reset).loss.backward()
    weights = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    h, e = torch.zeros(4, dtype=torch.float64), {name: torch.zeros_like(p) for name, p in weights.items()}
    total = {name: torch.zeros_like(p) for name, p in weights.items()}
    before = None
    for t in range(9):
        h = torch.zeros_like(h) if reset[t] else h
        h = torch.sigmoid(weights["U"] @ x[t, 0]) * torch.tanh(weights["W"] @ x[t, 0] + weights["u"] * h + weights["b"])
        v = weights["w"] @ h
        rate = torch.zeros(()) if reset[t] else g[t, 0]
        if before is not None:
            delta = (c[t, 0] + rate * v - before).detach()
            total = {name: total[name] + delta * e[name] for name in total}
        grads = torch.autograd.grad(v, list(weights.values()), retain_graph=True)
        e = {name: rate * 0.7 * e[name] + grad for name, grad in zip(weights, grads, strict=True)}
        before = v.detach()
    found = {name: -p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert_matches(found, total, "update of", 1e-12)


def test_no_loss_without_an_earlier_step() -> None:
    """The first step of a stream has no error, and does not count in the mean; that of a later call has one."""
    model = compile_spec(COLUMNAR.replace(", reduce: sum", ""), dtype=torch.float64)
    ones = torch.ones(1, 2, dtype=torch.float64)
    batch = {"x": torch.ones(1, 2, 3, dtype=torch.float64), "cumulant": ones, "rate": ones}
    first = model(batch, mask=torch.tensor([[True, False]]))
    assert float(first.loss.detach()) == 0.0
    assert first.state["td.loss.seen"].tolist() == [True, False]
    second = model(batch, state=first.state)
    error = 1 + second.outputs["v"][0, 0] - first.outputs["v"][0, 0]
    torch.testing.assert_close(second.loss.detach(), error.detach() ** 2 / 2)


def test_a_sequence_may_begin_at_a_masked_step() -> None:
    """What follows a reset that no valid step has seen is of another sequence all the same."""
    model = compile_spec(COLUMNAR, dtype=torch.float64)
    ones = torch.ones(3, 1, dtype=torch.float64)
    batch = {"x": torch.ones(3, 1, 3, dtype=torch.float64), "cumulant": ones, "rate": ones}
    mask, reset = torch.tensor([[True], [False], [True]]), torch.tensor([[False], [True], [False]])
    result = model(batch, mask=mask, reset=reset)
    error = 1 - result.outputs["v"][0, 0]
    torch.testing.assert_close(result.loss.detach(), error.detach() ** 2 / 2)


def test_one_rule_cannot_wait_for_the_error() -> None:
    with pytest.raises(SpecError, match="keeps no gradient"):
        compile_spec(COLUMNAR.replace("columns", "uoro"))


def test_definitions_by_derivatives_of_the_loss_refuse_it() -> None:
    case = random_case(0, (("default", "bptt"),), td=True)
    assert any(loss.td is not None for loss in case.graph.losses)
    zeros = {name: torch.zeros_like(value) for name, value in case.params.items()}
    with pytest.raises(ValueError, match="temporal differences"):
        directional(case, case.plan, zeros)
    with pytest.raises(ValueError, match="temporal differences"):
        by_lag(case, case.plan.classes[0], zeros)
    with pytest.raises(ValueError, match="temporal difference"):
        common_shift(case.graph, [case.params], [])


test_the_spec_in_one_line = properties(COLUMNAR, "sizes.column=2", examples=8, steps=5)
