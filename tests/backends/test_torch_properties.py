"""The `torch` backend equals the oracle on random models: outputs, loss, losses, state and every gradient."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from backend_support import (
    GOOD,
    PROFILE,
    call_of,
    compiled,
    corpus,
    disturbed,
    generated,
    gradients,
    loaded,
    normal,
    seeded,
)
from hypothesis import given, settings
from torch import Tensor

from recdsl.credit import plan as plan_stage
from recdsl.driver import analyse
from recdsl.driver import compile as compile_spec
from recdsl.testing import Case, assert_close_gradients, assert_matches, cases, reference

TOLERANCE = 1e-10
BATCHES = range(0, 200, 10)


def tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name != "t"}


@settings(PROFILE, max_examples=150)
@given(cases())
def test_any_case(case: Case):
    assert_close_gradients(compiled, case)


@pytest.mark.parametrize("first", BATCHES)
def test_fixed_cases(first: int):
    for seed in range(first, first + 10):
        assert_close_gradients(compiled, seeded(seed))


@pytest.mark.parametrize("first", range(0, 60, 10))
def test_without_passes(first: int):
    for seed in range(first, first + 10):
        assert_close_gradients(lambda case: generated(case, optimise=False), seeded(seed))


@pytest.mark.parametrize("first", range(0, 100, 20))
def test_short_windows_may_have_a_pass_each(first: int, monkeypatch: pytest.MonkeyPatch):
    short = [case for case in map(seeded, range(first, first + 20)) if any(c.grid for c in case.plan.classes)]
    assert short
    monkeypatch.setattr(plan_stage, "SHORT", 0)
    for case in short:
        assert_close_gradients(generated, case)


@pytest.mark.parametrize("first", range(0, 80, 10))
def test_calls_do_not_disturb_each_other(first: int):
    """Rooms are kept from call to call: the second and third calls of a module, and calls that overlap."""
    for seed in range(first, first + 10):
        module = loaded(seeded(seed))
        for _ in range(2):
            assert_close_gradients(lambda _, module=module: module, seeded(seed))
            disturbed(module, seeded(seed))


def plain(case: Case) -> Case:
    """The case as an ordinary call, without mask, reset, state and cotangents; every entry of the batch is valid."""
    batch = {
        name: normal(k, *value.shape) if value.is_floating_point() else torch.zeros_like(value)
        for k, (name, value) in enumerate(case.batch.items())
    }
    return replace(case, batch=batch, mask=None, reset=None, state=None, cotangents={}, gaps=False)


def smooth(seed: int) -> bool:
    """Whether differences measure the gradient: full backpropagation of everything, no kinks, nothing stopped."""
    case = seeded(seed)
    full = all(rule == "bptt" for _, rule in case.model.rules)
    return full and case.model.smooth and not any(loss.trains for loss in case.graph.losses)


@pytest.mark.parametrize("seed", [seed for seed in range(200) if smooth(seed)][:8])
def test_central_differences(seed: int):
    """Along random directions of all parameters at once."""
    case = seeded(seed)
    module = loaded(case)
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}

    def objective() -> Tensor:
        result: Any = module(case.batch, mask=case.mask, reset=case.reset, state=case.state)
        total: Tensor = result.loss
        for name, cotangent in case.cotangents.items():
            total = total + (result.outputs[name] * cotangent).sum()
        return total

    objective().backward()
    found = gradients(module)
    for k in range(3):
        directions = {n: normal(100 * seed + 10 * k + j, *p.shape) for j, (n, p) in enumerate(trained.items())}
        slope = sum(float((found[n] * d).sum()) for n, d in directions.items())
        measured = difference(trained, directions, objective, 1e-5)
        assert abs(slope - measured) < 1e-6 * (1 + abs(slope)), (slope, measured)


def difference(
    trained: Mapping[str, Tensor], directions: Mapping[str, Tensor], objective: Callable[[], Tensor], step: float
) -> float:
    """The central difference of the objective along the directions; the parameters are put back."""
    values: list[float] = []
    kept = {name: p.detach().clone() for name, p in trained.items()}
    with torch.no_grad():
        for sign in (1.0, -1.0):
            for name, p in trained.items():
                p.copy_(kept[name] + sign * step * directions[name])
            values.append(float(objective()))
        for name, p in trained.items():
            p.copy_(kept[name])
    return (values[0] - values[1]) / (2 * step)


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_single_precision(first: int):
    """Rounding alone: a few hundred times float32's unit, on what single precision makes of the parameters."""
    for seed in range(first, first + 10):
        case = seeded(seed)
        if not case.model.smooth:
            continue
        rounded = {name: value.to(torch.float32).to(torch.float64) for name, value in case.params.items()}
        batch = {n: v.float().double() if v.is_floating_point() else v for n, v in case.batch.items()}
        case = replace(case, params=rounded, batch=batch)
        assert_close_gradients(lambda c: compiled(c, torch.float32), case, 2e-4)


