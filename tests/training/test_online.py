"""Learning from a stream: what an update is, windows that are replayed, running means, resumption to the bit."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from recdsl.diagnostics import SpecError
from recdsl.driver import compile as compile_spec
from recdsl.driver import explain
from recdsl.training import checkpoint
from recdsl.training.catalogue import beside
from recdsl.training.loading import load
from recdsl.training.online import Online, replayed, trainer
from recdsl.training.pipeline import COMPILER
from recdsl.training.run import Result, setup, train

from .test_run import Stopping, bits, lines

SPEC = """recdsl: 1
name: recall
sizes: {label: 5, hidden: 4, answer: 2}
inputs: {x: "onehot[label]"}
targets: {y: "class[answer]"}
step: |
  h = indrnn(x, size=hidden)
  logits = linear(h, size=answer)
loss: cross_entropy(logits, y)
credit: %s
data: delayed_recall(delay=2, symbols=2, distractors=2)
train: {online: true, steps: 60, optimizer: adam(lr=1e-2), log: 7, checkpoint: 20, seed: 3, dtype: float64}
"""
FORWARD, REVERSE = SPEC % "columns", SPEC % "tbptt(window=6)"


def run(text: str, root: Path, *overrides: str, **options: Any) -> Result:
    return train(text, overrides, root=root, progress="silent", **options)


def online(text: str, *overrides: str) -> Online:
    compiled = COMPILER.build(text, overrides)
    made = setup(compiled, beside(compiled.spec))
    found = trainer(compiled, made.source, made.binding, made.settings)
    assert isinstance(found, Online)
    return found


def stream(text: str, steps: int, *overrides: str) -> Any:
    """The next steps of the data, as a trainer sees them."""
    return online(text, *overrides).feed.take(steps)


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("batch", [1, 4])
def test_updates_are_calls_on_the_next_steps(every: int, batch: int) -> None:
    """By hand: one module call an update, the state carried, Adam."""
    changes = (f"train.every={every}", f"train.batch={batch}")
    made, data = online(FORWARD, *changes), stream(FORWARD, 12 * every, *changes)
    module: Any = compile_spec(FORWARD, dtype=torch.float64)
    adam, state = torch.optim.Adam(module.parameters(), lr=1e-2), None
    for k in range(12):
        made.update()
        rows = slice(k * every, (k + 1) * every)
        given = {name: value[rows] for name, value in data.tensors.items()}
        adam.zero_grad()
        output = module(given, state=state, reset=data.reset[rows])
        output.loss.backward()
        adam.step()
        state = output.state
    for name, value in made.module.state_dict().items():
        assert torch.equal(value, module.state_dict()[name]), name


@pytest.mark.parametrize(("window", "every"), [(6, 1), (6, 2), (6, 3), (4, 4), (4, 8)])
def test_windows_are_replayed(window: int, every: int) -> None:
    """By hand: the last `window` steps again, from the state that was before them, the newest `every` counted."""
    text = SPEC % f"tbptt(window={window})"
    made, data = online(text, f"train.every={every}"), stream(text, 10 * every)
    module: Any = compile_spec(text, dtype=torch.float64)
    adam, states = torch.optim.Adam(module.parameters(), lr=1e-2), [None]
    for k in range(1, 11):
        made.update()
        back = max(1, window // every)
        first = max(0, k - back)
        rows = slice(first * every, k * every)
        given = {name: value[rows] for name, value in data.tensors.items()}
        counted = torch.zeros(next(iter(given.values())).shape[:2], dtype=torch.bool)
        counted[-every:] = True
        adam.zero_grad()
        output = module(given, state=states[first], reset=data.reset[rows], counted=counted)
        output.loss.backward()
        adam.step()
        states.append(output.state)
    for name, value in made.module.state_dict().items():
        assert torch.allclose(value, module.state_dict()[name], rtol=0, atol=1e-14), name


TD = """recdsl: 1
name: predict
inputs: {x: "float[12]", cumulant: float}
sizes: {unit: 4}
params: {w: "float[unit] ~ normal(0, 1)"}
step: |
  h = elman(x, size=unit)
  v = w @ h
