"""Several rules on one spec: how good their gradients are over lags, what they cost, and how they learn."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from recdsl.backends import find
from recdsl.diagnostics import SpecError
from recdsl.driver import Compilation, analyse
from recdsl.errors.runs import RunError
from recdsl.training import lags
from recdsl.training.backend import built, chosen
from recdsl.training.batches import Place, Request
from recdsl.training.binding import Binding, bind_data
from recdsl.training.catalogue import beside, open_data
from recdsl.training.gradcheck import alike, measurable, random, stir
from recdsl.training.online import trainer
from recdsl.training.pipeline import COMPILER, spans
from recdsl.training.run import seed_all, setup
from recdsl.training.settings import settings
from recdsl.training.spending import Spent, learn, spent

Tensors = dict[str, Tensor]
STEPS, SEEDS = 48, 6
LONGEST = 60.0
"""Seconds for the lags of one rule, which are left out if they would take longer."""
SLOWEST = 6.0
"""Seconds for a call; a rule is left out if it takes longer."""
LARGEST_BYTES = 4 * 2**30
SMALLEST = 1e-6
"""Lags where full BPTT has less than this share of its largest part are left out: nothing is learned from them."""
ROUNDING = 1e-14
"""Entries smaller than this share of the largest part are differences of rounding."""
POINTS = 60


@dataclass(frozen=True)
class AtLag:
    """The part of the gradient at one lag, against that of full BPTT.

    share: what full BPTT has there, as a share of the norm of its largest part; nothing else has a meaning without it.
    error: |part - full part| / |full part|. cosine, ratio (of norms), signs (share of entries that agree, among those
    where full BPTT has any).
    """

    lag: int
    share: float
    error: float
    cosine: float
    ratio: float
    signs: float


@dataclass(frozen=True)
class Contender:
    """One rule. verdicts: how many parameters have which. curve: (updates, mean training loss since the last point).

    error, cosine, ratio, signs: of the gradient of the whole call. seconds: of training. note: what was left out.
    """

    rule: str
    verdicts: dict[str, int]
    error: float
    cosine: float
    ratio: float
    signs: float
    lags: tuple[AtLag, ...]
    cost: Spent | None
    curve: tuple[tuple[int, float], ...] = ()
    seconds: float = 0.0
    note: str = ""


@dataclass(frozen=True)
class Comparison:
    """All rules on one batch: its steps and samples, the steps of the losses that were looked at, and its source.

    refused: rules that the model cannot have, with the reason.
    """

    name: str
    steps: int
    batch: int
    losses: tuple[int, ...]
    data: str
    rows: tuple[Contender, ...]
    refused: dict[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True)
class Question:
    """What to compare. train: updates of each rule (0: none). say: is told what is being done."""

    spec: str
    overrides: Sequence[str]
    rules: Sequence[str]
    steps: int | None = None
    batch: int = 8
    seed: int = 0
    train: int = 0
    trust: bool = False
    say: Callable[[str], None] = lambda _text: None


@dataclass(frozen=True)
class Ground:
    """What all rules stand on: parameters and batch in float64, the losses to look at, full BPTT's answer."""

    params: Tensors
    batch: Tensors
    losses: tuple[int, ...]
    whole: Tensors
    parts: lags.Parts


def compare(question: Question) -> Comparison:
    """Measure every rule. Raises SpecError if the spec is wrong, or if no rule fits it; CannotMeasure;
    RunError where it trains.
    """
    full = analyse(question.spec, [*question.overrides, "credit=bptt"])
    measurable(full.graph)
    made, refused, first = _contenders(question)
    if not made:
        assert first is not None
        raise first
    where = beside(full.spec, question.trust)
    batch, data = example(full, question, where)
    question.say("full backpropagation through time")
    ground = _ground(full, batch, question)
    rows: list[Contender] = []
    for rule, compilation in made.items():
        question.say(rule)
        rows.append(_measured(rule, compilation, ground, question))
    steps, samples = next(iter(batch.values())).shape[:2]
    return Comparison(full.graph.name, steps, samples, ground.losses, data, tuple(rows), refused)


