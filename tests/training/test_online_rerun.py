"""`drift=rerun(steps)`: online, the last steps are run again with the parameters of now, and their traces made anew."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from recdsl.diagnostics import SpecError
from recdsl.driver import compile as compile_spec
from recdsl.driver import explain
from recdsl.training.catalogue import beside
from recdsl.training.online import Online, trainer, windows
from recdsl.training.pipeline import COMPILER
from recdsl.training.run import setup, train

from .test_run import Stopping, bits

SPEC = """recdsl: 1
name: recall
sizes: {label: 5, hidden: 4, answer: 2}
inputs: {x: "onehot[label]"}
targets: {y: "class[answer]"}
step: |
  h = gru(x, size=hidden)
  logits = linear(h, size=answer)
loss: cross_entropy(logits, y)
credit: %s
data: delayed_recall(delay=2, symbols=2, distractors=2)
train: {online: true, steps: 40, optimizer: sgd(lr=0.3), log: 7, checkpoint: 10, seed: 3, dtype: float64}
"""
TD = """recdsl: 1
name: patterns
sizes: {obs: 12, column: 3}
inputs: {x: "float[obs]", c: float}
params: {w: "float[column] ~ normal(0, 0.5)"}
step: |
  h, m = lstm_columns(x, size=column)
  v = w @ h
