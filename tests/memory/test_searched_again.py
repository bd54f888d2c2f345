"""Long calls of forward rules that read searched stores: when gradients arrive at outputs, the call is run again behind
its own writes (and later ones), and must find what it found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Generator, Tensor

from recdsl.driver import compile as compile_spec

torch.set_num_threads(1)
SPEC = """
recdsl: 1
sizes: {inp: 3, hid: 4}
inputs: {x: "float[inp]"}
targets: {y: "float[hid]"}
params:
  W, Q: float[hid, inp] ~ normal(0, 0.8)
  U, V: float[hid, hid] ~ normal(0, 0.8)
memory:
  past:
    life: model
    slots: 12
    evict: EVICT
    write: {key: "V @ h", value: h}
    read: {query: "Q @ x + V @ h[t-1]", score: cosine(sharpness=3), select: topk(3), normalise: softmax}
step: |
  h = tanh(W @ x + (U @ h[t-1]) * past.read + past.read)
  out = h * past.read
loss: mse(out, y)
credit: {past: "CREDIT", default: "RULE"}
"""


def module(rule: str, credit: str, evict: str, chunk: int = 0, backend: str = "torch") -> Any:
    torch.manual_seed(0)
    text = SPEC.replace("EVICT", evict).replace("CREDIT", credit).replace("RULE", rule)
    model: Any = compile_spec(text, backend, dtype=torch.float64)
    model.recdsl_chunk = chunk or model.recdsl_chunk
    return model


def gradients(model: Any, steps: int, late: int) -> list[dict[str, Tensor]]:
    """Of a user's loss beside the spec's, behind some calls and `late` more: two passes back over one call."""
    generator = Generator().manual_seed(3)

    def batch(length: int) -> dict[str, Tensor]:
        drawn = torch.randn(length, 2, 7, generator=generator, dtype=torch.float64)
        return {"x": drawn[..., :3], "y": drawn[..., 3:]}

    for _ in range(3):
        model(batch(4))
    result = model(batch(steps))
    loss = result.loss + (result.outputs["out"] ** 3).sum()
    for _ in range(late):
        model(batch(5))
    found: list[dict[str, Tensor]] = []
    for _ in range(2):
        model.zero_grad()
        loss.backward(retain_graph=True)
        found.append({name: p.grad.clone() for name, p in model.named_parameters()})
    return found


def apart(one: dict[str, Tensor], two: dict[str, Tensor]) -> float:
    return max(float((one[name] - two[name]).abs().max()) for name in one)


@pytest.mark.parametrize("credit", ["stop", "param(lr=0.0)"])
@pytest.mark.parametrize("evict", ["oldest", "least_used"])
@pytest.mark.parametrize("late", [0, 2])
def test_a_call_that_is_run_again_finds_what_it_found(credit: str, evict: str, late: int) -> None:
    """As full backpropagation does, which keeps what it fetches."""
    wanted, _ = gradients(module("bptt", credit, evict), 9, late)
    for rule in ("rtrl", "snap(9)"):
        first, second = gradients(module(rule, credit, evict, chunk=4), 9, late)
        assert apart(wanted, first) < 1e-10
        assert apart(first, second) == 0.0


# -- faults: what it was before ---------------------------------------------------------------------------------------
def rows_of_now(space: dict[str, Any]) -> tuple[str, Any]:
    return "bygone", lambda call: None


def places_of_now(space: dict[str, Any]) -> tuple[str, Any]:
    return "lookup", space["searched"]


@pytest.mark.parametrize("fault", [rows_of_now, places_of_now])
def test_faults_are_seen(fault: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    wanted, _ = gradients(module("bptt", "stop", "oldest"), 8, 0)
    model = module("rtrl", "stop", "oldest", chunk=4)
    name, planted = fault(type(model).forward.__globals__)
    monkeypatch.setitem(type(model).forward.__globals__, name, planted)
    assert apart(wanted, gradients(model, 8, 0)[0]) > 1e-6
