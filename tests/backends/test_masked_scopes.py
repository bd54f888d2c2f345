"""`snap(n)` on masked weights: a scope holds what a scalar reaches through the masks; against its definition."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from backend_support import call_of
from program_runs import assembled, run

import recdsl.credit.masked as masked_stage
import recdsl.program.traces as traces_stage
from recdsl import explain
from recdsl.backends.reference import Reference
from recdsl.diagnostics import SpecError
from recdsl.driver import analyse
from recdsl.jacobian import supports as supports_stage
from recdsl.program.checker import verify
from recdsl.testing import Case, assert_matches, random_case, reference

MATRIX = re.compile(r"^(  \w+: float\[\w[^,\]]*, [^,\]]*\] ~ normal\([^)]*\))", re.MULTILINE)
RULES = ("snap(1)", "snap(2)", "snap(3)", "snap(2, window=3)", "snap(2, window=3, every=2)")
TRACING = vars(traces_stage)["_Tracing"]
RNN = """
recdsl: 1
sizes: {{hid: {size}, inp: 2}}
inputs: {{x: "float[inp]"}}
targets: {{y: "float[hid]"}}
params:
  W: float[hid, hid] ~ normal(0, 0.8) {mask}
  V: float[hid, inp] ~ normal(0, 0.8)
  b: float[hid] ~ normal(0, 0.8)
step: |
  h = tanh(W @ h[t-1] + V @ x + b)
loss: mse(h, y)
credit: {rule}
"""
LAYERS = """
recdsl: 1
sizes: {hid: 6, top: 4}
inputs: {x: "float[hid]"}
targets: {y: "float[top]"}
params:
  U: float[hid, hid] ~ normal(0, 0.8) blocks(2)
  V: float[hid, hid] ~ normal(0, 0.8) sparse(0.4)
  start: float[hid] ~ normal(0, 0.8)
  W: float[top, hid] ~ normal(0, 0.8) sparse(0.3)
  R: float[top, top] ~ normal(0, 0.8) sparse(0.5) blocks(2)
  z: float[hid] ~ normal(0, 0.8)
states: {h: "float[hid] = start"}
step: |
  g = sigmoid(V @ x + z * h[t-2])
  h = g * h[t-1] + (1 - g) * tanh(U @ (V @ h[t-1]) + x)
  k = tanh(W @ h + R @ k[t-1])
