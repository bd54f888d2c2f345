"""Gradients through fast readout weights (Javed et al. 2021, arXiv 2103.05787): the published traces, by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recdsl.driver import compile as compile_spec

SPEC = str(Path(__file__).parents[2] / "specs" / "meta_columns.yaml")
ALPHA = 0.05


def published(weights: Any, bias: Any, x: Any, y: Any) -> tuple[Any, Any]:
    """The mean over steps of the derivative of (y - v)^2 by W and b, with TH = dh/dtheta and TW = dw/dtheta:

    dL/dtheta = -2 delta (w TH + h TW);  TW <- TW + alpha delta TH - alpha h (w TH + h TW);  w <- w + alpha delta h.
    """
    w = np.zeros(len(bias))
    traces = [np.zeros_like(weights), np.zeros_like(bias)]
    found = [np.zeros_like(weights), np.zeros_like(bias)]
    for xt, yt in zip(x, y, strict=True):
        h = np.tanh(weights @ xt + bias)
        delta, slope = yt - w @ h, 1 - h**2
        for k, th in enumerate((slope[:, None] * xt[None], slope)):
            own = (slice(None), None) if th.ndim == 2 else (slice(None),)
            moved = w[own] * th + h[own] * traces[k]
            found[k] += -2 * delta * moved / len(y)
            traces[k] += ALPHA * delta * th - ALPHA * h[own] * moved
        w = w + ALPHA * delta * h
    return found[0], found[1]


def measured(columns: int, credit: str, seed: int = 0) -> tuple[dict[str, Any], Any, Any]:
    """Gradients of a call by name, with what went in."""
    changes = (f"sizes.column={columns}", f"credit={credit}", "sizes.obs=3")
    model: Any = compile_spec(text(), dtype=torch.float64, overrides=changes)
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(60, 3)), rng.normal(size=60)
    model({"x": torch.tensor(x)[:, None], "y": torch.tensor(y)[:, None]}).loss.backward()
    return dict(model.named_parameters()), x, y


def text() -> str:
    """The spec without its data, so that inputs can be wider."""
    lines = Path(SPEC).read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(("data:", "train:")))


@pytest.mark.parametrize("columns", [1, 2, 7])
def test_traces_are_the_published_ones(columns: int) -> None:
    weights, x, y = measured(columns, "columns")
    expected = published(weights["W"].detach().numpy(), weights["b"].detach().numpy(), x, y)
    for name, value in zip("Wb", expected, strict=True):
        assert np.allclose(weights[name].grad.numpy(), value, rtol=0, atol=1e-12 * (1 + np.abs(value).max()))


@pytest.mark.parametrize("columns", [1, 2, 7])
def test_exact_for_one_column_only(columns: int) -> None:
    one, _, _ = measured(columns, "columns")
    full, _, _ = measured(columns, "bptt")
    close = all(torch.allclose(one[name].grad, full[name].grad, rtol=0, atol=1e-12) for name in "Wb")
    assert close == (columns == 1)
    cosine = torch.nn.functional.cosine_similarity(one["W"].grad.flatten(), full["W"].grad.flatten(), dim=0)
    assert cosine > 0.5
