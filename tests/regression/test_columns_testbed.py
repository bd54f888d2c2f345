"""The test-bed of columnar gradients: the compiled rules against masked definitions, and the published behaviour."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recdsl.backends.reference import Reference
from recdsl.driver import analyse
from recdsl.testing import assert_matches
from recdsl.testing.testbed import Bed, agreement, gradient

SMALL = Bed(columns=4, width=2, inputs=3, steps=7)
WHOLE = Bed()
Tensors = dict[str, Tensor]
MASKS = ("seen", "felt", "own")


def by_hand(params: Tensors, batch: Tensors, *, cut: bool) -> Tensors:
    """Plain autograd over the unrolled test-bed; cut: a column gets its neighbours' values as constants."""
    p = {name: value.clone().requires_grad_(name not in MASKS) for name, value in params.items()}
    h, loss = torch.zeros_like(p["d"]), torch.zeros((), dtype=torch.float64)
    for x, y in zip(batch["x"][:, 0], batch["y"][:, 0], strict=True):
        e = torch.relu(p["A"] @ x + p["a"])
        f = torch.relu(torch.einsum("ckj,cj->ck", p["B"], e) + p["b"])
        others, before = (f.detach(), h.detach()) if cut else (f, h)
        inside = (p["V"] * f).sum(1) + p["own"] * p["u"] * h + p["d"]
        lateral = torch.einsum("cnk,nk->c", p["seen"] * p["L"], others) + (p["felt"] * p["U"]) @ before
        h = h + torch.tanh(inside + lateral)
        loss = loss + 0.5 * (p["w"] @ h - y) ** 2
    loss.backward()
    return {name: value.grad for name, value in p.items() if value.grad is not None}


@pytest.mark.parametrize("edges", [0.0, 0.5, 20.0])
def test_columns_without_paths_between_them_are_autograd_with_constants(edges: float) -> None:
    """The published rule at its published sizes."""
    params, batch = WHOLE.draw(90, edges)
    got = gradient(WHOLE.module("columns", cut=True), params, batch)
    assert_matches(got, by_hand(params, batch, cut=True), "gradient of")


@pytest.mark.parametrize("edges", [0.0, 2.0])
def test_the_spec_is_the_test_bed(edges: float) -> None:
    """Its full gradient is that of the equations in plain PyTorch; without edges `columns` has all of it."""
    params, batch = WHOLE.draw(91, edges)
    full = by_hand(params, batch, cut=False)
    assert_matches(gradient(WHOLE.module("bptt"), params, batch), full, "gradient of")
    alignment, cosine = agreement(gradient(WHOLE.module("columns"), params, batch), full)
    if edges:
        assert alignment < 0.9
        assert cosine < 0.99
    else:
        assert alignment == 1.0
        assert cosine > 1 - 1e-12


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("credit", ["columns", "snap(1)"])
def test_rules_equal_their_definitions(credit: str, cut: bool) -> None:
    params, batch = SMALL.draw(3, 2.0)
    made = analyse(SMALL.text(credit, cut=cut))
    expected = Reference(made.graph, made.plan).run(params, batch).gradients
    assert_matches(gradient(SMALL.module(credit, cut=cut), params, batch), expected, "gradient of")


def test_paths_within_a_step_are_kept_by_columns() -> None:
    """The rule `columns` is the published one and a little more, at no cost: their gradients differ."""
    params, batch = SMALL.draw(4, 2.0)
    published, ours = (gradient(SMALL.module("columns", cut=cut), params, batch) for cut in (True, False))
    assert not torch.allclose(published["A"], ours["A"], rtol=1e-3)
    text = analyse(SMALL.text("columns")).plan.rows
    cut = analyse(SMALL.text("columns", cut=True)).plan.rows
    assert [row.bytes for row in text] == [row.bytes for row in cut]


def test_many_edges_leave_about_half_of_the_signs() -> None:
    """As published: fully connected columns are near to chance, few edges are near to the whole gradient."""
    whole, rule = WHOLE.module("bptt"), WHOLE.module("columns", cut=True)
    found: list[float] = []
    for edges in (0.1, 2.0, 20.0):
        pairs = [WHOLE.draw(seed, edges) for seed in range(90, 95)]
        shares = [agreement(gradient(rule, *pair), gradient(whole, *pair))[0] for pair in pairs]
        found.append(sum(shares) / len(shares))
    assert found[0] > 0.85 > 0.75 > found[1] > found[2] > 0.45
    assert found[2] < 0.6
