"""Comparisons of an execution with the oracle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from recdsl.backends.reference import Reference, Result
from recdsl.testing.cases import Case


def reference(case: Case, full: bool = False) -> Result:
    """The oracle's answer to a case; `full`: without windows and cuts."""
    oracle = Reference(case.graph, case.plan)
    run = oracle.full if full else oracle.run
    return run(case.params, case.batch, case.mask, case.reset, case.state, case.cotangents)


def assert_matches(
    found: Mapping[str, Tensor], expected: Mapping[str, Tensor], what: str = "", tolerance: float = 1e-10
) -> None:
    """Same names, same shapes, and differences below tolerance times (1 + the largest expected entry)."""
    assert found.keys() == expected.keys(), f"{what}: {sorted(found)} instead of {sorted(expected)}"
    for name, tensor in expected.items():
        assert found[name].shape == tensor.shape, f"{what} {name}: {found[name].shape} instead of {tensor.shape}"
        wide = tensor.detach().to(torch.float64)
        scale = 1.0 + (float(wide.abs().max()) if wide.numel() else 0.0)
        apart = (found[name].detach().to(torch.float64) - wide).abs()
        worst = float(apart.max()) if apart.numel() else 0.0
        assert worst <= tolerance * scale, f"{what} {name}: off by {worst:.3e} (scale {scale:.3g})"


def assert_close_gradients(
    factory: Callable[[Case], torch.nn.Module], case: Case, tolerance: float = 1e-10, expected: Result | None = None
) -> None:
    """A backend's module against the oracle: outputs at valid steps, loss, losses, state and every gradient.

    factory: from a case (its `text`, or its `graph` and `plan`) to a float64 module that is called as
    `module(batch, mask=, reset=, state=)` and gives `.outputs`, `.loss`, `.losses`, `.state`. expected: the oracle's
    answer, computed if absent. The backward pass runs before outputs are compared, so it must leave them alone.
    """
    expected = expected or reference(case)
    module = factory(case)
    module.load_state_dict(dict(case.params), strict=False)
    result: Any = module(case.batch, mask=case.mask, reset=case.reset, state=case.state)
    total = result.loss
    for name, cotangent in case.cotangents.items():
        total = total + (cotangent * result.outputs[name]).sum()
    module.zero_grad()
    if total.requires_grad:
        total.backward()
    keep = torch.ones(1, dtype=torch.bool) if case.mask is None else case.mask
    shown = {name: _valid(result.outputs[name], keep) for name in expected.outputs}
    assert_matches(shown, {k: _valid(v, keep) for k, v in expected.outputs.items()}, "output", tolerance)
    assert_matches({"loss": result.loss}, {"loss": expected.loss}, "", tolerance)
    assert_matches(result.losses, expected.losses, "loss", tolerance)
    state = {name: value for name, value in result.state.items() if not name.startswith("credit.")}
    assert_matches(state, expected.state, "state", tolerance)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in trained.items()}
    assert_matches(gradients, expected.gradients, "gradient of", tolerance)


def _valid(output: Tensor, mask: Tensor) -> Tensor:
    """Zeros at masked steps, where outputs have no meaning."""
    keep = mask.expand(output.shape[:2]) if mask.dim() == 2 else torch.ones(output.shape[:2], dtype=torch.bool)
    return torch.where(keep.reshape(*keep.shape, *(1,) * (output.dim() - 2)), output, torch.zeros_like(output))
