"""Updates that one function makes whole, in blocks of lanes: equal to the torch backend's, one by one."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import pytest
import torch

from recdsl.backends.native import block_nests, build, lower, moves
from recdsl.backends.native.blocks import BlockLearner
from recdsl.errors.runs import RunError
from recdsl.program.ir import Program, Store
from recdsl.program.passes import chained, left
from recdsl.training.online import Online

from .test_online_native import OPTIMIZERS, after, check, learning, many, same

pytestmark = pytest.mark.compiler
UPDATES = 60

LSTM = """recdsl: 1
name: columns
sizes: {column: 4, answer: 2}
inputs: {x: "onehot[5]"}
targets: {y: "class[answer]"}
params:
  Wi, Wf, Wo, Wg: float[column, 5] ~ uniform(-0.5, 0.5)
  ui, uf, uo, ug: float[column] ~ uniform(-0.5, 0.5)
  bi, bf, bo, bg: float[column] ~ uniform(-0.5, 0.5)
  V: float[answer, column] ~ normal(0, 0.3)
  a: float[answer] ~ zeros
step: |
  i = sigmoid(Wi @ x + ui * h[t-1] + bi)
  f = sigmoid(Wf @ x + uf * h[t-1] + bf)
  o = sigmoid(Wo @ x + uo * h[t-1] + bo)
  g = tanh(Wg @ x + ug * h[t-1] + bg)
  c = f * c[t-1] + i * g
  h = o * tanh(c)
  logits = V @ h + a
loss: cross_entropy(logits, y)
credit: columns
data: delayed_recall(delay=2, symbols=2, distractors=2)
train: {online: true, optimizer: adam(lr=1e-2), log: 1000, seed: 3, dtype: float64}
"""
LINEAR = """recdsl: 1
name: linear
sizes: {unit: 6, answer: 2}
inputs: {x: "onehot[5]"}
targets: {y: "class[answer]"}
params:
  W: float[unit, 5] ~ uniform(-0.5, 0.5)
  a, s: float[unit] ~ uniform(-0.5, 0.5)
  V: float[answer, unit] ~ normal(0, 0.3)
step: |
  r = sigmoid(a)
  h = r * h[t-1] + sqrt(1 - r * r) * (W @ x)
  d = h - h[t-3] * s
  logits = V @ tanh(d)
loss: cross_entropy(logits, y)
credit: columns
data: delayed_recall(delay=2, symbols=2, distractors=2)
train: {online: true, optimizer: adam(lr=1e-2), log: 1000, seed: 3, dtype: float64}
"""
TEMPORAL = """recdsl: 1
name: predict
inputs: {x: "float[12]", cumulant: float}
sizes: {unit: 4}
params:
  W: float[unit, 12] ~ normal(0, 0.4)
  u, b: float[unit] ~ uniform(-0.5, 0.5)
  w: float[unit] ~ normal(0, 1)
step: |
  h = tanh(W @ x + u * h[t-1] + b)
  v = w @ h
loss: {value: "td(v, cumulant, discount=0.9)", reduce: sum}
credit: columns
data: trace_patterning(isi=[2, 4], iti=[3, 5], seed=1)
train: {online: true, optimizer: sgd(lr=1e-2), seed: 3, dtype: float64}
"""
MODELS = {"lstm": LSTM, "linear": LINEAR, "temporal": TEMPORAL}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectorised code takes three times as long to compile."""
    monkeypatch.setattr(build, "FLAGS", ("-O0", "-march=native", "-fno-math-errno"))


def checked(text: str, *overrides: str, updates: int = UPDATES) -> Online:
    found = check(text, *overrides, updates=updates)
    assert isinstance(found.learner, BlockLearner)
    return found


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("batch", "columns"), [(1, 8), (3, 16), (2, 6)])
def test_models(model: str, batch: int, columns: int) -> None:
    """One block, several, and a block of as many lanes as there are columns; with resets in every stream."""
    name = "column" if model == "lstm" else "unit"
    checked(MODELS[model], f"train.batch={batch}", f"sizes.{name}={columns}")


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers(optimizer: str) -> None:
    checked(TEMPORAL, f"train.optimizer={optimizer}", "train.lr.w=3e-3", "train.schedule=linear")


