"""Compares online updates that the backends make: `python -m recdsl.testing.streams --seeds 0:200`.

Each seed is a model whose entries along one axis meet in sums alone (`columnar.py`; some are those of `models.py`), its
rules, an optimizer with options, rates and a schedule, and a stream of several rows in which sequences begin anew. The
`native` backend makes many updates in one call of C, in stretches of uneven length; `torch` makes them one at a time.
Parameters, what the optimizer keeps, states with traces, losses and norms must be the same in float64 behind the last
one. Where learning itself enlarges rounding, a third run, from parameters that differ in their last digits, says so.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from recdsl.backends.native import build
from recdsl.backends.native.blocks import BlockLearner
from recdsl.backends.native.values import NotLoweredError
from recdsl.diagnostics import SpecError
from recdsl.errors.runs import RunError
from recdsl.graph.step import Input
from recdsl.testing.additions import added, draft
from recdsl.testing.columnar import Columnar
from recdsl.testing.draws import Draws
from recdsl.testing.models import Model, finished, random_model
from recdsl.training import stretch
from recdsl.training.arrays import np
from recdsl.training.batches import Array, Batch, Source, keyed
from recdsl.training.binding import Binding
from recdsl.training.declare import Field
from recdsl.training.gradcheck import analysed
from recdsl.training.online import Online
from recdsl.training.pipeline import COMPILER, Compiled
from recdsl.training.settings import settings

TOLERANCE = 1e-10
NUDGE = 1e-14
"""By which share parameters differ in the run that measures how learning enlarges rounding."""
RULES = (
    "columns", "columns", "columns", "snap(1)", "snap(1)", "snap(2)", "rflo", "rtrl", "none", "eprop",
    "rule(scope=column, read=post)", "columns(drift=decay(0.9))", "snap(1, drift=decay(0.5))", "columns(drift=reset)",
    "rflo(feedback=random)", "eprop(filter=none)", "columns(window=2)", "tbptt(window=2)", "tbptt(window=1)",
)  # fmt: skip
OPTIMIZERS = (
    "sgd(lr=1e-2)", "sgd(lr=1e-2, momentum=0.9, nesterov=true, weight_decay=1e-3)", "sgd(lr=3e-2, weight_decay=1e-2)",
    "momentum(lr=1e-2)", "rmsprop(lr=1e-3, eps=1e-3)", "rmsprop(lr=1e-3, alpha=0.9, eps=1e-3, momentum=0.5)",
    "adam(lr=1e-3, eps=1e-4)", "adam(lr=1e-3, betas=[0.8, 0.95], eps=1e-4, weight_decay=1e-2)",
    "adamw(lr=1e-3, betas=[0.9, 0.99], eps=1e-4, weight_decay=1e-2)",
)  # fmt: skip
TEMPORAL = (
    "td_lambda(lr=1e-2, trace={})", "td_lambda(lr=1e-3, trace={}, normalise=true, keep=0.99, initial=1.0)",
    "td_lambda(lr=1e-3, trace={}, normalise=true, initial=0.5)",
)  # fmt: skip
SCHEDULES = ("constant", "linear(warmup=20)", "cosine", "step(every=37, factor=0.5)")


@dataclass(frozen=True)
class Learning:
    """What a run is: a spec, overrides, and how its stream is drawn. steps: of a batch. resets, masks: how often a row
    begins anew, and whether steps are left out. spacing: of the stretches, in turn."""

    seed: int
    text: str
    changes: tuple[str, ...]
    steps: int
    resets: float
    masks: bool
    continues: bool
    spacing: tuple[int, ...]


@dataclass
class Tally:
    """learners: runs by what made their updates. sensitive: runs in which rounding grows beyond the tolerance."""

    updates: int = 0
    refused: int = 0
    sensitive: int = 0
    learners: Counter[str] = field(default_factory=Counter[str])
    failures: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        lines = [f"{count} runs: {name}" for name, count in self.learners.most_common()]
        runs = f"{self.learners.total():,} runs, {self.refused:,} models refused, {self.updates:,} updates"
        return "\n".join([*lines, f"{runs}; {self.sensitive:,} sensitive; {len(self.failures):,} failures"])


def learning(seed: int) -> Learning:
    """The run of a seed."""
    draws = Draws.seeded(seed)
    kind = draws.below(10)
    single, temporal = kind == 0, kind in (0, 1, 2)
    if kind == 9:
        model = random_model(draws, (), draws.chance(25))
    else:
        model = finished(draws, Columnar(draws, temporal, scalar=single).write(), ())
    text = _text(draws, model, single)
    batch = 1 if single else draws.choose((1, 1, 2, 3, 5))
    optimizer = _optimizer(draws, model, single)
    changes = [f"train.optimizer={optimizer}", f"train.batch={batch}", "train.online=true", "train.dtype=float64"]
    changes += [f"train.seed={draws.below(100)}", f"train.schedule={draws.choose(SCHEDULES)}", "train.steps=400"]
    changes += [f"train.log={draws.choose((7, 50, 1_000))}"]
    trained = [p.name for p in model.graph.parameters if not p.frozen]
    changes += [f"train.lr.{draws.choose(trained)}={draws.choose(('3e-3', '1e-2'))}"] if draws.chance(40) else []
    if not single:
        changes += [f"train.every={draws.between(2, 3)}"] if draws.chance(8) else []
        changes += ["train.clip=0.5"] if draws.chance(8) else []
    resets, masks = draws.choose((0.0, 0.0, 0.02, 0.2)), not single and draws.chance(5)
    spacing = tuple(draws.choose((1, 2, 3, 7, 20, 60, 150)) for _ in range(4))
    return Learning(seed, text, tuple(changes), draws.choose((1, 5, 40, 200)), resets, masks, draws.chance(60), spacing)


def _text(draws: Draws, model: Model, single: bool) -> str:
    """The model with some of what `additions.py` has, if it still compiles, and the first drawn rules that fit."""
    plain, more = draft(model), draft(model)
    if not single and draws.chance(25):
        more = added(draws, model)
    rules = [_credit(draws, model) for _ in range(3)]
    for made, lines in [(made, lines) for lines in (*rules, ["  default: snap(1)"]) for made in (more, plain)]:
        own = [f'  "{selector}": {rule}' for selector, rule in made.credit]
        text = made.text + "\n".join(["credit:", *own, *lines, ""])
        try:
            analysed(text)
            return text
        except SpecError:
            continue
    return plain.text


def _credit(draws: Draws, model: Model) -> list[str]:
    trained = [p.name for p in model.graph.parameters if not p.frozen]
    own = [f'  "{name}": {draws.choose(RULES[:11])}' for name in trained if draws.chance(12)]
    return [*own, f"  default: {draws.choose(RULES)}"]


def _optimizer(draws: Draws, model: Model, single: bool) -> str:
    traces = {loss.td.trace for loss in model.graph.losses if loss.td is not None}
    if single and not any(traces):
        return draws.choose(("idbd(lr=1e-3, meta=1e-2)", "idbd(lr=1e-2, meta=1e-1)"))
    if any(traces) or (traces and draws.chance(40)):
        return draws.choose(TEMPORAL).format(max(traces))
    return draws.choose(OPTIMIZERS)


# -- data -------------------------------------------------------------------------------------------------------------
def source(made: Learning, inputs: Sequence[Input]) -> Source:
    """A stream of noise that has what the inputs want."""

    def batch(rng: Any, rows: int) -> Batch:
        shape = (made.steps, rows)
        reset = None if not made.resets else rng.random(shape) < made.resets
        mask = None if not made.masks or rng.random() < 0.5 else rng.random(shape) < 0.8
        return Batch({item.name: _noise(item, shape, rng) for item in inputs}, mask, reset)

    fields = tuple(_field(item) for item in inputs)
    return Source(fields, keyed(batch), continues=made.continues)


def _noise(item: Input, shape: tuple[int, int], rng: Any) -> Array:
    if item.kind in ("class", "token", "onehot"):
        return rng.integers(0, item.size, shape)
    if item.kind == "bool":
        return rng.random(shape) < 0.5
    whole = (*shape, *item.type.shape)
    return np.where(rng.random(whole) < 0.2, 0.0, rng.standard_normal(whole))


def _field(item: Input) -> Field:
    kind = "label" if item.kind in ("class", "token", "onehot") else "bool" if item.kind == "bool" else "float"
    return Field(item.name, kind, "target" if item.target else "input", item.size, item.type.shape)


# -- runs -------------------------------------------------------------------------------------------------------------
def compiled(made: Learning, backend: str) -> Compiled:
    """What is remarked on a random model is no matter here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return COMPILER.build(made.text, (*made.changes, f"train.backend={backend}"))


