"""What the tests of backends share: modules of random cases, and numbers to feed them."""

from __future__ import annotations

import os
from functools import cache

import torch
from hypothesis import HealthCheck, settings
from torch import Tensor

from recdsl.backends.torch import execute
from recdsl.backends.torch.module import generate
from recdsl.driver import compile as compile_spec
from recdsl.testing import Case, random_case

torch.set_num_threads(1)

SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]
settings.register_profile("here", deadline=None, suppress_health_check=SLOW)
settings.register_profile("here-ci", settings.get_profile("here"), derandomize=True)
PROFILE = settings.get_profile("here-ci" if os.environ.get("CI") else "here")


@cache
def seeded(seed: int) -> Case:
    """Kept, so that a mutant of the compiler does not change what is generated."""
    return random_case(seed)


def compiled(case: Case, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    """From the case's text, as a user does it."""
    return compile_spec(case.text, dtype=dtype)


def generated(case: Case, *, optimise: bool = True) -> torch.nn.Module:
    """From the case's graph and plan: no text is read, and passes can be left out."""
    return execute(generate(case.graph, case.plan, "", optimise=optimise)).Model(0, torch.float64)


def loaded(case: Case, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    """The compiled module with the case's parameters."""
    module = compiled(case, dtype)
    module.load_state_dict(case.params, strict=False)
    return module


def normal(seed: int, *shape: int) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    """By the spec's names; a parameter that has none has zero."""
    found = {name: p for name, p in module.named_parameters() if p.requires_grad}
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in found.items()}
