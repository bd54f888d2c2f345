"""Online learning: the data is a stream (or several side by side) and every few observations make an update.

Each update calls the module on the next `every` steps with the state that the last call left, traces included. Under
a rule that looks back further than that, the last observations are kept and replayed with the current parameters from
the state that was before them; only the newest `every` steps' losses count (semantics 4.2: overlapping windows). So it
is under `drift=rerun(steps)`: the traces of these steps are made anew, from those that were before them (5.1).
"""

from __future__ import annotations

import math
import time
from array import array
from collections import deque
from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn

from recdsl.training import guard, stretch
from recdsl.training.batches import Batch, Source
from recdsl.training.binding import Binding
from recdsl.training.checkpoint import Checkpoint
from recdsl.training.feed import Feed, Steps, joined, part
from recdsl.training.loop import Trainer, carried, split_names
from recdsl.training.metrics import Tally, measure
from recdsl.training.optim import factor
from recdsl.training.pipeline import Compiled
from recdsl.training.settings import Settings

State = Mapping[str, Tensor]
MOST = 1_000
"""Updates in one call: Ctrl-C waits for its end."""


def trainer(compiled: Compiled, source: Source, binding: Binding, settings: Settings) -> Trainer:
    """The trainer that `train:` asks for."""
    kind = Online if settings["online"] else Trainer
    return kind(compiled.module, source, binding, settings, stages=compiled.stages)