def trainer(made: Learning, backend: str) -> Online:
    one = compiled(made, backend)
    opened = source(made, one.inputs)
    fields = {item.name: field for item, field in zip(one.inputs, opened.fields, strict=True)}
    binding = Binding(one.inputs, fields, torch.float64)
    return Online(one.module, opened, binding, settings(one.spec), stages=one.stages)


def run(found: Online, updates: int, spacing: Sequence[int]) -> str:
    """Make the updates; what ended them before."""
    k = 0
    try:
        while found.step < updates:
            found.updates(min(spacing[k % len(spacing)], updates - found.step))
            k += 1
    except RunError as error:
        return f"{found.step}: {error}"
    return ""


def nudged(made: Learning, updates: int) -> Online:
    """The run on `torch` from parameters that are a little off."""
    found, draws = trainer(made, "torch"), torch.Generator().manual_seed(made.seed)
    with torch.no_grad():
        for _, value in found.named:
            value.mul_(1 + NUDGE * torch.randn(value.shape, generator=draws, dtype=value.dtype))
    run(found, updates, (1,))
    return found


def left(found: Online) -> dict[str, Tensor]:
    """All numbers that a run leaves: tensors of its snapshot, and its records."""
    tensors, rest = found.snapshot()
    apart = ("random", "seen")  # seen: the last inputs, of which one backend may keep a mask of ones
    kept = {name: value.double() for name, value in tensors.items() if not name.startswith(apart)}
    sums, counts = rest["tally"]
    numbers = {f"record {name}": torch.tensor([total, counts[name]]).double() for name, total in sums.items()}
    return kept | numbers | {"step": torch.tensor(float(found.step))}


