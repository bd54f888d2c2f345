"""A spec of your own as a Hypothesis test, in one line: `test_model = properties("model.yaml", "sizes.hidden=4")`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, wraps
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Generator, Tensor

from recdsl.backends import find
from recdsl.backends.init import initial
from recdsl.backends.reference import Reference, Result
from recdsl.credit.plan import CreditPlan
from recdsl.diagnostics import SpecError
from recdsl.testing.cases import Case
from recdsl.testing.compare import assert_close_gradients, assert_matches, reference
from recdsl.testing.models import Model
from recdsl.training.chance import drawn
from recdsl.training.gradcheck import analysed, bounded, measurable, random

MASKS = ("none", "lengths", "any")


@dataclass(frozen=True)
class Example:
    """One call, as Hypothesis shows it. spread: of the noise added to the initial parameters.

    mask: none, sequences that end early ("lengths"), or any steps left out. reset: sequences begin anew inside of the
    call. state: the call goes on from an earlier one. outputs: gradients come from the outputs too.
    """

    steps: int
    samples: int
    spread: float
    mask: str
    reset: bool
    state: bool
    outputs: bool
    seed: int


@dataclass(frozen=True)
class SpecCase(Case):
    """A call of a spec, with the plan that the spec itself asks for."""

    own: CreditPlan

    @property
    def plan(self) -> CreditPlan:
        return self.own


class Checked:
    """A spec, read when it is first needed."""

    def __init__(self, spec: str, overrides: tuple[str, ...], tolerance: float) -> None:
        self.spec, self.overrides, self.tolerance = spec, overrides, tolerance

    @cached_property
    def compilation(self) -> Any:
        return analysed(self.spec, self.overrides)

    @cached_property
    def module(self) -> Any:
        return find("torch").module(self.compilation, torch.float64)

    def read(self) -> None:
        """Read the spec, if it has not been. Raises SpecError, without the way to it, and CannotMeasure."""
        try:
            measurable(self.compilation.graph)
        except SpecError as error:
            raise SpecError(error.problems) from None

    def check(self, example: Example) -> None:
        """The compiled module against the definition of its rule, and claims of exactness against full BPTT."""
        self.read()
        case = self.case(example)
        bounded(case.graph, case.plan, example.steps, example.samples)
        expected = self._definition(case, example)
        if not all(bool(value.isfinite().all()) for value in (expected.loss, *expected.gradients.values())):
            return  # random parameters may leave the domain of a logarithm, say
        torch.manual_seed(example.seed)
        assert_close_gradients(lambda _: self.module, case, self.tolerance, expected)
        if not case.cotangents:
            self._exact(case)

    def _definition(self, case: SpecCase, example: Example) -> Result:
        """What the rule is, under the random numbers that the module is going to draw."""
        torch.manual_seed(example.seed)
        chance = drawn(case.graph, case.plan, self.module, example.steps, example.samples)
        oracle = Reference(case.graph, case.plan, weights=chance.weights, signs=chance.signs)
        return oracle.run(case.params, case.batch, case.mask, case.reset, case.state, case.cotangents)

    def _exact(self, case: SpecCase) -> None:
        """Verdicts are about the loss. One that is qualified "unmasked" says nothing where steps are left out."""
        full = reference(case, full=True).gradients
        for row in case.plan.rows:
            if row.verdict == "exact" and not (case.gaps and "unmasked" in row.qualifiers):
                got = self.module.get_parameter(row.parameter).grad
                got = torch.zeros_like(full[row.parameter]) if got is None else got
                whole = {row.parameter: full[row.parameter]}
                assert_matches({row.parameter: got}, whole, "said to be exact, gradient of", self.tolerance)

    def case(self, example: Example) -> SpecCase:
        """The call of an example."""
        graph = self.compilation.graph
        draws = Generator().manual_seed(example.seed)
        steps, samples = shape = (example.steps, example.samples)
        params = initial((*graph.parameters, *self.compilation.plan.owned), self.compilation.seed)
        for item in (*graph.parameters, *self.compilation.plan.owned):
            if not item.frozen:
                params[item.name] += example.spread * torch.randn(item.type.shape, generator=draws, dtype=torch.float64)
        batch = {item.name: random(item, steps, samples, draws) for item in graph.inputs}
        mask = _mask(example.mask, shape, draws)
        reset = torch.rand(shape, generator=draws) < 0.3 if example.reset else None
        gaps = mask is not None and bool((~mask[:-1] & mask[1:]).any())
        cotangents = self._cotangents(shape, draws) if example.outputs else {}
        if mask is not None:
            _spoil(batch, cotangents, mask)
        made = SpecCase(Model("", graph, (), False), params, batch, mask, reset, None, cotangents, gaps,
                        self.compilation.plan)  # fmt: skip
        return replace(made, state=self._earlier(made)) if example.state else made

    def _earlier(self, case: SpecCase) -> dict[str, Tensor]:
        """The state that a call with other numbers leaves."""
        draws = Generator().manual_seed(len(case.params))
        steps, samples = next(iter(case.batch.values())).shape[:2]
        batch = {item.name: random(item, steps, samples, draws) for item in case.graph.inputs}
        return Reference(case.graph, replace(case.plan, classes=())).run(case.params, batch).state

    def _cotangents(self, shape: tuple[int, int], draws: Generator) -> dict[str, Tensor]:
        graph = self.compilation.graph
        return {
            name: torch.randn((*shape, *graph.nodes[node].type.shape), generator=draws, dtype=torch.float64)
            for name, node in graph.outputs
            if graph.nodes[node].type.dtype == "float"
        }


def properties(
    spec: str, *overrides: str, examples: int = 25, steps: int = 7, samples: int = 3, tolerance: float = 1e-9
) -> Callable[[], None]:
    """A Hypothesis test of a spec: outputs, loss, state and every gradient of the compiled module equal the definition
    of its rule, for random parameters, batches, masks, resets and states, and what is said to be exact is exact.

    spec: a path, or the text itself. overrides: such as "sizes.hidden=4"; the definition is slow, so sizes should be
    small. examples: how many; steps, samples: of a call, at most. tolerance: relative, in float64.
    """
    checked = Checked(spec, overrides, tolerance)
    calls = st.builds(
        Example,
        steps=st.integers(1, steps),
        samples=st.integers(1, samples),
        spread=st.sampled_from((0.0, 0.1, 0.5)),
        mask=st.sampled_from(MASKS),
        reset=st.booleans(),
        state=st.booleans(),
        outputs=st.booleans(),
        seed=st.integers(0, 2**20),
    )

    @settings(max_examples=examples, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(call=calls)
    def holds(call: Example) -> None:
        checked.check(call)

    @wraps(holds)
    def test() -> None:
        checked.read()  # what is wrong with the spec is no failure of a call that was drawn
        holds()

    return test


def _mask(kind: str, shape: tuple[int, int], draws: Generator) -> Tensor | None:
    if kind == "none":
        return None
    if kind == "any":
        return torch.rand(shape, generator=draws) < 0.7
    lengths = torch.randint(0, shape[0] + 1, (shape[1],), generator=draws)
    return torch.arange(shape[0])[:, None] < lengths


def _spoil(batch: Mapping[str, Tensor], cotangents: Mapping[str, Tensor], mask: Tensor) -> None:
    """What stands at masked steps must not matter; outputs have no meaning there."""
    for value in batch.values():
        if value.dtype != torch.bool:
            value[~mask] = torch.nan if value.is_floating_point() else 10_000
    for value in cotangents.values():
        value[~mask] = 0.0
