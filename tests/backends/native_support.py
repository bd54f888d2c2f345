"""What the tests of the native backend share: modules of cases with compiled loops, quickly compiled."""

from __future__ import annotations

from typing import Any

import torch

from recdsl.backends.native import native_module
from recdsl.backends.torch.module import generate
from recdsl.testing import Case

# A plain recurrent network of two units.
SPEC = """recdsl: 1
sizes: {n: 2}
inputs: {x: "float[n]"}
targets: {y: "float[n]"}
params: {W: "float[n, n] ~ normal(0, 0.5)"}
step: |
  h = tanh(W @ h[t-1] + x)
loss: mse(h, y)
"""
STRIPS = ("-DSTRIP_BYTES=1", "-DSTRIP_STEPS=2", "-DSTRIP_SUMS=1")
"""Strips of two steps: calls of tests are too short for more than one otherwise."""
QUICK = ("-O0", *STRIPS)
"""Vectorised code takes three times as long to compile; some tests do without."""


def native(
    case: Case, *, optimise: bool = True, flags: tuple[str, ...] = QUICK, dtype: torch.dtype = torch.float64
) -> Any:
    """The case's module, all of whose entries run in C."""
    source = generate(case.graph, case.plan, "", optimise=optimise)
    module = native_module(case.graph, case.plan, source, optimise=optimise, flags=flags)
    model: Any = module.Model(0, dtype)
    assert model.recdsl_runs == "native", model.recdsl_runs
    return model