def _contenders(question: Question) -> tuple[dict[str, Compilation], dict[str, str], SpecError | None]:
    """Rules that fit, and why others do not."""
    made: dict[str, Compilation] = {}
    refused: dict[str, str] = {}
    first: SpecError | None = None
    for rule in question.rules:
        try:
            made[rule] = analyse(question.spec, [*question.overrides, f"credit={rule}"])
        except SpecError as error:
            first = first or error
            refused[rule] = error.problems[0].text()
    return made, refused, first


# -- the batch ---------------------------------------------------------------------------------------------------------
def example(made: Compilation, question: Question, where: Place) -> tuple[Tensors, str]:
    """A batch in float64 and where it is from: the end of one of the spec's data, or random numbers."""
    if made.spec.data is not None:
        try:
            found = _from_data(made, question, where)
        except (RunError, SpecError):
            found = None
        if found is not None:
            return found
    draws = Generator().manual_seed(question.seed)
    steps = question.steps or STEPS
    return {item.name: random(item, steps, question.batch, draws) for item in made.graph.inputs}, "random numbers"


def _from_data(made: Compilation, question: Question, where: Place) -> tuple[Tensors, str] | None:
    """None where sequences have unequal lengths: steps that are left out would blur what a lag is."""
    name, source = open_data(made.spec, where)
    fields = bind_data(made.graph.inputs, name, source, spans(made.spec))
    batch = source.draw(Request("train", question.batch, question.seed)).next()
    call = Binding(made.graph.inputs, fields, torch.float64).call(batch, "0")
    uneven = (call.mask is not None and not call.mask.all()) or (call.reset is not None and call.reset[1:].any())
    if uneven:
        return None
    steps = question.steps or STEPS
    return {key: value[-steps:] for key, value in call.tensors.items()}, f"a batch of {name}"


def _ground(full: Compilation, batch: Tensors, question: Question) -> Ground:
    """The reference of all comparisons."""
    model: Any = find("torch").module(full, torch.float64)
    stir(model, Generator().manual_seed(question.seed))
    params = {name: value.clone() for name, value in model.state_dict().items()}
    steps = len(next(iter(batch.values())))
    chosen = tuple(lags.seeds(full.graph, steps, SEEDS))
    return Ground(params, batch, chosen, lags.gradients(model, batch), lags.by_lag(full, params, batch, chosen))


# -- one rule ----------------------------------------------------------------------------------------------------------
def _measured(rule: str, made: Compilation, ground: Ground, question: Question) -> Contender:
    """Everything about one rule."""
    verdicts: dict[str, int] = {}
    for row in made.plan.rows:
        verdicts[row.verdict] = verdicts.get(row.verdict, 0) + 1
    model: Any = find("torch").module(made, torch.float64)
    model.load_state_dict({**model.state_dict(), **ground.params})  # a rule may own matrices
    reason = _too_much(made, model, ground)
    if reason:
        none = float("nan")
        return Contender(rule, verdicts, none, none, none, none, (), None, note=f"left out: {reason}")
    torch.manual_seed(question.seed)
    began = time.perf_counter()
    total = _against(flat(lags.gradients(model, ground.batch)), flat(ground.whole))
    taken = time.perf_counter() - began
    profile, note = _profile(made, ground, taken)
    if "unbiased" in verdicts:
        note = note or "one draw for the whole gradient; over lags the mean of all draws"
    cost = spent(_as_trained(made, ground), _single(ground.batch))
    curve, seconds = _learning(rule, question) if question.train else ((), 0.0)
    return Contender(rule, verdicts, *total, profile, cost, curve, seconds, note)