def apart(one: dict[str, Tensor], other: dict[str, Tensor]) -> tuple[float, str]:
    """The largest difference, in units of the largest entry of a tensor where that is above 1, and its name."""
    assert one.keys() == other.keys(), f"{sorted(one.keys() ^ other.keys())} in one alone"
    worst = (0.0, "")
    for name, value in one.items():
        wanted = other[name]
        assert value.shape == wanted.shape, f"{name}: {list(value.shape)} instead of {list(wanted.shape)}"
        if not value.numel() or torch.equal(value, wanted):
            continue
        scale = 1.0 + float(wanted.nan_to_num(0.0, 0.0, 0.0).abs().max())
        off = float((value - wanted).abs().max()) / scale
        worst = max(worst, (float("inf") if off != off else off, name))
    return worst


def check(seed: int, updates: int, tally: Tally) -> Online | None:
    """One run on both backends. Raises AssertionError where they differ."""
    made = learning(seed)
    try:
        native = trainer(made, "native")
    except SpecError:
        tally.refused += 1
        return None
    expected = trainer(made, "torch")
    ends = [run(native, updates, made.spacing), run(expected, updates, (1,))]
    tally.learners[maker(native)] += 1
    tally.updates += native.step
    off, name = apart(left(native), left(expected))
    if off > TOLERANCE or ends[0] != ends[1]:
        grown, _ = apart(left(nudged(made, updates)), left(expected))
        assert off <= 10 * grown, f"{name}: off by {off:.2e} (rounding grows to {grown:.2e}); {ends}"
        tally.sensitive += 1
    return native


def maker(found: Online) -> str:
    """What made the updates, and why not in blocks."""
    if isinstance(found.learner, BlockLearner):
        return "in blocks"
    if found.learner is None:
        return f"one by one: {found.alone}"
    module: Any = found.module
    update = stretch.described(found.settings, stretch.Known(found.named, found.optimizer, found.rates))
    assert update is not None
    shape = stretch.Shape(found.kept * found.every, found.every, found.seen[-1].shape[1], found.kept - 1)
    try:
        BlockLearner(module, module.recdsl_code.variants, shape, update, [])
    except NotLoweredError as error:
        return f"entry by entry: {error}"
    return "entry by entry"


def sweep(seeds: range, updates: int) -> Tally:
    """All seeds."""
    tally = Tally()
    for seed in seeds:
        try:
            check(seed, updates, tally)
        except Exception as error:
            tally.failures.append(f"--seeds {seed}:{seed + 1}: {type(error).__name__}: {error}")
            _say(tally.failures[-1])
    return tally


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 1 where backends differ."""
    parser = argparse.ArgumentParser(prog="python -m recdsl.testing.streams", description=__doc__)
    parser.add_argument("--seeds", default="0:20", help="first:behind the last")
    parser.add_argument("--updates", type=int, default=200, help="of a run")
    parser.add_argument("--flags", default="-O0 -march=native -fno-math-errno", help="for the C compiler")
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    build.FLAGS = tuple(given.flags.split())
    first, last = map(int, given.seeds.split(":"))
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        tally = sweep(range(first, last), given.updates)
    _say(str(tally))
    return 1 if tally.failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
