"""What every compiled model does around its generated functions: checks, states, loss weights, autograd.

It needs torch only; the text of this file and of `backends/init.py` is part of every exported model.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from recdsl.backends.init import initial


@dataclass
class Output:
    """Result of a call. `outputs`: [time, batch, *axes] by name; `losses` and `state` carry no gradient."""

    outputs: dict[str, Tensor]
    loss: Tensor | None
    losses: dict[str, Tensor]
    state: dict[str, Tensor]


class CompiledModel(torch.nn.Module):
    """An ordinary module whose time loops, forward and backward, are generated.

    `model(batch)` takes inputs and targets by name, [time, batch, *axes] (integers [time, batch] for classes and
    tokens), optionally `mask` and `reset` (bool [time, batch]: valid steps; steps before which the state
    starts anew) and a `state` from an earlier call, which is a constant. Without targets there is no loss.

    What is not a parameter, buffer or method of `torch.nn.Module` is called `recdsl_...`, so that any name of the spec
    may be an attribute.
    """

    recdsl_about: Mapping[str, Any]
    recdsl_functions: Mapping[str, tuple[Callable[..., Any], tuple[str, ...], tuple[str, ...]]]

    def __init__(self, seed: int = 0, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.recdsl_seed = seed
        dtype = dtype or torch.get_default_dtype()
        for name, value in initial(described(self.recdsl_about["parameters"]), seed, dtype).items():
            self._register(name, value, self.recdsl_about["parameters"][name]["frozen"])
        self.recdsl_arena = Arena()
        self.register_buffer("recdsl_like", torch.zeros((), dtype=dtype), persistent=False)

    def _register(self, name: str, value: Tensor, frozen: bool) -> None:
        *path, last = attribute(name, self.recdsl_about["parameters"]).split(".")
        owner: torch.nn.Module = self
        for part in path:
            if part not in owner._modules:
                owner.add_module(part, torch.nn.Module())
            owner = owner._modules[part]  # type: ignore[assignment]
        if frozen:
            owner.register_buffer(last, value)
        else:
            owner.register_parameter(last, torch.nn.Parameter(value))

    def recdsl_tensor(self, name: str) -> Tensor:
        """A parameter or frozen parameter by the spec's name."""
        owner: Any = self
        for part in attribute(name, self.recdsl_about["parameters"]).split("."):
            owner = getattr(owner, part)
        return owner

    def extra_repr(self) -> str:
        return f"{self.recdsl_about['name']}, backend=torch, credit={self.recdsl_about['credit']}"

    def forward(
        self,
        batch: Mapping[str, Tensor],
        mask: Tensor | None = None,
        reset: Tensor | None = None,
        state: Mapping[str, Tensor] | None = None,
    ) -> Output:
        """Run all steps. Raises ValueError where the batch does not fit the spec."""
        call = Call(self, batch, mask, reset, state)
        values = [self.recdsl_tensor(name) for name in self.recdsl_about["parameters"]]
        if torch.is_grad_enabled() and any(value.requires_grad for value in values):
            results = Run.apply(call, *values)
        else:
            results = call.forward([value.detach() for value in values])
            call.lease.close()
        return call.output(results)


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


