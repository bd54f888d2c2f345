"""BP(lambda): nets of synthetic gradients that learn lambda-returns, against returns over n windows taken literally."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from backend_support import call_of, normal
from program_runs import assembled, run
from torch import Tensor

from recdsl import compile as compile_spec
from recdsl import explain
from recdsl.driver import analyse
from recdsl.program import answers, leaves
from recdsl.program.checker import check
from recdsl.program.learning import Learning
from recdsl.testing import Case, assert_close_gradients, assert_matches, random_case, reference

RULES = (
    "synthetic(window=1, hidden=2, learn=bp_lambda(0.7))",
    "synthetic(window=2, hidden=0, learn=bp_lambda(1))",
    "synthetic(window=3, hidden=3, scale=0.5, learn=bp_lambda(0.4))",
    "synthetic(window=2, hidden=2, scale=0.8, learn=bp_lambda(0.9))",
)
RNN = """
recdsl: 1
sizes: {inp: 3, hid: 4}
inputs: {x: "float[inp]"}
targets: {y: float}
params: {W: "float[hid, inp] ~ normal(0, 0.6)", U: "float[hid, hid] ~ normal(0, 0.6)", V: "float[hid] ~ normal(0, 1)"}
step: |
  h = tanh(W @ x + U @ h[t-1])
  o = V @ h
loss: mse(o, y)
credit: synthetic(window=2, hidden=0, learn=LEARN)
STREAM"""


@cache
def drawn(seed: int) -> Case:
    return random_case(seed, (("default", RULES[seed % 4]),))


@pytest.mark.parametrize("first", range(0, 24, 6))
def test_programs_equal_the_definition(first: int) -> None:
    for seed in range(first, first + 6):
        case = drawn(seed)
        made = assembled(case)
        if seed == first:
            assert not check(made.program)
        assert_matches(run(case, made).gradients, reference(case).gradients, f"{seed}: gradient of", 1e-10)


@pytest.mark.parametrize("backend", ["torch", "native"])
def test_modules_equal_the_definition(backend: str) -> None:
    for seed in range(30, 34):
        assert_close_gradients(lambda c: compile_spec(c.text, backend=backend, dtype=torch.float64), drawn(seed))


@pytest.mark.parametrize("seed", [0, 1])
def test_streams(seed: int) -> None:
    """Losses follow the call in later ones: behind its end stands the answer. Odd seeds have masks and resets."""
    source = RNN.replace("LEARN", "bp_lambda(0.6)").replace("STREAM", "train: {stream: true}")
    case = call_of(analyse(source), seed)
    assert case.plan.classes[0].head is not None
    assert case.plan.classes[0].head.beyond
    assert_close_gradients(lambda _: compile_spec(source, dtype=torch.float64), case)


@pytest.mark.parametrize("rule", ["synthetic(window=2, hidden=2)", RULES[2]])
def test_temporal_differences(rule: str) -> None:
    """A net answers for the predictions behind a window too: credit enters at them (`Loss.root`)."""
    found = [random_case(seed, (("default", rule),), td=True) for seed in range(14)]
    told = [case for case in found if any(c.head is not None for c in case.plan.classes)]
    told = [case for case in told if any(loss.td is not None for loss in case.graph.losses)]
    assert len(told) > 5
    for case in told:
        assert_matches(run(case, assembled(case)).gradients, reference(case).gradients, "gradient of", 1e-10)
    for case in told[:3]:
        assert_close_gradients(lambda c: compile_spec(c.text, dtype=torch.float64), case)


def test_a_prediction_is_answered_for() -> None:
    """A spec whose only loss is a temporal difference has a net, and says so."""
    text = RNN.replace("mse(o, y)", "td(o, y, discount=0.9)").replace("LEARN", "bootstrap").replace("STREAM", "")
    rows = {row.parameter: row for row in explain(text).rows}
    assert "learned" in rows["U"].qualifiers


def test_without_a_share_it_is_the_bootstrap() -> None:
    """lambda = 0 goes through the second pass and learns what the first would have told."""
    for seed in range(40, 52):
        given = (f"synthetic(window=2, hidden=2, scale=0.5{learn})" for learn in ("", ", learn=bp_lambda(0)"))
        one, other = (random_case(seed, (("default", rule),)) for rule in given)
        assert_matches(run(other, assembled(other)).gradients, run(one, assembled(one)).gradients, "gradient of", 1e-12)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_by_hand(share: float) -> None:
    """The recursion backwards over windows of a plain network. With a share of 1 the targets are the cotangents of full
    backpropagation."""
    source = RNN.replace("LEARN", f"bp_lambda({share})").replace("STREAM", "")
    made = compile_spec(source, dtype=torch.float64)
    with torch.no_grad():
        for name, value in made.named_parameters():
            value.add_(0.3 * normal(len(name), *value.shape))
    length, samples = 7, 2
    data = {"x": normal(5, length, samples, 3), "y": normal(6, length, samples)}
    made(data).loss.backward()
    p = {name: value.detach().clone() for name, value in made.named_parameters()}
    net, bias = p["credit.synthetic.W"].requires_grad_(), p["credit.synthetic.b"].requires_grad_()
    states = [torch.zeros(samples, 4, dtype=torch.float64)]
    for t in range(length):
        states.append(torch.tanh(data["x"][t] @ p["W"].T + states[-1] @ p["U"].T))
    number, targets = length * samples, dict[int, Tensor]()
    behind = torch.zeros(samples, 4, dtype=torch.float64)
    for start in (6, 4, 2):
        entered = states[start].detach().requires_grad_()
        h, loss = entered, torch.zeros((), dtype=torch.float64)
        for t in range(start, min(start + 2, length)):
            h = torch.tanh(data["x"][t] @ p["W"].T + h @ p["U"].T)
            loss = loss + ((h @ p["V"] - data["y"][t]) ** 2).sum() / number
        (arrived,) = torch.autograd.grad(loss + (behind * h).sum(), entered)
        targets[start] = number * arrived
        behind = (1 - share) * (states[start] @ net.T + bias).detach() / number + share * arrived
    if share == 1.0:
        entered = states[2].detach().requires_grad_()
        h, loss = entered, torch.zeros((), dtype=torch.float64)
        for t in range(2, length):
            h = torch.tanh(data["x"][t] @ p["W"].T + h @ p["U"].T)
            loss = loss + ((h @ p["V"] - data["y"][t]) ** 2).sum() / number
        (whole,) = torch.autograd.grad(loss, entered)
        assert torch.allclose(targets[2], number * whole, rtol=0, atol=1e-12)
    off = [states[k] @ net.T + bias - target for k, target in targets.items()]
    wrong = torch.stack(off).pow(2).sum()
    expected = torch.autograd.grad(wrong / (3 * samples), [net, bias])
    found = [made.get_parameter(f"credit.synthetic.{name}").grad for name in ("W", "b")]
    for mine, own in zip(found, expected, strict=True):
        assert mine is not None
        assert torch.allclose(mine, own, rtol=0, atol=1e-10)


def test_the_model_itself_learns_from_answers() -> None:
    """The share changes what the net learns and nothing of the model's own gradient."""
    for seed in range(60, 66):
        one, other = (
            random_case(seed, (("default", f"synthetic(window=2, hidden=2, learn={learn})"),))
            for learn in ("bootstrap", "bp_lambda(0.9)")
        )
        first, second = (run(case, assembled(case)).gradients for case in (one, other))
        own = [name for name in first if not name.startswith("credit.")]
        assert_matches({n: second[n] for n in own}, {n: first[n] for n in own}, "gradient of", 1e-12)


