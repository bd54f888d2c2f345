"""Stages: what is trained when, constants to the bit outside of it, traces that go on, resumption at boundaries."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from recdsl.canonical import digest
from recdsl.credit.build import plan
from recdsl.diagnostics import SpecError
from recdsl.driver import analyse
from recdsl.driver import compile as compile_spec
from recdsl.graph.build import build
from recdsl.graph.facts import NODES
from recdsl.training.catalogue import beside
from recdsl.training.online import Online, trainer
from recdsl.training.pipeline import COMPILER
from recdsl.training.run import setup, train
from recdsl.training.settings import settings
from recdsl.training.stages import resolved

from .test_run import Stopping, bits, lines

SPEC = """recdsl: 1
name: grows
sizes: {obs: 12, stage: 2}
inputs: {x: "float[obs]", cumulant: float}
targets: {return: float}
params:
  wa, wb: float[stage] = 0
step: |
  a, ca = lstm_columns(x, size=stage)
  fa = normalise(a, rate=0.9)
  b, cb = lstm_columns([x; stop(fa[t-1])], size=stage)
  fb = normalise(b, rate=0.9)
  v = wa @ fa + wb @ fb
loss: td(v, cumulant, discount=0.9)
credit: {default: columns, require: exact}
data: trace_patterning(seed=3, isi=[2, 4], iti=[3, 6])
train:
  online: true
  steps: 40
  optimizer: OPTIMIZER
  stages:
    - train("a.*", until=20)
    - train("b.*", start=20)
    - train(wb, start=20)
  log: 7
  metrics: mse(v, return)
  dtype: float64
