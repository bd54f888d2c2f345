"""Credit through stores by running encoders again on the observations behind stored items (Hansen 2017).

Gradients of items are applied at once, or wait beside the rows and are applied together, or correct what was predicted
when the item was written. The text of this file is part of every exported model; it needs torch only.
"""

from __future__ import annotations

import math
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recdsl.backends.torch.arena import Record
from recdsl.backends.torch.reinstate import Free, Gradients, Keeper, Predicted, Tensors, Whole

if TYPE_CHECKING:
    from recdsl.backends.torch.call import Call

Source = Mapping[str, Any]
"""What a store holds, or held, by its last names: tensors or columns."""
DRIFT = 4.0
"""By what factor the length of keys that cosine compares may change before a warning says so."""


class Replayed(Keeper):
    """The encoder is run again on observations, stored or decoded, some items at a time.

    Two passes: without a graph where rows are read, and with one, chunk by chunk, for those that have got a gradient.
    What is saved for a backward pass does not grow with the number of slots. `queued`: what the items' gradients add up
    to that have not been applied yet; an item that leaves has its own applied with those of the call that displaces it.
    """

    @property
    def extra(self) -> list[str]:
        observed = [] if "decode" in self.credit else [f"observed.{name}" for name in self.credit["observed"]]
        return [*observed, *(["queued"] if self.waits else [])]

    @property
    def waits(self) -> bool:
        """Whether gradients are applied later than in the pass that finds them."""
        return self.credit["every"] != 1

    @property
    def measured(self) -> bool:
        """Whether gradients of keys that cosine compares are put on keys made anew, which stand otherwise."""
        return self.credit["cosine"] and not self.credit["exact"]

    def blank(self, dtype: torch.dtype) -> Tensors:
        kinds = {"int": torch.long, "bool": torch.bool}
        size, found = self.info["slots"], super().blank(dtype)
        for name, (kind, shape) in {} if "decode" in self.credit else self.credit["observed"].items():
            found[f"observed.{name}"] = torch.zeros(size, *shape, dtype=kinds.get(kind, dtype))
        if self.waits:
            found["queued"] = torch.zeros(size, *self.info["shapes"][self.credit["part"]], dtype=dtype)
            found["waited"] = torch.zeros((), dtype=torch.long)
        if self.credit["freshen"]:
            found["calls"] = torch.zeros((), dtype=torch.long)
        if self.measured:
            found |= {"radial": torch.zeros((), dtype=dtype), "length": torch.zeros(2, dtype=dtype)}
        return found

    # -- reading and writing --------------------------------------------------------------------------------------
    def before(self, call: Call, values: Tensors) -> None:
        super().before(call, values)
        if self.credit["exact"]:
            self.encode_anew(call, values)

    def encode_anew(self, call: Call, values: Tensors) -> None:
        """What the call reads in place of the rows: of those that a search finds, or of all."""
        name, seen = f"{self.name}.{self.credit['part']}", call.seen[self.name]
        if self.searched:
            call.lookups.anew[values[name].data_ptr()] = Anew(self, call, values)
        else:
            values[name] = self.encoded(call, seen, values[name].detach().clone(), values)

    def encoded(self, call: Call, source: Source, rows: Tensor, values: Tensors) -> Tensor:
        """The rows, with those that hold an item made anew."""
        slots = self.every(call)
        held = slots[source["serial"][slots] > 0]
        for chunk in held.split(self.credit["chunk"]) if len(held) else ():
            observed = self.observations(call, source, chunk, values)
            rows[chunk] = Part(call, self.credit["encode"], observed, values).value
        return rows

    def observations(self, call: Call, source: Source, chunk: Tensor, values: Tensors) -> Tensors:
        """What the encoder reads, for some slots. source: all that the store held, by its last names."""
        if "decode" not in self.credit:
            return {name: source[f"observed.{name}"][chunk] for name in self.credit["observed"]}
        (name,), part = self.credit["observed"], self.credit["part"]
        return {name: Part(call, self.credit["decode"], {"given": source[part][chunk]}, values).value}

    def remember(self, call: Call, slots: Tensor, place: Tensor) -> None:
        for name in () if "decode" in self.credit else self.credit["observed"]:
            given: Tensor = call.data[call.storages[name]]
            items = given.reshape(-1, *given.shape[2:]).index_select(0, place)
            self.place(call, f"observed.{name}", slots, items)
        if self.waits:
            left = self.held(call, "queued")[slots]
            call.left_over[self.name] = slots, left
            self.place(call, "queued", slots, torch.zeros_like(left))
        if self.measured and len(slots):
            self.measure(call, slots)

    def behind(self, call: Call) -> None:
        super().behind(call)
        every, part = self.credit["freshen"], self.credit["part"]
        if not every:
            return
        calls = call.model.recdsl_tensor(f"{self.name}.calls") + 1
        self.put(call, "calls", calls)
        if int(calls) % every == 0:
            now = self.seen(call.model)
            with torch.no_grad():
                rows = self.encoded(call, now, self.held(call, part).detach().clone(), call.values)
                slots = self.every(call)
                if self.searched:
                    self.overwrite(call, slots, {part: rows[slots]}, [part])
                else:
                    self.put(call, part, rows)

    # -- credit ---------------------------------------------------------------------------------------------------
    def back(self, call: Call, unit: Tensor, found: Gradients) -> None:
        slots, asked = self.credits(call, found, self.credit["part"])
        seen = call.seen[self.name]
        there = seen["serial"][slots] > 0
        if not self.waits:
            self.ask(call, seen, slots[there], asked[there])
            return
        still = self.still(call, slots)
        self.place(call, "queued", slots[still], self.held(call, "queued")[slots[still]] + asked[still])
        slots, asked = slots[there & ~still], asked[there & ~still]
        left = call.left_over.pop(self.name, None)
        self.ask(call, seen, *(together((slots, asked), left) if left is not None else (slots, asked)))
        self.flush(call)

    def flush(self, call: Call) -> None:
        """Every so many passes, all that waits is applied."""
        waited = call.model.recdsl_tensor(f"{self.name}.waited") + 1
        if self.credit["every"] and int(waited) >= self.credit["every"]:
            slots = due(self.held(call, "queued"))
            queued = self.held(call, "queued")[slots]
            self.ask(call, self.seen(call.model), slots, queued)
            self.place(call, "queued", slots, torch.zeros_like(queued))
            waited = torch.zeros_like(waited)
        self.put(call, "waited", waited)

    def ask(self, call: Call, source: Source, slots: Tensor, gradients: Tensor) -> None:
        """Have the encoder run again for the items with a gradient."""
        chosen = due(gradients)
        if len(chosen):
            call.requests.append(Request(self, source, slots[chosen], gradients[chosen]))

    def applied(self, made: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """The gradient of some items as it is put on what the encoder makes of them now, and how much of its square
        lies along them. `project=tangent` leaves that part out."""
        flat, item = gradient.reshape(len(gradient), -1), made.reshape(len(made), -1)
        length = (item * item).sum(1, keepdim=True)
        share = torch.where(length > 0, (flat * item).sum(1, keepdim=True) / length, torch.zeros_like(length))
        along = (share * share * length).sum()
        return (flat - share * item).reshape(gradient.shape) if self.credit["tangent"] else gradient, along

    # -- lengths that no loss sees --------------------------------------------------------------------------------
    def measure(self, call: Call, slots: Tensor) -> None:
        """`length`: the mean length of the first items, and of the last ones."""
        items = call.model.recdsl_tensor(f"{self.name}.{self.credit['part']}")[slots]
        mean = items.reshape(len(items), -1).norm(dim=1).mean()
        first = call.model.recdsl_tensor(f"{self.name}.length")[0]
        self.put(call, "length", torch.stack((torch.where(first > 0, first, mean), mean)))
        self.warn(call)

    def warn(self, call: Call) -> None:
        """Say once that keys have become long or short."""
        first, last = call.model.recdsl_tensor(f"{self.name}.length").tolist()
        told = (self.name, "length")
        if told in call.model.recdsl_told or not first or 1 / DRIFT <= last / first <= DRIFT:
            return
        call.model.recdsl_told.add(told)
        share = float(call.model.recdsl_tensor(f"{self.name}.radial"))
        hint = "" if self.credit["tangent"] else "; `project=tangent` leaves that part out"
        warnings.warn(
            f"the items of the memory {self.name!r} are {last / first:.2g} times as long as at first, which cosine does"
            f" not see: {share:.0%} of the square of their gradients lies along them{hint}",
            RuntimeWarning,
            stacklevel=6,
        )


class Anew:
    """What a call reads in place of the rows that a search has found: each is encoded once a call, when it is fetched
    first. The search itself compares what is stored, so what this costs does not grow with the number of slots."""

    def __init__(self, keeper: Replayed, call: Call, values: Tensors) -> None:
        self.keeper, self.call, self.values = keeper, weakref.ref(call), values
        self.places: dict[int, int] = {}
        self.made: list[Tensor] = []

    def rows(self, table: Tensor, place: Tensor) -> Tensor:
        """The rows at some places, [*place, *axes]; anything at -1."""
        slots = place[place >= 0].unique()
        fresh = [slot for slot in slots.tolist() if slot not in self.places]
        if fresh:
            self.encode(torch.tensor(fresh, device=place.device))
        if not self.made:
            return table.new_zeros(*place.shape, *table.shape[1:])
        if len(self.made) > 1:
            self.made = [torch.cat(self.made)]
        at = torch.tensor([self.places.get(slot, 0) for slot in place.reshape(-1).tolist()], device=place.device)
        return self.made[0][at].reshape(*place.shape, *table.shape[1:])

    def encode(self, slots: Tensor) -> None:
        keeper, call = self.keeper, self.call()
        assert call is not None
        for chunk in slots.split(keeper.credit["chunk"]):
            observed = keeper.observations(call, call.seen[keeper.name], chunk, self.values)
            self.places |= {slot: len(self.places) + k for k, slot in enumerate(chunk.tolist())}
            self.made.append(Part(call, keeper.credit["encode"], observed, self.values).value)


def due(gradients: Tensor) -> Tensor:
    """Which of some gradients are not zero."""
    flat = gradients.reshape(len(gradients), math.prod(gradients.shape[1:]))
    return (flat != 0).any(1).nonzero().squeeze(1)


def together(one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """The sum of two sets of (slots, gradients)."""
    slots, at = torch.cat((one[0], two[0])).unique(return_inverse=True)
    total = one[1].new_zeros(len(slots), *one[1].shape[1:])
    return slots, total.index_add(0, at, torch.cat((one[1], two[1])))


def shaped(flags: Tensor, like: Tensor) -> Tensor:
    """Flags of rows as numbers, to multiply rows with."""
    return flags.reshape(-1, *(1,) * (like.dim() - 1)).to(like.dtype)


class Corrected(Predicted):
    """A net says, when an item is written, what gradient it will get in all; when the item leaves, what that was wrong
    by is applied by running the encoder again. So the two add up to the item's gradient whatever the net says."""

    def __init__(self, model: Any, name: str) -> None:
        super().__init__(model, name)
        self.later = Replayed(model, name)

    @property
    def extra(self) -> list[str]:
        return [*super().extra, *self.later.extra]

    def blank(self, dtype: torch.dtype) -> Tensors:
        return super().blank(dtype) | self.later.blank(dtype)

    def before(self, call: Call, values: Tensors) -> None:
        super().before(call, values)
        if self.credit["exact"]:
            self.later.encode_anew(call, values)

    def remember(self, call: Call, slots: Tensor, place: Tensor) -> None:
        super().remember(call, slots, place)
        self.later.remember(call, slots, place)
        call.seen[self.name]["written"] = call.model.recdsl_tensor(f"{self.name}.serial")[slots]

    def sent(self, call: Call, part: str, rows: Tensor) -> Tensor:
        """Items that have left before their own pass back are told nothing; the others owe what they are told."""
        slots, _ = call.stored[self.name]
        here = call.model.recdsl_tensor(f"{self.name}.serial")[slots] == call.seen[self.name]["written"]
        rows = rows * shaped(here, rows)
        if part == self.credit["part"]:
            self.place(call, "queued", slots, self.held(call, "queued")[slots] - rows)
        return rows

    def back(self, call: Call, unit: Tensor, found: Gradients) -> None:
        super().back(call, unit, found)
        self.later.back(call, unit, found)


@dataclass(frozen=True)
class Request:
    """Some items whose encoder is to run again. source: what the store holds; rows: which of it; gradient: of these."""

    keeper: Replayed
    source: Source
    rows: Tensor
    gradient: Tensor

    def part(self, start: int, stop: int) -> Request:
        return Request(self.keeper, self.source, self.rows[start:stop], self.gradient[start:stop])


def replay(call: Call, found: Gradients) -> None:
    """Run the encoders that a call has asked for: those of all stores with the same encoder together."""
    groups: dict[str, list[Request]] = {}
    for request in call.requests:
        groups.setdefault(request.keeper.credit["encode"][0], []).append(request)
    along: dict[Replayed, Tensor] = {}
    whole: dict[Replayed, Tensor] = {}
    for asked in groups.values():
        for few in portions(asked, min(request.keeper.credit["chunk"] for request in asked)):
            run_again(call, few, found, along, whole)
    for keeper, square in whole.items():
        if keeper.measured:
            keeper.put(call, "radial", along[keeper] / square)
    call.requests = []


def portions(asked: list[Request], size: int) -> Iterator[list[Request]]:
    """So many items at a time."""
    few, room = list[Request](), size
    for request in asked:
        start = 0
        while start < len(request.rows):
            part = request.part(start, start + room)
            few.append(part)
            start, room = start + room, room - len(part.rows)
            if not room:
                yield few
                few, room = [], size
    if few:
        yield few


def run_again(
    call: Call, few: list[Request], found: Gradients, along: dict[Replayed, Tensor], whole: dict[Replayed, Tensor]
) -> None:
    """One run of an encoder, and back through it. along, whole: squares of the stores' gradients are added here."""
    observed = [request.keeper.observations(call, request.source, request.rows, call.values) for request in few]
    given = {name: torch.cat([one[name] for one in observed]) for name in observed[0]}
    again = Part(call, few[0].keeper.credit["encode"], given, call.values)
    cotangents: list[Tensor] = []
    for request, made in zip(few, again.value.split([len(request.rows) for request in few]), strict=True):
        cotangent, radial = request.keeper.applied(made, request.gradient)
        cotangents.append(cotangent)
        along[request.keeper] = along.get(request.keeper, 0) + radial
        whole[request.keeper] = whole.get(request.keeper, 0) + (request.gradient * request.gradient).sum()
    for name, value in again.back(torch.cat(cotangents)).items():
        old = found.get(name)
        found[name] = value if old is None else old + value


class Part:
    """One run of an encoder or decoder on its own. `value`: [items, *axes]."""

    def __init__(self, call: Call, about: tuple[str, Mapping[str, Any]], inputs: Tensors, values: Tensors) -> None:
        self.call, (self.variant, places) = call, about
        self.places = places
        self.size = len(next(iter(inputs.values())))
        self.data = {places["inputs"][name]: value.unsqueeze(0) for name, value in inputs.items()}
        self.data |= {storage: values[name].detach() for name, storage in places["parameters"].items()}
        self.data["fresh"] = call.like.new_full((), 1.0)
        self.data |= self._run("forward")
        self.value: Tensor = self.data["out0"].squeeze(0).clone()

    def _run(self, entry: str) -> dict[str, Any]:
        function, arguments, results = self.call.model.recdsl_functions[f"{self.variant}.{entry}"]
        arena = Record(None, self.call.like, self.call.lookups)
        values = function(self.call.like, arena, 1, self.size, *[self.data[name] for name in arguments])
        return dict(zip(results, values, strict=True))

    def back(self, cotangent: Tensor) -> Tensors:
        """Gradients of the parameters, by name. cotangent: [items, *axes]."""
        self.data["c0"] = cotangent.unsqueeze(0)
        made = self._run("backward_outputs")
        return {name: made[storage] for name, storage in self.places["gradients"].items()}


KEEPERS: Mapping[str, Callable[[Any, str], Keeper]] = {
    "stop": Keeper,
    "param": Free,
    "reinstate": Replayed,
    "through": Whole,
    "synthetic": Predicted,
    "corrected": Corrected,
}
