"""Many online updates in one call of C: equal to the torch backend's, one by one, with the same records of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from recdsl.backends.native import build, online
from recdsl.errors.runs import RunError
from recdsl.training import rules, stretch
from recdsl.training.catalogue import beside
from recdsl.training.loading import load
from recdsl.training.online import Online, trainer
from recdsl.training.pipeline import COMPILER
from recdsl.training.run import setup, train

from .test_online import FORWARD, SPEC, TD
from .test_run import lines

pytestmark = pytest.mark.compiler
UPDATES = 300


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectorised code takes three times as long to compile."""
    monkeypatch.setattr(build, "FLAGS", ("-O0", "-march=native", "-fno-math-errno"))


def learning(text: str, backend: str, *overrides: str) -> Online:
    changes = (*overrides, f"train.backend={backend}", "train.steps=100_000")
    compiled = COMPILER.build(text, changes)
    made = setup(compiled, beside(compiled.spec))
    found = trainer(compiled, made.source, made.binding, made.settings)
    assert isinstance(found, Online)
    return found


def after(text: str, backend: str, updates: int, *overrides: str, spacing: int = 70) -> Online:
    """A trainer behind so many updates, as few calls as may be with `spacing` updates at most."""
    found = learning(text, backend, *overrides)
    while found.step < updates:
        found.updates(min(spacing, updates - found.step))
    return found


def many(made: Online, updates: int) -> None:
    while made.step < updates:
        made.updates(50)


def same(one: Online, other: Online, tolerance: float = 1e-10) -> None:
    """Parameters, optimizer, carried state, records."""
    for name, value in one.module.state_dict().items():
        expected = other.module.state_dict()[name]
        assert torch.allclose(value, expected, rtol=tolerance, atol=tolerance), (name, value - expected)
    mine, theirs = one.snapshot(), other.snapshot()
    assert mine[0].keys() == theirs[0].keys()
    for name, value in mine[0].items():
        assert value.shape == theirs[0][name].shape, name
        assert torch.allclose(value.double(), theirs[0][name].double(), rtol=tolerance, atol=tolerance), name
    assert mine[1]["optimizer"] == theirs[1]["optimizer"]
    assert (mine[1]["step"], mine[1]["feed"]) == (theirs[1]["step"], theirs[1]["feed"])
    records, expected_records = one.report(), other.report()
    assert records == pytest.approx(expected_records, rel=max(1e-8, tolerance), abs=tolerance)


def check(text: str, *overrides: str, updates: int = UPDATES, tolerance: float = 1e-10) -> Online:
    found = after(text, "native", updates, *overrides)
    assert found.learner is not None, found.alone
    same(found, after(text, "torch", updates, *overrides), tolerance)
    return found


