"""Long calls of forward rules run some steps at a time: the same numbers in any pieces, and memory that stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from backend_support import generated
from torch import Tensor

from recdsl import compile as compile_spec
from recdsl.backends.torch import execute
from recdsl.backends.torch.module import generate
from recdsl.diagnostics import SpecError
from recdsl.testing import Case, random_case
from recdsl.training.spending import peak

RULES = (
    "rtrl", "columns", "snap(1)", "snap(2)", "rflo", "eprop", "uoro", "uoro(batch=joint)",
    "columns(drift=decay(0.9))", "snap(1, drift=reset)", "rflo(feedback=random)",
)  # fmt: skip
WHOLE = 10**6


def fitting(rule: str, first: int, count: int = 3) -> list[Case]:
    found: list[Case] = []
    for seed in range(first, first + count):
        case = random_case(seed, (("default", rule),))
        try:
            assert case.plan
        except SpecError:
            continue
        found.append(case)
    return found


def called(model: Any, case: Case, chunk: int, *, outputs: bool) -> dict[str, Tensor]:
    """Everything that a call gives, in pieces of so many steps."""
    model.load_state_dict(case.params, strict=False)
    model.recdsl_chunk = chunk
    model.zero_grad()
    torch.manual_seed(3)
    result = model(case.batch, mask=case.mask, reset=case.reset, state=case.state)
    total = 1.7 * result.loss
    for name, cotangent in case.cotangents.items() if outputs else ():
        if result.outputs[name].requires_grad:
            total = total + (result.outputs[name] * cotangent).sum()
    total.backward()
    found = {
        f"gradient {name}": torch.zeros_like(p) if p.grad is None else p.grad for name, p in model.named_parameters()
    }
    found |= {f"state {name}": value for name, value in result.state.items()}
    found |= {f"output {name}": value.detach() for name, value in result.outputs.items()}
    return found | {f"loss {name}": value for name, value in result.losses.items()} | {"loss": result.loss.detach()}


def apart(model: Any, case: Case, chunk: int, *, outputs: bool) -> float:
    """The largest difference between a call in pieces and one without, over 1 + the largest entry."""
    whole = called(model, case, WHOLE, outputs=outputs)
    parts = called(model, case, chunk, outputs=outputs)
    assert whole.keys() == parts.keys()
    worst = 0.0
    for name, value in whole.items():
        assert value.shape == parts[name].shape, name
        if value.numel():
            scale = 1 + float(value.abs().max())
            worst = max(worst, float((parts[name].double() - value.double()).abs().max()) / scale)
    return worst


@pytest.mark.parametrize("outputs", [False, True])
@pytest.mark.parametrize("rule", RULES)
def test_pieces_give_the_same_numbers(rule: str, outputs: bool) -> None:
    """With masks, resets, incoming states, losses at some steps, and gradients that arrive at outputs."""
    for case in fitting(rule, 0):
        model = generated(case)
        for chunk in (1, 3, 7):
            assert apart(model, case, chunk, outputs=outputs) < 1e-12


FAULTS = {
    "states are not handed on": ('given |= {call.storages["state " + name]', 'lost = {call.storages["state " + name]'),
    "gradients of the last piece only": ("add_up(call.learned, piece.learn())", "call.learned = piece.learn()"),
    "flags are not cut into pieces": ('if " " not in name}', 'if " " not in name and name != "reset"}'),
    "losses of the last piece only": (
        "add_up(found, {name: piece.data[name] for name in losses})",
        "found.update({name: piece.data[name] for name in losses})",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_are_found(fault: str) -> None:
    right, wrong = FAULTS[fault]
    worst = 0.0
    for case in fitting("columns", 0, 10):
        text = generate(case.graph, case.plan, "")
        assert right in text
        model = execute(text.replace(right, wrong)).Model(0, torch.float64)
        try:
            worst = max(worst, apart(model, case, 3, outputs=False))
        except (RuntimeError, ValueError):
            return
    assert worst > 1e-6


LONG = """
recdsl: 1
sizes: {obs: 4, column: 16}
inputs: {x: "float[obs]"}
targets: {y: float}
step: |
  h, c = lstm(x, size=column)
  v = linear(h, size=1)
loss: mse(sum(v), y)
credit: RULE
"""


@pytest.mark.parametrize("rule", ["columns", "snap(1)", "rflo"])
def test_a_step_adds_no_more_than_what_goes_in_and_comes_out(rule: str) -> None:
    """Bytes a step of one sample between calls of 64 and 192 steps, in pieces of 16."""
    model: Any = compile_spec(LONG.replace("RULE", rule))
    model.recdsl_chunk = 16
    assert growth(model) <= 1.5 * 4 * (16 + 16 + 1 + 2)


def test_reverse_mode_does_add_more() -> None:
    model: Any = compile_spec(LONG.replace("RULE", "bptt"))
    model.recdsl_chunk = 16
    assert growth(model) > 2 * 4 * (16 + 16 + 1 + 2)


def growth(model: Any) -> float:
    batches = [{"x": torch.randn(steps, 1, 4), "y": torch.randn(steps, 1)} for steps in (64, 192)]
    short, long = (peak(model, batch) for batch in batches)
    return (long - short) / 128


TEMPORAL = """
recdsl: 1
sizes: {d: 3, n: 4}
inputs: {x: "float[d]", c: float}
params: {w: "float[n] ~ normal(0, 1)"}
step: |
  h = gru(x, size=n)
  v = w @ h
loss: td(v, c, discount=0.9)
credit: RULE
"""


@pytest.mark.parametrize("rule", ["columns", "rtrl"])
def test_an_error_of_the_next_piece_counts_for_a_prediction_of_this_one(rule: str) -> None:
    model: Any = compile_spec(TEMPORAL.replace("RULE", rule), dtype=torch.float64)
    batch = {"x": torch.randn(17, 2, 3), "c": torch.randn(17, 2)}
    reset = torch.rand(17, 2) < 0.2
    found: list[dict[str, Tensor]] = []
    for chunk in (WHOLE, 5, 1):
        model.recdsl_chunk = chunk
        model.zero_grad()
        model(batch, reset=reset).loss.backward()
        found.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-12, atol=1e-12)