def windows(module: nn.Module, every: int) -> list[tuple[int, int]]:
    """What of a compiled module looks back further than one update, windows and steps that are run again under
    `drift=rerun`, as (size, every)."""
    about: Mapping[str, Any] = getattr(module, "recdsl_about", {})
    again = [(-(-steps // every) * every, every) for steps in about.get("reruns", ())]
    return [(size, step) for size, step in (*about.get("grids", ()), *again) if size > every]


def replayed(found: list[tuple[int, int]], every: int) -> int:
    """How many steps each update runs: `every`, or so many that the newest of them see whole windows; 0 if windows and
    updates do not fall together."""
    if not found:
        return every
    size, spacing = max(size for size, _ in found), math.lcm(*(step for _, step in found))
    steps = -(-size // spacing) * spacing
    uneven = any(step % every or size % every for size, step in found)
    return 0 if uneven or steps > 2 * size else steps


def looks_behind(module: nn.Module) -> bool:
    """Whether gradients go back to the step before the newest ones: of the last prediction that a `td` loss corrects,
    under rules that do not carry it along."""
    about: Mapping[str, Any] = getattr(module, "recdsl_about", {})
    temporal = any("after" in info for info in about.get("losses", ()))
    return temporal and bool(set(about["gradients"]) - set(about["traced"]))


class Online(Trainer):
    """See the module's text. `seen` holds the steps that can be replayed, `states` the state before each of them.

    learner: what makes many updates at once. alone: why they are made one by one, where that is known. apart: whether
    some were since the learner's last ones.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        self.every: int = self.settings["every"]
        steps = replayed(windows(self.module, self.every), self.every)
        self.kept = max(1, steps // self.every) + looks_behind(self.module)
        self.feed = Feed(self.sampler, self.binding, self.source.continues)
        self.seen: deque[Steps] = deque(maxlen=self.kept)
        self.states: deque[State | None] = deque(maxlen=self.kept)
        self.counted: Tensor | None = None
        self.pending = Pending()
        self.losses, self.told = (0.0, 0), 0
        self.blocks: deque[tuple[int, Tally]] = deque()
        self.learner: stretch.Learner | None = None
        self.apart = False

    def _train(self, module: nn.Module) -> None:
        super()._train(module)
        name = self.settings.optimizer.name
        wanting = "the backend makes one update a call" if not hasattr(module, "recdsl_learner") else ""
        self.learner, self.alone = None, wanting or ("" if name in stretch.SLOTS else f"C has no `{name}`")

    def _enter(self, update: int) -> None:
        super()._enter(update)
        self.states = deque((carried(self.module, state) for state in self.states), maxlen=self.kept)

    # -- many updates ----------------------------------------------------------------------------------------------
    def updates(self, most: int) -> None:
        """As many updates as the backend makes at once; the first ones, and what it cannot do, are made one by one."""
        ahead = [edge - self.step for edge in self.stages.boundaries if edge >= self.step]
        count = min([most, MOST, *ahead])
        made = self._learner() if count else None
        if made is None:
            self.update()
        else:
            began = time.perf_counter()
            self._stretch(made, count)
            self.seconds += time.perf_counter() - began

    def _learner(self) -> stretch.Learner | None:
        """None where updates are made one by one."""
        if self.learner is None and not self.alone and self.state is not None and len(self.seen) == self.kept:
            shape = stretch.Shape(self.kept * self.every, self.every, self.seen[-1].shape[1], self.kept - 1)
            try:
                known = stretch.Known(self.named, self.optimizer, self.rates)
                self.learner = stretch.learner(self.module, self.settings, known, shape)
            except (stretch.NotLoweredError, stretch.BuildError) as error:
                self.alone = str(error)
        if self.learner is None or self.feed.masked() or any(steps.mask is not None for steps in self.seen):
            return None
        return self.learner

    def _stretch(self, made: stretch.Learner, count: int) -> None:
        """Some updates in one call. One that would not be finite is left to `_update`, which says what is wrong."""
        if hasattr(self.sampler, "learned"):  # it is told of each batch before it draws the next one
            count = min(count, max(1, self.feed.left // self.every))
        chunks = self.feed.take(count * self.every)
        if chunks.mask is not None:
            self._one_by_one(chunks, 0, count)
            return
        before = [*self.seen][1:]
        stream = joined((*before, chunks)) if before else chunks
        states = [state for state in (*self.states, self.state)[-self.kept :] if state is not None]
        steps, log = self.settings["steps"], self.settings["log"]
        shares = array("d", [factor(self.settings.schedule, self.step + k, steps) for k in range(count)])
        rates = [self.rate * share for share in shares]
        due = bytearray((self.step + k + 1) % log == 0 for k in range(count))
        if self.apart:
            stretch.recount(made, self.settings, self.named, self.optimizer)
            self.apart = False
        done = made.learn(stretch.Stretch(stream.tensors, stream.reset, states, shares, due))
        if done.count:
            self._done(done, rates, due, stream)
            stretch.counted(made, self.settings, self.named, self.optimizer)
        if done.count < count:
            self.learner = None
            self._one_by_one(chunks, done.count, count)

    def _done(self, done: stretch.Done, rates: list[float], due: bytearray, stream: Steps) -> None:
        """Take over what some updates have left, as `_update` does for one."""
        about: Mapping[str, Any] = getattr(self.module, "recdsl_about", {})
        tally, names = self.tally, [info["name"] for info in about["losses"]]
        tally.extend("loss", done.losses)
        for k, name in enumerate(names if len(names) > 1 else ()):
            tally.extend(f"loss.{name}", done.parts[k])
        clipped = self.settings["clip"] is not None
        tally.extend("norm", [norm for norm, wanted in zip(done.norms, due, strict=False) if wanted or clipped])
        tally.extend("lr", rates[: done.count])
        self.losses = reduce(add, done.losses, self.losses[0]), self.losses[1] + done.count
        start = (self.kept - 1) * self.every
        if self.settings.metrics:
            newest = part(stream, start, start + done.count * self.every)
            self.pending.add({m.output for m in self.settings.metrics}, done.outputs, newest)
        first = (done.count - 1) * self.every
        for k in range(self.kept):
            self.seen.append(part(stream, first + k * self.every, first + (k + 1) * self.every))
            self.states.append(done.states[k])
        self.state = done.states[-1]
        self.step += done.count
        self.batch = self.feed.batch
        self._told()

    def _one_by_one(self, chunks: Steps, first: int, count: int) -> None:
        for k in range(first, count):
            steps = part(chunks, k * self.every, (k + 1) * self.every)
            flags = [None if flag is None else flag.cpu().numpy() for flag in (steps.mask, steps.reset)]
            self.batch = Batch({name: value.cpu().numpy() for name, value in steps.tensors.items()}, *flags)
            self.seen.append(steps)
            self.states.append(self.state)
            self._update(self.seen[0] if self.kept == 1 else joined(tuple(self.seen)))
            self.step += 1

    # -- one update ------------------------------------------------------------------------------------------------
    def _next(self) -> Steps:
        self.seen.append(self.feed.take(self.every))
        self.states.append(self.state)
        self.batch = self.feed.batch
        return self.seen[0] if self.kept == 1 else joined(tuple(self.seen))

    def _update(self, call: Steps) -> None:
        if not self.module.training:
            self.module.train()
        self.optimizer.zero_grad(set_to_none=True)
        output = self._run(call)
        loss = guard.check_output(output.loss, output.outputs, self.step, self.last_good)
        output.loss.backward()
        due, clip = (self.step + 1) % self.settings["log"] == 0, self.settings["clip"]
        norm = guard.clip(self.named, clip, self.step, self.last_good) if due or clip is not None else None
        rate = self._advance(loss)
        self.state = {name: value.detach() for name, value in output.state.items()}
        self.apart = True
        self._note(call, output, loss, norm, rate)
        self.losses = self.losses[0] + loss, self.losses[1] + 1
        self._told()

    def _told(self) -> None:
        """Tell a curriculum how well batches that are used up went."""
        if self.feed.used > self.told:
            self.told = self.feed.used
            self.tell(self.losses[0] / self.losses[1])
            self.losses = 0.0, 0

    def _run(self, call: Steps) -> Any:
        """Call the module; only the newest steps count."""
        steps, samples = call.shape
        given: dict[str, Any] = {"mask": call.mask, "reset": call.reset, "state": self.states[0]}
        if steps > self.every:
            if self.counted is None or self.counted.shape[0] != steps:
                self.counted = torch.zeros((steps, samples), dtype=torch.bool, device=self.binding.device)
                self.counted[-self.every :] = True
            given["counted"] = self.counted
        return self.module(call.tensors, **given)

    def _note(self, call: Steps, output: Any, loss: float, norm: float | None, rate: float) -> None:
        tally = self.tally
        tally.add("loss", loss, 1)
        if len(output.losses) > 1:
            for name, value in output.losses.items():
                tally.add(f"loss.{name}", float(value), 1)
        if norm is not None:
            tally.add("norm", norm, 1)
        tally.add("lr", rate, 1)
        if self.settings.metrics:
            newest = self.seen[-1]
            outputs = {name: value.detach()[-self.every :] for name, value in output.outputs.items()}
            self.pending.add({m.output for m in self.settings.metrics}, outputs, newest)

    def report(self) -> dict[str, float]:
        """Running means: of the updates since the last report."""
        self.pending.fold(self.settings, self.tally)
        self.blocks.append((self.step, self.tally))
        while self.blocks[0][0] <= self.step - self.settings["recent"]:
            self.blocks.popleft()
        return super().report()

    def recent(self) -> dict[str, float]:
        """The online error: means over the last `recent` updates, in whole reports."""
        whole = Tally()
        parts = [tally for _, tally in self.blocks]
        rest = Tally(dict(self.tally.sums), dict(self.tally.counts))
        self.pending.copy().fold(self.settings, rest)
        for tally in (*parts, rest):
            for name, total in tally.sums.items():
                whole.add(name, total, tally.counts[name])
        return {name: value for name, value in whole.means().items() if name not in ("norm", "lr")}

    # -- snapshots -------------------------------------------------------------------------------------------------
    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, rest = super().snapshot()
        rest["feed"], rest["losses"] = self.feed.state(), list(self.losses)
        rest["blocks"] = [[step, tally.sums, tally.counts] for step, tally in self.blocks]
        rest["seen"] = [state is not None for state in self.states]
        for k, (steps, state) in enumerate(zip(self.seen, self.states, strict=True)):
            tensors |= _flat(f"seen/{k:04d}", steps)
            tensors |= {f"past/{k:04d}/{name}": value for name, value in (state or {}).items()}
        tensors |= self.pending.tensors()
        return tensors, rest

    def restore(self, checkpoint: Checkpoint) -> None:
        super().restore(checkpoint)
        self.learner = None
        state, parts, device = checkpoint.state, split_names(checkpoint.tensors), self.binding.device
        self.feed.restore(state["feed"])
        self.losses = float(state["losses"][0]), int(state["losses"][1])
        self.blocks = deque((step, Tally(dict(sums), dict(counts))) for step, sums, counts in state["blocks"])
        seen, past = ({n: t.to(device) for n, t in parts.get(name, {}).items()} for name in ("seen", "past"))
        for name, steps in sorted(split_names(seen).items()):
            self.seen.append(_deep(steps))
            self.states.append(split_names(past).get(name))
        self.pending = Pending.of({n: t.to(device) for n, t in parts.get("pending", {}).items()})


class Pending:
    """Outputs and targets whose metrics are still to be measured, all at once."""

    def __init__(self) -> None:
        self.outputs: dict[str, list[Tensor]] = {}
        self.steps: list[Steps] = []

    def add(self, names: set[str], outputs: Mapping[str, Tensor], steps: Steps) -> None:
        for name in names:
            self.outputs.setdefault(name, []).append(outputs[name])
        self.steps.append(steps)

    def fold(self, settings: Settings, tally: Tally) -> None:
        """Measure what is there, and forget it."""
        if self.steps:
            steps = joined(self.steps)
            outputs = {name: torch.cat(values) for name, values in self.outputs.items()}
            measure(settings.metrics, outputs, steps.tensors, steps.mask, tally)
        self.outputs, self.steps = {}, []

    def copy(self) -> Pending:
        made = Pending()
        made.outputs, made.steps = {name: list(values) for name, values in self.outputs.items()}, list(self.steps)
        return made

    def tensors(self) -> dict[str, Tensor]:
        if not self.steps:
            return {}
        outputs = {f"pending/output/{name}": torch.cat(values) for name, values in self.outputs.items()}
        return outputs | _flat("pending/steps", joined(self.steps))

    @staticmethod
    def of(tensors: Mapping[str, Tensor]) -> Pending:
        """What `tensors` took apart, without its first name."""
        made, parts = Pending(), split_names(tensors)
        if parts:
            made.outputs = {name: [value] for name, value in parts["output"].items()}
            made.steps = [_deep(parts["steps"])]
        return made


def _flat(name: str, steps: Steps) -> dict[str, Tensor]:
    flags = {f"{name}/{flag}": value for flag, value in (("mask", steps.mask), ("reset", steps.reset))}
    return {f"{name}/field/{key}": value for key, value in steps.tensors.items()} | {
        key: value for key, value in flags.items() if value is not None
    }


def _deep(tensors: Mapping[str, Tensor]) -> Steps:
    fields = {name.partition("/")[2]: value for name, value in tensors.items() if name.startswith("field/")}
    return Steps(fields, tensors.get("mask"), tensors.get("reset"))
