"""What is run: for each cell the compiled model, the eager loop and torch.nn, all on the same weights and data."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from benchmarks.cells import Cell, Step
from benchmarks.elsewhere import Peer, peer
from recdsl.driver import compile as compile_spec

NAMES = ("ours", "native", "naive", "nn", "compile", "jax")


@dataclass(frozen=True)
class Config:
    """Batch, hidden size (the input has as many entries) and number of steps."""

    batch: int
    size: int
    steps: int

    @property
    def text(self) -> str:
        return f"B={self.batch} H={self.size} T={self.steps}"


@dataclass(frozen=True)
class Variant:
    """`loss()` runs forward; `gradients()` gives what backward left, by the spec's names, where they can be named."""

    name: str
    loss: Callable[[], Tensor]
    parameters: tuple[Tensor, ...]
    gradients: Callable[[], Mapping[str, Tensor]]

    def run(self) -> Tensor:
        """Forward and backward, gradients of all weights."""
        for parameter in self.parameters:
            parameter.grad = None
        loss = self.loss()
        loss.backward()
        return loss

    def seconds(self, count: int, *, wall: bool = False) -> float:
        """CPU (or wall) seconds of `count` runs together."""
        clock = time.perf_counter if wall else time.process_time
        start = clock()
        for _ in range(count):
            self.run()
        return clock() - start


def data(config: Config) -> tuple[Tensor, Tensor]:
    """Inputs and targets, the same at each call."""
    generator = torch.Generator().manual_seed(1)
    shape = (config.steps, config.batch, config.size)
    return torch.randn(shape, generator=generator), torch.randn(shape, generator=generator)


def ours(cell: Cell, config: Config, backend: str = "torch") -> Variant:
    """The compiled model."""
    x, y = data(config)
    model: Any = compile_spec(cell.spec(config.size, config.size), backend)
    batch = {"x": x, "y": y}
    named = dict(model.named_parameters())

    def gradients() -> Mapping[str, Tensor]:
        return {name.split(".")[-1]: _grad(value) for name, value in named.items()}

    name = "ours" if backend == "torch" else backend
    return Variant(name, lambda: model(batch).loss, tuple(named.values()), gradients)


def native(cell: Cell, config: Config) -> Variant:
    """The model with its loops in C."""
    return ours(cell, config, "native")


def naive(cell: Cell, config: Config, step: Step | None = None, name: str = "naive") -> Variant:
    """The cell's equations in a Python loop, input projections inside it. step: the cell's, or one that is compiled."""
    step = step or cell.step
    x, y = data(config)
    params = weights(cell, config)
    zeros = torch.zeros(config.batch, config.size)

    def loss() -> Tensor:
        state = (zeros,) * cell.states
        outputs: list[Tensor] = []
        for row in x.unbind(0):
            state = step(params, row, state)
            outputs.append(state[0])
        return torch.nn.functional.mse_loss(torch.stack(outputs), y)

    return Variant(name, loss, tuple(params.values()), lambda: {key: _grad(value) for key, value in params.items()})


def compiled(cell: Cell, config: Config) -> Variant:
    """The loop around `torch.compile` of the step; compiling takes some ten seconds."""
    torch.compiler.reset()
    step: Any = torch.compile(cell.step, dynamic=False)
    return naive(cell, config, step, "compile")


def empty(cell: Cell, config: Config) -> Variant:
    """An autograd function that does nothing, with as many parameters: what a call costs at least."""
    params = tuple(weights(cell, config).values())
    zeros = tuple(torch.zeros_like(value) for value in params)

    class Nothing(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *given: Tensor) -> Tensor:
            return torch.zeros(())

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> tuple[Tensor, ...]:
            return zeros

    apply: Any = Nothing.apply
    return Variant("empty", lambda: apply(*params), params, dict)


@dataclass(frozen=True)
class Elsewhere(Variant):
    """A variant in another process."""

    peer: Peer

    def run(self) -> Tensor:
        self.peer.ask()
        return self.loss()

    def seconds(self, count: int, *, wall: bool = False) -> float:
        return self.peer.ask(count, wall=wall)


