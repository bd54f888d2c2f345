"""Learning rates by group: torch's own optimizers with groups made by hand, resumption, overrides, what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from recdsl.diagnostics import SpecError
from recdsl.driver import analyse
from recdsl.driver import compile as compile_spec
from recdsl.syntax.printer import print_spec
from recdsl.syntax.spec import read_spec
from recdsl.training import rules
from recdsl.training.catalogue import beside
from recdsl.training.checkpoint import load
from recdsl.training.loop import Trainer
from recdsl.training.online import trainer
from recdsl.training.optim import CLASSES
from recdsl.training.pipeline import COMPILER
from recdsl.training.run import setup, train
from recdsl.training.settings import settings

from .test_run import bits, lines

SPEC = """recdsl: 1
name: rates
sizes: {label: 5, hidden: 4, answer: 2}
inputs: {x: "onehot[label]"}
targets: {y: "class[answer]"}
step: |
  h = indrnn(x, size=hidden)
  m = linear(h, size=hidden)
  logits = linear(m, size=answer)
loss: cross_entropy(logits, y)
credit: bptt
data: delayed_recall(delay=2, symbols=2, distractors=2)
train:
  steps: 30
  batch: 4
  optimizer: OPTIMIZER
  lr: {h.*: 3e-2, logits.b: 1e-3, m: 3e-2}
  clip: 0.1
  schedule: linear
  seed: 3
  dtype: float64
  log: 7
"""
ADAM = SPEC.replace("OPTIMIZER", "adam(lr=1e-2)")
OWN = {"h": 3e-2, "logits.W": 1e-2, "logits.b": 1e-3, "m": 3e-2}
"""Learning rates by the beginning of a parameter's name."""


def made(text: str, *overrides: str) -> Trainer:
    compiled = COMPILER.build(text, overrides)
    ready = setup(compiled, beside(compiled.spec))
    return trainer(compiled, ready.source, ready.binding, ready.settings)


def rate(name: str) -> float:
    return next(value for start, value in OWN.items() if name.startswith(start))


@pytest.mark.parametrize("name", sorted(n for n, cls in CLASSES.items() if cls.__module__.startswith("torch.")))
def test_equal_to_groups_made_by_hand(name: str) -> None:
    """Rates, schedule and clipping: the norm is that of all parameters together."""
    declared = next(item for item in rules.OPTIMIZERS if item.name == name)
    options = {o.name: o.default for o in declared.options} | {"lr": 1e-2}
    worker, other = made(SPEC.replace("OPTIMIZER", f"{name}(lr=1e-2)")), made(ADAM)
    module: Any = compile_spec(ADAM, dtype=torch.float64)
    module.load_state_dict(worker.module.state_dict())
    groups: list[dict[str, Any]] = [{"params": [p], "lr": rate(n)} for n, p in module.named_parameters()]
    made_by: Any = CLASSES[name]
    theirs = made_by(groups, **options)
    for step in range(12):
        call = other.binding.call(other.sampler.next(), "")
        theirs.zero_grad()
        module(call.tensors, mask=call.mask).loss.backward()
        norm = torch.cat([p.grad.flatten() for p in module.parameters()]).norm()
        for p in module.parameters():
            p.grad *= min(1.0, float(0.1 / norm))
        for group, (parameter, _) in zip(theirs.param_groups, module.named_parameters(), strict=True):
            group["lr"] = rate(parameter) * (1 - step / 30)
        theirs.step()
        worker.update()
    for key, value in worker.module.state_dict().items():
        assert torch.allclose(value, module.state_dict()[key], rtol=0, atol=1e-12), key


def test_groups_move_at_their_rates() -> None:
    """One step of Adam moves each entry by the rate, to one part in a million."""
    worker = made(ADAM, "train.schedule=constant", "train.clip=none")
    before = {name: p.detach().clone() for name, p in worker.module.named_parameters()}
    worker.update()
    for name, p in worker.module.named_parameters():
        moved = (p.detach() - before[name]).abs()
        assert torch.allclose(moved[moved > 0], torch.tensor(rate(name), dtype=torch.float64), rtol=1e-3), name


@pytest.mark.parametrize("online", [False, True])
def test_resumed_to_the_bit(tmp_path: Path, online: bool) -> None:
    changes = ("train.online=true", "credit=columns", "train.clip=none", "train.backend=torch") if online else ()
    whole = train(ADAM, changes, root=tmp_path / "whole", progress="silent")
    first = train(ADAM, (*changes, "train.schedule=constant", "train.steps=13"), root=tmp_path, progress="silent")
    text, steps = ADAM, (*changes, "train.schedule=constant", "train.steps=30")
    plain = train(text, steps, root=tmp_path / "plain", progress="silent")
    second = train(text, ("train.steps=30",), root=tmp_path, progress="silent", resume=str(first.folder))
    assert bits(second.checkpoint) == bits(plain.checkpoint)
    assert bits(second.checkpoint) != bits(whole.checkpoint)
    assert lines(second.folder)[-1] == lines(plain.folder)[-1]