def test_it_costs_a_pass_more() -> None:
    rows = [
        {row.parameter: row for row in explain(RNN.replace("LEARN", learn).replace("STREAM", "")).rows}
        for learn in ("bootstrap", "bp_lambda(0.5)")
    ]
    assert rows[1]["U"].flops > rows[0]["U"].flops
    assert rows[1]["U"].verdict == "biased"
    assert "learned" in rows[1]["U"].qualifiers


# -- mutants ----------------------------------------------------------------------------------------------------------
Plant = Callable[[pytest.MonkeyPatch], None]


def other_share(share: float) -> Plant:
    def plant(patch: pytest.MonkeyPatch) -> None:
        made = answers.Answers.mixed

        def faulty(self: Any, name: str, arrived: str | None) -> Any:
            asked, head = self.head.asked, self.head
            object.__setattr__(asked, "mixing", share)
            try:
                return made(self, name, arrived)
            finally:
                object.__setattr__(head.asked, "mixing", 0.4)

        patch.setattr(answers.Answers, "mixed", faulty)

    return plant


def no_end(patch: pytest.MonkeyPatch) -> None:
    """Nothing stands behind the last window of a call that goes on."""
    patch.setattr(answers.Answers, "last_mixed", lambda self: [])


def first_told(patch: pytest.MonkeyPatch) -> None:
    """The second pass reads the answers, as the first does."""
    made = leaves.mixed

    def faulty(*given: Any) -> dict[str, int]:
        return leaves.behind(*given) if made(*given) else {}

    patch.setattr("recdsl.program.assemble.mixed", faulty)


def never_scaled(patch: pytest.MonkeyPatch) -> None:
    made = answers.Answers.mixed

    def faulty(self: Any, name: str, arrived: str | None) -> Any:
        asked, kept = self.head.asked, self.head.asked.scale
        object.__setattr__(asked, "scale", 1.0)
        try:
            return made(self, name, arrived)
        finally:
            object.__setattr__(asked, "scale", kept)

    patch.setattr(answers.Answers, "mixed", faulty)


def forwards(patch: pytest.MonkeyPatch) -> None:
    """Targets are made from the first window to the last."""
    made = vars(Learning)["_returns"]

    def faulty(self: Any, *given: Any) -> Any:
        *rest, last = made(self, *given)
        object.__setattr__(last, "step", 1)
        return [*rest, last]

    patch.setattr(Learning, "_returns", faulty)


MUTANTS: dict[str, Plant] = {
    "another share": other_share(0.5),
    "no share": other_share(0.0),
    "nothing behind the end": no_end,
    "answers in both passes": first_told,
    "what arrives is not scaled": never_scaled,
    "from the first window on": forwards,
}


@cache
def known() -> tuple[tuple[Case, dict[str, Tensor]], ...]:
    rule = "synthetic(window=2, hidden=0, scale=0.5, learn=bp_lambda(0.4))"
    source = RNN.replace("synthetic(window=2, hidden=0, learn=LEARN)", rule).replace("STREAM", "train: {stream: true}")
    return tuple((case, reference(case).gradients) for case in (call_of(analyse(source), seed) for seed in (0, 1, 2)))


def rejected(case: Case, expected: dict[str, Tensor]) -> bool:
    try:
        assert_matches(run(case, assembled(case)).gradients, expected, "gradient of", 1e-10)
    except Exception:
        return True
    return False


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_rejected(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = known()
    assert not any(rejected(*pair) for pair in cases)
    with monkeypatch.context() as patch:
        MUTANTS[name](patch)
        assert any(rejected(*pair) for pair in cases)
