"""Random calls of random models: what the property tests of rules and backends run on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from hypothesis import strategies as st
from torch import Generator, Tensor

from recdsl.backends.init import initial
from recdsl.credit.build import plan
from recdsl.credit.plan import CreditPlan
from recdsl.diagnostics import SpecError
from recdsl.graph.step import Input, StepGraph
from recdsl.testing.draws import Draws
from recdsl.testing.models import Model, random_model


@dataclass(frozen=True)
class Case:
    """A model with everything one call takes, in float64. Shapes as `recdsl.backends.reference` documents them.

    gaps: whether the mask has a masked step before a valid one of the same sample.
    """

    model: Model
    params: dict[str, Tensor]
    batch: dict[str, Tensor]
    mask: Tensor | None
    reset: Tensor | None
    state: dict[str, Tensor] | None
    cotangents: dict[str, Tensor]
    gaps: bool

    @property
    def graph(self) -> StepGraph:
        return self.model.graph

    @property
    def plan(self) -> CreditPlan:
        return plan(self.graph, self.model.credit)

    @property
    def text(self) -> str:
        return self.model.text


def random_case(seed: int, rules: Sequence[tuple[str, str]] | None = None, td: bool = False) -> Case:
    """The case of a seed, the same at each call. td: with losses of temporal differences."""
    return make_case(Draws.seeded(seed), rules, td)


@st.composite
def cases(draw: st.DrawFn, rules: Sequence[tuple[str, str]] | None = None, td: bool = False) -> Case:
    """A Hypothesis strategy for cases; simple models come first."""
    return make_case(Draws(lambda n: draw(st.integers(0, n - 1))), rules, td)


def make_case(draws: Draws, rules: Sequence[tuple[str, str]] | None = None, td: bool = False) -> Case:
    """A case from any source of choices."""
    return random_call(draws, random_model(draws, rules, td))


def random_call(draws: Draws, model: Model, shortest: int = 1, longest: int = 9) -> Case:
    """A call of a model, with so many steps."""
    steps, samples = draws.between(shortest, longest), draws.between(1, 3)
    generator = Generator().manual_seed(draws.below(1_000_000))
    batch = {i.name: _random(i, steps, samples, generator) for i in model.graph.inputs}
    mask, gaps = _mask(draws, steps, samples, generator)
    reset = _flags(steps, samples, 0.2, generator) if draws.chance(30) else None
    state = _state(model.graph, samples, generator) if draws.chance(20) else None
    cotangents = _cotangents(model.graph, steps, samples, generator) if draws.chance(25) else {}
    if mask is not None:
        _spoil(batch, cotangents, mask)
    seed = draws.below(1_000_000)
    params = initial(model.graph.parameters, seed) | _owned(model, seed)
    return Case(model, params, batch, mask, reset, state, cotangents, gaps)


def _owned(model: Model, seed: int) -> dict[str, Tensor]:
    """Parameters that rules bring along; none where a rule does not fit.

    They are moved from where they start: a last layer of zeros shows nothing.
    """
    if not any("feedback" in rule or "synthetic" in rule for _, rule in model.rules):
        return {}
    try:
        return moved(plan(model.graph, model.credit), seed)
    except SpecError:
        return {}


def moved(made: CreditPlan, seed: int) -> dict[str, Tensor]:
    """Values of the parameters that the rules of a plan bring along."""
    generator = Generator().manual_seed(seed)
    fixed, drawn = initial(made.buffers, seed), initial(made.owned, seed)
    return {n: v if n in fixed else v + 0.5 * _normal(tuple(v.shape), generator) for n, v in drawn.items()}


def _normal(shape: tuple[int, ...], generator: Generator) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def _flags(steps: int, samples: int, rate: float, generator: Generator) -> Tensor:
    return torch.rand((steps, samples), generator=generator) < rate


def _random(declared: Input, steps: int, samples: int, generator: Generator) -> Tensor:
    if declared.kind in ("class", "token", "onehot"):
        return torch.randint(declared.size, (steps, samples), generator=generator)
    if declared.kind == "bool":
        return _flags(steps, samples, 0.5, generator)
    return _normal((steps, samples, *declared.type.shape), generator)


def _mask(draws: Draws, steps: int, samples: int, generator: Generator) -> tuple[Tensor | None, bool]:
    """No mask, lengths (padding at the end), or any pattern."""
    kind = draws.below(4)
    if kind < 2:
        return None, False
    if kind == 2:
        lengths = torch.randint(0, steps + 1, (samples,), generator=generator)
        return torch.arange(steps)[:, None] < lengths, False
    mask = _flags(steps, samples, 0.7, generator)
    return mask, bool((~mask[:-1] & mask[1:]).any())


def _spoil(batch: Mapping[str, Tensor], cotangents: Mapping[str, Tensor], mask: Tensor) -> None:
    """What stands at masked steps must not matter: not-a-number, or a class that does not exist.

    Outputs have no meaning there, so they get no cotangent.
    """
    for tensor in batch.values():
        tensor[~mask] = torch.nan if tensor.is_floating_point() else 10_000
    for tensor in cotangents.values():
        tensor[~mask] = 0.0


def _state(graph: StepGraph, samples: int, generator: Generator) -> dict[str, Tensor]:
    """A state as an earlier call leaves it."""
    types = {carry.name: graph.nodes[carry.read].type for carry in graph.carries}
    values = {
        name: torch.rand((samples, *type.shape), generator=generator) < 0.5
        if type.dtype == "bool"
        else torch.tanh(_normal((samples, *type.shape), generator))
        for name, type in types.items()
    }
    return {**values, "t": torch.tensor(int(torch.randint(0, 9, (), generator=generator)))}


def _cotangents(graph: StepGraph, steps: int, samples: int, generator: Generator) -> dict[str, Tensor]:
    """Cotangents of every second output."""
    return {
        name: _normal((steps, samples, *graph.nodes[node].type.shape), generator)
        for name, node in graph.outputs[::2]
        if graph.nodes[node].type.dtype == "float"
    }
