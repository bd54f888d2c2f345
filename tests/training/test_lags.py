"""The parts of a gradient by lag: that they add up to it, and where rules drop them."""

from __future__ import annotations

from math import sqrt

import pytest
import torch
from torch import Generator, Tensor

from recdsl.backends import find
from recdsl.backends.reference import Reference
from recdsl.driver import Compilation, analyse
from recdsl.testing import assert_matches
from recdsl.training.lags import Parts, by_lag, due, seeds, within

STEPS = 9
SPEC = """\
recdsl: 1
name: lags
sizes: {inp: 2, n: 3, out: 2}
inputs: {x: "float[inp]"}
targets: {y: "float[out]"}
params: {k: "float[n] ~ normal(0, 0.5)"}
states: {m: "float[n] = k"}
step: |
  h = gru(x, size=n)
  m = 0.5 * m[t-1] + h * h[t-3]
  p = linear(m, size=out)
loss: {value: "mse(p, y)", at: last}
"""


def _setting(rule: str) -> tuple[Compilation, dict[str, Tensor], dict[str, Tensor]]:
    made = analyse(SPEC, [f"credit={rule}"])
    draws = Generator().manual_seed(3)
    params = find("torch").module(made, torch.float64).state_dict()
    batch = {i.name: torch.randn((STEPS, 2, *i.type.shape), generator=draws, dtype=torch.float64)
             for i in made.graph.inputs}  # fmt: skip
    return made, params, batch


def _total(parts: Parts) -> dict[str, Tensor]:
    return {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}


@pytest.mark.parametrize(
    "rule",
    ["bptt", "none", "tbptt(window=4)", "tbptt(window=5, every=2)", "rtrl", "snap(1)", "snap(2)", "columns", "rflo"],
)
def test_parts_add_up_to_the_gradient_of_the_definition(rule: str) -> None:
    """Without resets, and up to the initial state, which a window may see when it begins behind the first step."""
    made, params, batch = _setting(rule)
    total = _total(by_lag(made, params, batch, [STEPS - 1]))
    assert_matches(total, Reference(made.graph, made.plan).run(params, batch).gradients, f"{rule}:")


def test_full_backpropagation_has_parts_at_every_lag() -> None:
    made, params, batch = _setting("bptt")
    parts = by_lag(made, params, batch, [STEPS - 1])
    assert all(part["h.Wn"].norm() > 1e-6 for part in parts)
    assert [bool(part["p.W"].norm() > 1e-12) for part in parts] == [True] + [False] * (STEPS - 1)


def test_losses_at_several_steps_are_added() -> None:
    made, params, batch = _setting("columns")
    made = analyse(SPEC.replace(", at: last", ""), ["credit=columns"])
    both = by_lag(made, params, batch, [5, 8])
    alone = [by_lag(made, params, batch, [t])[:6] for t in (5, 8)]
    assert len(both) == 6
    for lag, part in enumerate(both):
        expected = {name: alone[0][lag][name] + alone[1][lag][name] for name in part}
        assert_matches(part, expected, f"lag {lag}")


def test_windows_see_what_lies_behind_their_boundary() -> None:
    plan = analyse(SPEC, ["credit=tbptt(window=5, every=2)"]).plan
    assert [within(plan, "h.Un", s, 7) for s in range(8)] == [False] * 3 + [True] * 5
    assert [within(plan, "h.Un", s, 6) for s in range(7)] == [False] * 3 + [True] * 4


def test_seeds_are_steps_with_a_loss() -> None:
    last = analyse(SPEC).graph
    assert seeds(last, STEPS, 8) == [STEPS - 1]
    every = analyse(SPEC.replace("at: last", "at: every(3)")).graph
    assert seeds(every, 20, 8) == [11, 14, 17]
    assert [t for t in range(7) if due(every.losses[0], t, 7)] == [2, 5]
    many = seeds(analyse(SPEC.replace(", at: last", "")).graph, 100, 8)
    assert len(many) <= 8
    assert many[-1] == 99
    assert many[0] > sqrt(100)