loss: td(v, c, discount=0.9)
credit: %s
data: trace_patterning
train: {online: true, steps: 40, optimizer: "td_lambda(lr=1e-2, trace=0.8)", seed: 3, dtype: float64}
"""


def online(text: str, *overrides: str) -> Online:
    compiled = COMPILER.build(text, overrides)
    made = setup(compiled, beside(compiled.spec))
    found = trainer(compiled, made.source, made.binding, made.settings)
    assert isinstance(found, Online)
    return found


def parameters(made: Online) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in made.module.named_parameters()}


def moved(text: str, updates: int, *overrides: str) -> dict[str, Tensor]:
    made = online(text, *overrides)
    for _ in range(updates):
        made.update()
    return parameters(made)


def apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return max(float((one[name] - other[name]).detach().abs().max()) for name in one)


@pytest.mark.parametrize(("steps", "every"), [(6, 1), (6, 2), (5, 2), (3, 3)])
def test_the_last_steps_are_run_again(steps: int, every: int) -> None:
    """By hand: calls from the state and traces that were before them, of which the newest losses count."""
    text = SPEC % f"rtrl(drift=rerun({steps}))"
    made, data = online(text, f"train.every={every}"), online(text, f"train.every={every}").feed.take(10 * every)
    module: Any = compile_spec(text, dtype=torch.float64)
    reset: Any = data.reset
    states: list[Any] = [None]
    back = -(-steps // every)
    for k in range(1, 11):
        made.update()
        first = max(0, k - back)
        rows = slice(first * every, k * every)
        counted = torch.zeros_like(reset[rows])
        counted[-every:] = True
        given = {name: value[rows] for name, value in data.tensors.items()}
        module.zero_grad()
        output = module(given, state=states[first], reset=reset[rows], counted=counted)
        output.loss.backward()
        with torch.no_grad():
            for p in module.parameters():
                p -= 0.3 * p.grad
        states.append({name: value.detach() for name, value in output.state.items()})
    assert apart(parameters(made), dict(module.named_parameters())) < 1e-12


def test_run_again_from_the_start_there_is_no_drift() -> None:
    """With as many steps as there are, the gradient is full backpropagation of the newest loss, by the parameters of
    now over the whole past; kept traces give another."""
    text = SPEC % "rtrl(drift=rerun(12))"
    made, data = online(text), online(text).feed.take(12)
    full: Any = compile_spec(SPEC % "bptt", dtype=torch.float64)
    reset: Any = data.reset
    for k in range(1, 13):
        full.load_state_dict({n: v for n, v in made.module.state_dict().items() if n in full.state_dict()})
        full.zero_grad()
        counted = torch.zeros_like(reset[:k])
        counted[-1] = True
        full({n: v[:k] for n, v in data.tensors.items()}, reset=reset[:k], counted=counted).loss.backward()
        made.update()
        for name, p in full.named_parameters():
            torch.testing.assert_close(made.module.get_parameter(name).grad, p.grad, rtol=1e-9, atol=1e-12)
    assert apart(moved(SPEC % "rtrl", 12), parameters(made)) > 1e-3


def test_one_step_is_what_accept_does() -> None:
    assert apart(moved(SPEC % "rtrl(drift=rerun(1))", 12), moved(SPEC % "rtrl", 12)) == 0.0
    assert windows(online(SPEC % "rtrl(drift=rerun(1))").module, 1) == []


@pytest.mark.parametrize(
    "rule", ["columns(drift=rerun(5))", "snap(1, drift=rerun(5))", "columns(window=2, drift=rerun(6))"]
)
def test_while_parameters_stand_still_nothing_changes(rule: str) -> None:
    """The gradients of updates add up to that of the same rule without a policy."""
    plain = rule.replace("drift=rerun(5)", "").replace(", drift=rerun(6)", "").replace(", )", ")").replace("()", "")
    changes = ("train.optimizer=sgd(lr=1e-300)", "train.every=2" if "window" in rule else "train.every=1")
    found: list[dict[str, Tensor]] = []
    for text in (SPEC % rule, SPEC % plain):
        made, total = online(text, *changes), dict[str, Tensor]()
        for _ in range(10):
            made.update()
            grads = {name: p.grad for name, p in made.module.named_parameters() if p.grad is not None}
            total = {name: total.get(name, 0) + grad for name, grad in grads.items()}
        found.append(total)
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-9, atol=1e-13)


def test_temporal_differences() -> None:
    """Updates with traces made anew differ from those with kept ones, the more the larger the steps are."""
    kept, again = TD % "columns", TD % "columns(drift=rerun(10))"
    pairs = [[text.replace("lr=1e-2", f"lr={lr}") for text in (again, kept)] for lr in ("1e-4", "1e-2")]
    near, far = (apart(moved(one, 30), moved(other, 30)) for one, other in pairs)
    assert 0 < near < 1e-2 * far


def test_backends_agree() -> None:
    text = SPEC % "snap(1, drift=rerun(6))"
    own = online(text, "train.backend=torch")
    other = online(text, "train.backend=native")
    for made in (own, other):
        while made.step < 30:
            made.updates(30 - made.step)
    assert apart(parameters(own), parameters(other)) < 1e-12


def test_resumption(tmp_path: Path) -> None:
    """What is run again is in checkpoints."""
    text = SPEC % "rtrl(drift=rerun(6))"
    whole = train(text, ("train.steps=12",), root=tmp_path / "whole", progress="silent")
    stopping = Stopping(7, signal.SIGINT, COMPILER)
    first = train(text, ("train.steps=12",), root=tmp_path / "part", progress="silent", compiler=stopping.compiler())
    assert (first.step, first.status) == (7, 130)
    again = train(text, (), root=tmp_path / "part", progress="silent", resume=str(first.folder))
    assert bits(again.checkpoint) == bits(whole.checkpoint)


def test_it_is_said() -> None:
    found = explain(SPEC % "rtrl(drift=rerun(6))")
    rows = {row.parameter: row for row in found.rows}
    assert rows["h.Un"].verdict == "exact"
    assert "rerun" in rows["h.Un"].qualifiers
    assert "drift" not in rows["h.Un"].qualifiers
    assert "the last 6 steps" in str(found)


def test_it_needs_online_learning(tmp_path: Path) -> None:
    with pytest.raises(SpecError) as caught:
        train(SPEC % "rtrl(drift=rerun(6))", ("train.online=false",), root=tmp_path, progress="silent")
    (problem,) = caught.value.problems
    assert problem.code == "RD0616"
    assert problem.span.line == 10