def test_output_cotangents():
    """A user's own loss on outputs, alone and beside the spec's."""
    for seed in range(60):
        case = plain(seeded(seed))
        floats = [n for n, node in case.graph.outputs if case.graph.nodes[node].type.dtype == "float"]
        shapes = {name: reference(case).outputs[name].shape for name in floats}
        cotangents = {name: normal(seed + k, *shapes[name]) for k, name in enumerate(floats)}
        assert_close_gradients(generated, replace(case, cotangents=cotangents))


def test_state_carried_over_two_calls():
    """The second of two calls goes on where the first one ended; `t` counts over both."""
    tried = 0
    for seed in range(80):
        case = plain(seeded(seed))
        steps = next(iter(case.batch.values())).shape[0]
        if steps < 2:
            continue
        module = loaded(case)
        whole: Any = module(case.batch)
        at = 1 + seed % (steps - 1)
        one: Any = module({name: value[:at] for name, value in case.batch.items()})
        two: Any = module({name: value[at:] for name, value in case.batch.items()}, state=one.state)
        joined = {n: torch.cat([one.outputs[n], two.outputs[n]]) for n in whole.outputs}
        assert_matches(joined, whole.outputs, "output", TOLERANCE)
        assert_matches(tensors(two.state), tensors(whole.state), "state", TOLERANCE)
        assert int(two.state["t"]) == int(whole.state["t"]) == steps
        tried += 1
    assert tried > 50


def own(state: Mapping[str, Tensor], k: int) -> dict[str, Tensor]:
    """Sample k's part of a state."""
    return {name: value if name == "t" else value[k : k + 1] for name, value in state.items()}


def row(value: Tensor | None, k: int) -> Tensor | None:
    return None if value is None else value[:, k : k + 1]


def test_batch_equals_singles():
    """Samples do not see each other: outputs and states are those of each alone, gradients of a sum add up."""
    tried = 0
    for seed in range(80):
        case = seeded(seed)
        size = next(iter(case.batch.values())).shape[1]
        if size < 2 or case.graph.reduce != "sum":
            continue
        module = loaded(case)
        result: Any = module(case.batch, mask=case.mask, reset=case.reset, state=case.state)
        result.loss.backward()
        total = gradients(module)
        module.zero_grad()
        for k in range(size):
            batch = {name: value[:, k : k + 1] for name, value in case.batch.items()}
            state = None if case.state is None else own(case.state, k)
            one: Any = module(batch, mask=row(case.mask, k), reset=row(case.reset, k), state=state)
            one.loss.backward()
            alone = tensors(own(result.state, k))
            assert_matches(tensors(one.state), alone, "state", TOLERANCE)
        assert_matches(gradients(module), total, "gradient of", TOLERANCE)
        tried += 1
    assert tried > 5


COUNTING = """
sizes: {a: 2}
inputs: {x: "float[a]"}
targets: {z: "float[a]"}
params:
  W: float[a, a] ~ normal(0.0, 0.5)
step: |
  h = tanh(W @ h[t-1] + x / (t + 1) + sin(t) * h[t-2])
loss: mse(h, z)
"""