@contextmanager
def jax(cell: Cell, config: Config, python: str, threads: int) -> Generator[Variant]:
    """`jit(value_and_grad(lax.scan))` in a Python that has jax, on the same weights and data."""
    with tempfile.TemporaryDirectory() as folder:
        x, y = data(config)
        file = Path(folder) / "given.npz"
        given = {"x": x, "y": y, **{name: value.detach() for name, value in weights(cell, config).items()}}
        arrays: dict[str, Any] = {name: value.numpy() for name, value in given.items()}
        numpy.savez(file, **arrays)
        with peer(python, "jax_peer.py", (cell.name, threads, str(file))) as other:
            found = {name: torch.from_numpy(value) for name, value in numpy.load(f"{file}.out.npz").items()}
            loss = found.pop("loss")
            yield Elsewhere("jax", lambda: loss, (), lambda: found, other)


def nn(cell: Cell, config: Config) -> Variant:
    """torch.nn's module with the same weights; where its equations differ it is only timed."""
    assert cell.module is not None
    x, y = data(config)
    module: Any = cell.module(config.size, config.size)
    params = weights(cell, config)
    gates = cell.gates
    with torch.no_grad():
        module.weight_ih_l0.copy_(torch.cat([params["W" + gate] for gate in gates]))
        module.weight_hh_l0.copy_(torch.cat([params["U" + gate] for gate in gates]))
        module.bias_ih_l0.copy_(torch.cat([params["b" + gate] for gate in gates]))
        module.bias_hh_l0.zero_()
        if "cn" in params:
            module.bias_hh_l0[-config.size :] = params["cn"]

    def gradients() -> Mapping[str, Tensor]:
        found: dict[str, Tensor] = {}
        for kind, weight in (("W", module.weight_ih_l0), ("U", module.weight_hh_l0), ("b", module.bias_ih_l0)):
            for gate, part in zip(gates, _grad(weight).chunk(len(gates)), strict=True):
                found[kind + gate] = part
        if "cn" in params:
            found["cn"] = _grad(module.bias_hh_l0)[-config.size :]
        return found

    return Variant("nn", lambda: torch.nn.functional.mse_loss(module(x)[0], y), tuple(module.parameters()), gradients)


def weights(cell: Cell, config: Config) -> dict[str, Tensor]:
    """The compiled model's initial weights by their names in the block."""
    model: Any = compile_spec(cell.spec(config.size, config.size))
    return {name.split(".")[-1]: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}


def variants(cell: Cell, config: Config) -> tuple[Variant, ...]:
    """All that there are for a cell, ours first."""
    found = [ours(cell, config), native(cell, config), naive(cell, config)]
    return (*found, nn(cell, config)) if cell.module is not None else tuple(found)


def make(name: str, cell: Cell, config: Config) -> Variant:
    """One variant by its name."""
    makers: dict[str, Callable[[Cell, Config], Variant]] = {"ours": ours, "native": native, "naive": naive, "nn": nn}
    return makers[name](cell, config)


def check(cell: Cell, found: Iterable[Variant], tolerance: float = 2e-3) -> None:
    """Raises AssertionError where losses or gradients of comparable variants differ."""
    first, *others = found
    loss, gradients = float(first.run().detach()), first.gradients()
    for other in others:
        if other.name == "nn" and not cell.exact:
            continue
        value = float(other.run().detach())
        assert abs(value - loss) <= 1e-4 * (1.0 + abs(loss)), f"{cell.name}: loss {loss} and {other.name}'s {value}"
        theirs = other.gradients()
        assert gradients.keys() == theirs.keys(), f"{cell.name}: other gradients than {other.name}"
        for name, gradient in gradients.items():
            apart = float((gradient - theirs[name]).abs().max())
            scale = float(theirs[name].abs().max())
            assert apart <= tolerance * scale, f"{cell.name}: gradient of {name} is off from {other.name}'s by {apart}"


def _grad(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad
