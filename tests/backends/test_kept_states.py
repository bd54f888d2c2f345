"""States that no reset restarts: every execution equals the oracle, and running statistics are constants for credit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from backend_support import generated, gradients, normal, seeded
from torch import Tensor

from recdsl.driver import compile as compile_spec
from recdsl.driver import explain
from recdsl.testing import Case, assert_close_gradients, assert_matches, random_case


def keeping(case: Case, seed: int) -> Case:
    """The case with resets, and with every second of its states kept."""
    names = sorted({carry.name.partition("[")[0] for carry in case.graph.carries if carry.kind != "input"})
    chosen = {name for k, name in enumerate(names) if (k + seed) % 2}
    carries = tuple(
        replace(c, resets=c.kind == "input" or c.name.partition("[")[0] not in chosen) for c in case.graph.carries
    )
    steps, samples = next(iter(case.batch.values())).shape[:2]
    reset = torch.rand((steps, samples), generator=torch.Generator().manual_seed(seed)) < 0.4
    return replace(case, model=replace(case.model, graph=replace(case.graph, carries=carries)), reset=reset)


@pytest.mark.parametrize("first", range(0, 80, 20))
def test_random_models(first: int):
    for seed in range(first, first + 20):
        assert_close_gradients(generated, keeping(seeded(seed), seed))


@pytest.mark.parametrize("rule", ["rtrl", "snap(1)", "snap(2)", "tbptt(window=3, every=2)"])
def test_random_models_under_rules(rule: str):
    for seed in range(12):
        case = random_case(seed, (("default", rule),))
        assert_close_gradients(generated, keeping(case, seed))


COUNTER = """
recdsl: 1
inputs: {x: float}
states: {all: "float = 2 kept", since: "float = 2"}
step: |
  all = all[t-1] + x
  since = since[t-1] + x
  seen = all[t-1] - since[t-1]
loss: mse(seen, seen)
"""


def test_resets_pass_them_by():
    model: Any = compile_spec(COUNTER)
    x = torch.ones(5, 2)
    reset = torch.zeros(5, 2, dtype=torch.bool)
    reset[2, 0] = True
    found = model({"x": x}, reset=reset)
    assert found.outputs["all"][:, 0].tolist() == [3, 4, 5, 6, 7]
    assert found.outputs["since"][:, 0].tolist() == [3, 4, 3, 4, 5]
    assert found.outputs["since"][:, 1].tolist() == [3, 4, 5, 6, 7]
    assert found.state["all"].tolist() == [7, 7]


NORMALISED = """
recdsl: 1
sizes: {obs: 3, column: 4}
inputs: {x: "float[obs]"}
targets: {y: float}
params:
  W: float[column, obs] ~ uniform(-1, 1)
  u: float[column] ~ uniform(-1, 1)
  w: float[column] ~ uniform(-1, 1)
step: |
  z = normalise(x, rate=0.8, floor=0.3)
  h = tanh(W @ z + u * h[t-1])
  n = normalise(h, rate=0.8, floor=0.1)
  v = w @ n
loss: mse(v, y)
credit: {default: columns, require: exact}
"""
CONSTANTS = """
recdsl: 1
sizes: {obs: 3, column: 4}
inputs: {x: "float[obs]", zm: "float[obs]", zv: "float[obs]", nm: "float[column]", nv: "float[column]"}
targets: {y: float}
params:
  W: float[column, obs] ~ uniform(-1, 1)
  u: float[column] ~ uniform(-1, 1)
  w: float[column] ~ uniform(-1, 1)
step: |
  h = tanh(W @ ((x - zm) / sqrt(max(zv, 0.3))) + u * h[t-1])
  v = w @ ((h - nm) / sqrt(max(nv, 0.1)))
loss: mse(v, y)
credit: bptt
"""


def statistics(model: Any, batch: dict[str, Tensor], reset: Tensor) -> dict[str, Tensor]:
    """Means and variances at each step, from calls of one step each."""
    found: dict[str, list[Tensor]] = {"zm": [], "zv": [], "nm": [], "nv": []}
    state = None
    for t in range(len(reset)):
        state = model({n: v[t : t + 1] for n, v in batch.items()}, state=state, reset=reset[t : t + 1]).state
        for name, values in found.items():
            values.append(state[f"{name[0]}.{'mean' if name[1] == 'm' else 'variance'}"])
    return {name: torch.stack(values) for name, values in found.items()}


@pytest.mark.parametrize("rule", ["columns", "bptt", "rtrl"])
def test_statistics_are_constants_for_the_gradient(rule: str):
    """Replaced by numbers of equal value, they change nothing; columns stay exact."""
    text = NORMALISED.replace("columns", rule)
    model: Any = compile_spec(text, dtype=torch.float64)
    plain: Any = compile_spec(CONSTANTS, dtype=torch.float64)
    plain.load_state_dict(model.state_dict())
    batch = {"x": normal(1, 9, 2, 3), "y": normal(2, 9, 2)}
    reset = torch.zeros(9, 2, dtype=torch.bool)
    reset[4, 0] = reset[6, 1] = True
    made, other = model(batch, reset=reset), plain(batch | statistics(model, batch, reset), reset=reset)
    made.loss.backward()
    other.loss.backward()
    assert_matches({"loss": made.loss}, {"loss": other.loss})
    assert_matches(gradients(model), gradients(plain))
    assert {row.verdict for row in explain(text).rows} == {"exact"}


def test_statistics_by_hand():
    """The mean moves first and the variance uses the new one; the floor is on the variance; each stream has its own."""
    model: Any = compile_spec(NORMALISED, dtype=torch.float64)
    batch = {"x": normal(3, 20, 2, 3), "y": normal(4, 20, 2)}
    reset = torch.zeros(20, 2, dtype=torch.bool)
    reset[10] = True
    found = statistics(model, batch, reset)
    mean, variance = torch.zeros(2, 3, dtype=torch.float64), torch.ones(2, 3, dtype=torch.float64)
    for t, x in enumerate(batch["x"]):
        mean = 0.8 * mean + 0.2 * x
        variance = 0.8 * variance + 0.2 * (x - mean) ** 2
        assert torch.allclose(found["zm"][t], mean, rtol=0, atol=1e-12)
        assert torch.allclose(found["zv"][t], variance, rtol=0, atol=1e-12)
    z = (batch["x"] - found["zm"]) / found["zv"].clamp_min(0.3).sqrt()
    assert_matches({"z": model(batch, reset=reset).outputs["z"]}, {"z": z})
