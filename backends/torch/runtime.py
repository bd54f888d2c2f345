"""The face of every compiled model: a module, and the one autograd function in which its generated functions run.

It needs torch only; the text of this file, of those that it imports and of `backends/init.py` is part of every exported
model.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from recdsl.backends.init import initial
from recdsl.backends.torch.arena import Arena
from recdsl.backends.torch.call import Call, Output
from recdsl.backends.torch.reinstate import Keeper
from recdsl.backends.torch.replay import KEEPERS, replay


class CompiledModel(torch.nn.Module):
    """An ordinary module whose time loops, forward and backward, are generated.

    `model(batch)` takes inputs and targets by name, [time, batch, *axes] (integers [time, batch] for classes and
    tokens), optionally `mask` and `reset` (bool [time, batch]: valid steps; steps before which the state
    starts anew) and a `state` from an earlier call, which is a constant. Without targets there is no loss.

    What is not a parameter, buffer or method of `torch.nn.Module` is called `recdsl_...`, so that any name of the spec
    may be an attribute.
    """

    recdsl_chunk = 128
    """Steps that a call under forward rules alone is run in, so that its memory does not grow with their number."""
    recdsl_about: Mapping[str, Any]
    recdsl_functions: Mapping[str, tuple[Callable[..., Any], tuple[str, ...], tuple[str, ...]]]

    def __init__(self, seed: int = 0, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.recdsl_seed = seed
        dtype = dtype or torch.get_default_dtype()
        self.recdsl_paths: dict[str, list[str]] = {}
        known = self.recdsl_about["parameters"]
        rows = {f"{n}.{p}" for n, info in self.recdsl_about["stores"].items() if info["disk"] for p in info["rows"]}
        for name, value in initial(described({n: known[n] for n in known if n not in rows}), seed, dtype).items():
            self._register(name, value, known[name]["frozen"])
        for name in rows:
            self._register(name, torch.zeros(0, *known[name]["shape"][1:], dtype=dtype), True, saved=False)
        made = {name: info["credit"]["kind"] for name, info in self.recdsl_about["stores"].items()}
        self.recdsl_keepers: dict[str, Keeper] = {name: KEEPERS[kind](self, name) for name, kind in made.items()}
        for name, keeper in self.recdsl_keepers.items():
            for part, value in keeper.blank(dtype).items():
                on_disk = part in keeper.on_disk
                self._register(f"{name}.{part}", value[:0] if on_disk else value, True, saved=not on_disk)
        self.recdsl_told: set[tuple[str, str]] = set()
        self.recdsl_arena = Arena(shared="through" not in made.values())
        self.register_load_state_dict_post_hook(forget)
        self.register_buffer("recdsl_like", torch.zeros((), dtype=dtype), persistent=False)

    def _register(self, name: str, value: Tensor, frozen: bool, *, saved: bool = True) -> None:
        value = value.contiguous()  # an orthogonal matrix comes transposed
        *path, last = self.recdsl_paths[name] = attribute(name, self.recdsl_about["parameters"]).split(".")
        owner: torch.nn.Module = self
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, torch.nn.Module())
            owner = owner._modules[part]  # type: ignore[assignment]
        if frozen:
            owner.register_buffer(last, value, persistent=saved)
        else:
            owner.register_parameter(last, torch.nn.Parameter(value))

    def recdsl_tensor(self, name: str) -> Tensor:
        """A parameter or frozen parameter by the spec's name."""
        *path, last = self.recdsl_paths[name]
        owner: Any = self
        for part in path:
            owner = owner._modules[part]
        found = owner._parameters.get(last)  # `getattr` would take ten times as long
        return getattr(owner, last) if found is None else found

    def recdsl_replace(self, name: str, value: Tensor) -> None:
        """Another tensor in the place of a buffer."""
        owner: Any = self
        *path, last = self.recdsl_paths[name]
        for part in path:
            owner = getattr(owner, part)
        owner._buffers[last] = value

    def extra_repr(self) -> str:
        return f"{self.recdsl_about['name']}, backend=torch, credit={self.recdsl_about['credit']}"

    def forward(
        self,
        batch: Mapping[str, Tensor],
        mask: Tensor | None = None,
        reset: Tensor | None = None,
        state: Mapping[str, Tensor] | None = None,
        counted: Tensor | None = None,
    ) -> Output:
        """Run all steps. counted: bool [time, batch], the pairs whose losses count (None: all that are valid); the
        others shape states and traces alone. Raises ValueError where the batch does not fit the spec."""
        if torch.is_inference_mode_enabled():
            with torch.inference_mode(False), torch.no_grad():  # calls that learn use the memory of this one again
                return self.forward(batch, mask, reset, state, counted)
        keepers = self.recdsl_keepers.values()
        writing = [keeper for keeper in keepers if self.training or keeper.info["evaluated"]]
        for target in (name for keeper in writing for name in keeper.info["targets"]):
            if target not in batch:
                raise ValueError(f"batch lacks the target {target!r}, which a memory of the model stores")
        call = Call(self, batch, mask, reset, state, counted)
        named = {name: self.recdsl_tensor(name) for name in self.recdsl_about["parameters"]}
        call.learning = torch.is_grad_enabled() and any(value.requires_grad for value in named.values())
        for keeper in keepers:
            keeper.before(call, named)
        values = list(named.values())
        if call.learning:
            results = Run.apply(call, *values)
        else:
            results = call.forward([value.detach() for value in values])
            call.lease.close()
        for keeper in writing:
            keeper.behind(call)
            keeper.commit(self)
        return call.output(results)


