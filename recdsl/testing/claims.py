"""Counts claims of exactness on random models: `python -m recdsl.testing.claims --seeds 0:200 --rules rtrl "snap(2)"`.

Each seed is a model (states, skip paths, resets, masks; memories with slots or without bound, cells, running
statistics, states that are kept, temporal differences) and a call of it. For each rule the model is compiled, and the
gradient of every parameter that is called exact is compared with that of full backpropagation, entry by entry; where it
does not take long, all gradients are compared with the rule's definition too. A claim is one entry of one parameter.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from recdsl.backends import find
from recdsl.backends.reference import Reference
from recdsl.credit.plan import CreditPlan, Row
from recdsl.credit.select import state_uses
from recdsl.diagnostics import SpecError
from recdsl.graph.step import StepGraph
from recdsl.testing.additions import Draft, added, draft
from recdsl.testing.cases import moved, random_call
from recdsl.testing.compare import assert_matches
from recdsl.testing.draws import Draws
from recdsl.testing.models import Model, random_model
from recdsl.testing.properties import SpecCase
from recdsl.training.chance import drawn
from recdsl.training.gradcheck import analysed, definition_runs

RULES = (
    "bptt", "none", "tbptt(window=3)", "tbptt(window=4, every=2)", "rtrl", "columns", "columns(window=3)",
    "columns(window=4, every=2)", "snap(1)", "snap(2)", "snap(3)", "snap(2, window=3)", "snap(1, window=4, every=2)",
    "rflo", "rflo(feedback=random)", "eprop", "eprop(feedback=random)", "uoro", "kf_rtrl", "artbp(mean=2)",
    "artbp(mean=3, schedule=decreasing(4))", "synthetic(window=2, hidden=3)", "sab(truncate=2)", "columns(drift=reset)",
    "snap(1, drift=decay(0.9))", "rule(scope=column, read=post)", "rule(scope=support(2), cuts=products)",
    "rule(scope=all, window=3)", "rule(window=4, every=3)", "rule(weights=truncation(2))",
)  # fmt: skip
TOLERANCE = 1e-9
WORK = 60_000
"""Operations of a definition beyond which it is left out."""


@dataclass
class Count:
    """models: drawn. modules: compiled and run. refused: rules that do not fit. exact, others: entries of parameters
    by verdict; uncovered: of those called exact, entries of which the verdict says nothing for the call's mask.
    vanishing: of the exact, those whose gradient is zero. definitions: calls compared with the rule's definition."""

    models: int = 0
    modules: int = 0
    refused: int = 0
    exact: int = 0
    others: int = 0
    uncovered: int = 0
    vanishing: int = 0
    false: int = 0
    definitions: int = 0
    failures: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        return (
            f"{self.models:,} models, {self.modules:,} modules, {self.refused:,} rules refused; "
            f"{self.exact:,} claims of exactness ({self.vanishing:,} of a gradient of 0), {self.false:,} false; "
            f"{self.others:,} entries without the claim, {self.uncovered:,} with one that the mask is outside of; "
            f"{self.definitions:,} definitions; {len(self.failures):,} failures"
        )


@dataclass(frozen=True)
class Drawn:
    """The model of a seed before it has a rule."""

    seed: int
    text: Draft
    graph: StepGraph


def model(seed: int) -> Drawn:
    """The model of a seed, without additions where no loss reaches their parameters."""
    draws = Draws.seeded(seed)
    made = random_model(draws, (), draws.chance(25))
    more = added(draws, made)
    try:
        return Drawn(seed, more, analysed(more.text).graph)
    except SpecError:
        plain = draft(made)
        return Drawn(seed, plain, analysed(plain.text).graph)


def credit(made: Drawn, rule: str) -> str:
    """The rule by default; now and then another one for a parameter, and uses that are cut or scaled."""
    draws = Draws.seeded(number(made.seed, rule))
    lines = [f'  "{selector}": {action}' for selector, action in made.text.credit]
    trained = [p.name for p in made.graph.parameters if not p.frozen]
    if trained and draws.chance(15):
        lines.append(f'  "{draws.choose(trained)}": {draws.choose(RULES)}')
    for use in state_uses(made.graph):
        if draws.chance(4):
            lines.append(f'  "{use}": {draws.choose(("cut", "scale(0.5)"))}')
    return "\n".join(["credit:", *lines, f"  default: {rule}", ""])


def number(seed: int, rule: str) -> int:
    """The same in every process."""
    return int.from_bytes(f"{seed} {rule}".encode(), "big") % (2**61 - 1)


def compiled(made: Drawn, rule: str) -> Any:
    """Raises SpecError where the rule does not fit."""
    return analysed(made.text.text + credit(made, rule))


