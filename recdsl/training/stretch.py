"""Online updates that the backend makes many of in one call: what it is told of an optimizer, and when it can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recdsl.backends.native.build import BuildError
from recdsl.backends.native.online import Done, Learner, Moved, Shape, Stretch, Update
from recdsl.backends.native.values import NotLoweredError
from recdsl.training.settings import Settings

Named = Sequence[tuple[str, nn.Parameter]]


@dataclass(frozen=True)
class Known:
    """What is trained, by what, and each parameter's learning rate before a schedule."""

    named: Named
    optimizer: torch.optim.Optimizer
    rates: Mapping[str, float]


SLOTS = {
    "sgd": ("momentum_buffer",),
    "momentum": ("momentum_buffer",),
    "rmsprop": ("square_avg", "momentum_buffer"),
    "adam": ("exp_avg", "exp_avg_sq"),
    "adamw": ("exp_avg", "exp_avg_sq"),
    "td_lambda": ("square",),
    "idbd": ("beta", "h"),
}
"""What each optimizer keeps of a parameter, in the order in which C takes it."""
SAME = {"momentum": "sgd", "adamw": "adam"}
"""Names of one update with other options."""
COUNTS = {"rmsprop": "step", "adam": "step", "adamw": "step", "td_lambda": "updates"}


def options(settings: Settings) -> tuple[float, ...]:
    """Of the optimizer, as `online.c` reads them."""
    name, given = settings.optimizer.name, settings.optimizer.options
    if name in ("sgd", "momentum"):
        return given["momentum"], float(given["nesterov"]), given["weight_decay"]
    if name == "rmsprop":
        return given["alpha"], given["eps"], given["momentum"], given["weight_decay"]
    if name in ("adam", "adamw"):
        return *given["betas"], given["eps"], given["weight_decay"], float(name == "adamw")
    if name == "td_lambda":
        return float(given["normalise"]), given["keep"], given["initial"]
    return given["meta"], given["lr"], settings.halves


def slots(settings: Settings) -> tuple[str, ...]:
    """The tensors that the optimizer keeps under these options."""
    name, given = settings.optimizer.name, settings.optimizer.options
    if name == "td_lambda" and not given["normalise"]:
        return ()
    whole = SLOTS[name]
    return whole if given.get("momentum", 1.0) else whole[:-1]


def described(settings: Settings, known: Known) -> Update | None:
    """The optimizer as it is now; None where C does not have it, or it has not seen every parameter yet."""
    name = settings.optimizer.name
    if name not in SLOTS:
        return None
    wanted, count = slots(settings), COUNTS.get(name, "") if name != "td_lambda" or slots(settings) else ""
    found: list[Moved] = []
    for key, parameter in known.named:
        state: Mapping[str, Any] = known.optimizer.state.get(parameter, {})
        if parameter.grad is not None or state:
            if any(slot not in state for slot in (*wanted, *([count] if count else []))):
                return None
            kept = tuple(state[slot] for slot in wanted)
            times = float(state[count]) if count else 0.0
            found.append(Moved(key, parameter.detach(), kept, times, known.rates[key]))
    return Update(SAME.get(name, name), options(settings), tuple(found), settings["clip"] or 0.0)


def learner(module: nn.Module, settings: Settings, known: Known, shape: Shape) -> Learner | None:
    """What makes many updates at once, where the module's backend has such a thing and the optimizer is ready."""
    make = getattr(module, "recdsl_learner", None)
    update = None if make is None else described(settings, known)
    if make is None or update is None:
        return None
    return make(shape, update, sorted({metric.output for metric in settings.metrics}))


def counted(made: Learner, settings: Settings, named: Named, optimizer: torch.optim.Optimizer) -> None:
    """Tell torch's optimizer how many updates there have been."""
    name = COUNTS.get(settings.optimizer.name, "")
    parameters = dict(named)
    for key, count in made.counts.items():
        state = optimizer.state.get(parameters[key], {})
        if name and name in state:
            state[name] = torch.full_like(state[name], count) if isinstance(state[name], Tensor) else int(count)


def recount(made: Learner, settings: Settings, named: Named, optimizer: torch.optim.Optimizer) -> None:
    """Tell a learner how many updates there have been: torch's optimizer has made some itself."""
    name = COUNTS.get(settings.optimizer.name, "")
    states = {key: optimizer.state.get(parameter, {}) for key, parameter in named}
    made.recount({key: float(state[name]) for key, state in states.items() if name and name in state})


__all__ = [
    "BuildError",
    "Done",
    "Known",
    "Learner",
    "NotLoweredError",
    "Shape",
    "Stretch",
    "counted",
    "learner",
    "recount",
]
