"""Kronecker-factored estimates (kf_rtrl): each draw against its definition, the mean of all against full BPTT."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest
import torch
from backend_support import call_of, generated
from torch import Tensor

import recdsl.program.kronecker as kronecker_stage
from recdsl import compile as compile_spec
from recdsl import explain
from recdsl.backends.reference import Reference
from recdsl.credit.kronecker import blocks, draws
from recdsl.diagnostics import SpecError
from recdsl.driver import analyse
from recdsl.testing import Case, assert_close_gradients, assert_matches, check_rule, properties, random_case
from recdsl.training.chance import drawn
from recdsl.training.gradcheck import gradcheck

torch.set_num_threads(1)
RULES = (("default", "kf_rtrl"),)
FACTORY = vars(kronecker_stage)["_Kronecker"]
HEAD = """\
recdsl: 1
name: small
sizes: {n: 2}
inputs: {x: "float[n]"}
targets: {y: "float[n]"}
params:
  W: "float[n, n] ~ normal(0, 0.7)"
  U: "float[n, n] ~ normal(0, 0.7)"
  V: "float[n, n] ~ normal(0, 0.7)"
  b: "float[n] ~ normal(0, 0.7)"
"""
PLAIN = (
    HEAD
    + """\
step: |
  h = tanh(W @ h[t-1] + U @ x - b)
  v = V @ h
loss: mse(v, y)
credit: kf_rtrl
"""
)
SHARED = (
    HEAD
    + """\
step: |
  h = tanh(W @ tanh(W @ h[t-1] + U @ x) + h[t-2])
  v = V @ h + b
loss: mse(v, y)
credit: kf_rtrl
"""
)
GATED = (
    HEAD
    + """\
step: |
  z = sigmoid(W @ x + U @ h[t-1])
  c = tanh(h[t-1] @ V + b)
  h = z * h[t-1] + c - z * c
loss: mse(h, y)
credit: kf_rtrl
"""
)
SPECS = {"plain": PLAIN, "shared": SHARED, "gated": GATED}

test_shared_matrices = properties(SHARED, examples=6, steps=4, samples=2)


def fitting(seed: int, rules: tuple[tuple[str, str], ...] = RULES) -> Case | None:
    case = random_case(seed, rules)
    try:
        return case if case.plan.rows else None
    except SpecError:
        return None


@pytest.mark.parametrize("first", range(0, 40, 10))
def test_a_draw_equals_its_definition(first: int) -> None:
    checked = 0
    for seed in range(first, first + 10):
        case = fitting(seed)
        if case is not None:
            check_rule(case, 1e-10)
            checked += 1
    assert checked


@pytest.mark.parametrize("seed", range(6))
def test_beside_other_rules(seed: int) -> None:
    for rules in (("p1", "kf_rtrl"), ("default", "bptt")), (("p2", "uoro"), ("p1", "kf_rtrl"), ("default", "rtrl")):
        case = fitting(seed, rules)
        if case is not None:
            check_rule(case)


def mean(text: str, steps: int, tied: Callable[[str], str] = lambda label: label) -> tuple[dict[str, Tensor], ...]:
    """(mean over every pattern of signs, whole gradient). tied: which draws are one and the same."""
    stages = analyse(text)
    graph, plan = stages.graph, stages.plan
    found = blocks(graph, plan.classes[0].parameters)
    places = 1 + max(len(block.sites) for block in found)
    g = torch.Generator().manual_seed(5)
    batch = {name: torch.randn((steps, 1, 2), generator=g, dtype=torch.float64) for name in "xy"}
    params = {p.name: 0.7 * torch.randn(p.type.shape, generator=g, dtype=torch.float64) for p in graph.parameters}
    total: dict[str, Tensor] = {}
    for pattern in product([1.0, -1.0], repeat=places * (steps - 1)):
        table = torch.tensor([*pattern, *[1.0] * places], dtype=torch.float64).reshape(steps, places, 1)
        signs = {label: table[:, int(tied(label).partition(".")[2])] for label in draws(found)}
        made = Reference(graph, plan, signs={0: signs}).run(params, batch).gradients
        total = {name: total.get(name, 0.0) + value / 2 ** len(pattern) for name, value in made.items()}
    return total, Reference(graph, plan).full(params, batch).gradients


@pytest.mark.parametrize(("name", "steps"), [("plain", 4), ("shared", 3), ("gated", 4)])
def test_unbiased(name: str, steps: int) -> None:
    """The signs of a block are its own, so that one pattern serves all blocks at once."""
    found, whole = mean(SPECS[name], steps)
    assert_matches(found, whole, "mean of", 1e-9)


def test_uses_merged_into_one_term_are_biased() -> None:
    """Two uses of W that share their sign: z_1 (x) S_2 no longer cancels."""
    found, whole = mean(SHARED, 3, lambda label: label.replace(".2", ".1"))
    assert float((found["W"] - whole["W"]).norm() / whole["W"].norm()) > 0.01
    assert_matches({"U": found["U"]}, {"U": whole["U"]}, "mean of", 1e-9)


def merged(sign: Callable[..., int]) -> Callable[..., int]:
    return lambda self, number, place: sign(self, number, min(place, 1))


def one_sign(sign: Callable[..., int]) -> Callable[..., int]:
    return lambda self, number, place: sign(self, number, 0)


def no_mask(_: Callable[..., int]) -> Callable[..., int]:
    return lambda self, before, after: self.b.const(0.0, before) if after is None else after


def no_reset(_: Callable[..., int]) -> Callable[..., int]:
    return lambda self, name, node, block: node


FAULTS = {"merged": ("_sign", merged), "one sign": ("_sign", one_sign), "masks": ("_held", no_mask)}
FAULTS["resets"] = ("_entered", no_reset)


@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a mask, resets and an incoming state."""
    cases = [call_of(analyse(SHARED), seed) for seed in (1, 3)]
    assert all(agrees(case) for case in cases)
    method, fault = FAULTS[name]
    monkeypatch.setattr(FACTORY, method, fault(getattr(FACTORY, method)))
    assert not all(agrees(case) for case in cases)


