"""UORO with one estimate for a batch: draws against the definition, the mean over all signs, state, costs, faults."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from math import prod
from typing import Any

import pytest
import torch
from backend_support import generated
from program_runs import extent
from torch import Tensor

from recdsl import compile as compile_spec
from recdsl import explain
from recdsl.backends.init import initial
from recdsl.backends.reference import Reference, Result
from recdsl.credit.influence import states
from recdsl.diagnostics import SpecError
from recdsl.driver import analyse
from recdsl.program import rank_one
from recdsl.program.timeline import TimelineBuilder
from recdsl.testing import Case, assert_close_gradients, assert_matches, random_case, reference

torch.set_num_threads(1)
Signs = dict[str, Tensor]


def fitting(seed: int, rule: str = "uoro(batch=joint)") -> Case | None:
    """A model that learns no initial value."""
    case = random_case(seed, (("default", rule),))
    try:
        return case if len(case.plan.classes) == 1 else None
    except SpecError:
        return None


def shapes(case: Case) -> dict[str, tuple[int, ...]]:
    return {c.name: case.graph.nodes[c.read].type.shape for c in sorted(states(case.graph), key=lambda c: c.name)}


def drawn(case: Case, seed: int) -> Signs:
    """What a call draws after this seed."""
    steps, samples = extent(case)
    torch.manual_seed(seed)
    made = {name: 2 * torch.randint(2, (steps, samples, *shape)) - 1 for name, shape in shapes(case).items()}
    return {name: value.to(torch.float64) for name, value in made.items()}


def under(case: Case, signs: Signs) -> Result:
    oracle = Reference(case.graph, case.plan, signs={0: signs})
    return oracle.run(case.params, case.batch, case.mask, case.reset, case.state, case.cotangents)


def seeded(case: Case, seed: int) -> torch.nn.Module:
    module = generated(case)
    torch.manual_seed(seed)
    return module


def agrees(case: Case, seed: int) -> None:
    assert_close_gradients(lambda c: seeded(c, seed), case, expected=under(case, drawn(case, seed)), tolerance=1e-10)


NOISY = (40, 44, 47, 61, 76, 81, 89, 105, 122, 132, 136, 160, 221, 245)
"""Random calls of several samples in which signs matter; half of them with masks, resets or gradients at outputs."""


@pytest.mark.parametrize("seed", [*range(12), *NOISY])
def test_a_draw_equals_its_definition(seed: int) -> None:
    """With masks, resets, incoming states, losses at some steps, and gradients that arrive at outputs."""
    case = fitting(seed)
    if case is not None:
        agrees(case, seed)
    assert case is not None or seed not in NOISY


@pytest.mark.parametrize("rule", ["uoro(batch=joint, drift=decay(0.7))", "uoro(drift=decay(0.7))"])
def test_estimates_that_fade_equal_their_definition(rule: str) -> None:
    for seed in NOISY[:4]:
        case = fitting(seed, rule)
        assert case is not None
        agrees(case, seed)


PAIR = """
recdsl: 1
sizes: {n: 2}
inputs: {x: "float[n]"}
targets: {y: float}
params:
  W, U: float[n, n] ~ normal(0, 1)
  w: float[n] ~ normal(0, 1)
step: |
  h = tanh(W @ x + U @ h[t-1])
  v = w @ h
