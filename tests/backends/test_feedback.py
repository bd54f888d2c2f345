"""Credit that comes back by another way than it went: fixed random matrices, and uses of states that count less."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import recdsl.program.assemble as assemble_stage
from recdsl import compile as compile_spec
from recdsl import explain
from recdsl.diagnostics import SpecError
from recdsl.driver import analyse
from recdsl.testing import Case, check_rule, properties, random_case
from recdsl.training.gradcheck import gradcheck

torch.set_num_threads(1)
SPEC = """\
recdsl: 1
name: rate
sizes: {i: 3, n: 4, o: 2}
inputs: {x: "float[i]"}
targets: {y: "float[o]"}
params:
  W: "float[n, n] ~ normal(0, 0.5)"
  U: "float[n, i] ~ normal(0, 0.5)"
  V: "float[o, n] ~ uniform(-0.5, 0.5)"
  c: "float[o] = 0"
step: |
  h = 0.8 * h[t-1] + 0.2 * tanh(W @ h[t-1] + U @ x)
  v = V @ h + c
loss: mse(v, y)
credit: RULE
"""
BUFFER = "credit.feedback.V"
RANDOM = "rflo(feedback=random)"
WAYS = {"W": "biased", "U": "biased", "V": "exact", "c": "exact"}

test_rflo = properties(SPEC.replace("RULE", RANDOM), "sizes.n=2", examples=6, steps=4, samples=2)
test_a_use = properties(
    SPEC.replace("RULE", '{"h[t-1]": feedback(random), default: bptt}'), examples=6, steps=4, samples=2
)


def fitting(seed: int, *rules: tuple[str, str]) -> Case | None:
    case = random_case(seed, rules)
    try:
        return case if case.plan.rows else None
    except SpecError:
        return None


def batch(steps: int = 6) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(3)
    return {k: torch.randn(steps, 2, n, generator=g, dtype=torch.float64) for k, n in (("x", 3), ("y", 2))}


def learned(model: torch.nn.Module) -> dict[str, Tensor]:
    model.zero_grad()
    model(batch()).loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("rule", [RANDOM, "eprop(feedback=random)"])
@pytest.mark.parametrize("seed", range(0, 12, 4))
def test_random_readouts_equal_their_definition(seed: int, rule: str) -> None:
    for number in range(seed, seed + 4):
        case = fitting(number, ("default", rule))
        if case is not None:
            check_rule(case)


@pytest.mark.parametrize("action", ["scale(0.5)", "scale(-2)", "feedback(random)"])
@pytest.mark.parametrize("rule", ["bptt", "tbptt(window=3, every=2)", "none", "artbp(2)", "rtrl", "snap(1)", "uoro"])
def test_uses_of_states_equal_their_definition(rule: str, action: str) -> None:
    checked = 0
    for seed in range(6):
        case = fitting(seed, ("recurrence", action), ("default", rule))
        if case is not None:
            check_rule(case)
            checked += 1
    assert checked > 1


@pytest.mark.parametrize("seed", range(6))
def test_each_class_has_its_own_way_back(seed: int) -> None:
    """Random readouts are for the parameters of that rule alone; what uses of states say is for all."""
    case = fitting(seed, ("p1", RANDOM), ("p2", "rtrl"), ("recurrence", "scale(0.5)"), ("default", "bptt"))
    if case is not None:
        check_rule(case)


def test_the_matrix_is_a_buffer_of_the_module() -> None:
    model = compile_spec(SPEC.replace("RULE", RANDOM), dtype=torch.float64)
    assert BUFFER in model.state_dict()
    assert not any(name.startswith("credit") for name, _ in model.named_parameters())
    matrix = model.state_dict()[BUFFER]
    assert matrix.shape == (2, 4)
    assert not torch.equal(matrix, model.state_dict()["V"])
    assert 0.1 < float(matrix.abs().max()) <= 0.5  # the initialiser of V
    again = compile_spec(SPEC.replace("RULE", RANDOM), dtype=torch.float64)
    assert torch.equal(again.state_dict()[BUFFER], matrix)
    other = compile_spec(SPEC.replace("RULE", RANDOM) + "train: {seed: 5}\n", dtype=torch.float64)
    assert not torch.equal(other.state_dict()[BUFFER], matrix)
    assert BUFFER not in compile_spec(SPEC.replace("RULE", "rflo")).state_dict()


def test_the_own_matrix_as_feedback_is_symmetric() -> None:
    model = compile_spec(SPEC.replace("RULE", RANDOM), dtype=torch.float64)
    plain = compile_spec(SPEC.replace("RULE", "rflo"), dtype=torch.float64)
    before, symmetric = learned(model), learned(plain)
    assert torch.allclose(before["V"], symmetric["V"])
    assert not torch.allclose(before["W"], symmetric["W"])
    model.load_state_dict({**model.state_dict(), BUFFER: model.state_dict()["V"]})
    after = learned(model)
    assert all(torch.allclose(after[name], value, atol=1e-14) for name, value in symmetric.items())


def test_verdicts() -> None:
    rows = {row.parameter: row for row in explain(SPEC.replace("RULE", RANDOM)).rows}
    assert {name: row.verdict for name, row in rows.items()} == WAYS
    assert rows["U"].first_dropped_lag == 0
    assert "feedback" in rows["U"].qualifiers
    assert "h -> v" in {item.edge for item in rows["U"].dropped}
    scaled = SPEC.replace("credit: RULE", 'credit: {"h[t-1]": scale(0.5), default: rtrl}')
    rows = {row.parameter: row for row in explain(scaled).rows}
    assert (rows["U"].verdict, rows["U"].first_dropped_lag, rows["U"].longest_kept_lag) == ("biased", 1, None)
    assert "scaled" in rows["U"].qualifiers
    assert "scaled" not in rows["V"].qualifiers
    one = SPEC.replace("credit: RULE", 'credit: {"h[t-1]": scale(1), default: rtrl}')
    assert {row.verdict for row in explain(one).rows} == {"exact"}


@pytest.mark.parametrize("seed", range(8))
def test_nothing_that_is_fed_back_is_exact(seed: int) -> None:
    case = fitting(seed, ("default", RANDOM))
    for row in case.plan.rows if case is not None else ():
        assert "feedback" not in row.qualifiers or row.verdict == "biased"


def test_gradcheck_knows_the_matrices() -> None:
    for rule in (RANDOM, '{"h[t-1]": feedback(random), default: uoro}'):
        assert gradcheck(analyse(SPEC.replace("RULE", rule)), 5).holds


def same_matrix(graph: Any, routing: Any, real: Any) -> Any:
    return real(graph, replace(routing, feedback=()))


def no_scale(graph: Any, routing: Any, real: Any) -> Any:
    return real(graph, replace(routing, scales=()))


def first_only(graph: Any, routing: Any, real: Any) -> Any:
    return real(graph, replace(routing, feedback=routing.feedback[:1], scales=routing.scales[:1]))


@pytest.mark.parametrize("fault", [same_matrix, no_scale, first_only])
def test_faults_are_found(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = ((("default", RANDOM),), (("recurrence", "scale(0.5)"), ("default", "rtrl")))
    cases = [case for seed in range(8) for rule in rules if (case := fitting(seed, *rule)) is not None]
    real = assemble_stage.changed
    monkeypatch.setattr(assemble_stage, "changed", lambda graph, routing: fault(graph, routing, real))
    assert not all(passes(case) for case in cases)


def passes(case: Case) -> bool:
    try:
        check_rule(case)
    except AssertionError:
        return False
    return True