loss: {value: "td(v, cumulant, discount=0.9)", reduce: sum}
credit: %s
data: trace_patterning(isi=[2, 4], iti=[3, 5], seed=1)
train: {online: true, optimizer: sgd(lr=1e-300), seed: 3, dtype: float64}
"""


@pytest.mark.parametrize(
    ("rule", "every"),
    [
        ("tbptt(window=4, every=1)", 1),
        ("tbptt(window=4)", 4),
        ("tbptt(window=4, every=2)", 2),
        ("none", 1),
        ("none", 3),
        ("columns", 1),
        ("columns", 4),
    ],
)
def test_updates_sum_up_to_the_rule(rule: str, every: int) -> None:
    """Temporal differences: while parameters stand still, updates make the gradient of one long call.

    With windows as long as an update, or that end where it does; others see more of the past than the rule asks for.
    """
    made, data = online(TD % rule, f"train.every={every}"), stream(TD % rule, 24)
    total: dict[str, torch.Tensor] = {}
    for _ in range(24 // every):
        made.update()
        for name, p in made.module.named_parameters():
            total[name] = total.get(name, torch.zeros_like(p)) + (0 if p.grad is None else p.grad)
    whole: Any = compile_spec(TD % rule, dtype=torch.float64)
    whole.load_state_dict(made.module.state_dict())
    whole(data.tensors, reset=data.reset).loss.backward()
    for name, p in whole.named_parameters():
        torch.testing.assert_close(total[name], p.grad, rtol=1e-9, atol=1e-12)


def test_windows_and_updates_fall_together() -> None:
    assert replayed([], 3) == 3
    assert replayed([(6, 6)], 2) == 6
    assert replayed([(5, 2)], 1) == 6
    assert replayed([(4, 4), (8, 8)], 2) == 8
    assert replayed([(6, 6)], 4) == 0
    assert replayed([(7, 7), (9, 9)], 1) == 0
    with pytest.raises(SpecError) as caught:
        online(REVERSE, "train.every=4")
    assert caught.value.problems[0].code == "RD0617"
    assert "6 steps" in str(caught.value)


@pytest.mark.parametrize("text", [FORWARD, REVERSE], ids=["forward", "reverse"])
@pytest.mark.parametrize("changes", [(), ("train.every=3", "train.batch=2", "train.clip=0.5", "train.log=4")])
def test_resume_after_any_step_is_the_same_run(tmp_path: Path, text: str, changes: tuple[str, ...]) -> None:
    changes = (*changes, "train.steps=12")
    whole = run(text, tmp_path / "whole", *changes)
    for step in (1, 2, 5, 7, 11):
        stopping = Stopping(step, signal.SIGINT, COMPILER)
        first = train(text, changes, root=tmp_path / "part", progress="silent", compiler=stopping.compiler())
        assert (first.step, first.status) == (step, 130)
        second = run(text, tmp_path / "part", resume=str(first.folder))
        assert bits(second.checkpoint) == bits(whole.checkpoint)
        assert lines(second.folder) == lines(whole.folder)


@pytest.mark.parametrize("part", ["seen", "past", "pending", "feed", "blocks"])
def test_whatever_a_checkpoint_forgets_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    whole = run(REVERSE, tmp_path / "a", "train.steps=12", "train.log=5")
    stopping = Stopping(7, signal.SIGINT, COMPILER)
    changes = ("train.steps=12", "train.log=5")
    first = train(REVERSE, changes, root=tmp_path / "b", progress="silent", compiler=stopping.compiler())
    real = Online.restore

    def forgetful(self: Online, found: checkpoint.Checkpoint) -> None:
        _, fresh = self.snapshot()
        kept = {name: value for name, value in found.tensors.items() if not name.startswith(f"{part}/")}
        if part == "past":
            kept |= {n: torch.zeros_like(v) for n, v in found.tensors.items() if n.startswith("past/")}
        state = {**found.state, **({part: fresh[part]} if part in fresh and part != "seen" else {})}
        real(self, checkpoint.Checkpoint(found.path, found.step, kept, state))

    monkeypatch.setattr(Online, "restore", forgetful)
    second = run(REVERSE, tmp_path / "b", resume=str(first.folder))
    assert (bits(second.checkpoint), lines(second.folder)) != (bits(whole.checkpoint), lines(whole.folder))


def test_running_means(tmp_path: Path) -> None:
    """Lines are means since the last one, and the online error is one over the last updates."""
    done = run(FORWARD, tmp_path, "train.log=10", "train.recent=20", "train.metrics=[accuracy, bits]")
    found = [json.loads(line) for line in (done.folder / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["split"]) for line in found] == [(k, "train") for k in range(10, 61, 10)] + [
        (60, "online")
    ]
    assert done.test == done.valid == {}
    for name in ("loss", "accuracy", "bits"):
        means = [line[name] for line in found if line["split"] == "train"]
        assert done.online[name] == pytest.approx((means[-1] + means[-2]) / 2)
    assert found[0]["bits"] == pytest.approx(found[0]["loss"] / 0.6931471805599453)


def test_evaluations_with_frozen_parameters(tmp_path: Path) -> None:
    done = run(FORWARD, tmp_path, "train.evaluate=30", "train.evaluation_batches=3")
    assert {line["split"] for line in lines(done.folder)} == {"train", "online", "valid", "test"}
    assert done.test["loss"] > 0
    without = run(FORWARD, tmp_path)
    assert without.online == done.online


def test_it_learns(tmp_path: Path) -> None:
    text = FORWARD.replace("delay=2", "delay=1").replace("hidden: 4", "hidden: 16")
    changes = ("train.steps=1500", "train.batch=4", "train.dtype=float32", "train.recent=200", "train.log=100")
    done = run(text, tmp_path, *changes, "train.checkpoint=0", "train.optimizer=adam(lr=2e-2)")
    first = json.loads((done.folder / "metrics.jsonl").read_text().splitlines()[0])
    assert done.online["loss"] < 0.6 * first["loss"]


COLUMNAR = """recdsl: 1
name: columnar-lstm
sizes: {obs: 12, column: 64}
inputs: {x: "float[obs]", cumulant: float}
params:
  Wi, Wf, Wo, Wg: float[column, obs] ~ uniform(-0.1, 0.1)
  ui, uf, uo, ug: float[column] ~ uniform(-0.1, 0.1)
  bi, bf, bo, bg: float[column] = 0
  w: float[column] = 0
