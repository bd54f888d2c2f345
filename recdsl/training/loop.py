"""The training loop: what is carried from update to update, one update, an evaluation, a snapshot of it all."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from recdsl.errors.runs import CheckpointMismatch, NothingToTrain, OutOfMemory, RunError
from recdsl.training import guard
from recdsl.training.batches import Batch, Request, Sampler, Source
from recdsl.training.binding import Binding, Call
from recdsl.training.checkpoint import Checkpoint
from recdsl.training.metrics import Tally, measure
from recdsl.training.online_rules import IDBD
from recdsl.training.optim import factor, flatten, optimizer, unflatten
from recdsl.training.pipeline import Stages
from recdsl.training.rates import by_parameter
from recdsl.training.settings import Settings
from recdsl.training.stores import hand_over


class Stopped(Exception):
    """An evaluation was given up half-way, since the run is to end."""


@dataclass(frozen=True)
class Group:
    """Parameters that are clipped together. rate: of those of them that have none of their own in `train: lr`."""

    named: list[tuple[str, nn.Parameter]]
    rate: float


def grouped(module: nn.Module, named: list[tuple[str, nn.Parameter]], rate: float) -> list[Group]:
    """The model's parameters, then those of each net that a credit rule brings along: neither's gradient counts in the
    norm of the other's."""
    about = getattr(module, "recdsl_about", {})
    credits = [info["credit"] for info in about.get("stores", {}).values()]
    nets = [{"parameters": made["net"], "lr": made["lr"]} for made in credits if "net" in made]
    heads = [*about.get("heads", {}).values(), *nets]
    owned = {name for info in heads for name in info["parameters"]}
    made = [Group([item for item in named if item[0] not in owned], rate)]
    for info in heads:
        own = [item for item in named if item[0] in info["parameters"]]
        made.append(Group(own, rate if info["lr"] is None else info["lr"]))
    return made


def split(groups: list[Group], own: Mapping[str, float]) -> list[tuple[float, list[int]]]:
    """Rates, each with the places of its parameters among those of all groups, one group after the other.

    Places do not depend on rates, so a checkpoint fits whatever the rates are.
    """
    found: list[tuple[float, list[int]]] = []
    place = 0
    for group in groups:
        parts: dict[float, list[int]] = {} if group.named else {group.rate: []}
        for name, _ in group.named:
            parts.setdefault(own.get(name, group.rate), []).append(place)
            place += 1
        found += parts.items()
    return found


