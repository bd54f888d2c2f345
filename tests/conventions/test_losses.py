"""Section 3, losses: own axes are averaged, then the due and valid (step, sample) pairs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conventions_support import compiled, draw
from torch import Tensor

SPEC = """
recdsl: 1
sizes: {n: 4, m: 2}
inputs: {x: "float[n]"}
targets: {y: "float[n]", c: "class[n]", o: "onehot[n]", b: bool, p: "float[m, n]"}
params: {k: "float[n] = 1", u: "float[m] = 1"}
step: |
  z = k * x
  w = z * sum(u)
loss:
  of_u: {value: "mse(sum(u), 0)"}
  main: LOSS
"""

Batch = Mapping[str, Tensor]
LOSSES: dict[str, Callable[[Tensor, Batch, Tensor], Tensor]] = {
    "mse(z, y)": lambda z, b, u: ((z - b["y"]) ** 2).mean(-1),
    "mse(z * u, p)": lambda z, b, u: ((z[..., None, :] * u[:, None] - b["p"]) ** 2).mean((-1, -2)),
    "mae(z, y)": lambda z, b, u: (z - b["y"]).abs().mean(-1),
    "huber(z, y, delta=0.3)": lambda z, b, u: F.huber_loss(z, b["y"], reduction="none", delta=0.3).mean(-1),
    "cross_entropy(z, c)": lambda z, b, u: -z.log_softmax(-1).gather(-1, b["c"][..., None])[..., 0],
    "cross_entropy(z, o)": lambda z, b, u: -z.log_softmax(-1).gather(-1, b["o"][..., None])[..., 0],
    "cross_entropy(z, softmax(y))": lambda z, b, u: -(z.log_softmax(-1) * b["y"].softmax(-1)).sum(-1),
    "binary_cross_entropy(sum(z), b)": lambda z, b, u: F.binary_cross_entropy_with_logits(
        z.sum(-1), b["b"].double(), reduction="none"
    ),
    "nll(softmax(z), c)": lambda z, b, u: -z.softmax(-1).gather(-1, b["c"][..., None])[..., 0].clamp_min(1e-6).log(),
    "kl(softmax(y), softmax(z))": lambda z, b, u: (
        b["y"].softmax(-1) * (b["y"].log_softmax(-1) - z.log_softmax(-1))
    ).sum(-1),
}
MASK = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 1, 0], [1, 1, 0], [0, 1, 0]]).bool()
LAST = torch.tensor([[0, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]]).bool()
SECOND = torch.tensor([0, 1, 0, 1, 0]).bool()[:, None].expand(5, 3)


def check(model: Any, per: Callable[[Tensor, Batch, Tensor], Tensor], due: Tensor, mask: Tensor | None) -> None:
    batch = draw(model)
    k, u = (model.get_parameter(name).detach().clone().requires_grad_() for name in "ku")
    main = torch.where(due, per(k * batch["x"], batch, u), 0.0).sum() / max(int(due.sum()), 1)
    wanted = main + u.sum() ** 2
    result = model(batch, mask=mask)
    torch.testing.assert_close(result.loss.detach(), wanted.detach())
    torch.testing.assert_close(result.losses["main"], main.detach())
    assert not result.losses["main"].requires_grad
    result.loss.backward()
    wanted.backward()
    for leaf, name in ((k, "k"), (u, "u")):
        expected = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        torch.testing.assert_close(model.get_parameter(name).grad, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
def test_values_and_gradients(loss: str) -> None:
    model = compiled(SPEC.replace("LOSS", f'{{value: "{loss}"}}'))
    check(model, LOSSES[loss], torch.ones(5, 3).bool(), None)
    model.zero_grad()
    check(model, LOSSES[loss], MASK, MASK)


@pytest.mark.parametrize(
    ("at", "due"), [("all", MASK), ("last", LAST), ("every(2)", SECOND & MASK), ("every(9)", MASK & False)]
)
def test_schedules_count_due_and_valid_pairs(at: str, due: Tensor) -> None:
    check(compiled(SPEC.replace("LOSS", f'{{value: "mse(z, y)", at: {at}}}')), LOSSES["mse(z, y)"], due, MASK)


def test_reduce_sum_adds_up() -> None:
    model = compiled(SPEC.replace("LOSS", '{value: "mse(z, y)", weight: 0.5}\n  reduce: sum'))
    batch = draw(model)
    per = LOSSES["mse(z, y)"](model.get_parameter("k") * batch["x"], batch, batch["x"])
    torch.testing.assert_close(model(batch).loss, 0.5 * per.sum() + 15 * model.get_parameter("u").sum() ** 2)


@pytest.mark.parametrize("padding", [0.0, float("nan"), float("inf")])
def test_padding_reaches_neither_loss_nor_gradient(padding: float) -> None:
    text = SPEC.replace("z = k * x", "z = log(k * k * x * x)").replace("LOSS", '{value: "mse(z, y)"}')
    model = compiled(text)
    batch = draw(model)
    padded = {name: v.clone() for name, v in batch.items()}
    for name in "xy":
        padded[name][~MASK] = padding
    padded["c"][~MASK] = -1
    results: list[Tensor] = []
    for one in (batch, padded):
        model.zero_grad()
        model(one, mask=MASK).loss.backward()
        results.append(model.get_parameter("k").grad.clone())
    assert results[0].isfinite().all()
    torch.testing.assert_close(results[0], results[1])