loss: mse(v, y)
credit: RULE
"""


SEEDS = (191,)
"""Random calls of several samples with few signs."""


@dataclass(frozen=True)
class Drawing:
    """A call with so many signs that matter: those of the last step reach no loss."""

    shapes: dict[str, tuple[int, ...]]
    steps: int
    samples: int
    draw: Callable[[Signs], dict[str, Tensor]]

    def mean(self, change: Callable[[Signs], Signs] = lambda signs: signs) -> dict[str, Tensor]:
        """Over all patterns of signs."""
        last = sum(prod(shape) for shape in self.shapes.values()) * self.samples
        count, mean = last * (self.steps - 1), dict[str, Tensor]()
        for pattern in product([1.0, -1.0], repeat=count):
            flat = torch.tensor([*pattern, *[1.0] * last], dtype=torch.float64).reshape(self.steps, -1)
            parts = flat.split([self.samples * prod(shape) for shape in self.shapes.values()], 1)
            named = zip(self.shapes.items(), parts, strict=True)
            signs = {name: part.reshape(self.steps, self.samples, *shape) for (name, shape), part in named}
            found = self.draw(change(signs))
            mean = {name: mean.get(name, 0.0) + value / 2**count for name, value in found.items()}
        return mean


@pytest.mark.parametrize("seed", SEEDS)
def test_unbiased(seed: int) -> None:
    """Every pattern of signs of a batch of several samples: the mean is the gradient of full BPTT."""
    case = fitting(seed)
    assert case is not None
    assert any(row.verdict == "unbiased" for row in case.plan.rows)
    drawing = Drawing(shapes(case), *extent(case), lambda signs: under(case, signs).gradients)
    assert drawing.samples > 1
    assert_matches(drawing.mean(), reference(case, full=True).gradients, "mean of", 1e-9)


def pair() -> tuple[Drawing, dict[str, Tensor]]:
    """Two samples of three steps, and the gradient of full BPTT."""
    made = analyse(PAIR.replace("RULE", "uoro(batch=joint)"), ("sizes.n=1",))
    params, batch = initial(made.graph.parameters, 3), batch_of(3, 2, 1)

    def draw(signs: Signs) -> dict[str, Tensor]:
        return Reference(made.graph, made.plan, signs={0: signs}).run(params, batch).gradients

    return Drawing({"h": (1,)}, 3, 2, draw), Reference(made.graph, made.plan).full(params, batch).gradients


@pytest.mark.parametrize(
    "change",
    [
        lambda signs: {name: value[:, :1].expand_as(value) for name, value in signs.items()},
        lambda signs: {name: value[:1].expand_as(value) for name, value in signs.items()},
        lambda signs: {name: value + 0.5 for name, value in signs.items()},
    ],
    ids=["samples have the same signs", "steps have the same signs", "signs are not even"],
)
def test_the_mean_tells_wrong_signs(change: Callable[[Signs], Signs]) -> None:
    drawing, full = pair()
    assert_matches(drawing.mean(), full, "mean of", 1e-9)
    with pytest.raises(AssertionError):
        assert_matches(drawing.mean(change), full, "mean of", 1e-4)


def batch_of(steps: int, samples: int, size: int = 2) -> dict[str, Tensor]:
    draws = torch.Generator().manual_seed(steps)
    shape = (steps, samples)
    kept: dict[str, Any] = {"generator": draws, "dtype": torch.float64}
    return {"x": torch.randn(*shape, size, **kept), "y": torch.randn(*shape, **kept)}


def learned(model: Any, batch: dict[str, Tensor], seed: int, **given: Any) -> tuple[dict[str, Tensor], Any]:
    """Gradients of the sum of squared errors, and what the call gives."""
    model.zero_grad()
    torch.manual_seed(seed)
    result = model(batch, **given)
    (result.loss * batch["y"].numel()).backward()
    return {name: value.grad.clone() for name, value in model.named_parameters()}, result


def test_one_sample_has_one_estimate() -> None:
    models = [compile_spec(PAIR.replace("RULE", rule), dtype=torch.float64) for rule in ("uoro", "uoro(batch=joint)")]
    one, other = (learned(model, batch_of(7, 1), 4)[0] for model in models)
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-12, atol=1e-12)


def test_samples_share_the_vector_over_parameters() -> None:
    """B n + p numbers, and what explain prints is that for one sample, with a remark on the batch."""
    model: Any = compile_spec(PAIR.replace("RULE", "uoro(batch=joint)"), dtype=torch.float64)
    for samples in (1, 5):
        state = learned(model, batch_of(4, samples), 0)[1].state
        size = sum(value.numel() for name, value in state.items() if name.startswith("credit."))
        assert size == 2 * samples + 10
    plan = explain(PAIR.replace("RULE", "uoro(batch=joint)"))
    assert sum(row.bytes for row in plan.rows) == 4 * (2 + 10)
    assert any("40 bytes for the whole batch" in remark.text for remark in plan.remarks)
    assert {row.verdict for row in plan.rows} == {"unbiased", "exact"}


def test_estimates_go_on_from_call_to_call() -> None:
    """Two calls in a row are one long call; a reset ends it for one sample alone."""
    model: Any = compile_spec(PAIR.replace("RULE", "uoro(batch=joint)"), dtype=torch.float64)
    whole = batch_of(6, 3)
    reset = torch.zeros(6, 3, dtype=torch.bool)
    reset[4, 1] = True
    expected, last = learned(model, whole, 8, reset=reset)
    found, result = learned(model, {k: v[:3] for k, v in whole.items()}, 8)
    kept = torch.get_rng_state()
    model.zero_grad()
    torch.set_rng_state(kept)
    second = model({k: v[3:] for k, v in whole.items()}, reset=reset[3:], state=result.state)
    (second.loss * 9).backward()
    for name, value in model.named_parameters():
        torch.testing.assert_close(found[name] + value.grad, expected[name], rtol=1e-12, atol=1e-12)
    for name, value in last.state.items():
        torch.testing.assert_close(second.state[name], value, rtol=1e-12, atol=1e-12)
    unlike, _ = learned(model, whole, 8)
    assert not torch.allclose(unlike["U"], expected["U"])


def test_a_state_of_another_shape_is_refused() -> None:
    """That of the form with an estimate a sample, say."""
    models: list[Any] = [compile_spec(PAIR.replace("RULE", rule)) for rule in ("uoro", "uoro(batch=joint)")]
    batch = {name: value.float() for name, value in batch_of(2, 3).items()}
    with pytest.raises(ValueError, match="has shape"):
        models[1](batch, state=models[0](batch).state)


def test_joint_estimates_have_more_noise() -> None:
    """Semantics 4.7: both are right on average, and sharing costs variance."""
    spread: list[float] = []
    for rule in ("uoro", "uoro(batch=joint)"):
        model = compile_spec(PAIR.replace("RULE", rule), dtype=torch.float64)
        draws = torch.stack([learned(model, batch_of(6, 8), seed)[0]["U"] for seed in range(60)])
        spread.append(float(draws.var(0).sum()))
    assert spread[1] > 1.5 * spread[0]


Fault = Callable[[pytest.MonkeyPatch], None]


def own_samples(name: str) -> Fault:
    """Of something that is summed over samples, half is missing."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        pooled, made = TimelineBuilder.pool, getattr(rank_one._RankOne, name)  # pyright: ignore[reportPrivateUsage]

        def faulty(self: Any, *args: Any, **named: Any) -> Any:
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(TimelineBuilder, "pool", lambda b, x: b.op("mul", pooled(b, x), b.const(0.5, x)))
                return made(self, *args, **named)

        patch.setattr(rank_one._RankOne, name, faulty)  # pyright: ignore[reportPrivateUsage]

    return plant


