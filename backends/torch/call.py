"""One call of a compiled model: checks of the batch, incoming state, loss weights, and the generated functions in turn.

The text of this file is part of every exported model; it needs torch only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recdsl.backends.torch.boundaries import back_in_pieces, kept_in_pieces
from recdsl.backends.torch.chunks import in_pieces, in_pieces_again
from recdsl.backends.torch.searches import Lookups

if TYPE_CHECKING:
    from recdsl.backends.torch.arena import Lease
    from recdsl.backends.torch.boundaries import Boundary, Shelf
    from recdsl.backends.torch.runtime import CompiledModel


@dataclass
class Output:
    """Result of a call. `outputs`: [time, batch, *axes] by name; `losses` and `state` carry no gradient."""

    outputs: dict[str, Tensor]
    loss: Tensor | None
    losses: dict[str, Tensor]
    state: dict[str, Tensor]


class Call:
    """One call of a model: everything its functions read, by storage name."""

    def __init__(
        self,
        model: CompiledModel,
        batch: Mapping[str, Tensor],
        mask: Tensor | None,
        reset: Tensor | None,
        state: Mapping[str, Tensor] | None,
        counted: Tensor | None = None,
    ) -> None:
        self.model, self.state = model, state
        self.learning = self.parted = False
        self.chunk: int = max(1, model.recdsl_chunk)
        self.learned: dict[str, Tensor] = {}
        self.left: dict[str, Tensor] = {}
        self.copied: Callable[[Tensor], Tensor] = lambda value: value
        self.values: dict[str, Tensor] = {}
        self.seen: dict[str, dict[str, Any]] = {}
        self.stored: dict[str, tuple[Tensor, Tensor]] = {}
        self.earlier: dict[str, list[tuple[Call, Tensor, Tensor]]] = {}
        self.left_over: dict[str, tuple[Tensor, Tensor]] = {}
        self.requests: list[Any] = []
        self.lookups = Lookups()
        self.places: dict[str, list[Tensor]] = {}
        self.boundaries: list[Boundary] = []
        self.shelves: list[Shelf] = []
        about = model.recdsl_about
        self.ragged = mask is not None or reset is not None
        self.variant = "ragged" if self.ragged else "plain"
        self.like: Tensor = model.recdsl_like  # type: ignore[assignment]
        self.absent: list[str] = []
        self.given = self._read(batch)
        self.steps, self.size = self._extent()
        self.deferred: Mapping[str, Any] | None = about["deferred"]
        if self.deferred is not None and self.steps >= self.deferred["least"]:
            self.variant += "_deferred"
            self.chunk = -(-self.chunk // self.deferred["multiple"]) * self.deferred["multiple"]
        else:
            self.deferred = None
        self.storages = about["storages"][self.variant]
        self.scored = all(name in self.given for name, info in about["inputs"].items() if info["target"])
        shape = (self.steps, self.size)
        self._check_flags("mask", mask, shape)
        self._check_flags("reset", reset, shape)
        self._check_flags("counted", counted, shape)
        given = {"in_mask": mask, "in_reset": reset}
        self.data: dict[str, Any] = {name: x.to(self.like.device) for name, x in given.items() if x is not None}
        self._fill(self.data.get("in_mask"))
        kind = (self.variant, self.steps, self.size, self.like.dtype)
        self.lease: Lease = model.recdsl_arena.lease(self.like, kind)
        self.data = self.lease.once("nothing given", lambda: self._nothing(shape)) | self.data
        self.valid: Tensor = self.data["in_mask"]
        if state is not None:
            self.data["fresh"] = self.like.new_full((), 0.0)
        self.t0 = 0 if state is None or "t" not in state else int(state["t"])
        self.counted = None if counted is None else counted.to(self.like.device)
        for name in self.absent:
            self._check_absent(name)
        flags = (x for x in (mask, reset, counted) if x is not None)
        self.received = [*self.given.values(), *flags, *(() if state is None else state.values())]
        waits = state is not None and any("after" in info for info in about["losses"])
        if mask is None and counted is None and not waits:
            self.data |= self.lease.once(f"weights {self.scored}", lambda: self._weights(shape))
        else:
            self.data |= self._weights(shape)
        self.data |= self.windows()

    def windows(self) -> dict[str, int]:
        """How many windows the call has, by class."""
        found = (self.model.recdsl_about if self.deferred is None else self.deferred)["windows"]
        return {name: -(-self.steps // every) for name, every in found.items()}

    # -- reading the batch ----------------------------------------------------------------------------------------
    def _read(self, batch: Any) -> dict[str, Tensor]:
        known = self.model.recdsl_about["inputs"]
        if not isinstance(batch, Mapping):
            raise other("the batch", batch, f"a mapping from names to tensors: {', '.join(known)}")
        unknown = sorted(set(batch) - set(known))
        if unknown:
            raise ValueError(f"batch has {unknown[0]!r}, but the spec has only {', '.join(map(repr, known))}")
        missing = [name for name, info in known.items() if not info["target"] and name not in batch]
        if missing:
            raise ValueError(f"batch lacks the input {missing[0]!r}")
        stored = [name for name, info in known.items() if info["stored"] and name not in batch]
        if stored:
            raise ValueError(f"batch lacks the target {stored[0]!r}, which a memory of the model stores")
        return {name: self._value(name, known[name], batch[name]) for name in known if name in batch}

    def _value(self, name: str, info: Mapping[str, Any], value: Any) -> Tensor:
        shape = tuple(info["shape"])
        expected = f"[time, batch{''.join(f', {n}' for n in shape)}]"
        if not isinstance(value, Tensor):
            raise other(repr(name), value, f"a tensor {expected}")
        if value.layout is not torch.strided or value.is_complex():
            kind = value.dtype if value.is_complex() else str(value.layout).removeprefix("torch.")
            raise ValueError(f"{name!r} is {kind}; expected dense numbers {expected} that are not complex")
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

    def _check_flags(self, name: str, value: Any, shape: tuple[int, int]) -> None:
        if value is None:
            return
        if not isinstance(value, Tensor):
            raise other(name, value, f"a tensor of torch.bool {list(shape)}")
        if tuple(value.shape) != shape or value.dtype != torch.bool:
            raise ValueError(f"{name} is {value.dtype} {list(value.shape)}; expected torch.bool {list(shape)}")

    def _nothing(self, shape: tuple[int, int]) -> dict[str, Tensor]:
        """What stands for a mask, resets and a state where the call has none."""
        yes, no = (torch.full((1, 1), flag, device=self.like.device).expand(shape) for flag in (True, False))
        return {"in_mask": yes, "in_reset": no, "fresh": self.like.new_full((), 1.0)}

    def _fill(self, mask: Tensor | None) -> None:
        """Inputs and targets by storage. What stands at masked steps is never used: a valid step's value takes its
        place, so that no padding (zero, NaN, -1) meets a logarithm or a division."""
        steps, samples = (None, None) if mask is None else self._stand_ins(mask)
        for name, info in self.model.recdsl_about["inputs"].items():
            value = self.given.get(name)
            if value is None:
                kinds = {"int": torch.long, "bool": torch.bool}
                dtype = kinds.get(info["dtype"], self.like.dtype)
                value = torch.zeros((1,) * (2 + len(info["shape"])), dtype=dtype, device=self.like.device)
                value = value.expand(self.steps, self.size, *info["shape"])
            elif mask is not None:
                value = torch.zeros_like(value) if steps is None else value[steps, samples]
            if info["dtype"] == "int" and name in self.given:
                self._check_range(name, info, value)
            self.data[self.storages[name]] = value

    def _stand_ins(self, valid: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """For each (step, sample) the place of the value to use: its own if valid, else the last valid one before it,
        else the sample's first, else another sample's; None where nothing is valid."""
        if not valid.any():
            return None, None
        steps = torch.arange(self.steps, device=valid.device)[:, None]
        last = torch.where(valid, steps, -1).cummax(0).values
        last = torch.where(last < 0, valid.to(torch.uint8).argmax(0), last)
        used = valid.any(0)
        samples = torch.where(used, torch.arange(self.size, device=used.device), used.to(torch.uint8).argmax())
        return last.gather(1, samples.expand(last.shape)), samples.expand(last.shape)

    def _check_range(self, name: str, info: Mapping[str, Any], value: Tensor) -> None:
        if value.numel() == 0:
            return
        low, high = torch.aminmax(value)
        if int(high) >= info["size"] or (int(low) < 0 and not info["target"]):
            wrong = int(high) if int(high) >= info["size"] else int(low)
            raise ValueError(f"{name!r} holds {wrong}; it is {info['kind']}[{info['size']}]: 0 to {info['size'] - 1}")
        if int(low) < 0:
            self.absent.append(name)

    def _check_absent(self, name: str) -> None:
        """A target below 0 is none of its classes: it may stand where no loss looks at it."""
        info, about = self.model.recdsl_about["inputs"][name], self.model.recdsl_about["losses"]
        for loss in (about[k] for k in info["losses"]) if self.scored else ():
            wrong = self.given[name][(self.given[name] < 0) & self._chosen(loss["at"])]
            if wrong.numel():
                kind = f"{info['kind']}[{info['size']}]: 0 to {info['size'] - 1}"
                advice = "leave such steps out by `mask`, or by `counted`"
                raise ValueError(f"{name!r} holds {int(wrong[0])} where the loss is due; it is {kind}; {advice}")

    # -- losses ---------------------------------------------------------------------------------------------------
    def _weights(self, shape: tuple[int, int]) -> dict[str, Tensor]:
        """`w*`: what each (step, sample) counts in each loss; the share 1 / number under `reduce: mean`."""
        found: dict[str, Tensor] = {}
        for k, info in enumerate(self.model.recdsl_about["losses"]):
            due = self._chosen(info["at"]) & self._preceded(info.get("after", ""))
            due = due.to(self.like.dtype) if self.scored else self.like.new_zeros(shape)
            number = self.like.new_ones(())
            if self.model.recdsl_about["reduce"] == "mean":
                number = due.sum().clamp_min(1.0)
            found[f"w{k}"], found[f"number{k}"] = due / number, number
        return found

    def _chosen(self, at: Any) -> Tensor:
        """Of the pairs that a loss is due at, those that the caller lets count."""
        return self._due(at) if self.counted is None else self._due(at) & self.counted

    def _due(self, at: Any) -> Tensor:
        if at == "all":
            return self.valid
        steps = torch.arange(self.steps, device=self.like.device)[:, None]
        if at == "last":
            last = torch.where(self.valid, steps, -1).amax(0)
            return (steps == last) & self.valid
        return self.valid & ((steps + 1) % at[1] == 0)

    def _preceded(self, after: str) -> Tensor:
        """Steps with a valid one before them, in this call or (as the carry `after` says) earlier ones."""
        if not after:
            return self.valid
        first = self.valid.new_zeros(self.size) if self.state is None else self.state.get(after)
        if first is None or tuple(first.shape) != (self.size,):
            raise ValueError(f"state lacks {after!r} [{self.size}]")
        before = torch.cat((first.to(self.valid)[None], self.valid[:-1]))
        return before.cumsum(0) > 0

    # -- running --------------------------------------------------------------------------------------------------
    def run(self, entry: str, variant: str = "") -> dict[str, Any]:
        function, arguments, results = self.model.recdsl_functions[f"{variant or self.variant}.{entry}"]
        arena, data = self.lease.open(entry, self.lookups), self.data
        try:
            values = function(self.like, arena, self.steps, self.size, *[data[name] for name in arguments])
        except BaseException:
            self.lease.spoil()
            raise
        arena.finish(entry)
        return dict(zip(results, values, strict=True))

    def forward(self, parameters: list[Tensor]) -> tuple[Tensor, ...]:
        about = self.model.recdsl_about
        parameters = [self.copied(value) for value in parameters]
        self.values = dict(zip(about["parameters"], parameters, strict=True))
        for name, value in self.values.items():
            if "parameter " + name in self.storages:
                self.data[self.storages["parameter " + name]] = value
        if "in_t" in self.data or about["counts"]:
            steps = torch.arange(self.t0, self.t0 + self.steps, dtype=self.like.dtype, device=self.like.device)
            self.data["in_t"] = steps[:, None].expand(self.steps, self.size)
        self._start()
        self._thin()
        self._sign()
        pieces = (about if self.deferred is None else self.deferred)["pieces"]
        self.parted = self.learning and pieces and self.steps > self.chunk
        again = self.learning and not self.parted and self._runs_again()
        found = in_pieces(self) if self.parted else kept_in_pieces(self) if again else self.run("forward")
        self.data.update(found)
        losses = [found[f"loss{k}"] for k in range(len(about["losses"]))]
        terms = [info["weight"] * value for info, value in zip(about["losses"], losses, strict=True)]
        loss = terms[0] if terms else self.like.new_zeros(())
        for term in terms[1:]:
            loss = loss + term
        self.parts = losses
        self.learned = self.learned if self.parted else self.learn()
        return loss, *(self._timed(k, found[f"out{k}"]) for k in range(len(about["outputs"])))

    def _runs_again(self) -> bool:
        """Whether pieces of the call are run again on the way back, so that it keeps less."""
        about = self.model.recdsl_about["again"]
        if about is None:
            return False
        chunk = max(min(self.chunk, about["steps"]), about["lag"])
        kept = about["numbers"] * self.like.element_size() * self.steps * self.size
        if self.steps <= chunk or kept < about["least"]:
            return False
        self.chunk, self.variant = chunk, f"{self.variant}_pieces"
        return True

    def _thin(self) -> None:
        """What credit is multiplied by between two steps: 0 where it is cut, else 1, or what makes up for cuts."""
        about = self.model.recdsl_about
        for name, (lag, grid) in about["gridded"][self.variant].items() if self.learning else ():
            fixed = self.like.new_ones((self.steps, self.size))
            fixed[grid::grid] = 0.0
            self.data[name] = self._over(fixed, lag)
        drawn: dict[int, Tensor] = {}
        for name, (kind, lag, mean, tail) in (
            self.model.recdsl_about["thinned"][self.variant].items() if self.learning else ()
        ):
            if kind not in drawn:
                uniform = torch.rand((self.steps, self.size), dtype=self.like.dtype, device=self.like.device)
                drawn[kind] = truncated(uniform, mean, tail)
            self.data[name] = self._over(drawn[kind], lag)

    def _over(self, weights: Tensor, lag: int) -> Tensor:
        """Over so many steps: the product of the weights of each."""
        wide = torch.cat((self.like.new_ones((lag - 1, self.size)), weights))
        return torch.stack([wide[k : k + self.steps] for k in range(lag)]).prod(0)

    def _sign(self) -> None:
        """Random signs of rank-one estimates."""
        for name, shape in self.model.recdsl_about["signs"][self.variant].items() if self.learning else ():
            drawn = torch.randint(2, (self.steps, self.size, *shape), device=self.like.device)
            self.data[name] = (2 * drawn - 1).to(self.like.dtype)

    def learn(self) -> dict[str, Tensor]:
        """Forward rules: the gradients of the loss by storage, made while their traces are carried along."""
        about = self.model.recdsl_about
        if not about["traced"] or not self.learning:
            return {}
        for k, info in enumerate(about["losses"]):
            self.data[f"g{k}"] = self.data[f"w{k}"] * info["weight"]
        found = self.trace("")
        self.left = {name: found[self.storages["next " + name]] for name in about["traces"]}
        self.data |= {self.storages["next " + name]: value for name, value in self.left.items()}
        return {name: value for name, value in found.items() if name.startswith("grad_")}

    def trace(self, kind: str) -> dict[str, Any]:
        """The traces, behind the reverse passes of rules that look back over a window. What has no traces but such a
        pass has its gradient already."""
        ready: dict[str, Any] = {}
        if f"{self.variant}.windows{kind}" in self.model.recdsl_functions:
            found = self.run(f"windows{kind}")
            self.data.update(found)
            ready = {name: value for name, value in found.items() if name.startswith("grad_")}
        return ready | self.run(f"traces{kind}")

    def _timed(self, k: int, value: Tensor) -> Tensor:
        """An output that does not vary is shown at every step."""
        if self.fixed(k):
            return value.expand(self.steps, self.size, *value.shape)
        return value.clone() if self.lease.owns(value) or self._lent(value) else value.detach()

    def _lent(self, value: Tensor) -> bool:
        """Whether an output is (part of) an input, which belongs to the caller and must not get a history."""
        place = value.untyped_storage().data_ptr()
        return any(given.untyped_storage().data_ptr() == place for given in self.given.values())

    def fixed(self, k: int) -> bool:
        return self.data[f"out{k}"].dim() == self.model.recdsl_about["ranks"][k]

    def _start(self) -> None:
        """What each carry holds before step 0."""
        about = self.model.recdsl_about
        given = self.state or {}
        wanted = dict(about["carries"]) | about["traces"]
        if self.state is None:
            learned = self.model.recdsl_functions["plain.start"][1]
            self.data |= self._starts(wanted) if learned else self.lease.once("start", lambda: self._starts(wanted))
            return
        for carry, shape in wanted.items():
            if carry in about["traces"] and (carry not in given or carry in about["forgotten"]):
                self.data[self.storages["state " + carry]] = self.like.new_zeros(self.extents(carry, shape))
                continue
            if carry not in given:
                raise ValueError(f"state lacks {carry!r}")
            sizes = self.extents(carry, shape)
            if tuple(given[carry].shape) != sizes:
                raise ValueError(f"state {carry!r} has shape {list(given[carry].shape)}, not {list(sizes)}")
            self.data[self.storages["state " + carry]] = given[carry].detach()

    def _starts(self, wanted: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
        """Where no state is given: the same at each call, unless a parameter is a start or has a part in it."""
        found, made = self.run("start", "plain"), dict[str, Tensor]()
        for init, carries in self.model.recdsl_about["inits"]:
            for carry in carries:
                start = found[init].expand(self.extents(carry, wanted[carry]))
                small = start.numel() <= 1 << 16  # whole in memory, as C reads it; large ones are not worth keeping
                made[self.storages["state " + carry]] = start.contiguous() if small else start
        return made

    def extents(self, name: str, shape: Sequence[int]) -> tuple[int, ...]:
        """Of a state or trace: samples in front, where they do not share it."""
        return tuple(shape) if name in self.model.recdsl_about["common"] else (self.size, *shape)

    def backward(self, loss: Tensor | None, outputs: tuple[Tensor | None, ...]) -> list[Tensor | None]:
        about = self.model.recdsl_about
        scale = self.like.new_zeros(()) if loss is None else loss
        self._answer(self.like.new_ones(()) if loss is None else loss)
        for k, info in enumerate(about["losses"]):
            self.data[f"g{k}"] = self.data[f"w{k}"] * (scale * info["weight"])
        entry = "backward" if all(value is None for value in outputs) else "backward_outputs"
        if entry == "backward_outputs":
            self._cotangents(outputs)
        found = {} if self.parted else back_in_pieces(self, entry) if self.boundaries else self.run(entry)
        if self.learned and entry == "backward_outputs":
            found |= in_pieces_again(self) if self.parted else self.trace("_outputs")
        else:
            found |= {name: value * scale for name, value in self.learned.items()}
        return [found.get(about["gradients"].get(name)) for name in about["parameters"]]

    def _answer(self, unit: Tensor) -> None:
        """For nets that answer for the losses behind windows: by boundary and sample whether anything follows there,
        and how much it counts as a lesson. unit: what the loss is multiplied by."""
        for k, info in self.model.recdsl_about["heads"].items():
            places = [*range(0, self.steps, info["every"]), self.steps]
            goes = self._followed(info["beyond"])[places].to(self.like.dtype)
            learn = goes.clone()
            learn[-1] = 0.0  # what arrives there is known in a later call
            if self.state is None or not info["first"]:
                learn[0] = 0.0
            numbers = [self.data[f"number{loss}"] for loss in info["losses"]]
            share = torch.stack(numbers).amax() if numbers else self.like.new_ones(())
            self.data |= {f"goes{k}": goes * (unit / share), f"learn{k}": learn / learn.sum().clamp_min(1.0)}
            self.data |= {f"unit{k}": unit, f"share{k}": share}

    def _followed(self, beyond: bool) -> Tensor:
        """bool [time + 1, batch]: whether the sequence before a step has a valid step there or later."""
        after = torch.full((1, self.size), beyond, device=self.like.device)
        if not self.ragged:
            return torch.cat((self.valid, after))
        reset = self.data["in_reset"]
        steps = torch.arange(self.steps, device=self.like.device)[:, None]
        first = torch.where(self.valid | reset, steps, self.steps).flip(0).cummin(0).values.flip(0)
        return torch.cat((torch.cat((~reset, after)).gather(0, first), after))

    def _cotangents(self, outputs: tuple[Tensor | None, ...]) -> None:
        """`c*`: what arrives at the outputs."""
        for k, value in enumerate(outputs):
            shape = self.data[f"out{k}"].shape[0 if self.fixed(k) else 2 :]
            self.data[f"c{k}"] = self.like.new_zeros((self.steps, self.size, *shape)) if value is None else value

    # -- result ---------------------------------------------------------------------------------------------------
    def output(self, results: tuple[Tensor, ...]) -> Output:
        """What the caller gets. The call keeps no result: autograd would keep both alive for ever."""
        about = self.model.recdsl_about
        loss, *outputs = results
        state = {c: self.data[self.storages["next " + c]].clone() for c in about["carries"]}
        for name, shape in about["traces"].items() if self.left else ():
            if name in about["forgotten"]:
                continue
            state[name] = self.left[name].detach().expand(self.extents(name, shape)).clone()
        state["t"] = torch.tensor(self.t0 + self.steps)
        names = [info["name"] for info in about["losses"]]
        losses = {name: part.detach() for name, part in zip(names, self.parts, strict=True)} if self.scored else {}
        return Output(dict(zip(about["outputs"], outputs, strict=True)), loss if self.scored else None, losses, state)


def other(name: str, value: Any, expected: str) -> TypeError:
    """What to raise for a value that is something else."""
    found = "None" if value is None else f"a {type(value).__name__}"
    return TypeError(f"{name} is {found}; expected {expected}")


def truncated(uniform: Tensor, mean: int, tail: float) -> Tensor:
    """[T, B]: weights of credit on its way into each step. The chance of a cut is 1 / mean; with a tail alpha it is
    alpha / ((alpha - 1) mean + k), where the last cut (or the beginning) lies k steps back."""
    if not tail:
        weights = (uniform >= 1 / mean).to(uniform.dtype) * (mean / (mean - 1))
        weights[0] = 1.0
        return weights
    rows, since = [torch.ones_like(uniform[0])], torch.ones_like(uniform[0])
    for row in uniform[1:]:
        chance = tail / ((tail - 1) * mean + since)
        cut = row < chance
        rows.append(torch.where(cut, torch.zeros_like(row), 1 / (1 - chance)))
        since = torch.where(cut, torch.ones_like(row), since + 1)
    return torch.stack(rows)