def _too_much(made: Compilation, model: Any, ground: Ground) -> str:
    """Why a rule is not measured at this size, or "". A call of two steps tells how long the others take."""
    steps, samples = next(iter(ground.batch.values())).shape[:2]
    size = 2 * samples * sum(row.bytes for row in made.plan.rows)
    if size > LARGEST_BYTES:
        return f"it needs about {size / 2**30:.1f} GiB; use smaller sizes (sizes.NAME=...)"
    short = {name: value[:2] for name, value in ground.batch.items()}
    began = time.perf_counter()
    learn(model, short)
    took = (time.perf_counter() - began) * steps / len(next(iter(short.values())))
    return f"a call takes about {took:.0f} s; use smaller sizes (sizes.NAME=...)" if took > SLOWEST else ""


def _profile(made: Compilation, ground: Ground, taken: float) -> tuple[tuple[AtLag, ...], str]:
    """The comparison at each lag; nothing where that would take too long. taken: seconds of one whole call."""
    calls = len(ground.losses) * (min(ground.losses) + 1)
    if calls * taken / 2 > LONGEST:
        return (), f"lags left out: they would take about {calls * taken / 2:.0f} s"
    if any(routing.spared for routing in made.plan.classes):
        return (), "lags left out: windows that spare a memory cut at certain steps of a call, whatever the lag"
    parts = lags.by_lag(made, ground.params, ground.batch, ground.losses)
    whole = [flat(part) for part in ground.parts]
    most = max(float(part.norm()) for part in whole)
    found: list[AtLag] = []
    for lag, (mine, theirs) in enumerate(zip(parts, whole, strict=True)):
        share = float(theirs.norm()) / most if most else 0.0
        if share > SMALLEST:
            got, expected = _rounded(flat(mine), ROUNDING * most), _rounded(theirs, ROUNDING * most)
            found.append(AtLag(lag, share, *_against(got, expected)))
    return tuple(found), ""


def flat(gradient: dict[str, Tensor]) -> Tensor:
    """All parameters' entries in one row, in the order of their names."""
    return torch.cat([gradient[name].reshape(-1) for name in sorted(gradient)])


def _rounded(gradient: Tensor, least: float) -> Tensor:
    """Zeros for what is smaller."""
    return torch.where(gradient.abs() < least, torch.zeros_like(gradient), gradient)


def _against(got: Tensor, whole: Tensor) -> tuple[float, float, float, float]:
    """(error, cosine, ratio, signs) of a gradient; signs where the whole one is not zero."""
    norm = float(whole.norm())
    cosine, ratio, _ = alike(got, whole)
    counted = whole != 0
    signs = float((got.sign() == whole.sign())[counted].double().mean()) if bool(counted.any()) else 1.0
    return float((got - whole).norm()) / norm if norm else 0.0, cosine, ratio, signs


def _as_trained(made: Compilation, ground: Ground) -> Any:
    """A module in single precision on the spec's backend, which is what training takes."""
    model: Any = built(made, torch.float32, chosen(made))
    model.load_state_dict({**model.state_dict(), **{name: _float(value) for name, value in ground.params.items()}})
    return model


def _single(batch: Tensors) -> Tensors:
    return {name: _float(value) for name, value in batch.items()}


def _float(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


# -- learning ----------------------------------------------------------------------------------------------------------
def _learning(rule: str, question: Question) -> tuple[tuple[tuple[int, float], ...], float]:
    """The training loss over some updates from the spec's own beginning. Raises SpecError and RunError."""
    changes = [*question.overrides, f"credit={rule}", f"train.steps={question.train}"]
    compiled = COMPILER.build(question.spec, changes)
    ready = setup(compiled, beside(compiled.spec, question.trust))
    seed_all(settings(compiled.spec)["seed"])
    worker = trainer(compiled, ready.source, ready.binding, ready.settings)
    every = max(1, question.train // POINTS)
    found: list[tuple[int, float]] = []
    while worker.step < question.train:
        worker.update()
        if worker.step % every == 0:
            found.append((worker.step, worker.report()["loss"]))
    return tuple(found), worker.seconds