@pytest.mark.parametrize("rule", ["snap(1)", "rflo", "none"])
def test_rules(rule: str) -> None:
    checked(LSTM.replace("credit: columns", f"credit: {rule}"), "train.batch=2")


def test_several_losses_and_metrics() -> None:
    losses = 'loss:\n  one: {value: "cross_entropy(logits, y)", weight: 0.5}\n  two: {value: "mse(h, c)", at: last}\n'
    checked(LSTM.replace("loss: cross_entropy(logits, y)\n", losses), "train.metrics=[accuracy]")


def test_the_norm_of_the_gradient_is_recorded() -> None:
    """Of parameters with lanes, and of one that has none."""
    checked(LSTM, "train.log=7", updates=40)
    assert "norm" in after(LSTM, "native", 40, "train.log=7").report()


def test_single_precision() -> None:
    changes = ("train.dtype=float32", "sizes.column=32")
    found = after(LSTM, "native", 100, *changes)
    assert isinstance(found.learner, BlockLearner)
    same(found, after(LSTM, "torch", 100, *changes), 2e-4)


def test_the_number_of_calls_changes_nothing() -> None:
    one, other = (after(LSTM, "native", 100, spacing=n) for n in (7, 100))
    for name, value in one.snapshot()[0].items():
        assert torch.equal(value, other.snapshot()[0][name]), name


def test_what_is_not_finite_is_left_undone() -> None:
    """The same error at the same update, parameters as they were before it."""
    errors: list[str] = []
    for name in ("native", "torch"):
        made = learning(TEMPORAL, name, "train.optimizer=sgd(lr=300)")
        with pytest.raises(RunError) as error:
            many(made, 5_000)
        errors.append(f"{made.step}: {error.value}")
        assert all(bool(torch.isfinite(p).all()) for p in made.module.parameters())
    assert errors[0] == errors[1]


@pytest.mark.parametrize("change", [{"train.clip": "0.5"}, {"train.every": "2"}, {"credit": "columns(window=3)"}])
def test_what_takes_other_loops(change: dict[str, str]) -> None:
    """Gradients that are scaled down first, and updates of several steps."""
    overrides = [f"{key}={value}" for key, value in change.items()]
    found = check(LSTM, *overrides, updates=40)
    assert not isinstance(found.learner, BlockLearner)


def test_sums_that_have_no_room_take_other_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(block_nests, "LARGEST", 8)
    found = check(LSTM, "train.batch=2", "sizes.column=8", updates=20)
    assert not isinstance(found.learner, BlockLearner)


# -- gradients read from what a step leaves ---------------------------------------------------------------------------
READ = {
    "one state": (LSTM, "columns"),
    "under snap(1)": (LSTM, "snap(1)"),
    "two states": (LSTM.replace("V @ h", "V @ (h + c)"), "columns"),
    "a state as it was": (LSTM.replace("V @ h", "V @ h[t-1]"), "columns"),
    "a state twice": (LSTM.replace("V @ h", "V @ (h * h[t-1])"), "columns"),
}
"""A model and its rule."""