OPTIMIZERS = [
    "sgd(lr=1e-2)",
    "sgd(lr=1e-2, momentum=0.9, nesterov=true, weight_decay=1e-3)",
    "momentum(lr=1e-2)",
    "momentum(lr=1e-2, momentum=0.5, nesterov=true, weight_decay=1e-3)",
    "rmsprop(lr=1e-3, eps=1e-3)",
    "rmsprop(lr=1e-3, alpha=0.9, momentum=0.5, weight_decay=1e-2)",
    "adam(lr=1e-3, betas=[0.8, 0.95], eps=1e-4, weight_decay=1e-2)",
    "adamw(lr=1e-3, betas=[0.9, 0.99], eps=1e-6, weight_decay=1e-2)",
    "td_lambda(lr=1e-2, trace=0.8)",
    "td_lambda(lr=1e-3, trace=0.8, normalise=true, keep=0.99)",
    "td_lambda(lr=1e-3, normalise=true, initial=1.0)",
    "idbd(lr=1e-3, meta=1e-2)",
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_optimizers(optimizer: str) -> None:
    """As torch's own, with every option."""
    check(TD % "snap(1)", f"train.optimizer={optimizer}", tolerance=1e-12)


def test_every_option_is_tried() -> None:
    for declared in rules.OPTIMIZERS:
        if declared.name in stretch.SLOTS:
            used = " ".join(text for text in OPTIMIZERS if text.startswith(f"{declared.name}("))
            assert all(f"{option.name}=" in used for option in declared.options), declared.name


@pytest.mark.parametrize(
    "rule", ["columns", "columns(window=3)", "rflo", "tbptt(window=6)", "tbptt(window=6, every=3)", "none"]
)
@pytest.mark.parametrize("shape", [(1, 1), (3, 2)])
def test_rules_with_resets(rule: str, shape: tuple[int, int]) -> None:
    """Sequences of a few steps: nearly every update meets a reset, and most batches end inside a call."""
    every, batch = shape
    check(SPEC % rule, f"train.every={every}", f"train.batch={batch}", "train.clip=0.5")


def test_schedules_and_losses_of_several_kinds() -> None:
    text = SPEC % "columns"
    losses = 'loss:\n  last: {value: "cross_entropy(logits, y)", at: last, weight: 0.5}\n'
    losses += '  some: {value: "cross_entropy(logits, y)", at: every(2)}\n'
    text = text.replace("loss: cross_entropy(logits, y)\n", losses)
    check(text, "train.every=4", "train.schedule=cosine(warmup=100)")


def test_the_shipped_predictor() -> None:
    spec = str(Path(__file__).parent.parent.parent / "specs" / "columnar_td.yaml")
    check(spec, "train.dtype=float64", "sizes.column=3", "train.batch=2", "train.every=2")


def test_single_precision() -> None:
    changes = ("train.dtype=float32", "train.optimizer=adam(lr=1e-3)")
    found = after(TD % "snap(1)", "native", 200, *changes)
    assert found.learner is not None
    same(found, after(TD % "snap(1)", "torch", 200, *changes), 2e-4)


def test_the_number_of_calls_changes_nothing() -> None:
    """To the bit: a resumed run makes other stretches."""
    one, other = (after(FORWARD, "native", 100, "train.every=2", spacing=n) for n in (7, 100))
    for name, value in one.snapshot()[0].items():
        assert torch.equal(value, other.snapshot()[0][name]), name
    assert one.report() == other.report()


def test_a_run_writes_the_same_lines(tmp_path: Path) -> None:
    found = [
        train(FORWARD, [f"train.backend={name}"], root=tmp_path / name, progress="silent")
        for name in ("native", "torch")
    ]
    written = [lines(result.folder) for result in found]
    assert len(written[0]) == len(written[1])
    for mine, theirs in zip(*written, strict=True):
        assert (mine.pop("split"), mine.pop("step")) == (theirs.pop("split"), theirs.pop("step"))
        assert mine == pytest.approx(theirs, rel=1e-8)
    one, other = (load(result.folder).module.state_dict() for result in found)
    for name, value in one.items():
        assert torch.allclose(value, other[name], rtol=1e-10, atol=1e-12), name


def test_what_is_not_finite_is_left_undone(tmp_path: Path) -> None:
    """The same error at the same update, parameters as they were before it."""
    errors: list[str] = []
    for name in ("native", "torch"):
        made = learning(TD % "snap(1)", name, "train.optimizer=sgd(lr=30)")
        with pytest.raises(RunError) as error:
            many(made, 5_000)
        errors.append(f"{made.step}: {error.value}")
        assert all(bool(torch.isfinite(p).all()) for p in made.module.parameters())
        assert made.batch is not None
    assert errors[0] == errors[1]


def test_a_run_notes_why_updates_are_made_one_by_one(tmp_path: Path) -> None:
    changes = ["train.backend=native", "train.optimizer=adagrad()", "train.steps=3"]
    result = train(FORWARD, changes, root=tmp_path, progress="silent")
    assert "one by one: C has no `adagrad`" in (result.folder / "log.txt").read_text()


@pytest.mark.parametrize(
    ("rule", "reason"), [("uoro", "draws random numbers"), ("synthetic(window=4, hidden=3)", "a net answers")]
)
def test_what_is_made_one_by_one(rule: str, reason: str) -> None:
    changes = ["train.every=4"] if "synthetic" in rule else []
    found = after(SPEC % rule, "native", 6, *changes)
    assert found.learner is None
    assert reason in found.alone


def planted(change: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    real: Callable[..., str] = online.read_text

    def read(*path: str) -> str:
        text = real(*path)
        if path[-1] == "online.c":
            assert change[0] in text
            return text.replace(*change)
        return text

    monkeypatch.setattr(online, "read_text", read)


FAULTS = [
    ("due && t == T - 1", "due && t == 0"),
    ("t >= T - o->newest", "1"),
    ("l->w[i] / number", "l->w[i]"),
    ("(u + shift) % ring", "shift % ring"),
    ("const int kind = o->resets[u];", "const int kind = 0;"),
]


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults_of_the_loop(fault: tuple[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    planted(fault, monkeypatch)
    text = (SPEC % "tbptt(window=6)").replace(
        "cross_entropy(logits, y)\n", '{value: "cross_entropy(logits, y)", at: last}\n'
    )
    text = text if "T - 1" in fault[0] else SPEC % "tbptt(window=6)"
    with pytest.raises(AssertionError):
        check(text, "train.every=3", "train.batch=2", updates=60)


@pytest.mark.parametrize(
    ("fault", "optimizer"),
    [
        (("q->count += 1;", ""), "adam(lr=1e-3)"),
        (("ahead ? move + mu * a[i] : a[i]", "a[i]"), "sgd(lr=1e-2, momentum=0.9, nesterov=true)"),
        (("c[4] ? 0 : c[3]", "c[3]"), "adamw(lr=1e-3, weight_decay=0.1)"),
        (("1 - share", "c[1]"), "td_lambda(lr=1e-3, normalise=true)"),
        (("R(1) - alpha *", "R(1) + alpha *"), "idbd(lr=1e-2)"),
        (("r_sqrt(a[i]) + eps", "r_sqrt(a[i] + eps)"), "rmsprop(lr=1e-3)"),
    ],
)
def test_planted_faults_of_optimizers(fault: tuple[str, str], optimizer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    planted(fault, monkeypatch)
    with pytest.raises(AssertionError):
        check(TD % "snap(1)", f"train.optimizer={optimizer}", updates=60)


def test_snapshots_are_not_written_to() -> None:
    """What a checkpoint is made of stays as it is while learning goes on."""
    made = after(FORWARD, "native", 20)
    assert made.learner is not None
    state = dict(made.state or {})
    before = {name: value.clone() for name, value in state.items()}
    made.updates(30)
    assert all(torch.equal(value, before[name]) for name, value in state.items())


@pytest.mark.parametrize("optimizer", [OPTIMIZERS[k] for k in (1, 6, 9, 11)])
def test_rates_of_groups(optimizer: str) -> None:
    found = check(TD % "snap(1)", f"train.optimizer={optimizer}", "train.lr.w=3e-2", "train.schedule=linear")
    assert found.rates["w"] == 3e-2
