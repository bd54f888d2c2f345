"""What the tests of backends share: modules of random cases, and numbers to feed them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from hypothesis import HealthCheck, settings
from torch import Generator, Tensor

from recdsl.backends.init import initial
from recdsl.backends.torch import execute
from recdsl.backends.torch.module import generate
from recdsl.credit.plan import CreditPlan
from recdsl.driver import Compilation, analyse
from recdsl.driver import compile as compile_spec
from recdsl.graph.step import Input
from recdsl.testing import Case, assert_close_gradients, random_case, reference
from recdsl.testing.models import Model

torch.set_num_threads(1)

GOOD = Path(__file__).parent.parent / "good"
SIZES = re.compile(r"^# sizes: (.*)$", re.MULTILINE)

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


@cache
def corpus(name: str, seed: int = 0, credit: str = "") -> Case:
    """A good spec of the corpus with a random call."""
    path = GOOD / f"{name}.yaml"
    sizes = SIZES.search(path.read_text())
    overrides = [f"sizes.{part}" for part in sizes[1].split()] if sizes else []
    return call_of(analyse(str(path), [*overrides, *([f"credit={credit}"] if credit else [])]), seed)


def call_of(stages: Compilation, seed: int, steps: int = 7) -> Case:
    """A random call of a model; for odd seeds it has mask, reset and an incoming state."""
    draws = Generator().manual_seed(seed)
    samples, graph = 1 + seed % 3, stages.graph
    batch = {item.name: entry(item, steps, samples, draws) for item in graph.inputs}
    params = initial((*graph.parameters, *stages.plan.owned))
    for item in (*graph.parameters, *stages.plan.owned):
        if not item.frozen:
            noise = torch.randn(item.type.shape, generator=draws, dtype=torch.float64)
            params[item.name] = params[item.name] + 0.1 * noise
    mask = reset = state = None
    if seed % 2:
        mask, reset = (torch.rand((steps, samples), generator=draws) < rate for rate in (0.8, 0.2))
        shapes = {c.name: graph.nodes[c.read].type.shape for c in graph.carries}
        state = {n: torch.rand((samples, *s), generator=draws, dtype=torch.float64) for n, s in shapes.items()}
        state["t"] = torch.tensor(3)
    return FromSpec(Model("", graph, (), False), params, batch, mask, reset, state, {}, True, stages)


@dataclass(frozen=True)
class FromSpec(Case):
    """A case whose plan comes from the spec's own text."""

    stages: Compilation

    @property
    def plan(self) -> CreditPlan:
        return self.stages.plan


def entry(item: Input, steps: int, samples: int, draws: Generator) -> Tensor:
    """What a batch holds for one input or target."""
    if item.kind in ("class", "token", "onehot"):
        return torch.randint(item.size, (steps, samples), generator=draws)
    if item.kind == "bool":
        return torch.rand((steps, samples), generator=draws) < 0.5
    return torch.rand((steps, samples, *item.type.shape), generator=draws, dtype=torch.float64)


def normal(seed: int, *shape: int) -> Tensor:
    """Normal numbers in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(module: torch.nn.Module) -> dict[str, Tensor]:
    """By the spec's names; a parameter that has none has zero."""
    found = {name: p for name, p in module.named_parameters() if p.requires_grad}
    return {name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in found.items()}


def disturbed(module: torch.nn.Module, case: Case) -> None:
    """The case again, with another call of the same shapes made and differentiated while it waits for its turn.

    For a module that has been called before: rooms are then handed out as they were the first time.
    """
    other = {n: v * 0.5 - 1.0 if v.is_floating_point() else v for n, v in case.batch.items()}

    class Between(torch.nn.Module):
        """The module, whose calls are followed by others before their backward pass."""

        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, batch: Mapping[str, Tensor], **given: Any) -> Any:
            first = module(batch, **given)
            for entries in (other, {name: value[:1] for name, value in other.items()}):
                short = entries is not other
                rows = {k: v[:1] if short and isinstance(v, Tensor) else v for k, v in given.items()}
                second = module(entries, **rows)
                if second.loss.requires_grad:
                    second.loss.backward()
            module.zero_grad()
            return first

    expected = reference(case)
    named = replace(expected, gradients={f"inner.{name}": value for name, value in expected.gradients.items()})
    inner = replace(case, params={f"inner.{name}": value for name, value in case.params.items()})
    assert_close_gradients(lambda _: Between(), inner, expected=named)
