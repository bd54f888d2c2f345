"""Compiled models against networks written by hand in torch: values, losses and gradients, in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from recdsl import driver

torch.set_num_threads(1)

STEPS, SAMPLES = 5, 3
TOLERANCE = 1e-10

Step = Callable[[Mapping[str, Tensor], Mapping[str, Tensor], "Past", int], dict[str, Any]]
Loss = Callable[[dict[str, Tensor], Mapping[str, Tensor]], Tensor]


class Past:
    """`past("h", k)`: what `h` was k steps ago, its initial value before the first step."""

    def __init__(self, start: Mapping[str, Any]) -> None:
        self.start, self.steps = start, list[dict[str, Any]]()

    def __call__(self, name: str, lag: int = 1) -> Any:
        return self.steps[-lag][name] if lag <= len(self.steps) else self.start[name]


def draw(model: Any, steps: int = STEPS, samples: int = SAMPLES, seed: int = 0) -> dict[str, Tensor]:
    """A random batch for a compiled model."""
    made, source = dict[str, Tensor](), torch.Generator().manual_seed(seed)
    for name, info in model.recdsl_about["inputs"].items():
        shape = (steps, samples, *info["shape"])
        if info["dtype"] == "int":
            made[name] = torch.randint(0, info["size"], shape, generator=source)
        elif info["dtype"] == "bool":
            made[name] = torch.rand(shape, generator=source) > 0.5
        else:
            made[name] = torch.randn(shape, generator=source, dtype=torch.float64)
    return made


def compiled(text: str, seed: int = 1) -> Any:
    """The model of a spec in float64, every parameter drawn anew."""
    model: Any = driver.compile(text, dtype=torch.float64)
    source = torch.Generator().manual_seed(seed)
    for _, parameter in model.named_parameters():
        parameter.data.copy_(0.6 * torch.randn(parameter.shape, generator=source, dtype=torch.float64))
    return model


def zeros(*shape: int) -> Tensor:
    """An initial value of that shape, for every sample."""
    return torch.zeros(SAMPLES, *shape, dtype=torch.float64)


def agree(
    text: str,
    step: Step,
    start: Mapping[str, Any] | Callable[[Mapping[str, Tensor]], Mapping[str, Any]] | None = None,
    loss: Loss | None = None,
    batch: Mapping[str, Tensor] | None = None,
) -> None:
    """Outputs, loss and gradients of the spec are those of `step`, unrolled by hand under autograd."""
    model = compiled(text)
    batch = draw(model) if batch is None else batch
    leaves = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    values = {**leaves, **{name: b.clone() for name, b in model.named_buffers()}}
    past = Past(start(values) if callable(start) else start or {})
    for t in range(len(next(iter(batch.values())))):
        past.steps.append(step(values, {name: value[t] for name, value in batch.items()}, past, t))
    result = model(batch)
    found, wanted = _compare_outputs(past.steps, result.outputs)
    if loss is not None:
        sequences = {name: _sequence(past.steps, name) for name in past.steps[0]}
        expected = loss(sequences, batch)
        torch.testing.assert_close(result.loss.detach(), expected.detach(), rtol=TOLERANCE, atol=TOLERANCE)
        found, wanted = found + result.loss, wanted + expected
    found.backward()
    wanted.backward()
    for name, parameter in model.named_parameters():
        ours, theirs = _gradient(parameter), _gradient(leaves[name])
        torch.testing.assert_close(ours, theirs, rtol=TOLERANCE, atol=TOLERANCE, msg=_labelled(name))


def _labelled(name: str) -> Callable[[str], str]:
    return lambda message: f"gradient of {name}: {message}"


def _sequence(steps: list[dict[str, Any]], name: str) -> Tensor:
    return torch.stack([torch.as_tensor(step[name], dtype=torch.float64) for step in steps])


def _compare_outputs(steps: list[dict[str, Any]], outputs: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Both sides' outputs, weighted by one draw and summed, after a comparison entry by entry."""
    found = wanted = torch.zeros((), dtype=torch.float64)
    source = torch.Generator().manual_seed(7)
    for name in steps[0]:
        if name.startswith("_"):
            continue
        ours, theirs = outputs[name], _sequence(steps, name)
        torch.testing.assert_close(
            ours.detach().double(), theirs.detach().expand(ours.shape), rtol=TOLERANCE, atol=TOLERANCE
        )
        if ours.requires_grad:
            weight = torch.randn(ours.shape, generator=source, dtype=torch.float64)
            found, wanted = found + (weight * ours).sum(), wanted + (weight * theirs).sum()
    return found, wanted


def _gradient(leaf: Tensor) -> Tensor:
    return torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
