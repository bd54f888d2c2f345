"""Counts claims of exactness on random models: `python -m recdsl.testing.claims --seeds 0:200 --rules rtrl "snap(2)"`.

Each seed is a model (states, skip paths, resets, masks; memories with slots or without bound, cells, dense layers,
weights that are absent, running statistics, states that are kept, temporal differences) and two calls of it, a short
and a longer one. For each rule the model is compiled, and the gradient of every parameter that is called exact is
compared with the whole one (`whole.py`), entry by entry; where it does not take long, all gradients are compared with
the rule's definition too. A claim is one entry of one parameter under one rule; it has to hold in both calls.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from recdsl.backends import find
from recdsl.backends.reference import Reference
from recdsl.credit.deferral import least
from recdsl.credit.plan import CreditPlan, Row
from recdsl.credit.select import state_uses
from recdsl.diagnostics import SpecError
from recdsl.graph.step import StepGraph
from recdsl.testing.additions import Draft, added, draft
from recdsl.testing.cases import moved, random_call
from recdsl.testing.compare import assert_matches
from recdsl.testing.draws import Draws
from recdsl.testing.lasting import STORE, followed, stored
from recdsl.testing.models import Model, random_model
from recdsl.testing.properties import SpecCase
from recdsl.testing.whole import assert_differences, differentiable, whole_gradients
from recdsl.training.chance import drawn
from recdsl.training.gradcheck import analysed, definition_runs

RULES = (
    "bptt", "none", "tbptt(window=3)", "tbptt(window=4, every=2)", "tbptt(window=12)", "rtrl", "rtrl(window=1)",
    "rtrl(window=2)", "rtrl(window=5)", "rtrl(window=4, every=2)", "rtrl(drift=accept)", "rtrl(drift=rerun(3))",
    "columns", "columns(window=3)", "columns(window=4, every=2)", "columns(drift=reset)", "columns(drift=rerun(2))",
    "snap(1)", "snap(2)", "snap(3)", "snap(2, window=3)", "snap(1, window=4, every=2)", "snap(1, drift=decay(0.9))",
    "snap(2, drift=rerun(2))", "rflo", "rflo(feedback=random)", "eprop", "eprop(feedback=random)",
    "eprop(filter=none)", "eprop(feedback=random, filter=none)", "uoro", "uoro(drift=reset)", "kf_rtrl",
    "uoro(batch=joint)", "artbp(mean=2)", "artbp(mean=3, schedule=decreasing(4))",
    "synthetic(window=2, hidden=3)", "synthetic(window=3, hidden=0)",
    "synthetic(window=2, hidden=3, learn=bp_lambda(0.7))",
    "sab(truncate=2)", "sab(truncate=2, variant=sliding)", "sab(truncate=4)", "sab(truncate=4, variant=sliding)",
    "rule(scope=column, read=post)", "rule(scope=column, read=post, filter=readout)",
    "rule(scope=support(2), cuts=products)", "rule(scope=all, window=3)", "rule(scope=support(2), read=pre)",
    "rule(window=4, every=3)", "rule(weights=truncation(2))",
    "tbptt(window=2) / tbptt(window=3, every=2) / tbptt(window=6, every=2)",
    "columns(window=3) / tbptt(window=3) / tbptt(window=5, every=3)", "rtrl(window=3) / tbptt(window=3) / bptt",
    "rtrl / snap(1) / columns / tbptt(window=12)", "snap(1, window=2) / rule(scope=all, window=4, every=2) / none",
    "sab(truncate=2) / tbptt(window=2) / sab(truncate=2, variant=sliding)",
    "sab(truncate=2, replay=always)", "sab(truncate=3, variant=sliding, replay=always)",
    "sab(truncate=1, replay=always) / bptt / none",
    "rule(window=2, boundary=memories(replay=always)) / rule(window=4, boundary=memories(sliding)) / bptt",
    "stop & bptt", "stop & tbptt(window=2)",
    "through & bptt", "through & none", "through & tbptt(window=3)", "param(lr=0.1) & bptt",
    "synthetic(hidden=2) & bptt", "reinstate(exact, encode=code, decode=stored) & bptt",
    "reinstate(exact, encode=code, decode=stored) & tbptt(window=2)",
    "reinstate(approximate, encode=code, decode=stored) & bptt",
    "reinstate(exact, encode=code, decode=stored, every=2) & bptt",
    "synthetic(hidden=2, then=reinstate(approximate, encode=code, decode=stored)) & bptt",
)  # fmt: skip
"""As in `credit:`. Of several rules with strokes between them each parameter is dealt one; the last is `default`. What
stands in front of an ampersand is for a store that lasts as long as the model: that is another model of the seed."""
SINGLE = tuple(rule for rule in RULES if " / " not in rule and " & " not in rule)
TOLERANCE = 1e-9
SHORT, LONGER = (1, 9), (10, 24)
"""Steps of the two calls."""
WORK = 12_000
"""Operations of a short call's definition beyond which it is left out."""