@pytest.mark.parametrize(
    ("case", "whole"), [(case, case in ("one state", "under snap(1)", "two states")) for case in READ]
)
def test_gradients_are_read_from_what_is_left(case: str, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where all of a gradient goes through the influences that the step leaves; else from those that entered."""
    text, rule = READ[case]
    found = rewritten(monkeypatch)
    checked(text.replace("credit: columns", f"credit: {rule}"), "train.batch=2", "sizes.column=8", updates=30)
    assert (found[0] == 12) == whole, found


def test_what_is_not_the_gradient_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the first product with an influence passes for the gradient."""
    monkeypatch.setattr(left, "_within", lambda *_: True)
    monkeypatch.setattr(left, "_without", lambda *_: {})
    text, _ = READ["a state twice"]
    with pytest.raises(AssertionError) as error:
        checked(text, "train.batch=2", "sizes.column=8", updates=30)
    assert "BlockLearner" not in str(error.value)


CHAINED = {
    "lstm": (LSTM, "train.batch=2", "sizes.column=8"),
    "one sample, several blocks": (LSTM, "train.batch=1", "sizes.column=16"),
    "an output that is a function of the cell": (LSTM.replace("h = o * tanh(c)", "h = o * c"), "train.batch=2"),
    "what is left moves by momentum": (LSTM, "train.batch=2", "train.optimizer=momentum(lr=1e-2)", "train.log=7"),
}


@pytest.mark.parametrize("case", CHAINED)
def test_influences_are_made_from_each_other(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That on `h` from that on `c`."""
    found = linked(monkeypatch)
    text, *overrides = CHAINED[case]
    checked(text, *overrides, updates=30)
    assert found[0], case


def test_what_is_left_over_by_mistake_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chained, "plus", lambda *_: {})
    with pytest.raises(AssertionError, match="tensor"):
        checked(LSTM, "train.batch=2", "sizes.column=8", updates=30)


def linked(patch: pytest.MonkeyPatch) -> list[bool]:
    """Whether each variant had such an influence."""
    found: list[bool] = []

    def made(program: Program, states: Mapping[str, str]) -> Program:
        line = chained.chained(program, states)
        found.append(line is not program)
        return line

    patch.setattr(lower, "chained", made)
    return found


def rewritten(patch: pytest.MonkeyPatch) -> list[int]:
    """How many gradients of each variant are read so; those of W, u and b are twelve."""
    found: list[int] = []

    def reading(program: Program, gradients: Collection[str], states: Mapping[str, str]) -> Program:
        made = left.read_left(program, gradients, states)
        stores = [stmt for stmt in made.entries[0][1] if isinstance(stmt, Store) and stmt.storage in gradients]
        found.append(sum(stmt.value.startswith("left.") for stmt in stores))
        return made

    patch.setattr(lower, "read_left", reading)
    return found


# -- planted faults ---------------------------------------------------------------------------------------------------
def _edited(pattern: str, by: str) -> Callable[[pytest.MonkeyPatch], None]:
    """A change in the text of the function."""

    def plant(patch: pytest.MonkeyPatch) -> None:
        real = block_nests.write

        def write(*given: Any) -> block_nests.Written:
            made = real(*given)
            text = re.sub(pattern, by, made.text)
            assert text != made.text
            return block_nests.Written(text, made.arguments, made.results)

        patch.setattr(lower, "write", write)

    return plant


FAULTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "sums over samples are forgotten from row to row": _edited(r"(s\d+)\[l\] \+= ", r"\1[l] = "),
    "blocks overwrite sums over lanes": _edited(r"\+= total;\n", "= total;\n"),
    "all blocks are the first": _edited(r"\bg \* (\d+)", r"0 * \1"),
    "the norm is of one block": _edited(r"norm\[l\] \+= ", "norm[l] = "),
    "rows that share entries are apart": lambda patch: patch.setattr(block_nests, "_touch", lambda *_: False),
    "writers stand in front of readers": lambda patch: patch.setattr(block_nests.BlockNests, "_late", lambda _: []),
    "one number for all parameters": lambda patch: patch.setattr(moves, "NUMBERS", 0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    FAULTS[fault](monkeypatch)
    text, size = (LINEAR, "unit") if "writers" in fault else (LSTM, "column")
    with pytest.raises(AssertionError) as error:
        checked(text, "train.batch=2", f"sizes.{size}=16", "train.lr.V=3e-2", "train.log=7", updates=40)
    assert "BlockLearner" not in str(error.value)  # it is the numbers that are wrong