loss: mse(k, y)
credit: RULE
"""


@cache
def masked(seed: int, rule: str) -> Case | None:
    """A random model with a mask on every matrix; None where it has none."""
    text = random_case(seed, (("default", rule),)).text
    mask = ("sparse(0.4)", "sparse(0.6)")[seed % 2]
    changed = MATRIX.sub(rf"\1 {mask}", text)
    if changed == text:
        return None
    try:
        return call_of(analyse(changed), seed)
    except SpecError:
        return None


@cache
def layers(rule: str, seed: int = 1) -> Case:
    return call_of(analyse(LAYERS.replace("RULE", rule)), seed)


@cache
def plain(mask: str, rule: str, size: int = 6) -> Case:
    return call_of(analyse(RNN.format(mask=mask, rule=rule, size=size)), 2)


def all_cases() -> list[Case]:
    found = [masked(seed, rule) for seed in range(5) for rule in RULES[:4]]
    own = [layers(rule, seed) for rule in RULES[:4] for seed in (0, 1)]
    return [*(case for case in found if case is not None), *own, *(plain("sparse(0.3)", rule) for rule in RULES)]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("first", [0, 6])
def test_random_masked_models_equal_the_definition(first: int, rule: str) -> None:
    found = [case for seed in range(first, first + 6) if (case := masked(seed, rule)) is not None]
    assert len(found) > 2
    for case in found:
        made = assembled(case)
        verify(made.program)
        assert_matches(run(case, made).gradients, reference(case).gradients, f"{rule}: gradient of", 1e-10)


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("rule", RULES)
def test_masks_inside_of_a_step_count_too(rule: str, seed: int) -> None:
    case = layers(rule, seed)
    assert_matches(run(case, assembled(case)).gradients, reference(case).gradients, "gradient of", 1e-10)


@pytest.mark.parametrize("rule", ["snap(2)", "snap(3)"])
def test_by_the_recursion_of_the_paper(rule: str) -> None:
    """J <- R (D J + I) with R from powers of the masked matrix, written out for a plain network."""
    case = plain("sparse(0.3)", rule)
    params, depth = case.params, int(rule[5])
    matrix = params["W"] * params["W.mask"]
    hid, mask = matrix.shape[0], params["W.mask"]
    steps, samples = case.batch["x"].shape[:2]
    reach = sum((torch.linalg.matrix_power(mask, k) for k in range(depth)), torch.zeros_like(mask)) > 0
    scope = reach[:, :, None].expand(hid, hid, hid)  # [state, row, column]
    found = torch.zeros_like(matrix)
    for b in range(samples):
        h, trace = torch.zeros(hid, dtype=torch.float64), torch.zeros(hid, hid, hid, dtype=torch.float64)
        for t in range(steps):
            new = torch.tanh(matrix @ h + params["V"] @ case.batch["x"][t, b] + params["b"])
            slope = 1 - new**2
            local = torch.diag_embed(slope[:, None].expand(hid, hid).T).movedim(0, -1) * h
            trace = torch.where(scope, torch.einsum("i,ij,jkl->ikl", slope, matrix, trace) + local, 0.0)
            h = new
            found += torch.einsum("i,ikl->kl", 2 * (h - case.batch["y"][t, b]) / hid, trace)
    found = found * mask / (steps * samples)
    torch.testing.assert_close(run(case, assembled(case)).gradients["W"], found, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize("mask", ["sparse(0.3)", "blocks(3)", "blocks(2)", "sparse(0.5) blocks(2)"])
@pytest.mark.parametrize("rule", ["snap(1)", "snap(2)", "snap(3)", "snap(6)", "snap(2, window=3)", "rtrl"])
def test_verdicts_are_true(mask: str, rule: str) -> None:
    """What is said to be exact is, and nothing is dropped below the first dropped lag."""
    case = plain(mask, rule)
    for row in case.plan.rows:
        length = 7 if row.verdict == "exact" else row.first_dropped_lag
        if row.verdict == "frozen" or not length:
            continue
        batch = {name: value[:length] for name, value in case.batch.items()}
        oracle = Reference(case.graph, case.plan)
        own, full = (make(case.params, batch).gradients[row.parameter] for make in (oracle.run, oracle.full))
        torch.testing.assert_close(own, full, atol=1e-12, rtol=1e-10)


def test_blocks_are_closed_after_two_steps_and_sparse_weights_after_all() -> None:
    def verdicts(mask: str, rule: str) -> dict[str, tuple[str, int | None]]:
        rows = explain(RNN.format(mask=mask, rule=rule, size=6)).rows
        return {row.parameter: (row.verdict, row.first_dropped_lag) for row in rows if row.verdict != "frozen"}

    assert set(verdicts("blocks(3)", "snap(1)").values()) == {("biased", 1)}
    assert set(verdicts("blocks(3)", "snap(2)").values()) == {("exact", None)}
    assert set(verdicts("sparse(0.3)", "snap(2)").values()) == {("biased", 2)}
    assert set(verdicts("sparse(0.3)", "snap(5)").values()) == {("biased", 5)}
    assert set(verdicts("sparse(0.3)", "snap(6)").values()) == {("exact", None)}


def test_a_chain_drops_just_what_lies_further() -> None:
    """With a mask that is a ring, snap(n) is exact over n steps and no longer."""
    case = plain("sparse(0.01)", "snap(3)")
    ring = torch.roll(torch.eye(6, dtype=torch.float64), 1, 0)
    params = {**case.params, "W.mask": ring}
    for steps in (3, 4):
        batch = {name: value[:steps] for name, value in case.batch.items()}
        oracle = Reference(case.graph, case.plan)
        own, full = (make(params, batch).gradients["b"] for make in (oracle.run, oracle.full))
        assert torch.allclose(own, full, atol=1e-12) == (steps == 3)


# -- mutants ----------------------------------------------------------------------------------------------------------
Plant = Callable[[pytest.MonkeyPatch], None]


def one_step_less(patch: pytest.MonkeyPatch) -> None:
    within = masked_stage.Reaching.within

    def faulty(self: Any, source: int, scope: Any, steps: int) -> Any:
        return within(self, source, scope, max(1, steps - 1))

    patch.setattr(masked_stage.Reaching, "within", faulty)


def not_narrowed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(traces_stage, "narrowed", lambda graph, routing: False)


def newest_only(patch: pytest.MonkeyPatch) -> None:
    """The scope is what is reached in exactly n steps."""
    patch.setattr(masked_stage.Reaching, "_joined", lambda self, one, other: other)


def masks_transposed(patch: pytest.MonkeyPatch) -> None:
    """The walk goes against the arrows of square matrices."""
    support = vars(supports_stage)["_support"]

    def faulty(graph: Any, b: Any, given: Any, node: Any, values: Any) -> int:
        made, axes = support(graph, b, given, node, values), node.type.axes
        if node.op != "parameter" or node.name not in given or len({axis.size for axis in axes}) != 1:
            return made
        return b.op("rename", b.op("transpose", made, order=(1, 0)), axes=axes)

    patch.setattr(supports_stage, "_support", faulty)


def no_start(patch: pytest.MonkeyPatch) -> None:
    """What a state starts from reaches nothing."""
    inside = masked_stage.Reaching.within

    def faulty(self: Any, source: int, scope: Any, steps: int) -> Any:
        kept, self.carries = self.carries, {n: c for n, c in self.carries.items() if c.init != source}
        try:
            return inside(self, source, scope, steps)
        finally:
            self.carries = kept

    patch.setattr(masked_stage.Reaching, "within", faulty)


MUTANTS: dict[str, Plant] = {
    "a step less": one_step_less,
    "masks ignored": not_narrowed,
    "only what is reached last": newest_only,
    "against the arrows": masks_transposed,
    "an initial value reaches nothing": no_start,
}


@cache
def known() -> tuple[tuple[Case, dict[str, torch.Tensor]], ...]:
    return tuple((case, reference(case).gradients) for case in all_cases())


def rejected(case: Case, expected: dict[str, torch.Tensor]) -> bool:
    try:
        assert_matches(run(case, assembled(case)).gradients, expected, "gradient of", 1e-10)
    except (AssertionError, RuntimeError, ValueError, KeyError, IndexError):
        return True
    return False


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_rejected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = known()
    with monkeypatch.context() as patch:
        MUTANTS[name](patch)
        found = next((pair for pair in cases if rejected(*pair)), None)
    assert found is not None
    assert not rejected(*found)