@dataclass
class Count:
    """models: drawn. modules: compiled and run. refused: rules that do not fit. exact, others: entries of parameters
    by verdict; uncovered: of those called exact, entries of which the verdict says nothing for the calls' masks.
    vanishing: of the exact, those whose gradient is zero. definitions: calls compared with the rule's definition.
    deferred: longer calls whose traces go from window to window.
    parted: calls that were run in pieces. differences: entries compared with differences."""

    models: int = 0
    modules: int = 0
    refused: int = 0
    exact: int = 0
    others: int = 0
    uncovered: int = 0
    vanishing: int = 0
    false: int = 0
    definitions: int = 0
    deferred: int = 0
    parted: int = 0
    differences: int = 0
    failures: list[str] = field(default_factory=list[str])
    rules: dict[str, Count] = field(default_factory=dict[str, "Count"])

    def of(self, rule: str) -> Count:
        """The part of one rule."""
        return self.rules.setdefault(rule, Count())

    def add(self, part: Count) -> None:
        """What was counted elsewhere, but by rule."""
        for item in fields(Count):
            if item.name != "rules":
                setattr(self, item.name, getattr(self, item.name) + getattr(part, item.name))

    def __str__(self) -> str:
        lines = [
            f"{rule}: {own.modules:,} modules, {own.exact:,} claims ({own.vanishing:,} of 0), {own.others:,} without"
            for rule, own in self.rules.items()
        ]
        return "\n".join([*lines, self.summary])

    @property
    def summary(self) -> str:
        """All rules in a line."""
        return (
            f"{self.models:,} models, {self.modules:,} modules, {self.refused:,} rules refused; "
            f"{self.exact:,} claims of exactness ({self.vanishing:,} of a gradient of 0), {self.false:,} false; "
            f"{self.others:,} entries without the claim, {self.uncovered:,} with one that the masks are outside of; "
            f"{self.definitions:,} definitions, {self.deferred:,} calls deferred, "
            f"{self.parted:,} in pieces, {self.differences:,} differences; "
            f"{len(self.failures):,} failures"
        )


@dataclass(frozen=True)
class Drawn:
    """The model of a seed before it has a rule. cases: its calls, with plain backpropagation; whole: their gradients,
    none where a call leaves the domain of an op. All of this is the same for all rules."""

    seed: int
    text: Draft
    graph: StepGraph
    cases: tuple[SpecCase, ...] = ()
    whole: tuple[dict[str, Tensor], ...] = ()


def model(seed: int) -> Drawn:
    """The model of a seed, without additions where no loss reaches their parameters."""
    draws = Draws.seeded(seed)
    made = random_model(draws, (), draws.chance(25))
    more = added(draws, made)
    try:
        found = Drawn(seed, more, analysed(more.text).graph)
    except SpecError:
        plain = draft(made)
        found = Drawn(seed, plain, analysed(plain.text).graph)
    cases = [_case(found, *steps) for steps in (SHORT, LONGER)]
    whole = [(case, whole_gradients(case)) for case in cases]
    kept = [(case, each) for case, each in whole if all(bool(value.isfinite().all()) for value in each.values())]
    return replace(found, cases=tuple(case for case, _ in kept), whole=tuple(each for _, each in kept))


