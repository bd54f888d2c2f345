"""Parameters that change between calls (semantics 5.1): what carried traces mean, and the policies of `drift`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import pytest
import torch
from torch import Generator, Tensor

from recdsl import compile as compile_spec
from recdsl import explain
from recdsl.backends.reference.drift import common_shift
from recdsl.backends.reference.result import Call
from recdsl.credit.influence import effective
from recdsl.diagnostics import SpecError
from recdsl.testing import Case, assert_matches, check_rule, random_case
from recdsl.testing.cases import make_case
from recdsl.testing.draws import Draws
from recdsl.training.gradcheck import random

torch.set_num_threads(1)
LENGTHS = (4, 1, 3)
SEEDS = (9, 11, 19, 33, 50, 54, 72, 76, 89)
"""Models of which several parameters have traces, and act as they are."""
TRACED = ("rtrl", "columns", "snap(2)", "rflo", "uoro")


@dataclass(frozen=True)
class Stream:
    """A model, and what each of a few calls in a row is given: parameters that jump, a batch, a mask and resets."""

    case: Case
    parameters: list[dict[str, Tensor]]
    batches: list[dict[str, Tensor]]
    masks: list[Tensor]
    resets: list[Tensor]

    def calls(self) -> list[Call]:
        clean = [
            {n: torch.where(_wide(mask, v), v, torch.zeros_like(v)) for n, v in batch.items()}
            for batch, mask in zip(self.batches, self.masks, strict=True)
        ]
        parts = zip(clean, self.masks, self.resets, strict=True)
        return [Call(batch, mask, reset, 0, None, {}) for batch, mask, reset in parts]


def _wide(mask: Tensor, value: Tensor) -> Tensor:
    return mask.reshape(*mask.shape, *(1,) * (value.dim() - 2))


@cache
def stream(seed: int, rule: str) -> Stream | None:
    """None where the rule does not fit, or where parameters act through something computed from them alone."""
    case = random_case(seed, (("default", rule),))
    graph = case.graph
    if any(graph.nodes[k].op != "parameter" for k in effective(graph)):
        return None
    try:
        assert case.plan
    except SpecError:
        return None
    g = Generator().manual_seed(seed)
    batches = [{i.name: random(i, steps, 2, g) for i in graph.inputs} for steps in LENGTHS]
    flags = [[torch.rand((steps, 2), generator=g) < rate for steps in LENGTHS] for rate in (0.8, 0.2)]
    jumps = [
        {n: v + 0.4 * torch.randn(v.shape, generator=g, dtype=v.dtype) for n, v in case.params.items()} for _ in LENGTHS
    ]
    return Stream(case, jumps, batches, *flags)


def streams(rule: str, seeds: Sequence[int] = SEEDS) -> list[Stream]:
    return [made for seed in seeds if (made := stream(seed, rule)) is not None]


def learned(given: Stream, text: str) -> list[dict[str, Tensor]]:
    """The gradients of the calls, each with the parameters that it finds and the state that the one before left."""
    model = compile_spec(text, dtype=torch.float64)
    state: Mapping[str, Tensor] | None = None
    found: list[dict[str, Tensor]] = []
    for parameters, batch, mask, reset in zip(given.parameters, given.batches, given.masks, given.resets, strict=True):
        model.load_state_dict(parameters, strict=False)
        result = model(batch, mask=mask, reset=reset, state=state)
        model.zero_grad()
        if result.loss.requires_grad:
            result.loss.backward()
        state = result.state
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        found.append({name: torch.zeros_like(p) if p.grad is None else p.grad.clone() for name, p in trained.items()})
    return found


def only(names: Sequence[str], gradients: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    return {f"{name} in call {k}": each[name] for k, each in enumerate(gradients) for name in names}


@pytest.mark.parametrize("rule", ["rtrl", "columns", "snap(2)"])
def test_carried_traces_give_the_gradient_by_a_common_shift(rule: str) -> None:
    """For whatever is said to be exact, and whatever the jumps between the calls."""
    checked = 0
    for given in streams(rule):
        exact = [row.parameter for row in given.case.plan.rows if row.verdict == "exact"]
        expected = common_shift(given.case.graph, given.parameters, given.calls())
        assert_matches(only(exact, learned(given, given.case.text)), only(exact, expected), "gradient of", 1e-10)
        checked += sum("drift" in row.qualifiers for row in given.case.plan.rows if row.parameter in exact)
    assert checked > 4


def test_only_rows_without_a_trace_lack_the_note() -> None:
    for given in streams("rtrl"):
        for row in given.case.plan.rows:
            assert ("drift" in row.qualifiers) == (row.bytes > 0 and row.longest_kept_lag != 0)


@pytest.mark.parametrize("rule", TRACED)
def test_reset_drops_traces_at_each_call(rule: str) -> None:
    """Each call learns what it would with an incoming state that has no traces; nothing of them is handed on."""
    dropped = rule.replace(")", ", drift=reset)") if "(" in rule else f"{rule}(drift=reset)"
    differs = 0
    for given in streams(dropped, SEEDS[:5]):
        plain = compile_spec(given.case.text.replace(dropped, rule), dtype=torch.float64)
        state: dict[str, Tensor] | None = None
        torch.manual_seed(1)
        own = learned(given, given.case.text)
        torch.manual_seed(1)
        expected: list[dict[str, Tensor]] = []
        for parameters, batch, mask, reset in zip(
            given.parameters, given.batches, given.masks, given.resets, strict=True
        ):
            plain.load_state_dict(parameters, strict=False)
            result = plain(batch, mask=mask, reset=reset, state=state)
            plain.zero_grad()
            if result.loss.requires_grad:
                result.loss.backward()
            state = {name: v for name, v in result.state.items() if not name.startswith("credit.")}
            differs += len(state) < len(result.state)
            named = dict(plain.named_parameters())
            expected.append({n: torch.zeros_like(p) if p.grad is None else p.grad.clone() for n, p in named.items()})
        names = sorted(expected[0])
        assert_matches(only(names, own), only(names, expected), "gradient of", 1e-12)
        assert not any(name.startswith("credit.") for name in _last_state(given))
    assert differs


def _last_state(given: Stream) -> Mapping[str, Tensor]:
    model = compile_spec(given.case.text, dtype=torch.float64)
    return model(given.batches[0]).state


def test_reset_is_told_from_accept() -> None:
    """Mutant: traces that should be dropped are not, and the other way round."""
    apart = 0
    for given in streams("rtrl"):
        kept = learned(given, given.case.text)
        dropped = learned(given, given.case.text.replace("rtrl", "rtrl(drift=reset)"))
        apart += any(not torch.allclose(a[n], b[n]) for a, b in zip(kept, dropped, strict=True) for n in a)
    assert apart > 5


@pytest.mark.parametrize("rule", ["rtrl(drift=decay(0.8))", "columns(drift=decay(0.5))", "uoro(drift=decay(0.7))"])
def test_decay_equals_its_definition(rule: str) -> None:
    checked = 0
    for seed in range(14):
        case = make_case(Draws.seeded(seed), (("default", rule),))
        try:
            rows = case.plan.rows
        except SpecError:
            continue
        if "uoro" in rule:
            assert all(row.verdict != "unbiased" for row in rows)
            continue
        check_rule(case)
        weaker = [row for row in rows if "decay" in row.qualifiers]
        assert all(row.verdict == "biased" and (row.first_dropped_lag or 0) <= 4 for row in weaker)
        checked += len(weaker)
    assert checked > 5 or "uoro" in rule


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ("rtrl(drift=rerun)", "how many steps"),
        ("snap(1, drift=never)", "`drift=never` is no policy"),
        ("columns(drift=decay)", "needs one number"),
        ("rtrl(drift=decay(0))", "needs one number"),
        ("rtrl(drift=0.5)", "is `accept`, `decay(rho)`, `reset` or `rerun(steps)`"),
        ("tbptt(4, drift=reset)", "no argument `drift`"),
    ],
)
def test_policies_that_do_not_exist(rule: str, words: str) -> None:
    with pytest.raises(SpecError) as caught:
        explain(f"recdsl: 1\ninputs: {{x: float}}\nstep: h = tanh(k * h[t-1] + x)\n"
                f"params: {{k: float = 1}}\nloss: {{value: \"mse(h, x)\"}}\ncredit: {rule}\n")  # fmt: skip
    assert [problem.code for problem in caught.value.problems] == ["RD0503"]
    assert words in caught.value.problems[0].text()