def forget(module: Any, _keys: Any) -> None:
    """What a store knew of the calls behind its items is not so of those that were loaded."""
    for keeper in module.recdsl_keepers.values():
        keeper.loaded(module)


def described(parameters: Mapping[str, Mapping[str, Any]]) -> list[Any]:
    """Parameters in the form that `initial` reads: with `.name`, `.init` and `.type.shape`."""
    return [
        SimpleNamespace(name=name, init=info["init"], type=SimpleNamespace(shape=info["shape"]))
        for name, info in parameters.items()
    ]


def attribute(name: str, names: Iterable[str]) -> str:
    """Where a parameter lives in the module: its own name; the mask of `W` is the buffer `W_mask`, or the first of
    `W_mask_`, `W_mask__`, ... that no parameter is called."""
    if not name.endswith(".mask"):
        return name
    found = name[: -len(".mask")] + "_mask"
    while any(other == found or other.startswith(f"{found}.") for other in names):
        found += "_"
    return found


class Run(torch.autograd.Function):
    """The one place where gradients enter and leave: the generated backward functions do all the work."""

    @staticmethod
    def forward(ctx: Any, call: Call, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.call = call
        ctx.parameters = parameters
        ctx.versions = versions(parameters)
        ctx.given = call.received
        ctx.given_versions = versions(ctx.given)
        results = call.forward(list(parameters))
        ctx.made = [value.detach() for value in results]
        ctx.made_versions = versions(ctx.made)
        tape = torch.empty(0)
        ctx.save_for_backward(tape)
        weakref.finalize(tape, hand_back, call.lease, call.boundaries, call.shelves)
        ctx.mark_non_differentiable(*(value for value in results if not value.is_floating_point()))
        return results

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *cotangents: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors  # raises PyTorch's own error once the graph is freed
        if versions(ctx.parameters) != ctx.versions:
            raise RuntimeError("a parameter was changed in place between the call and backward()")
        if versions(ctx.made) != ctx.made_versions:
            raise RuntimeError("an output was changed in place between the call and backward()")
        if versions(ctx.given) != ctx.given_versions:
            raise RuntimeError("an input, mask or state was changed in place between the call and backward()")
        again = torch.is_grad_enabled()  # under `create_graph`
        with torch.no_grad():
            found = credited(ctx.call, *cotangents)
        return None, *(value if value is None or not again else Once.apply(value.requires_grad_()) for value in found)


def versions(tensors: Sequence[Tensor]) -> list[int]:
    """How often each was changed in place; inference tensors do not say."""
    try:
        return [value._version for value in tensors]
    except RuntimeError:
        return [-1 if value.is_inference() else value._version for value in tensors]


class Once(torch.autograd.Function):
    """The same, which cannot be differentiated: of a constant, a second derivative would be zero without a word."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *cotangents: Any) -> Any:
        raise RuntimeError("gradients of a compiled model cannot be differentiated: its backward pass is no graph")


def hand_back(lease: Any, *kept: list[Any]) -> None:
    """Nobody can go back through the call any more: its memory serves others."""
    lease.close()
    for items in kept:
        items.clear()


def credited(call: Call, loss: Tensor | None, *given: Tensor | None) -> list[Tensor | None]:
    """The gradients of parameters and rows, with what keepers of stores make of them."""
    keepers, outputs = call.model.recdsl_keepers.values(), list(given)
    unit = call.like.new_zeros(()) if loss is None else loss
    for keeper in keepers:
        keeper.cotangents(call, unit, outputs)
    found = dict(zip(call.model.recdsl_about["parameters"], call.backward(loss, tuple(outputs)), strict=True))
    with torch.no_grad():
        for keeper in keepers:
            keeper.back(call, unit, found)
        replay(call, found)
    for keeper in keepers:
        keeper.commit(call.model)
    return list(found.values())