step: |
  i = sigmoid(Wi @ x + ui * h[t-1] + bi)
  f = sigmoid(Wf @ x + uf * h[t-1] + bf)
  o = sigmoid(Wo @ x + uo * h[t-1] + bo)
  g = tanh(Wg @ x + ug * h[t-1] + bg)
  c = f * c[t-1] + i * g
  h = o * tanh(c)
  v = w @ h
loss: td(v, cumulant, discount=0.9)
credit: columns
data: trace_patterning(seed=3)
train:
  online: true
  steps: 1_000_000
  optimizer: td_lambda(lr=1e-3, trace=0.99)
"""


def test_the_example_of_the_language_runs_as_written(tmp_path: Path) -> None:
    done = run(COLUMNAR, tmp_path, "train.steps=120", "train.log=40")
    assert {row.verdict for row in explain(COLUMNAR).rows} == {"exact"}
    assert done.online["loss"] >= 0
    model = load(done.folder).module
    assert model.get_parameter("w").abs().max() > 0


def by_hand(text: str, data: Mapping[str, torch.Tensor], steps: int) -> Iterator[tuple[float, dict[str, torch.Tensor]]]:
    """delta and e at each step from the second on: e decays on arrival, then takes up the prediction's gradient."""
    plain = text.replace("td(v, cumulant, discount=0.9)", "mse(v, cumulant)").replace("columns\n", "bptt\n")
    network: Any = compile_spec(plain[: plain.index("data:")], dtype=torch.float64)
    traces = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    before = 0.0
    for t in range(steps):
        v = network({name: data[name][: t + 1] for name in ("x", "cumulant")}).outputs["v"][-1, 0]
        if t:
            yield float(data["cumulant"][t, 0] + 0.9 * v.detach() - before), dict(traces)
        network.zero_grad()
        v.backward()
        traces = {name: 0.9 * 0.99 * traces[name] + p.grad for name, p in network.named_parameters()}
        before = float(v.detach())


def test_updates_are_those_of_td_lambda() -> None:
    """At a rate so small that weights stand still: each update is rate * delta * e, with e by full backpropagation."""
    changes = ("train.dtype=float64", "sizes.column=3", "train.lr=1e-9", "data.isi=[2, 3]", "data.iti=[3, 4]")
    text = COLUMNAR.replace("w: float[column] = 0", "w: float[column] = 1").replace("column: 64", "column: 3")
    worker = online(text, *changes)
    data = stream(text, 25, *changes).tensors
    first = {name: p.detach().clone() for name, p in worker.module.named_parameters()}
    total = {name: torch.zeros_like(p) for name, p in first.items()}
    for delta, traces in by_hand(text, data, 25):
        total = {name: value + delta * traces[name] for name, value in total.items()}
    for _ in range(25):
        worker.update()
    for name, p in worker.module.named_parameters():
        moved = (p.detach() - first[name]) / 1e-9
        assert torch.allclose(moved, total[name], rtol=1e-4, atol=1e-6), name