"""
TD = SPEC.replace("OPTIMIZER", "td_lambda(lr=0.05, trace=0.9, normalise=true)")
ADAM = SPEC.replace("OPTIMIZER", "adam(lr=0.01)")
REVERSE = ADAM.replace("{default: columns, require: exact}", "tbptt(6)")


def made(text: str, *overrides: str) -> Online:
    compiled = COMPILER.build(text, overrides)
    ready = setup(compiled, beside(compiled.spec))
    found = trainer(compiled, ready.source, ready.binding, ready.settings)
    assert isinstance(found, Online)
    return found


def weights(worker: Online) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in worker.module.state_dict().items()}


@pytest.mark.parametrize("text", [TD, ADAM, REVERSE])
def test_only_the_stage_moves(text: str) -> None:
    worker = made(text)
    values = [weights(worker)]
    for _ in range(40):
        worker.update()
        values.append(weights(worker))
    for name, first in values[0].items():
        moves = {k for k in range(40) if not torch.equal(values[k][name], values[k + 1][name])}
        if name.startswith("a."):
            assert moves, name
            assert max(moves) < 20
        elif name.startswith(("b.", "wb")):
            assert moves, name
            assert min(moves) >= 20
        else:
            assert max(moves) > 20 > min(moves)
        if name == "wb":
            assert not first.any()


def test_a_stage_learns_from_its_first_prediction() -> None:
    """The running mean square is of the updates of the stage, however late it begins: 0 before the first prediction
    that the new weights have made, and then one square."""
    worker = made(TD)
    for _ in range(22):
        worker.update()
    first = torch.tensor(0.05 * 2**0.5, dtype=torch.float64)
    assert torch.allclose(weights(worker)["wb"].abs(), first, rtol=1e-3, atol=0)


def test_traces_of_what_goes_on_are_kept() -> None:
    """Beside a stage that begins or ends, parameters move as if nothing had happened: by one module, frozen by hand."""
    text = TD.replace(", until=20)", ")").replace("    - train(wb, start=20)\n", "").replace("wb @ fb", "0 * wb @ fb")
    staged, plain = made(text), made(text.replace('    - train("b.*", start=20)\n', "").replace("a.*", "a.W*"))
    held = {name: p for name, p in plain.module.named_parameters() if name.startswith("b.")}
    for p in held.values():
        p.requires_grad_(False)
    for _ in range(40):
        staged.update()
        plain.update()
    for name, value in weights(staged).items():
        if name.startswith("a.") or name == "wa":
            assert torch.allclose(value, weights(plain)[name], rtol=0, atol=1e-14), name


@pytest.mark.parametrize("text", [TD, ADAM])
@pytest.mark.parametrize("step", [19, 20, 21, 33])
def test_resume_on_both_sides_of_a_boundary(tmp_path: Path, text: str, step: int) -> None:
    whole = train(text, root=tmp_path / "whole", progress="silent")
    first = train(text, (f"train.steps={step}",), root=tmp_path / "part", progress="silent")
    second = train(text, ("train.steps=40",), root=tmp_path / "part", progress="silent", resume=str(first.folder))
    assert bits(second.checkpoint) == bits(whole.checkpoint)
    kept = [line for line in lines(second.folder) if line["split"] == "train"]
    assert kept == [line for line in lines(whole.folder) if line["split"] == "train"]


def test_interruption_in_the_first_stage(tmp_path: Path) -> None:
    stopping = Stopping(7, signal.SIGINT, COMPILER)
    first = train(TD, root=tmp_path / "part", progress="silent", compiler=stopping.compiler())
    second = train(TD, root=tmp_path / "part", progress="silent", resume=str(first.folder))
    assert bits(second.checkpoint) == bits(train(TD, root=tmp_path / "whole", progress="silent").checkpoint)


def test_each_stage_is_exact_and_costs_what_it_trains() -> None:
    for update, trained in ((0, "a."), (20, "b.")):
        rows = {row.parameter: row for row in analyse(TD, (), update).plan.rows}
        for name, row in rows.items():
            assert row.verdict == (
                "exact" if name.startswith(trained) or name == "wa" or name + str(update) == "wb20" else "frozen"
            )
    late: Any = COMPILER.build(TD, ()).stages.module
    traces = late(20).recdsl_about["traces"]
    assert not any(name.startswith("credit.a.") for name in traces)
    assert {name for name, _ in compile_spec(TD).named_buffers()} >= {"b.Wi", "wb"}


@pytest.mark.parametrize(
    ("stages", "code", "said"),
    [
        (['train("a.*", until=0)'], "RD0603", "at least 1"),
        (['train("a.*", start=9, until=9)'], "RD0619", "ends at update 9"),
        (['train("q.*")'], "RD0620", "there are"),
        (['train("a.*")', 'train("a.Wi")'], "RD0621", "`a.Wi` is in two stages"),
        (['train("*", start=5)'], "RD0622", "update 0"),
        (["tran(a)"], "RD0601", "did you mean `train`"),
        (["3"], "RD0612", "takes a call"),
        (["train()"], "RD0604", "`parameters`"),
    ],
)
def test_problems(stages: list[str], code: str, said: str) -> None:
    start = TD[: TD.index("  stages:")]
    with pytest.raises(SpecError) as caught:
        analyse(start + "  stages:\n" + "".join(f"    - {stage}\n" for stage in stages))
    problem = caught.value.problems[0]
    assert problem.code == code
    assert said in problem.text() + problem.help()
    assert problem.span.line == start.count("\n") + 1 + (2 if code == "RD0621" else 1)


@pytest.mark.parametrize("rule", ["columns", "snap(1)", "rtrl", "tbptt(6)"])
def test_stages_share_nothing_that_depends_on_what_is_trained(rule: str) -> None:
    """The plan of a stage is that of a graph which no other stage has been planned on."""
    text = ADAM.replace("{default: columns, require: exact}", rule)
    for update in (0, 20):
        found = analyse(text, (), update)  # behind the plans of the other stages
        alone = replace(found.graph)
        assert NODES not in vars(alone)
        given = settings(found.spec)
        trained = resolved(given.stages, build(found.spec, {}), given["steps"]).numbers
        made = plan(alone, found.spec.credit, found.spec.require, trained, stream=given["stream"])
        assert digest(made) == digest(found.plan)