class Call:
    """One call of a model: everything its functions read, by storage name."""

    def __init__(
        self,
        model: CompiledModel,
        batch: Mapping[str, Tensor],
        mask: Tensor | None,
        reset: Tensor | None,
        state: Mapping[str, Tensor] | None,
    ) -> None:
        self.model, self.state = model, state
        about = model.recdsl_about
        self.variant = "plain" if mask is None and reset is None else "ragged"
        self.storages = about["storages"][self.variant]
        self.like: Tensor = model.recdsl_like  # type: ignore[assignment]
        self.given = self._read(batch)
        self.steps, self.size = self._extent()
        self.scored = all(name in self.given for name, info in about["inputs"].items() if info["target"])
        shape = (self.steps, self.size)
        valid = self._flags("mask", mask, shape, True)
        self.valid = valid
        self.data: dict[str, Any] = {"in_mask": valid, "in_reset": self._flags("reset", reset, shape, False)}
        self._fill(mask is not None)
        self.data["fresh"] = self.like.new_full((), 0.0 if state is not None else 1.0)
        self.t0 = 0 if state is None or "t" not in state else int(state["t"])
        kind = (self.variant, self.steps, self.size, self.like.dtype)
        self.lease: Lease = model.recdsl_arena.lease(self.like, kind)
        if mask is None:
            self.data |= self.lease.once(f"weights {self.scored}", lambda: self._weights(shape))
        else:
            self.data |= self._weights(shape)
        for name, every in about["windows"].items():
            self.data[name] = -(-self.steps // every)

    # -- reading the batch ----------------------------------------------------------------------------------------
    def _read(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        known = self.model.recdsl_about["inputs"]
        unknown = sorted(set(batch) - set(known))
        if unknown:
            raise ValueError(f"batch has {unknown[0]!r}, but the spec has only {', '.join(map(repr, known))}")
        missing = [name for name, info in known.items() if not info["target"] and name not in batch]
        if missing:
            raise ValueError(f"batch lacks the input {missing[0]!r}")
        return {name: self._value(name, known[name], batch[name]) for name in known if name in batch}

    def _value(self, name: str, info: Mapping[str, Any], value: Tensor) -> Tensor:
        shape = tuple(info["shape"])
        expected = f"[time, batch{''.join(f', {n}' for n in shape)}]"
        if value.dim() != 2 + len(shape) or tuple(value.shape[2:]) != shape:
            raise ValueError(f"{name!r} has shape {list(value.shape)}; the spec says {expected}")
        if info["dtype"] == "int":
            if value.is_floating_point() or value.dtype == torch.bool:
                kind = f"{info['kind']}[{info['size']}]"
                raise ValueError(f"{name!r} holds {value.dtype}; it is {kind}: integers {expected}")
            return value.to(device=self.like.device, dtype=torch.long)
        if value.requires_grad and torch.is_grad_enabled():
            raise ValueError(f"{name!r} requires a gradient; inputs are constants here: detach it")
        dtype = torch.bool if info["dtype"] == "bool" else self.like.dtype
        return value.to(device=self.like.device, dtype=dtype)

    def _extent(self) -> tuple[int, int]:
        shapes = {name: (value.shape[0], value.shape[1]) for name, value in self.given.items()}
        if not shapes:
            raise ValueError("the batch is empty")
        first, *_ = shapes
        for name, shape in shapes.items():
            if shape != shapes[first]:
                raise ValueError(f"{name!r} has [time, batch] = {list(shape)}, but {first!r} has {list(shapes[first])}")
        if shapes[first][0] == 0:
            raise ValueError("a call needs at least one step")
        return shapes[first]

    def _flags(self, name: str, value: Tensor | None, shape: tuple[int, int], default: bool) -> Tensor:
        if value is None:
            return torch.full((1, 1), default, device=self.like.device).expand(shape)
        if tuple(value.shape) != shape or value.dtype != torch.bool:
            raise ValueError(f"{name} is {value.dtype} {list(value.shape)}; expected torch.bool {list(shape)}")
        return value.to(self.like.device)

    def _fill(self, masked: bool) -> None:
        """Inputs and targets by storage. What stands at masked steps is never used: a valid step's value takes its
        place, so that no padding (zero, NaN, -1) meets a logarithm or a division."""
        steps, samples = self._stand_ins() if masked else (None, None)
        for name, info in self.model.recdsl_about["inputs"].items():
            value = self.given.get(name)
            if value is None:
                kinds = {"int": torch.long, "bool": torch.bool}
                dtype = kinds.get(info["dtype"], self.like.dtype)
                value = torch.zeros((1,) * (2 + len(info["shape"])), dtype=dtype, device=self.like.device)
                value = value.expand(self.steps, self.size, *info["shape"])
            elif masked:
                value = torch.zeros_like(value) if steps is None else value[steps, samples]
            if info["dtype"] == "int" and name in self.given:
                self._check_range(name, info, value)
            self.data[self.storages[name]] = value

    def _stand_ins(self) -> tuple[Tensor | None, Tensor | None]:
        """For each (step, sample) the place of the value to use: its own if valid, else the last valid one before it,
        else the sample's first, else another sample's; None where nothing is valid."""
        if not self.valid.any():
            return None, None
        steps = torch.arange(self.steps, device=self.valid.device)[:, None]
        last = torch.where(self.valid, steps, -1).cummax(0).values
        last = torch.where(last < 0, self.valid.to(torch.uint8).argmax(0), last)
        used = self.valid.any(0)
        samples = torch.where(used, torch.arange(self.size, device=used.device), used.to(torch.uint8).argmax())
        return last.gather(1, samples.expand(last.shape)), samples.expand(last.shape)

    def _check_range(self, name: str, info: Mapping[str, Any], value: Tensor) -> None:
        if value.numel() == 0:
            return
        low, high = torch.aminmax(value)
        if int(high) >= info["size"] or (int(low) < 0 and not info["target"]):
            wrong = int(high) if int(high) >= info["size"] else int(low)
            raise ValueError(f"{name!r} holds {wrong}; it is {info['kind']}[{info['size']}]: 0 to {info['size'] - 1}")

    # -- losses ---------------------------------------------------------------------------------------------------
    def _weights(self, shape: tuple[int, int]) -> dict[str, Tensor]:
        """`w*`: what each (step, sample) counts in each loss; the share 1 / number under `reduce: mean`."""
        found: dict[str, Tensor] = {}
        for k, info in enumerate(self.model.recdsl_about["losses"]):
            due = self._due(info["at"]).to(self.like.dtype) if self.scored else self.like.new_zeros(shape)
            if self.model.recdsl_about["reduce"] == "mean":
                due = due / due.sum().clamp_min(1.0)
            found[f"w{k}"] = due
        return found

    def _due(self, at: Any) -> Tensor:
        if at == "all":
            return self.valid
        steps = torch.arange(self.steps, device=self.like.device)[:, None]
        if at == "last":
            last = torch.where(self.valid, steps, -1).amax(0)
            return (steps == last) & self.valid
        return self.valid & ((steps + 1) % at[1] == 0)

    # -- running --------------------------------------------------------------------------------------------------
    def _call(self, entry: str, variant: str = "") -> dict[str, Any]:
        function, arguments, results = self.model.recdsl_functions[f"{variant or self.variant}.{entry}"]
        arena, data = self.lease.open(entry), self.data
        try:
            values = function(self.like, arena, self.steps, self.size, *[data[name] for name in arguments])
        except BaseException:
            self.lease.spoil()
            raise
        arena.finish(entry)
        return dict(zip(results, values, strict=True))

    def forward(self, parameters: list[Tensor]) -> tuple[Tensor, ...]:
        about = self.model.recdsl_about
        for name, value in zip(about["parameters"], parameters, strict=True):
            self.data[self.storages["parameter " + name]] = value
        if "in_t" in self.data or about["counts"]:
            steps = torch.arange(self.t0, self.t0 + self.steps, dtype=self.like.dtype, device=self.like.device)
            self.data["in_t"] = steps[:, None].expand(self.steps, self.size)
        self._start()
        found = self._call("forward")
        self.data.update(found)
        losses = [found[f"loss{k}"] for k in range(len(about["losses"]))]
        loss = self.like.new_zeros(())
        for info, value in zip(about["losses"], losses, strict=True):
            loss = loss + info["weight"] * value
        self.parts = losses
        return loss, *(self._timed(k, found[f"out{k}"]) for k in range(len(about["outputs"])))

    def _timed(self, k: int, value: Tensor) -> Tensor:
        """An output that does not vary is shown at every step."""
        if self._fixed(k):
            return value.expand(self.steps, self.size, *value.shape)
        return value.clone() if self._lent(value) else value.detach()

    def _lent(self, value: Tensor) -> bool:
        """Whether an output is (part of) an input, which belongs to the caller and must not get a history."""
        place = value.untyped_storage().data_ptr()
        return any(given.untyped_storage().data_ptr() == place for given in self.given.values())

    def _fixed(self, k: int) -> bool:
        return self.data[f"out{k}"].dim() == self.model.recdsl_about["ranks"][k]

    def _start(self) -> None:
        """What each carry holds before step 0."""
        about = self.model.recdsl_about
        given = self.state or {}
        wanted = dict(about["carries"])
        if self.state is None:
            found = self._call("start", "plain")
            for init, carries in about["inits"]:
                for carry in carries:
                    start = found[init]
                    self.data[self.storages["state " + carry]] = start.expand(self.size, *wanted[carry])
            return
        for carry, shape in wanted.items():
            if carry not in given:
                raise ValueError(f"state lacks {carry!r}")
            if tuple(given[carry].shape) != (self.size, *shape):
                raise ValueError(f"state {carry!r} has shape {list(given[carry].shape)}, not {[self.size, *shape]}")
            self.data[self.storages["state " + carry]] = given[carry].detach()

    def backward(self, loss: Tensor | None, outputs: tuple[Tensor | None, ...]) -> list[Tensor | None]:
        about = self.model.recdsl_about
        scale = self.like.new_zeros(()) if loss is None else loss
        for k, info in enumerate(about["losses"]):
            self.data[f"g{k}"] = self.data[f"w{k}"] * (scale * info["weight"])
        entry = "backward" if all(value is None for value in outputs) else "backward_outputs"
        for k, value in enumerate(outputs):
            given = value.sum((0, 1)) if value is not None and self._fixed(k) else value
            self.data[f"c{k}"] = torch.zeros_like(self.data[f"out{k}"]) if given is None else given
        found = self._call(entry)
        return [found.get(about["gradients"].get(name)) for name in about["parameters"]]

    # -- result ---------------------------------------------------------------------------------------------------
    def output(self, results: tuple[Tensor, ...]) -> Output:
        """What the caller gets. The call keeps no result: autograd would keep both alive for ever."""
        about = self.model.recdsl_about
        loss, *outputs = results
        state = {c: self.data[self.storages["next " + c]].detach().clone() for c in about["carries"]}
        state["t"] = torch.tensor(self.t0 + self.steps)
        names = [info["name"] for info in about["losses"]]
        losses = {name: part.detach() for name, part in zip(names, self.parts, strict=True)} if self.scored else {}
        return Output(dict(zip(about["outputs"], outputs, strict=True)), loss if self.scored else None, losses, state)


class Frame:
    """Room for the calls of one kind (variant, extent, dtype), and what was done with it, by generated function.

    A function asks for the same things in the same order at each call of a kind. The first call finds out where
    everything goes and writes it down; later ones read it off. One call at a time has a frame.
    """

    def __init__(self, kind: Any, spare: list[Tensor]) -> None:
        self.kind, self.spare = kind, spare
        self.free: list[Tensor] = []
        self.held: dict[int, Tensor] = {}
        self.known: dict[int, int] = {}
        self.scripts: dict[str, list[Any]] = {}
        self.constants: dict[str, dict[str, Tensor]] = {}
        self.split: dict[tuple[Any, ...], tuple[Tensor, ...]] = {}

    def find(self, size: int, like: Tensor, dtype: torch.dtype) -> Tensor:
        """The smallest free piece of memory of once to twice the size, else a new one."""
        for rooms in (self.free, self.spare):
            fitting = [room for room in rooms if room.dtype == dtype and size <= room.numel() <= 2 * size]
            if fitting:
                found = min(fitting, key=Tensor.numel)
                rooms[:] = [room for room in rooms if room is not found]
                break
        else:
            found = like.new_empty((size,), dtype=dtype)
        self.known[found.data_ptr()] = found.numel() * found.element_size()
        return found

    def owns(self, x: Tensor) -> bool:
        """Whether a tensor lies in this frame's memory, where it is the same at each call."""
        place = x.data_ptr()
        return any(start <= place < start + size for start, size in self.known.items())


def split_rows(x: Tensor, lo: int, hi: int | None, start: int, stop: int | None) -> tuple[Tensor, ...]:
    """The steps lo:hi of a sequence one by one (columns start:stop of each)."""
    return (x[lo:hi] if stop is None else x[lo:hi, ..., start:stop]).unbind(0)


class Replay:
    """The arena of a function that has run before: everything is known."""

    def __init__(self, script: list[Any]) -> None:
        self.next: Callable[[], Any] = iter(script).__next__

    def take(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return self.next()

    def rows(self, x: Tensor, lo: int = 0, hi: int | None = None, start: int = 0, stop: int | None = None) -> Any:
        return self.next() or split_rows(x, lo, hi, start, stop)

    def give(self, *tensors: Tensor) -> None:
        """Settled when the script was written."""

    def finish(self, name: str) -> None:
        """Nothing to write down."""


class Record:
    """The arena of a function's first run in a frame; without a frame it makes tensors anew each time."""

    def __init__(self, frame: Frame | None, like: Tensor) -> None:
        self.frame, self.like = frame, like
        self.script: list[Any] = []
        self.before = set(frame.held) if frame is not None else set[int]()

    def take(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """An uninitialised tensor of that shape."""
        dtype, size = dtype or self.like.dtype, math.prod(shape)
        if self.frame is None or size == 0:
            found = self.like.new_empty(shape, dtype=dtype)
        else:
            room = self.frame.find(size, self.like, dtype)
            found = room[:size].view(shape)
            self.frame.held[found.data_ptr()] = room
        self.script.append(found)
        return found

    def rows(self, x: Tensor, lo: int = 0, hi: int | None = None, start: int = 0, stop: int | None = None) -> Any:
        """The steps of a sequence (or some columns of it) one by one."""
        found = split_rows(x, lo, hi, start, stop)
        frame = self.frame
        if frame is None or not frame.owns(x):
            self.script.append(None)
            return found
        key = (x.data_ptr(), x.shape, x.stride(), lo, hi, start, stop)
        self.script.append(frame.split.setdefault(key, found))
        return frame.split[key]

    def give(self, *tensors: Tensor) -> None:
        """Hand back what is done with."""
        if self.frame is not None:
            for tensor in tensors:
                room = self.frame.held.pop(tensor.data_ptr(), None)
                if room is not None:
                    self.frame.free.append(room)

    def finish(self, name: str) -> None:
        """The function has run to its end. Only `forward` leaves something behind: what its backward pass reads."""
        if self.frame is not None:
            self.frame.scripts[name] = self.script
            if name != "forward":
                self.frame.free += [self.frame.held.pop(key) for key in set(self.frame.held) - self.before]


class Arena:
    """Frames, kept from call to call: fresh pages cost more than the arithmetic on small models.

    Used on the CPU only; elsewhere the device's own caching allocator does this.
    """

    def __init__(self) -> None:
        self.idle: list[Frame] = []

    def __deepcopy__(self, memo: Any) -> Arena:
        return Arena()

    def __reduce__(self) -> tuple[type[Arena], tuple[()]]:
        return Arena, ()

    def lease(self, like: Tensor, kind: Any) -> Lease:
        """Room for one call. Where lengths vary, a new kind takes over the memory of the one unused for longest."""
        if like.device.type != "cpu":
            return Lease(self, None, like)
        for frame in reversed(self.idle):
            if frame.kind == kind:
                self.idle = [other for other in self.idle if other is not frame]
                return Lease(self, frame, like)
        old = self.idle.pop(0) if len(self.idle) > 2 else None
        return Lease(self, Frame(kind, [*old.free, *old.held.values()] if old is not None else []), like)


class Lease:
    """What one call, forward and backward, holds of an arena."""

    def __init__(self, arena: Arena, frame: Frame | None, like: Tensor) -> None:
        self.arena, self.frame, self.like = arena, frame, like

    def open(self, name: str) -> Replay | Record:
        """The arena of one function of the call."""
        if self.frame is not None and name in self.frame.scripts:
            return Replay(self.frame.scripts[name])
        return Record(self.frame if name != "start" else None, self.like)

    def once(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What is the same at each call of a kind."""
        if self.frame is None:
            return make()
        if name not in self.frame.constants:
            self.frame.constants[name] = make()
        return self.frame.constants[name]

    def spoil(self) -> None:
        """After an error nobody knows what is held: the frame is not used again."""
        self.frame = None

    def close(self) -> None:
        """Hand back everything."""
        if self.frame is not None:
            self.frame.spare = []
            self.arena.idle.append(self.frame)
            self.frame = None


class Run(torch.autograd.Function):
    """The one place where gradients enter and leave: the generated backward functions do all the work."""

    @staticmethod
    def forward(ctx: Any, call: Call, *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.call = call
        ctx.parameters = parameters
        ctx.versions = [parameter._version for parameter in parameters]
        results = call.forward(list(parameters))
        ctx.made = [value.detach() for value in results]
        ctx.made_versions = [value._version for value in ctx.made]
        tape = torch.empty(0)
        ctx.save_for_backward(tape)
        weakref.finalize(tape, call.lease.close)
        ctx.mark_non_differentiable(*(value for value in results if not value.is_floating_point()))
        return results

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *cotangents: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        _ = ctx.saved_tensors  # raises PyTorch's own error once the graph is freed
        if [parameter._version for parameter in ctx.parameters] != ctx.versions:
            raise RuntimeError("a parameter was changed in place between the call and backward()")
        if [value._version for value in ctx.made] != ctx.made_versions:
            raise RuntimeError("an output was changed in place between the call and backward()")
        return None, *ctx.call.backward(cotangents[0], cotangents[1:])