def agrees(case: Case) -> bool:
    """Whether a compiled call equals the definition under the same draws."""
    module = generated(case)
    steps, samples = next(iter(case.batch.values())).shape[:2]
    torch.manual_seed(1)
    chance = drawn(case.graph, case.plan, module, steps, samples)
    oracle = Reference(case.graph, case.plan, signs=chance.signs)
    expected = oracle.run(case.params, case.batch, case.mask, case.reset, case.state)
    torch.manual_seed(1)
    try:
        assert_close_gradients(lambda _: module, case, 1e-9, expected)
    except AssertionError:
        return False
    return True


def test_verdicts_and_costs() -> None:
    rows = {row.parameter: row for row in explain(PLAIN).rows}
    assert {name: row.verdict for name, row in rows.items()} == dict.fromkeys("WUb", "unbiased") | {"V": "exact"}
    assert "random-signs" in rows["W"].qualifiers
    assert {name: row.bytes for name, row in rows.items()} == {"W": 24, "U": 24, "b": 20, "V": 0}
    for seed in range(30):
        case = fitting(seed)
        for row in case.plan.rows if case is not None else ():
            assert row.verdict in ("exact", "unbiased", "frozen")
            assert ("random-signs" in row.qualifiers) == (row.verdict == "unbiased")


def test_less_noise_than_a_rank_one_estimate() -> None:
    models = {rule: compile_spec(PLAIN.replace("kf_rtrl", rule), dtype=torch.float64) for rule in ("kf_rtrl", "uoro")}
    g = torch.Generator().manual_seed(5)
    batch = {name: torch.randn((12, 2, 2), generator=g, dtype=torch.float64) for name in "xy"}
    spread: dict[str, float] = {}
    for rule, model in models.items():
        torch.manual_seed(0)
        seen: list[Tensor] = []
        for _ in range(60):
            model.zero_grad()
            model(batch).loss.backward()
            seen.append(model.get_parameter("W").grad.clone())  # pyright: ignore[reportOptionalMemberAccess]
        spread[rule] = float(torch.stack(seen).std(0).norm())
    assert spread["kf_rtrl"] < spread["uoro"]


def test_gradcheck_holds_the_claim_to_its_mean() -> None:
    assert gradcheck(analyse(PLAIN), 5).holds


def test_what_is_no_matrix_is_refused() -> None:
    text = PLAIN.replace("W @ h[t-1] + U @ x - b", "b * h[t-1] + U @ x").replace("v = V @ h", "v = V @ h + W @ x")
    with pytest.raises(SpecError) as caught:
        explain(text)
    (problem,) = caught.value.problems
    assert problem.code == "RD0510"
    assert "`b` is used in `mul`" in problem.text()
    assert "`uoro`" in problem.help()
    assert explain(text.replace("credit: kf_rtrl", "credit: {b: columns, default: kf_rtrl}")).rows


def test_what_is_computed_from_parameters_alone_is_one() -> None:
    text = PLAIN.replace("W @ h[t-1]", "tanh(W) @ h[t-1]").replace("- b", "+ softmax(b)")
    assert gradcheck(analyse(text), 4).holds


def test_a_learned_start_is_refused() -> None:
    text = PLAIN.replace("step: |", 'states: {h: "float[n] = b"}\nstep: |').replace(" - b", "")
    with pytest.raises(SpecError) as caught:
        explain(text)
    assert "what a state starts from" in caught.value.problems[0].text()