def test_step_number_counts_over_calls_and_resets():
    module = compile_spec("recdsl: 1\n" + COUNTING, dtype=torch.float64)
    batch = {"x": normal(1, 6, 3, 2), "z": normal(2, 6, 3, 2)}
    whole: Any = module(batch)
    first: Any = module({k: v[:4] for k, v in batch.items()})
    rest: Any = module({k: v[4:] for k, v in batch.items()}, state=first.state)
    assert torch.allclose(rest.outputs["h"], whole.outputs["h"][4:], atol=1e-14, rtol=0)
    assert [int(r.state["t"]) for r in (first, rest, whole)] == [4, 6, 6]
    reset = torch.zeros(6, 3, dtype=torch.bool)
    reset[3] = True
    again: Any = module(batch, reset=reset)
    start = {name: torch.tensor(3) if name == "t" else torch.zeros_like(v) for name, v in whole.state.items()}
    fresh: Any = module({k: v[3:] for k, v in batch.items()}, state=start)
    assert torch.allclose(again.outputs["h"][3:], fresh.outputs["h"], atol=1e-14, rtol=0)


def test_what_stands_at_masked_steps_does_not_matter():
    """The cases put not-a-number and absent classes there; other values change no bit."""
    tried = 0
    for seed in range(120):
        case = seeded(seed)
        if case.mask is None or bool(case.mask.all()):
            continue
        other = {n: v.clone() for n, v in case.batch.items()}
        for value in other.values():
            value[~case.mask] = 3 if value.is_floating_point() else 0
        results: list[dict[str, Tensor]] = []
        for batch in (case.batch, other):
            module = loaded(case)
            found: Any = module(batch, mask=case.mask, reset=case.reset, state=case.state)
            if found.loss.requires_grad:
                found.loss.backward()
            results.append({"loss": found.loss.detach(), **tensors(found.state), **gradients(module)})
        assert all(torch.equal(v, results[1][n]) and bool(v.isfinite().all()) for n, v in results[0].items())
        tried += 1
    assert tried > 20


@pytest.mark.parametrize("seed", [759, 1809, 4923, 31305, 30462, 31184, 35246, 35548])
def test_cases_that_once_failed(seed: int):
    """A cotangent that cancels to zero at the initial value; a carried matrix times a vector that does not vary;
    a delay line that simplification leaves without readers; a carry whose room was written over before it was read;
    a window whose first range is what stands behind it.
    """
    for optimise in (True, False):
        assert_close_gradients(lambda case, o=optimise: generated(case, optimise=o), seeded(seed))


@pytest.mark.parametrize("credit", ["bptt", "tbptt(3)", "tbptt(window=5, every=2)", "tbptt(window=4, every=1)"])
@pytest.mark.parametrize("past", ["h[t-1]", "h[t-1] + g[t-1]", "h[t-2]", "0.5 * h[t-1] + g[t-2]"])
def test_carried_cotangents_that_are_stored(past: str, credit: str):
    """What crosses a step is the very cotangent that weight gradients read."""
    text = "recdsl: 1\n" + COUNTING.replace("tanh(W @ h[t-1] + x / (t + 1) + sin(t) * h[t-2])", f"tanh(W @ x + {past})")
    if "g" in past:
        text = text.replace("\nloss", "\n  g = tanh(W @ x + g[t-1] + h[t-1])\nloss")
    for seed, optimise in ((k, o) for k in range(2) for o in (True, False)):
        case = call_of(analyse(f"{text}credit: {credit}\n"), seed)
        assert_close_gradients(lambda case, o=optimise: generated(case, optimise=o), case)


@pytest.mark.parametrize("name", sorted({path.stem for path in GOOD.glob("*.yaml")} - {"minimal"}))
def test_corpus(name: str):
    """Every good spec that has inputs, with its own rule and with overlapping windows, plain and ragged."""
    for seed, credit in ((0, ""), (1, ""), (2, "tbptt(window=3, every=2)"), (3, "tbptt(4)")):
        case = corpus(name, seed, credit)
        if name == "reductions" and seed % 2:  # a norm has no derivative at the zeros of masked steps
            continue
        assert_close_gradients(generated, case)