def _case(made: Drawn, shortest: int, longest: int) -> SpecCase:
    """A random call. Half of the incoming states come from an earlier call."""
    draws = Draws.seeded(made.seed + shortest)
    bare = random_call(draws, Model("", made.graph, (), smooth=False), shortest, longest)
    case = SpecCase(bare.model, bare.params, bare.batch, bare.mask, bare.reset, None, {}, bare.gaps, CreditPlan((), ()))
    return replace(case, state=_earlier(case)) if bare.state is not None else case


def _earlier(case: SpecCase) -> dict[str, Tensor]:
    """The state that a call with the same inputs leaves."""
    return Reference(case.graph, case.plan).run(case.params, case.batch, case.mask, case.reset).state


def credit(made: Drawn, rule: str) -> str:
    """The rule by default, or one of several for each parameter; now and then another one for a parameter, and uses
    that are cut or scaled."""
    draws = Draws.seeded(number(made.seed, rule))
    lines = [f'  "{selector}": {action}' for selector, action in made.text.credit]
    trained = [p.name for p in made.graph.parameters if not p.frozen]
    *dealt, default = rule.split(" / ")
    for name in trained:
        one = draws.choose([*dealt, default])
        lines += [f'  "{name}": {one}'] if one != default else []
    if not dealt and trained and draws.chance(15):
        lines.append(f'  "{draws.choose(trained)}": {draws.choose(SINGLE)}')
    for use in state_uses(made.graph):
        if draws.chance(4):
            lines.append(f'  "{use}": {draws.choose(("cut", "scale(0.5)"))}')
    return "\n".join(["credit:", *lines, f"  default: {default}", ""])


def number(seed: int, rule: str) -> int:
    """The same in every process."""
    return int.from_bytes(f"{seed} {rule}".encode(), "big") % (2**61 - 1)


def piece(seed: int, rule: str) -> int:
    """Steps that calls are run in where they are run in pieces, few for every second model; 0: as many as there are."""
    draws = Draws.seeded(number(seed, f"{rule} in pieces"))
    return draws.between(1, 4) if "replay=always" in rule or draws.chance(50) else 0


def compiled(made: Drawn, rule: str) -> Any:
    """Raises SpecError where the rule does not fit."""
    return analysed(made.text.text + credit(made, rule))


def check(made: Drawn, rule: str, count: Count) -> None:
    """One rule on one model. Raises whatever goes wrong, but SpecError."""
    if " & " in rule:
        store, default = rule.split(" & ")
        _check_store(made.seed, store, default, count)
        return
    try:
        compilation = compiled(made, rule)
    except SpecError:
        count.refused += 1
        return
    module: Any = find("torch").module(compilation, torch.float64)
    module.recdsl_chunk = piece(made.seed, rule) or module.recdsl_chunk
    count.modules += 1
    plan = compilation.plan
    covered, zero = set[str](), {row.parameter: True for row in plan.rows}
    for bare, whole in zip(made.cases, made.whole, strict=True):
        case = replace(bare, own=plan, params={**bare.params, **moved(plan, made.seed)})
        found = _run(made, case, module, count)
        for row in plan.rows:
            if row.verdict == "exact" and not (case.gaps and "unmasked" in row.qualifiers):
                covered.add(row.parameter)
                zero[row.parameter] &= not bool(whole[row.parameter].any())
                _hold(row, found, whole, count)
    for row in plan.rows:
        _count(row, made.graph, covered, zero, count)


def _check_store(seed: int, store: str, rule: str, count: Count) -> None:
    """The same for a store that lasts as long as the model, over calls in a row: each claim holds in all of them."""
    made = stored(seed)
    try:
        text = None if made is None else made.text + f'credit: {{{STORE}: "{store}", default: "{rule}"}}\n'
        compilation: Any = None if text is None else analysed(text)
    except SpecError:
        compilation = None
    if made is None or compilation is None:
        count.refused += 1
        return
    module: Any = find("torch").module(compilation, torch.float64)
    count.modules += 1
    plan, zero = compilation.plan, {row.parameter: True for row in compilation.plan.rows}
    for loss, expected, whole in followed(compilation, module, seed):
        assert_matches({"": loss}, {"": expected}, "loss", TOLERANCE)
        for row in plan.rows:
            if row.verdict == "exact":
                got = module.recdsl_tensor(row.parameter).grad
                zero[row.parameter] &= not bool(whole[row.parameter].any())
                _hold(
                    row, {row.parameter: torch.zeros_like(whole[row.parameter]) if got is None else got}, whole, count
                )
    for row in plan.rows:
        _count(row, compilation.graph, {row.parameter for row in plan.rows}, zero, count)