def call(made: Drawn, compilation: Any) -> SpecCase:
    """A random call, the same for all rules. Half of the incoming states come from an earlier call."""
    draws = Draws.seeded(made.seed + 1)
    graph, plan = compilation.graph, compilation.plan
    bare = random_call(draws, Model("", graph, (), smooth=False))
    params = {**bare.params, **moved(plan, made.seed)}
    case = SpecCase(bare.model, params, bare.batch, bare.mask, bare.reset, None, {}, bare.gaps, plan)
    return replace(case, state=_earlier(case)) if bare.state is not None else case


def _earlier(case: SpecCase) -> dict[str, Tensor]:
    """The state that a call with the same inputs leaves."""
    oracle = Reference(case.graph, CreditPlan((), ()))
    return oracle.run(case.params, case.batch, case.mask, case.reset).state


def check(made: Drawn, rule: str, count: Count) -> None:
    """One rule on one model. Raises whatever goes wrong, but SpecError."""
    try:
        compilation = compiled(made, rule)
    except SpecError:
        count.refused += 1
        return
    case = call(made, compilation)
    module: Any = find("torch").module(compilation, torch.float64)
    module.load_state_dict(dict(case.params), strict=False)
    steps, samples = next(iter(case.batch.values())).shape[:2]
    torch.manual_seed(made.seed)
    chance = drawn(case.graph, case.plan, module, steps, samples)
    torch.manual_seed(made.seed)
    result = module(case.batch, mask=case.mask, reset=case.reset, state=case.state)
    if result.loss.requires_grad:
        result.loss.backward()
    count.modules += 1
    named = dict(module.named_parameters())
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in named.items() if p.requires_grad}
    oracle = Reference(case.graph, case.plan, weights=chance.weights, signs=chance.signs)
    given = (case.params, case.batch, case.mask, case.reset, case.state)
    whole = oracle.full(*given).gradients
    if not all(bool(value.isfinite().all()) for value in whole.values()):
        return
    for row in case.plan.rows:
        _claim(row, case, found, whole, count)
    if work(case.graph, case.plan, int(steps)) <= WORK:
        expected = oracle.run(*given)
        assert_matches({"": result.loss}, {"": expected.loss}, "loss", TOLERANCE)
        assert_matches(found, expected.gradients, "gradient of", TOLERANCE)
        count.definitions += 1


def _claim(row: Row, case: SpecCase, found: dict[str, Tensor], whole: dict[str, Tensor], count: Count) -> None:
    if row.verdict == "frozen":
        return
    wanted = whole[row.parameter]
    if row.verdict != "exact":
        count.others += wanted.numel()
    elif case.gaps and "unmasked" in row.qualifiers:
        count.uncovered += wanted.numel()
    else:
        count.exact += wanted.numel()
        count.vanishing += int((wanted == 0).sum())
        apart = (found[row.parameter] - wanted).abs() > TOLERANCE * (1 + wanted.abs().max())
        if bool(apart.any()):
            count.false += int(apart.sum())
            raise AssertionError(f"{row.parameter} is said to be exact")


def work(graph: StepGraph, plan: CreditPlan, steps: int) -> int:
    """Operations of the definition, roughly."""
    runs = [run for routing in plan.classes for run in definition_runs(graph, routing, steps)]
    return sum(times for times, _ in runs) * steps * len(graph.nodes)


def run(seeds: range, rules: Sequence[str], budget: float = 0.0) -> Count:
    """All rules on the models of all seeds; what fails is noted with what repeats it. budget: seconds (0: no end)."""
    count, began = Count(), time.monotonic()
    for seed in seeds:
        if budget and time.monotonic() - began > budget:
            _say(f"the time is up before seed {seed}")
            break
        made = model(seed)
        count.models += 1
        for rule in rules:
            try:
                check(made, rule, count)
            except Exception as error:
                text = f'--seeds {seed}:{seed + 1} --rules "{rule}": {type(error).__name__}: {error}'
                count.failures.append(text)
                _say(text)
    return count


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where something failed."""
    parser = argparse.ArgumentParser(prog="python -m recdsl.testing.claims", description=__doc__)
    parser.add_argument("--seeds", default="0:20", help="first:behind the last")
    parser.add_argument("--rules", nargs="+", default=RULES, help="as in `credit:`; all kinds of rules by default")
    parser.add_argument("--seconds", type=float, default=0.0, help="begin no further model after so long")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    first, last = map(int, given.seeds.split(":"))
    count = run(range(first, last), given.rules, given.seconds)
    _say(str(count))
    return 1 if count.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