def test_other_rates_from_a_checkpoint_on(tmp_path: Path) -> None:
    """What the optimizer knows of a parameter stays with it, whatever group it is in."""
    first = train(ADAM, ("train.steps=10",), root=tmp_path, progress="silent")
    found = [made(ADAM, *more) for more in ((), ("train.lr.logits.W=5e-3", "train.lr.m=1e-2"), ("train.lr=3e-2",))]
    slots: list[dict[str, Any]] = []
    for worker in found:
        worker.restore(load(Path(first.checkpoint)))
        slots.append({name: worker.optimizer.state[p]["exp_avg"] for name, p in worker.named})
    assert [len(worker.optimizer.param_groups) for worker in found] == [3, 4, 2]
    for name, value in slots[0].items():
        assert all(torch.equal(value, other[name]) for other in slots), name
        assert value.shape == dict(found[0].named)[name].shape


def test_nets_of_a_rule_are_apart() -> None:
    """Those of `synthetic` keep the default rate, or their own; `h.*` does not name them."""
    worker = made(ADAM.replace("bptt", "synthetic(window=2, hidden=3)"))
    assert {value for name, value in worker.rates.items() if name.startswith("credit.")} == {1e-2}
    assert [len(group.named) for group in worker.groups] == [7, len(worker.named) - 7]


@pytest.mark.parametrize(
    ("given", "overrides", "expected"),
    [
        ("lr: 2e-3", (), (2e-3, {})),
        ("lr: {default: 2e-3}", ("train.lr=5e-3",), (5e-3, {})),
        ("lr: 2e-3", ("train.lr.h.W=5e-3",), (2e-3, {"h.W": 5e-3})),
        ("lr: {h.*: 2e-3}", ("train.lr=5e-3",), (5e-3, {"h.*": 2e-3})),
        ("lr: {h.*: 2e-3}", ("train.lr.h.*=5e-3", "train.lr.default=7e-3"), (7e-3, {"h.*": 5e-3})),
        ("optimizer: sgd(lr=0.5)", ("train.lr.h.*=5e-3",), (0.5, {"h.*": 5e-3})),
        ("optimizer: sgd(lr=0.5)", ("train.lr.default=5e-3", "train.lr.lr=1e-4"), (5e-3, {"lr": 1e-4})),
        ("optimizer: sgd(lr=0.5)\n  lr: {default: 0.5, h: 1e-3}", (), (0.5, {"h": 1e-3})),
    ],
)
def test_read_overridden_and_printed(
    given: str, overrides: tuple[str, ...], expected: tuple[float, dict[str, float]]
) -> None:
    text = ADAM[: ADAM.index("train:")] + f"train:\n  {given}\n"
    spec = read_spec(text, overrides)
    for one in (spec, read_spec(print_spec(spec))):
        found = settings(one)
        assert (found.optimizer.options["lr"], {r.selector: r.value for r in found.rates}) == expected


def test_the_resolved_spec_is_the_same_run(tmp_path: Path) -> None:
    result = train(ADAM, ("train.lr.default=2e-2",), root=tmp_path, progress="silent")
    again = train((result.folder / "resolved.yaml").read_text(), root=tmp_path / "again", progress="silent")
    assert bits(again.checkpoint) == bits(result.checkpoint)


@pytest.mark.parametrize(
    ("rates", "code", "said"),
    [
        ("{dec.*: 1e-3}", "RD0625", "`dec.*` names no parameter"),
        ("{hh.*: 1e-3}", "RD0625", "did you mean `h.*`"),
        ("{credit.*: 1e-3}", "RD0625", "synthetic(lr=1e-3)"),
        ("{fixed: 1e-3}", "RD0625", "frozen"),
        ("{h.*: 1e-3, h.W: 2e-3}", "RD0626", "`h.W` has two learning rates"),
        ("{default: 3e-3}", "RD0626", "by `adam` and by `lr`"),
        ("{h.*: -1e-3}", "RD0603", "a number above 0, not `-1e-3`"),
        ("{h.*: 0}", "RD0603", "a number above 0"),
        ("{h.*: fast}", "RD0603", "not `fast`"),
        ("[1e-3, 1e-2]", "RD0603", "a number above 0"),
        ("{h.*: {W: 1e-3}}", "RD0104", "a learning rate"),
        ('{"h W": 1e-3}', "RD0111", "selector"),
    ],
)
def test_refused(rates: str, code: str, said: str) -> None:
    text = ADAM.replace("{h.*: 3e-2, logits.b: 1e-3, m: 3e-2}", rates)
    text = text.replace("step: |", "params: {fixed: float = 1 frozen}\nstep: |").replace("(m, size", "(fixed * m, size")
    with pytest.raises(SpecError) as caught:
        analyse(text)
    problem = caught.value.problems[0]
    assert problem.code == code
    assert said in problem.text() + problem.help()
    assert problem.span.line == text[: text.index("  lr:")].count("\n") + 1