def all_forget(patch: pytest.MonkeyPatch) -> None:
    """A reset of one sample is none."""
    patch.setattr(rank_one, "flag_of", lambda *_: None)


def read_late(patch: pytest.MonkeyPatch) -> None:
    """Losses read the vectors that the step leaves."""
    kind = rank_one._RankOne  # pyright: ignore[reportPrivateUsage]
    made = kind._gradients  # pyright: ignore[reportPrivateUsage]

    def faulty(self: Any, seeds: Any, entered: Any, weights: Any) -> Any:
        return made(self, seeds, entered, {k: self.b.nodes[node].args[0] for k, node in weights.items()})

    patch.setattr(kind, "_gradients", faulty)


def each_has_its_own(patch: pytest.MonkeyPatch) -> None:
    """An estimate a sample."""
    kind = rank_one._RankOne  # pyright: ignore[reportPrivateUsage]
    init = kind.__init__

    def faulty(self: Any, *args: Any) -> None:
        init(self, *args)
        self.joint = False

    patch.setattr(kind, "__init__", faulty)


FAULTS: dict[str, Fault] = {
    "gradient not of all samples": own_samples("_gradients"),
    "local influence not of all samples": own_samples("_local"),
    "norms not of all samples": own_samples("_squares"),
    "no reset": all_forget,
    "read late": read_late,
    "an estimate a sample": each_has_its_own,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_rejected(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in (44, 61, 105):
        case = fitting(seed)
        assert case is not None
        with monkeypatch.context() as patch:
            FAULTS[fault](patch)
            try:
                agrees(case, seed)
            except (AssertionError, ValueError):
                return
    pytest.fail("the fault changes nothing")
