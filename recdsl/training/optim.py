"""Optimizers and schedules of the catalogue, made with torch."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from recdsl.errors.runs import OptimizerRefused, RunError
from recdsl.training.online_rules import IDBD, TDLambda
from recdsl.training.settings import Chosen

CLASSES: Mapping[str, type[torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "momentum": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
    "adamax": torch.optim.Adamax,
    "nadam": torch.optim.NAdam,
    "radam": torch.optim.RAdam,
    "td_lambda": TDLambda,
    "idbd": IDBD,
}


def optimizer(chosen: Chosen, parameters: Iterable[nn.Parameter | dict[str, Any]]) -> torch.optim.Optimizer:
    """The torch optimizer of a checked call, for parameters or groups of them.

    Raises RD0710 for combinations that torch refuses.
    """
    options: dict[str, Any] = dict(chosen.options)
    try:
        return CLASSES[chosen.name](cast("Iterable[nn.Parameter]", parameters), **options)
    except ValueError as error:
        raise RunError(OptimizerRefused(chosen.name, str(error))) from None


def factor(chosen: Chosen, step: int, steps: int) -> float:
    """What the learning rate is multiplied by in update `step` (from 0) of `steps`: a function of the step alone.

    So a schedule has no state, and a resumed run needs none.
    """
    options = chosen.options
    if chosen.name == "warmup":
        return min(1.0, (step + 1) / options["steps"])
    warmup = options["warmup"]
    if step < warmup:
        return (step + 1) / warmup
    progress = min(1.0, (step - warmup) / max(1, steps - warmup))
    if chosen.name == "linear":
        return 1.0 + (options["end"] - 1.0) * progress
    if chosen.name == "cosine":
        return options["end"] + (1.0 - options["end"]) * 0.5 * (1.0 + math.cos(math.pi * progress))
    if chosen.name == "step":
        return float(options["factor"] ** ((step - warmup) // options["every"]))
    return 1.0


def flatten(state: Mapping[str, Any], order: Sequence[int]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The state of an optimizer's `state_dict()` as tensors by "parameter/slot" and plain numbers likewise.

    order: the number of the parameter that is the optimizer's first, second, and so on.
    """
    tensors: dict[str, Tensor] = {}
    numbers: dict[str, Any] = {}
    for place, slots in state["state"].items():
        index = order[place]
        for name, value in slots.items():
            if isinstance(value, Tensor):
                tensors[f"{index}/{name}"] = value
            else:
                numbers[f"{index}/{name}"] = value
    return tensors, numbers


def unflatten(
    optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any], order: Sequence[int]
) -> None:
    """Put back what `flatten` took apart. The options stay those of the optimizer, which come from the spec."""
    state: dict[int, dict[str, Any]] = {}
    places = {index: place for place, index in enumerate(order)}
    for key, value in (*tensors.items(), *numbers.items()):
        index, _, name = key.partition("/")
        state.setdefault(places[int(index)], {})[name] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