@dataclass
class Trainer:
    """Everything that a resumed run needs is in here and in nothing else; see `snapshot`.

    batch: the one in work, in training or evaluation. stopping: whether an evaluation is to be given up.
    """

    module: nn.Module
    source: Source
    binding: Binding
    settings: Settings
    step: int = 0
    last_good: str = "none"
    state: Mapping[str, Tensor] | None = None
    tally: Tally = field(default_factory=Tally)
    seconds: float = 0.0
    batch: Batch | None = None
    stopping: Callable[[], bool] = lambda: False
    stages: Stages = field(default_factory=Stages)

    def __post_init__(self) -> None:
        self.rate = float(self.settings.optimizer.options["lr"])
        self._train(self.module)
        self.sampler = self._sampler("train")
        self.tell: Callable[[float], None] = getattr(self.sampler, "learned", lambda _loss: None)
        self.fingerprint = self.source.fingerprint()

    def _train(self, module: nn.Module) -> None:
        """From now on train the parameters of this module."""
        self.module = module
        self.named = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
        if not self.named:
            raise RunError(NothingToTrain())
        self.groups = grouped(module, self.named, self.rate)
        placed = [item for group in self.groups for item in group.named]
        self.parts = split(self.groups, by_parameter(self.settings.rates, [name for name, _ in placed]))
        self.rates = {placed[place][0]: rate for rate, places in self.parts for place in places}
        groups = [{"params": [placed[k][1] for k in places], "lr": rate} for rate, places in self.parts]
        self.optimizer = optimizer(self.settings.optimizer, groups)
        self.order = [place for _, places in self.parts for place in places]

    def _enter(self, update: int) -> None:
        """Begin the stage of an update: a module in which other parameters are trained takes over.

        Those that are trained on keep what the optimizer knows of them. The carried state is kept as far as the new
        module has it; the influence of parameters that were constant until now begins at zero.
        """
        assert self.stages.module is not None
        module = self.stages.module(update).to(self.binding.device)
        module.load_state_dict(self.module.state_dict())
        hand_over(self.module, module)
        before = {name: self.optimizer.state.get(p, {}) for name, p in self.named}
        self._train(module)
        for name, parameter in self.named:
            if before.get(name):
                self.optimizer.state[parameter] = before[name]
        self.state = carried(module, self.state)

    def _sampler(self, split: str) -> Sampler:
        return self.source.draw(self._request(split))

    def _request(self, split: str) -> Request:
        return Request(split, self.settings["batch"], self.settings["seed"], self.settings["stream"])

    # -- one update ------------------------------------------------------------------------------------------------
    def update(self) -> None:
        """One batch, one step of the optimizer. Raises RD0654, RD0701 and RD0711 before anything has changed."""
        began = time.perf_counter()
        if self.step in self.stages.boundaries:
            self._enter(self.step)
        call = self._next()
        try:
            self._update(call)
        except (RuntimeError, MemoryError) as error:
            if isinstance(error, MemoryError) or "not enough memory" in str(error) or "out of memory" in str(error):
                raise RunError(OutOfMemory(self.step, str(error).splitlines()[0][:200])) from error
            raise
        self.step += 1
        self.seconds += time.perf_counter() - began

    def updates(self, most: int) -> None:
        """At least one update and at most so many: as many as can be made at once."""
        del most
        self.update()

    def _next(self) -> Any:
        """What the next update learns from."""
        self.batch = self.sampler.next()
        return self.binding.call(self.batch, str(self.step))

    def _update(self, call: Any) -> None:
        self.module.train()
        self.optimizer.zero_grad(set_to_none=True)
        output = run(self.module, call, self.state)
        loss = guard.check_output(output.loss, output.outputs, self.step, self.last_good)
        output.loss.backward()
        norm, *_ = [guard.clip(g.named, self.settings["clip"], self.step, self.last_good) for g in self.groups]
        rate = self._advance(loss)
        if self.settings["stream"]:
            self.state = {name: value.detach() for name, value in output.state.items()}
        self._count(call, output, loss, norm, rate)
        self.tell(loss)

    def _advance(self, loss: float) -> float:
        """One step of the optimizer, at the rates of the schedule; the rate of parameters without one of their own."""
        if isinstance(self.optimizer, IDBD):
            self.optimizer.loss, self.optimizer.scale = loss, self.settings.halves
        share = factor(self.settings.schedule, self.step, self.settings["steps"])
        for group, (rate, _) in zip(self.optimizer.param_groups, self.parts, strict=True):
            group["lr"] = rate * share
        self.optimizer.step()
        return self.rate * share

    def _count(self, call: Call, output: Any, loss: float, norm: float, rate: float) -> None:
        self.tally.add("loss", loss, 1)
        if len(output.losses) > 1:
            for name, value in output.losses.items():
                self.tally.add(f"loss.{name}", float(value), 1)
        self.tally.add("norm", norm, 1)
        self.tally.add("lr", rate, 1)
        if (self.step + 1) % self.settings["log"] == 0:
            measure(self.settings.metrics, output.outputs, call.tensors, call.mask, self.tally)

    def report(self) -> dict[str, float]:
        """Means since the last report; metrics are of the latest batch."""
        means = self.tally.means()
        self.tally = Tally()
        return means

    def recent(self) -> dict[str, float]:
        """The online error; nothing where there is none."""
        return {}

    # -- evaluation ------------------------------------------------------------------------------------------------
    def evaluate(self, split: str, batches: int | None) -> dict[str, float]:
        """Loss and metrics of a split: `batches` of it, or one pass (None).

        Draws from generators of its own, so that training goes on as if it had not happened. Raises Stopped.
        """
        return evaluate(self.module, self.source, self.binding, self.settings, split, batches, self._before)

    def _before(self, batch: Batch) -> None:
        if self.stopping():
            raise Stopped
        self.batch = batch

    # -- snapshots -------------------------------------------------------------------------------------------------
    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All tensors and all else: weights, optimizer, carried state, generators, place in the data, sums."""
        slots, numbers = flatten(self.optimizer.state_dict(), self.order)
        tensors = {f"model/{name}": value for name, value in self.module.state_dict().items()}
        tensors |= {f"optimizer/{name}": value for name, value in slots.items()}
        tensors |= {f"state/{name}": value for name, value in (self.state or {}).items()}
        tensors["random/torch"] = torch.get_rng_state()
        if self.binding.device.startswith("cuda"):
            tensors["random/cuda"] = torch.cuda.get_rng_state()
        numpy_state = np.random.get_state(legacy=False)
        tensors["random/numpy"] = torch.from_numpy(np.asarray(numpy_state["state"]["key"]).astype(np.int64))
        rest = {
            "step": self.step,
            "optimizer": numbers,
            "carried": self.state is not None,
            "sampler": self.sampler.state(),
            "numpy": [numpy_state["state"]["pos"], numpy_state["has_gauss"], numpy_state["gauss"]],
            "python": random.getstate(),
            "tally": [self.tally.sums, self.tally.counts],
            "seconds": self.seconds,
            "fingerprint": self.fingerprint,
        }
        return tensors, rest

    def restore(self, checkpoint: Checkpoint) -> None:
        """Put a snapshot back. Raises RD0705 if it is of another model."""
        parts = split_names(checkpoint.tensors)
        passed = [update for update in self.stages.boundaries if update < checkpoint.state["step"]]
        if passed:
            self._enter(passed[-1])
        load_weights(self.module, parts.get("model", {}), str(checkpoint.path))
        state = checkpoint.state
        unflatten(self.optimizer, parts.get("optimizer", {}), state["optimizer"], self.order)
        self.step, self.seconds, self.last_good = state["step"], state["seconds"], str(checkpoint.path)
        device = self.binding.device
        carried = {name: value.to(device) for name, value in parts.get("state", {}).items()}
        self.state = carried if state["carried"] else None
        self.sampler.restore(state["sampler"])
        self.tally = Tally(dict(state["tally"][0]), dict(state["tally"][1]))
        torch.set_rng_state(parts["random"]["torch"])
        if "cuda" in parts["random"] and device.startswith("cuda"):
            torch.cuda.set_rng_state(parts["random"]["cuda"])
        key = parts["random"]["numpy"].numpy().astype(np.uint32)
        position, has_gauss, gauss = state["numpy"]
        np.random.set_state(("MT19937", key, position, has_gauss, gauss))
        version, internal, gauss_next = state["python"]
        random.setstate((version, tuple(internal), gauss_next))


def carried(module: nn.Module, state: Mapping[str, Tensor] | None) -> dict[str, Tensor] | None:
    """What a module can take over of the state that another one of the same model has left."""
    if state is None:
        return None
    about: Mapping[str, Any] = getattr(module, "recdsl_about", {})
    known = {**about.get("carries", {}), **about.get("traces", {})}
    return {name: value for name, value in state.items() if name in known or name == "t"} if known else dict(state)


def run(module: nn.Module, call: Call, state: Mapping[str, Tensor] | None) -> Any:
    """Call a compiled module. A reset that resets nothing is left out: modules are faster without."""
    reset = call.reset if call.reset is not None and bool(call.reset.any()) else None
    return module(call.tensors, mask=call.mask, reset=reset, state=state)


def evaluate(
    module: nn.Module,
    source: Source,
    binding: Binding,
    settings: Settings,
    split: str,
    batches: int | None,
    before: Callable[[Batch], None] = lambda _batch: None,
) -> dict[str, float]:
    """See `Trainer.evaluate`. `before` is called with each batch."""
    request = Request(split, settings["batch"], settings["seed"], settings["stream"])
    passes = source.passes(request)
    count = passes if batches is None else min(batches, passes or batches)
    sampler, tally, state = source.draw(request), Tally(), None
    training = module.training
    module.eval()
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings["seed"])
            for index in range(count or settings["evaluation_batches"]):
                batch = sampler.next()
                before(batch)
                call = binding.call(batch, f"{index} of {split}")
                output = run(module, call, state)
                state = output.state if settings["stream"] else None
                steps = call.shape[0] * call.shape[1] if call.mask is None else int(call.mask.sum())
                tally.add("loss", float(output.loss) * steps, steps)
                measure(settings.metrics, output.outputs, call.tensors, call.mask, tally)
    finally:
        module.train(training)
    return tally.means()


def split_names(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """`{"model/W": w}` as `{"model": {"W": w}}`."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        head, _, tail = name.partition("/")
        parts.setdefault(head, {})[tail] = tensor
    return parts


def load_weights(module: nn.Module, weights: Mapping[str, Tensor], path: str) -> None:
    """Load a state dict whose names and shapes must all agree. Raises RD0705."""
    own = module.state_dict()
    for name in sorted(own.keys() | weights.keys()):
        if name not in weights or name not in own:
            where = "the checkpoint" if name not in weights else "the model"
            raise RunError(CheckpointMismatch(path, f"{where} has no `{name}`"))
        if own[name].shape != weights[name].shape or own[name].dtype != weights[name].dtype:
            given, wanted = list(weights[name].shape), list(own[name].shape)
            reason = f"`{name}` is {weights[name].dtype} {given}, the model's is {own[name].dtype} {wanted}"
            raise RunError(CheckpointMismatch(path, reason))
    module.load_state_dict(dict(weights))
