"""Schedules by hand, every optimizer against torch's own, signals."""

from __future__ import annotations

import math
import os
import signal

import pytest
import torch
from torch import nn

from recdsl.errors.runs import RunError
from recdsl.training import guard, rules
from recdsl.training.interrupt import Interruption
from recdsl.training.optim import CLASSES, factor, optimizer
from recdsl.training.settings import Chosen

DEFAULTS = {d.name: {o.name: o.default for o in d.options} for d in (*rules.OPTIMIZERS, *rules.SCHEDULES)}


def rate(name: str, step: int, steps: int = 100, **options: float) -> float:
    return factor(Chosen(name, DEFAULTS[name] | options), step, steps)


def test_schedules() -> None:
    assert rate("constant", 50) == 1.0
    assert rate("constant", 0, warmup=10) == 0.1
    assert rate("linear", 25, end=0.5) == 0.875
    assert math.isclose(rate("cosine", 50), 0.5)
    assert math.isclose(rate("cosine", 100, end=0.1), 0.1)
    assert rate("cosine", 500) == 0.0
    assert rate("step", 29, every=10, factor=0.5) == 0.25
    assert [factor(Chosen("warmup", {"steps": 4}), step, 100) for step in (0, 3, 9)] == [0.25, 1.0, 1.0]


@pytest.mark.parametrize("name", sorted(n for n, made in CLASSES.items() if made.__module__.startswith("torch.")))
def test_declared_defaults_are_torchs(name: str) -> None:
    """With the options as declared, an optimizer moves as torch's own with lr alone (weight decay of adamw too)."""
    ours, theirs = (nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    options = DEFAULTS[name]
    own = {"adagrad": "eps", "momentum": "momentum"}.get(name)
    more = {} if own is None else {own: options[own]}
    pair = optimizer(Chosen(name, options), [ours]), CLASSES[name]([theirs], **{"lr": options["lr"], **more})
    for _ in range(3):
        for parameter, made in zip((ours, theirs), pair, strict=True):
            parameter.grad = torch.tensor([0.3, 5.0]) * parameter.detach()
            made.step()
    assert torch.equal(ours, theirs)


def test_refused_options() -> None:
    with pytest.raises(RunError, match="RD0710"):
        optimizer(Chosen("sgd", DEFAULTS["sgd"] | {"nesterov": True}), [nn.Parameter(torch.ones(1))])


def test_clip_scales_the_whole_gradient() -> None:
    named = [(name, nn.Parameter(torch.zeros(2))) for name in "ab"]
    for _, parameter in named:
        parameter.grad = torch.full((2,), 3.0)
    assert math.isclose(guard.clip(named, 1.5, 0, "none"), 6.0, rel_tol=1e-6)
    assert math.isclose(guard.clip(named, None, 0, "none"), 1.5, rel_tol=1e-6)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interruption(number: signal.Signals, status: int) -> None:
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert interruption.status == 0
        os.kill(os.getpid(), number)
        assert interruption.status == status
        assert signal.getsignal(number) is before
    assert signal.getsignal(number) is before
