"""Credit with a budget of steps: `sab(truncate, variant=sliding)` against its definition, the enumeration of paths, and
with planted faults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from backend_support import call_of
from program_runs import assembled, run
from test_tape_rules import SAB
from torch import Tensor

import recdsl.program.sliding as sliding_stage
from recdsl.backends.torch import execute
from recdsl.diagnostics import SpecError
from recdsl.driver import analyse
from recdsl.program.checker import verify
from recdsl.testing import Case, assert_close_gradients, assert_matches, reference, rule_conforms

SLIDING = "credit: sab(truncate={}, variant=sliding)"
DELAYED = """recdsl: 1
name: delayed
sizes: {inp: 3, hidden: 4, k: 2}
inputs: {x: "float[inp]"}
targets: {y: "float[hidden]"}
params: {K: "float[k, inp] ~ normal(0, 1)", V: "float[hidden, inp] ~ normal(0, 1)", s0: "float[hidden] ~ normal(0, 1)"}
states: {g: "float[hidden] = s0"}
memory:
  past:
    slots: SLOTS
    life: sequence
    write: {key: K @ x, value: "tanh(V @ x) + g[t-3]"}
    read: {query: K @ x, score: dot, select: topk(2)}
step: |
  h = gru(x, size=hidden)
  g = tanh(h + past.read + g[t-1] * 0.5)
  out = g + g[t-3]
loss: mse(out, y)
credit: bptt
"""
TEXTS = {"sab": SAB, "delayed": DELAYED.replace("SLOTS", "unbounded"), "slots": DELAYED.replace("SLOTS", "3")}
LAYERS: Any = vars(sliding_stage)["_Layers"]

test_random_models_budget_of_one = rule_conforms("sab(truncate=1, variant=sliding)", examples=8)
test_random_models = rule_conforms("sab(truncate=3, variant=sliding)", examples=8)


def spec(name: str, budget: int) -> str:
    return TEXTS[name].replace("credit: bptt", SLIDING.format(budget))


@pytest.mark.parametrize("budget", [1, 2, 4])
@pytest.mark.parametrize("name", TEXTS)
def test_program_and_module_are_the_definition(name: str, budget: int) -> None:
    """With a mask, resets and an incoming state, and without."""
    stages = analyse(spec(name, budget))
    module = execute(stages.source).Model(0, torch.float64)
    for seed in (0, 1):
        case = call_of(stages, seed)
        expected, made = reference(case), assembled(case)
        verify(made.program)
        assert_matches(run(case, made).gradients, expected.gradients, "gradient of")
        assert_close_gradients(lambda _: module, case, expected=expected)


@pytest.mark.parametrize("name", TEXTS)
def test_a_budget_that_covers_the_call_is_backpropagation(name: str) -> None:
    whole, cut = (reference(call_of(analyse(text), 1)) for text in (TEXTS[name], spec(name, 7)))
    assert_matches(cut.gradients, whole.gradients, "gradient of")


def test_the_two_variants_differ() -> None:
    chunk = TEXTS["sab"].replace("credit: bptt", "credit: sab(truncate=2, variant=chunk)")
    one, other = (reference(call_of(analyse(text), 0)).gradients for text in (chunk, spec("sab", 2)))
    assert max(float((one[name] - other[name]).abs().max()) for name in one) > 1e-4


# the definition itself: a sum over paths
SMALL = """recdsl: 1
name: small
sizes: {hidden: 2}
inputs: {x: "float[hidden]"}
targets: {y: "float[hidden]"}
params: {U: "float[hidden, hidden] ~ normal(0, 1)"}
memory:
  past:
    slots: unbounded
    write: {value: h}
    read: {query: p, score: dot, select: topk(2)}
step: |
  p = tanh(U @ h[t-1] + x)
  h = p + past.read