def _run(made: Drawn, case: SpecCase, module: Any, count: Count) -> dict[str, Tensor]:
    """The gradients of a call, compared with their definition. Both draw the same random numbers."""
    with torch.no_grad():
        for name, value in case.params.items():
            module.recdsl_tensor(name).copy_(value)
    module.zero_grad()
    steps, samples = next(iter(case.batch.values())).shape[:2]
    torch.manual_seed(made.seed)
    chance = drawn(case.graph, case.plan, module, steps, samples)
    torch.manual_seed(made.seed)
    result = module(case.batch, mask=case.mask, reset=case.reset, state=case.state)
    if result.loss.requires_grad:
        result.loss.backward()
    first = least(case.plan)
    count.deferred += first is not None and steps >= first
    count.parted += _parted(module, int(steps))
    named = dict(module.named_parameters())
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in named.items() if p.requires_grad}
    if steps < LONGER[0] and work(case.graph, case.plan, int(steps)) <= WORK:
        oracle = Reference(case.graph, case.plan, weights=chance.weights, signs=chance.signs)
        expected = oracle.run(case.params, case.batch, case.mask, case.reset, case.state)
        assert_matches({"": result.loss}, {"": expected.loss}, "loss", TOLERANCE)
        assert_matches(found, expected.gradients, "gradient of", TOLERANCE)
        count.definitions += 1
    return found


def _parted(module: Any, steps: int) -> bool:
    """Whether a call is longer than a piece, of a module whose calls are run in pieces."""
    about, chunk = module.recdsl_about, module.recdsl_chunk
    again = about["again"]
    if again is not None and not again["least"]:
        return steps > max(min(chunk, again["steps"]), again["lag"])
    return bool(about["pieces"]) and steps > chunk


def _hold(row: Row, found: Mapping[str, Tensor], whole: Mapping[str, Tensor], count: Count) -> None:
    """A claim, against the whole gradient.

    What is carried through an unstable model grows, its rounding too: where other gradients are of a size of 1e21, one
    that is 0 comes out as 1e-7.
    """
    wanted = whole[row.parameter]
    largest = max(float(value.abs().max()) for value in whole.values())
    allowed = TOLERANCE * (1 + wanted.abs().max()) + torch.finfo(torch.float64).eps * largest
    apart = ~((found[row.parameter] - wanted).abs() <= allowed) & wanted.isfinite()
    if bool(apart.any()):
        count.false += int(apart.sum())
        raise AssertionError(f"{row.parameter} is said to be exact")


def _count(row: Row, graph: StepGraph, covered: set[str], zero: Mapping[str, bool], count: Count) -> None:
    if row.verdict == "frozen":
        return
    entries = next(item.type.numel for item in graph.parameters if item.name == row.parameter)
    if row.verdict != "exact":
        count.others += entries
    elif row.parameter in covered:
        count.exact += entries
        count.vanishing += entries if zero[row.parameter] else 0
    else:
        count.uncovered += entries


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
        made = _drawn(seed, count)
        if made is None:
            continue
        for rule in rules:
            own = Count()
            try:
                check(made, rule, own)
            except Exception as error:
                _failed(own, f'--seeds {seed}:{seed + 1} --rules "{rule}": {type(error).__name__}: {error}')
            count.add(own)
            count.of(rule).add(own)
    return count


def _drawn(seed: int, count: Count) -> Drawn | None:
    """The model of a seed, with its whole gradients checked where they can be."""
    count.models += 1
    try:
        made = model(seed)
        if made.cases and differentiable(made.graph):
            count.differences += assert_differences(made.cases[0], made.whole[0])
    except Exception as error:
        _failed(count, f"--seeds {seed}:{seed + 1}: {type(error).__name__}: {error}")
        return None
    return made


def _failed(count: Count, text: str) -> None:
    count.failures.append(text)
    _say(text)


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
