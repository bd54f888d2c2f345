"""Optimizers of online learning, by hand in NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from recdsl.diagnostics import SpecError
from recdsl.driver import analyse
from recdsl.training.online_rules import IDBD, TDLambda
from recdsl.training.run import train

from .test_stages import made


@pytest.mark.parametrize("normalise", [False, True])
def test_td_lambda_steps(normalise: bool) -> None:
    p = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    found, square = np.array([1.0, -2.0]), np.ones(2)
    optimizer = TDLambda([p], lr=0.1, trace=0.9, normalise=normalise, initial=1.0)
    rng = np.random.default_rng(0)
    for _ in range(20):
        move = rng.normal(size=2)  # delta * e
        p.grad = torch.tensor(-move)
        optimizer.step()
        square = 0.9999 * square + 0.0001 * move**2
        found = found + 0.1 * move / (np.sqrt(square) + 1e-8 if normalise else 1.0)
        assert np.allclose(p.detach().numpy(), found, rtol=0, atol=1e-13)


@pytest.mark.parametrize("keep", [0.0, 0.9, 0.9999, 1.0])
def test_td_lambda_divides_by_the_updates_so_far(keep: float) -> None:
    p = nn.Parameter(torch.zeros(2, dtype=torch.float64))
    optimizer = TDLambda([p], lr=0.1, normalise=True, keep=keep)
    moves = np.random.default_rng(0).normal(size=(30, 2)) * [1e-3, 10.0]
    for n in range(1, 31):
        before = p.detach().numpy().copy()
        p.grad = torch.tensor(-moves[n - 1])
        optimizer.step()
        weights = keep ** np.arange(n - 1, -1, -1.0)
        square = weights @ moves[:n] ** 2 / weights.sum()
        step = 0.1 * moves[n - 1] / (np.sqrt(square) + 1e-8)
        assert np.allclose(p.detach().numpy() - before, step, rtol=1e-10, atol=0), n


LINEAR = """recdsl: 1
sizes: {obs: 12}
inputs: {x: "float[obs]", cumulant: float}
targets: {return: float}
params:
  w: float[obs] = 0
step: |
  v = w @ x
loss: LOSS
data: trace_patterning(isi=[1, 2], iti=[2, 4], length=7)
train: {online: true, steps: 60, optimizer: "idbd(lr=0.05, meta=0.5)", dtype: float64}
"""
LOSSES = {"mse": "mse(v, return)", "td": "td(v, cumulant, discount=0.9)"}


@pytest.mark.parametrize("loss", LOSSES)
def test_idbd_as_sutton_wrote_it(loss: str) -> None:
    """x = the inputs of a linear prediction; step sizes exp(beta), decay of h clipped at 0."""
    worker = made(LINEAR.replace("LOSS", LOSSES[loss]))
    data = made(LINEAR.replace("LOSS", LOSSES[loss])).feed.take(60).tensors
    x, c, y = (data[name][:, 0].double().numpy() for name in ("x", "cumulant", "return"))
    w, beta, h = np.zeros(12), np.full(12, np.log(0.05)), np.zeros(12)
    for t in range(60):
        worker.update()
        if loss == "mse":
            delta, own = y[t] - w @ x[t], x[t]
        else:
            # The step of v[t-1] is replayed with the parameters of now.
            delta, own = (c[t] + w @ (0.9 * x[t] - x[t - 1]), x[t - 1]) if t else (0.0, np.zeros(12))
        beta = beta + 0.5 * delta * own * h
        alpha = np.exp(beta)
        w = w + alpha * delta * own
        h = h * np.maximum(0.0, 1.0 - alpha * own**2) + alpha * delta * own
        assert np.allclose(worker.module.get_parameter("w").detach().numpy(), w, rtol=0, atol=1e-10), t
    assert np.ptp(beta) > 0.01


def test_idbd_learns_which_inputs_matter() -> None:
    """Sutton's experiment: a target that depends on some of the inputs and drifts."""
    torch.manual_seed(0)
    w, truth = nn.Parameter(torch.zeros(10, dtype=torch.float64)), torch.zeros(10, dtype=torch.float64)
    truth[:3] = 1.0
    optimizer: Any = IDBD([w], lr=0.05, meta=0.01)
    for t in range(6_000):
        if t % 20 == 0:
            truth[torch.randint(3, ())] *= -1.0
        x = torch.randn(10, dtype=torch.float64)
        delta = float((truth * x).sum() - (w.detach() * x).sum())
        w.grad = -delta * x
        optimizer.loss = 0.5 * delta**2
        optimizer.step()
    alpha = optimizer.state[w]["beta"].exp()
    assert alpha[:3].min() > 3 * alpha[3:].max()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("train.batch=2", "one stream"),
        ("train.every=3", "one stream"),
        ("loss=mae(v, return)", "one number"),
        ("inputs.cumulant=float[obs]", "one number"),
    ],
)
def test_idbd_needs_one_error(change: str, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        analyse(LINEAR.replace("LOSS", LOSSES["td"]), (change,))
    problems = {problem.code: problem.text() for problem in caught.value.problems}
    assert said in problems.get("RD0623", "") or "RD0607" in problems or "RD0608" in problems


def test_state_is_in_checkpoints(tmp_path: Path) -> None:
    from .test_run import bits

    text = LINEAR.replace("LOSS", LOSSES["td"])
    whole = train(text, root=tmp_path / "a", progress="silent")
    part = train(text, ("train.steps=31",), root=tmp_path / "b", progress="silent")
    again = train(text, ("train.steps=60",), root=tmp_path / "b", progress="silent", resume=str(part.folder))
    assert bits(again.checkpoint) == bits(whole.checkpoint)
    assert any(name.endswith("/beta") for name in bits(whole.checkpoint))