loss: {total: {value: "mse(h, y)"}}
credit: CREDIT
"""


def step(U: Tensor, before: Tensor, slots: list[Tensor], x: Tensor) -> Tensor:
    p = torch.tanh(U @ before + x)
    if not slots:
        return p
    scores = torch.stack([slot @ p for slot in slots])
    best, places = scores.topk(min(2, len(slots)))
    return p + torch.softmax(best, 0) @ torch.stack(slots)[places]


def by_paths(U: Tensor, x: Tensor, y: Tensor, budget: int) -> Tensor:
    """The sum over all paths from a loss to U, one after the other, none merged with another."""
    states, total = [torch.zeros_like(x[0])], torch.zeros_like(U)
    for t in range(len(x)):
        states.append(step(U, states[-1], states[1:], x[t]))

    def follow(t: int, cotangent: Tensor, row: int) -> None:
        nonlocal total
        leaves = [value.clone().requires_grad_() for value in (U, *states[: t + 1])]
        # the last state is both what is carried and the newest slot: two edges
        carried = leaves[-1].detach().requires_grad_()
        out = step(leaves[0], carried, leaves[2:], x[t])
        parts = torch.autograd.grad(out, [leaves[0], carried, *leaves[2:]], cotangent, materialize_grads=True)
        total = total + parts[0]
        if t and row < budget:
            follow(t - 1, parts[1], row + 1)
        for place, part in enumerate(parts[2:]):
            follow(place, part, 0)

    for t in range(len(x)):
        follow(t, (states[t + 1] - y[t]) * 2 / (2 * len(x)), 0)
    return total


@pytest.mark.parametrize("budget", [1, 2, 3])
def test_the_definition_is_the_sum_over_paths(budget: int) -> None:
    stages = analyse(SMALL.replace("CREDIT", f"sab(truncate={budget}, variant=sliding)"))
    draws = torch.Generator().manual_seed(3)
    x, y = torch.randn((2, 6, 2), generator=draws, dtype=torch.float64)
    U = torch.randn((2, 2), generator=draws, dtype=torch.float64)
    module = execute(stages.source).Model(0, torch.float64)
    with torch.no_grad():
        module.get_parameter("U").copy_(U)
    module({"x": x[:, None], "y": y[:, None]}).loss.backward()
    torch.testing.assert_close(module.get_parameter("U").grad, by_paths(U, x, y, budget), rtol=1e-10, atol=1e-12)


# verdicts
def test_the_verdict_names_the_horizon() -> None:
    rows = {row.parameter: row for row in analyse(spec("sab", 2)).plan.rows}
    recurrent, out = rows["proposal.Ui"], rows["o.W"]
    assert (recurrent.verdict, recurrent.first_dropped_lag, recurrent.longest_kept_lag) == ("biased", 3, None)
    assert {edge.edge for edge in recurrent.dropped} >= {"h[t-1] -> proposal.i", "c[t-1] -> c"}
    assert (out.verdict, out.first_dropped_lag) == ("exact", None)


def test_a_budget_that_covers_every_lag_is_exact() -> None:
    """A state that is read three steps later and nowhere else."""
    text = SMALL.replace("U @ h[t-1] + x", "U @ x").replace("h = p + past.read", "h = p + past.read\n  q = h + p[t-3]")
    text = text.replace("mse(h, y)", "mse(q, y)")
    rows = [analyse(text.replace("CREDIT", f"sab({k}, variant=sliding)")).plan.rows[0] for k in (2, 3)]
    assert [(row.verdict, row.first_dropped_lag) for row in rows] == [("biased", 3), ("exact", None)]
    assert "unmasked" in rows[1].qualifiers


def test_a_variant_that_is_none() -> None:
    with pytest.raises(SpecError, match=r"`chunk` or `sliding`"):
        analyse(TEXTS["sab"].replace("credit: bptt", "credit: sab(truncate=2, variant=rolling)"))


# planted faults
def replaced(name: str, made: Callable[[Any], Any]) -> Callable[[pytest.MonkeyPatch], None]:
    return lambda patch: patch.setattr(LAYERS, name, made(getattr(LAYERS, name)))


def budget_off(by: int) -> Callable[[pytest.MonkeyPatch], None]:
    def made(old: Any) -> Any:
        return lambda self, nodes, credit, budget: old(self, nodes, credit, budget + by)

    return replaced("__init__", made)


def delays_count_once(old: Any) -> Any:
    def opened(self: Any, k: int, node: Any) -> None:
        if node.op != "prev" or self._remembers(k) or node.attr("lag") == 1:
            old(self, k, node)
            return
        for layer in range(self.budget):
            move = self.builder.move("next", [-1], node.attr("lag"), node.type, node.name)
            self.pending[layer, k] = move
            self._give(layer + 1, node.args[0], move)

    return opened


FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "one step more": budget_off(1),
    "one step less": budget_off(-1),
    "slots carry no credit": replaced("_open", lambda old: lambda s, k, n: None if n.op == "fetch" else old(s, k, n)),
    "slots that are states count as recurrence": replaced(
        "_remembers", lambda old: lambda s, k: s.forward[k].op == "fetch"
    ),
    "everything is a memory": replaced("_remembers", lambda old: lambda s, k: True),
    "a delay counts as one step": replaced("_open", delays_count_once),
    "no credit to initial values": replaced("_begin", lambda old: lambda *_: None),
}


def wrong(case: Case) -> bool:
    expected = reference(case)
    try:
        assert_matches(run(case, assembled(case)).gradients, expected.gradients, "gradient of")
    except AssertionError:
        return True
    return False


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [call_of(analyse(spec(name, 2)), 0) for name in TEXTS]
    assert not any(map(wrong, cases))
    FAULTS[fault](monkeypatch)
    assert any(map(wrong, cases))
