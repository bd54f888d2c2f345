"""Credit through stores that last as long as the model: what becomes of the gradient of the rows that a call has read.

Each store has one keeper. It sees a call before it runs (`before`: the rows that it reads), behind it (`behind`: what
was written where), on the way back (`cotangents`, `back`). The text of this file is part of every exported model; it
needs torch only.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recdsl.backends.torch.disk import Disk
from recdsl.backends.torch.index import Index
from recdsl.backends.torch.lasting import Column, Moment, blank, sequence, write

if TYPE_CHECKING:
    from recdsl.backends.torch.call import Call

Tensors = dict[str, Tensor]
Gradients = dict[str, Tensor | None]


class Keeper:
    """The store `name` of a model, and what credit does with it: here, nothing."""

    def __init__(self, model: Any, name: str) -> None:
        self.name, self.info = name, model.recdsl_about["stores"][name]
        self.credit: Mapping[str, Any] = self.info["credit"]
        self.searched: bool = self.info["searched"]
        self.now = Moment()
        self.disk: Disk | None = None
        self.indexes: dict[str, Index] = {}
        self.unindex()

    def blank(self, dtype: torch.dtype) -> Tensors:
        """Buffers beside the rows, by their last names."""
        records = {"records": torch.zeros((), dtype=torch.long)} if self.info["disk"] else {}
        return blank(self.info, dtype) | records

    def seen(self, model: Any) -> dict[str, Any]:
        """All that the store holds now, by its last names: tensors that are not changed in place, or columns."""
        if self.searched:
            return {part: Column(model, f"{self.name}.{part}", part, self.now) for part in self.columns}
        names = [*self.info["rows"], *self.info["kept"], *self.extra]
        return {name: model.recdsl_tensor(f"{self.name}.{name}") for name in names}

    @property
    def columns(self) -> list[str]:
        """What there is of each slot, beside what its eviction goes by."""
        return [*self.info["rows"], "serial", *self.extra]

    @property
    def extra(self) -> list[str]:
        """Buffers that the kind of credit adds."""
        return []

    def before(self, call: Call, values: Tensors) -> None:
        """Look at the store, and change the rows that the call reads. values: of parameters and rows, by name."""
        self.ready(call.model)
        call.seen[self.name] = self.seen(call.model)
        for part in self.info["rows"] if self.searched else ():  # what a call keeps is what it fetches
            values[f"{self.name}.{part}"] = call.model.recdsl_tensor(f"{self.name}.{part}").data
        if self.indexes:
            keys, held = values[f"{self.name}.{self.keyed}"], self.held(call, "count")
            for index in self.indexes.values():
                index.follow(keys, min(int(held), self.info["slots"]), call.lookups)
        self.check(call.model)

    def check(self, model: Any) -> None:
        """Say once that evaluation reads a store that nothing was written to."""
        told = (self.name, "empty")
        if model.training or self.info["evaluated"] or told in model.recdsl_told:
            return
        if int(model.recdsl_tensor(f"{self.name}.serial").max()) == 0:
            model.recdsl_told.add(told)
            warnings.warn(
                f"the memory {self.name!r} is read, but nothing has been written to it: its reads are zeros until calls"
                " in training write to it, or a state dict is loaded (`write: {eval: true}`: evaluation writes too)",
                RuntimeWarning,
                stacklevel=5,
            )

    def behind(self, call: Call) -> None:
        """Write what the call offers."""
        slots, place = write(call, self.name, self.info)
        call.stored[self.name] = slots, place
        self.remember(call, slots, place)

    def remember(self, call: Call, slots: Tensor, place: Tensor) -> None:
        """What else goes with an item."""

    def cotangents(self, call: Call, unit: Tensor, outputs: list[Tensor | None]) -> None:
        """Add to what arrives at the outputs. unit: what the loss is multiplied by."""

    def back(self, call: Call, unit: Tensor, found: Gradients) -> None:
        """Make something of the gradients of the rows, found["past.key"] and so on, which the call has read."""

    def forget(self) -> None:
        """Another state was loaded."""
        self.now = Moment()

    def unindex(self) -> None:
        """Other rows than indexes know: the next call builds them anew."""
        self.indexes = {read: Index(read, about) for read, about in self.info["indexes"].items()}

    def loaded(self, model: Any) -> None:
        """A state was loaded: rows on disk go back to what they held when it was made, indexes are built anew."""
        self.forget()
        self.unindex()
        if self.disk is not None:
            self.disk.back(int(model.recdsl_tensor(f"{self.name}.records")))

    # -- rows on disk ---------------------------------------------------------------------------------------------
    @property
    def on_disk(self) -> list[str]:
        """The parts whose rows are in files."""
        large = [*self.info["rows"], *(part for part in self.extra if part.startswith("observed."))]
        return large if self.info["disk"] else []

    def open(self, model: Any, folder: Path | None, *, private: bool = False, owner: str = "") -> None:
        """Map the rows' files into the model, as its state knows them. owner: whose they are. Raises StoreFailed,
        ValueError."""
        if model.recdsl_like.device.type != "cpu":
            raise ValueError(f"the rows of the memory {self.name!r} are on disk: the model must stay on the CPU")
        shapes = {part: model.recdsl_tensor(f"{self.name}.{part}") for part in self.on_disk}
        parts = {part: ((self.info["slots"], *value.shape[1:]), value.dtype) for part, value in shapes.items()}
        known = int(model.recdsl_tensor(f"{self.name}.records"))
        self.disk = Disk(folder, parts, private=private, owner=owner)
        self.disk.back(known)
        self.show(model)

    def show(self, model: Any) -> None:
        """Have the model's buffers be the mapped rows."""
        for part, rows in self.disk.rows.items() if self.disk is not None else ():
            model.recdsl_replace(f"{self.name}.{part}", rows)

    def ready(self, model: Any) -> None:
        """Rows on disk are mapped: into a temporary folder, where none was opened."""
        for part in self.on_disk:
            rows = model.recdsl_tensor(f"{self.name}.{part}")
            if self.disk is None and not len(rows):
                self.open(model, None)
            elif self.disk is not None and rows.data_ptr() != self.disk.rows[part].data_ptr():
                raise ValueError(
                    f"the memory {self.name!r} has its rows on disk: the model cannot be moved or converted"
                )

    def commit(self, model: Any) -> None:
        """What has been written to files counts."""
        if self.disk is not None:
            records = model.recdsl_tensor(f"{self.name}.records")
            model.recdsl_replace(f"{self.name}.records", torch.full_like(records, self.disk.commit()))

    # -- slots ----------------------------------------------------------------------------------------------------
    def held(self, call: Call, part: str) -> Tensor:
        """What the slots hold now."""
        return call.model.recdsl_tensor(f"{self.name}.{part}")

    def every(self, call: Call) -> Tensor:
        """The numbers of all slots."""
        return torch.arange(self.info["slots"], device=call.like.device)

    def still(self, call: Call, slots: Tensor) -> Tensor:
        """bool: which of some slots hold now what they held when the call read them."""
        before = call.seen[self.name]["serial"][slots]
        return (before == self.held(call, "serial")[slots]) & (before > 0)

    def gone(self, call: Call) -> Tensor:
        """The slots whose items have left since the call read them."""
        serial = call.seen[self.name]["serial"]
        slots = serial.written() if isinstance(serial, Column) else self.every(call)
        return slots[(serial[slots] > 0) & ~self.still(call, slots)]

    def overwrite(self, call: Call, slots: Tensor, rows: Tensors, parts: Sequence[str]) -> None:
        """Write rows where they are, and remember of `parts` what stood there. Of a store that is searched."""
        self.now = self.now.written(slots, {part: self.held(call, part)[slots] for part in parts})
        for part, value in rows.items():
            self.place(call, part, slots, value)

    def revise(self, call: Call, slots: Tensor, rows: Tensors) -> None:
        """Other rows of items that stay."""
        if self.searched:
            self.overwrite(call, slots, rows, list(rows))
            return
        for part, value in rows.items():
            self.place(call, part, slots, value)

    @property
    def keyed(self) -> str:
        """The part that reads compare."""
        return "key" if "key" in self.info["rows"] else "value"

    def place(self, call: Call, part: str, slots: Tensor, rows: Tensor) -> None:
        """Other rows at some slots."""
        old = self.held(call, part)
        if self.disk is not None and part in self.disk.rows:
            try:
                self.disk.change(part, slots, rows)
            except OSError:
                self.disk.back(self.disk.committed)
                self.unindex()
                raise
        elif self.searched:
            old.data.index_copy_(0, slots, rows.to(old.dtype))
        else:
            self.put(call, part, old.index_copy(0, slots, rows.to(old.dtype)))
        for index in self.indexes.values() if part == self.keyed else ():
            index.replace(slots, rows)

    def put(self, call: Call, part: str, value: Tensor) -> None:
        call.model.recdsl_replace(f"{self.name}.{part}", value)

    def credits(self, call: Call, found: Gradients, part: str) -> tuple[Tensor, Tensor]:
        """The gradient of the rows of a part that a call has read, as (slots in ascending order, gradients)."""
        gradient, slots = found.get(f"{self.name}.{part}"), self.every(call)
        if gradient is None:
            return slots[:0], call.like.new_zeros(0, *self.info["shapes"][part])
        if gradient.is_sparse:
            gradient = gradient.coalesce()
            return gradient.indices()[0], gradient.values()
        return slots, gradient[: len(slots)]


class Free(Keeper):
    """Rows are parameters of their own (Pritzel et al. 2017): each backward pass moves them, where they still hold the
    item that was read."""

    def back(self, call: Call, unit: Tensor, found: Gradients) -> None:
        for part in self.credit["parts"]:
            slots, gradient = self.credits(call, found, part)
            still = self.still(call, slots)
            slots, gradient = slots[still], gradient[still]
            self.place(call, part, slots, self.held(call, part)[slots] - self.credit["lr"] * gradient)


class Records:
    """The calls behind the items of a store, oldest first: (call, serials of its items, their places in it). They are
    no part of a state dict, nor of a copy."""

    def __init__(self) -> None:
        self.calls: list[tuple[Call, Tensor, Tensor]] = []
        self.copies: dict[int, tuple[Tensor, int, Tensor]] = {}

    def __deepcopy__(self, memo: Any) -> Records:
        return Records()

    def __reduce__(self) -> tuple[type[Records], tuple[()]]:
        return Records, ()

    def copied(self, value: Tensor) -> Tensor:
        """A copy of a parameter that no optimizer moves; one for all calls between which it has not changed."""
        known = self.copies.get(id(value))
        if known is None or known[0] is not value or known[1] != value._version:
            known = self.copies[id(value)] = value, value._version, value.detach().clone()
        return known[2]


class Whole(Keeper):
    """The graphs of earlier calls are kept, and their parameters as they were: the gradient of an item goes back
    through the call that wrote it, from there to the items that this call has read, and so on, as far as these were in
    the store when the call that is differentiated began."""

    def __init__(self, model: Any, name: str) -> None:
        super().__init__(model, name)
        self.records = Records()

    def forget(self) -> None:
        super().forget()
        self.records = Records()

    def before(self, call: Call, values: Tensors) -> None:
        super().before(call, values)
        if call.learning:
            call.earlier[self.name] = self.records.calls
            trained = {id(value) for value in values.values() if value.requires_grad}
            call.copied = lambda value: self.records.copied(value) if id(value) in trained else value

    def remember(self, call: Call, slots: Tensor, place: Tensor) -> None:
        serials = call.model.recdsl_tensor(f"{self.name}.serial")
        if call.learning and len(slots):
            kept = copy(call)
            kept.earlier = {}  # or each call would keep all before it
            self.records.calls = [*self.records.calls, (kept, serials[slots], place)]
        held = serials[serials > 0]
        self.records.calls = [made for made in self.records.calls if bool(torch.isin(made[1], held).any())]

    def back(self, call: Call, unit: Tensor, found: Gradients) -> None:
        waiting, stored = self.asked(call, found), call.seen[self.name]["serial"][self.every(call)]
        for made, serials, places in reversed(call.earlier.get(self.name, [])):
            outputs = self.outputs(made, serials, places, waiting)
            if outputs is None:
                continue
            again = dict(zip(found, made.backward(call.like.new_zeros(()), tuple(outputs)), strict=True))
            for part in self.credit["parts"]:
                slots, own = self.credits(call, again, part)
                again.pop(f"{self.name}.{part}")
                read = made.seen[self.name]["serial"][slots]
                read = torch.where(torch.isin(read, stored), read, torch.zeros_like(read))
                waiting[part] = merged(waiting[part], (read, own))
            for name, value in again.items():
                old = found.get(name)
                found[name] = old if value is None else value.clone() if old is None else old + value

    def asked(self, call: Call, found: Gradients) -> dict[str, tuple[Tensor, Tensor]]:
        """By part: (serials, gradients) of items that a call has read."""
        serials, made = call.seen[self.name]["serial"], dict[str, tuple[Tensor, Tensor]]()
        for part in self.credit["parts"]:
            slots, gradient = self.credits(call, found, part)
            made[part] = merged((self.every(call)[:0], gradient[:0]), (serials[slots], gradient))
        return made

    def outputs(
        self, made: Call, serials: Tensor, places: Tensor, waiting: Mapping[str, tuple[Tensor, Tensor]]
    ) -> list[Tensor | None] | None:
        """What arrives at the outputs of an earlier call; None: nothing."""
        outputs: list[Tensor | None] = [None] * len(made.model.recdsl_about["outputs"])
        for part, (asked, gradients) in waiting.items():
            pairs = (serials[:, None] == asked[None, :]).nonzero()
            rows = gradients[pairs[:, 1]]
            if not bool((rows != 0).any()):
                continue
            shape = self.info["shapes"][part]
            arrives = rows.new_zeros(made.steps * made.size, *shape).index_add(0, places[pairs[:, 0]], rows)
            outputs[self.info["written"][part]] = arrives.reshape(made.steps, made.size, *shape)
        return outputs if any(value is not None for value in outputs) else None


def merged(one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Two sets of (serials, gradients); serials may occur twice: their gradients add up."""
    held = two[0] > 0
    return torch.cat((one[0], two[0][held])), torch.cat((one[1], two[1][: len(held)][held]))


class Predicted(Keeper):
    """A net says, when an item is written, what gradient it will get in all; it learns that from items that have left.

    Gradients are counted as if the loss summed over its pairs, so that they do not depend on the size of a batch.
    """

    @property
    def extra(self) -> list[str]:
        condition = ["condition"] if self.credit["condition"] else []
        return [*(f"gathered.{part}" for part in self.credit["parts"]), *condition]

    def blank(self, dtype: torch.dtype) -> Tensors:
        found, size = super().blank(dtype), self.info["slots"]
        for part in self.credit["parts"]:
            found[f"gathered.{part}"] = torch.zeros(size, *self.info["shapes"][part], dtype=dtype)
        if self.credit["condition"]:
            found["condition"] = torch.zeros(size, self.width, dtype=dtype)
        return found

    @property
    def width(self) -> int:
        _, size, shape = self.credit["condition"]
        return size or math.prod(shape)

    def given(self, call: Call) -> Tensor:
        """The condition of every step and sample, [steps * batch, width]."""
        name, size, _ = self.credit["condition"]
        value: Tensor = call.data[call.storages[name]].reshape(call.steps * call.size, -1)
        if size:
            return torch.nn.functional.one_hot(value[:, 0].clamp_min(0), size).to(call.like.dtype)
        return value.to(call.like.dtype)

    def remember(self, call: Call, slots: Tensor, place: Tensor) -> None:
        for part in self.credit["parts"]:
            nothing = torch.zeros_like(self.held(call, f"gathered.{part}")[slots])
            self.place(call, f"gathered.{part}", slots, nothing)
        if self.credit["condition"]:
            self.place(call, "condition", slots, self.given(call)[place])

    def answers(self, call: Call, items: Tensors, condition: Tensor | None) -> tuple[Tensor, list[Tensor]]:
        """What the net says of some items, [items, answer], and its parameters, which have a graph of their own."""
        flat = [items[part].reshape(-1, self.numel(part)) for part in self.credit["parts"]]
        z = torch.cat(flat if condition is None else [*flat, condition], 1)
        own = [call.values[name].detach().requires_grad_(torch.is_grad_enabled()) for name in self.credit["net"]]
        if len(own) == 2:
            return z @ own[0].T + own[1], own
        return torch.relu(z @ own[0].T + own[1]) @ own[2].T + own[3], own

    def cotangents(self, call: Call, unit: Tensor, outputs: list[Tensor | None]) -> None:
        if self.name not in call.stored:
            return
        _, place = call.stored[self.name]
        steps = {part: sequence(call, self.info["written"][part]) for part in self.credit["parts"]}
        items = {part: value.reshape(-1, *value.shape[2:])[place] for part, value in steps.items()}
        condition = self.given(call)[place] if self.credit["condition"] else None
        with torch.no_grad():
            said = self.answers(call, items, condition)[0] * (unit / self.pairs(call))
        for part, flat in zip(items, said.split([self.numel(part) for part in items], 1), strict=True):
            k, shape = self.info["written"][part], steps[part].shape
            rows = self.sent(call, part, flat.reshape(-1, *shape[2:]))
            arrives = call.like.new_zeros(call.steps * call.size, *shape[2:])
            arrives = arrives.index_copy(0, place, rows).reshape(shape)
            old = outputs[k]
            outputs[k] = arrives if old is None else old + arrives

    def sent(self, call: Call, part: str, rows: Tensor) -> Tensor:
        """What arrives at the items that a call has written, in their order."""
        return rows

    def numel(self, part: str) -> int:
        return math.prod(self.info["shapes"][part])

    def pairs(self, call: Call) -> Tensor:
        """By how many pairs of steps and samples the losses are divided (the most, if they differ)."""
        numbers = [call.data[f"number{k}"] for k in range(len(call.model.recdsl_about["losses"]))]
        return torch.stack(numbers).amax()

    def back(self, call: Call, unit: Tensor, found: Gradients) -> None:
        seen, gone, lessons = call.seen[self.name], self.gone(call), Tensors()
        scale = torch.where(unit == 0, torch.zeros_like(unit), self.pairs(call) / unit)
        for part in self.credit["parts"]:
            slots, more = self.credits(call, found, part)
            more = more * scale
            lessons[part] = seen[f"gathered.{part}"][gone] + found_at(slots, more, gone)
            still = self.still(call, slots)
            slots, more = slots[still], more[still]
            self.place(call, f"gathered.{part}", slots, self.held(call, f"gathered.{part}")[slots] + more)
        if self.name in call.stored and len(gone):
            self.learn(call, unit, {part: seen[part][gone] for part in lessons}, lessons, gone, found)

    def learn(self, call: Call, unit: Tensor, items: Tensors, lessons: Tensors, gone: Tensor, found: Gradients) -> None:
        """The gradient of the net's own loss, the mean square of what it says of items that have left."""
        condition = call.seen[self.name]["condition"][gone] if self.credit["condition"] else None
        wanted = torch.cat([value.reshape(len(value), -1) for value in lessons.values()], 1)
        with torch.enable_grad():
            said, own = self.answers(call, items, condition)
            parts = torch.autograd.grad(unit * ((said - wanted) ** 2).mean(), own)
        found.update(dict(zip(self.credit["net"], parts, strict=True)))


def found_at(slots: Tensor, rows: Tensor, wanted: Tensor) -> Tensor:
    """The rows of the wanted slots, zeros where there is none. slots: in ascending order."""
    found = rows.new_zeros(len(wanted), *rows.shape[1:])
    if len(slots):
        at = torch.searchsorted(slots, wanted).clamp_max(len(slots) - 1)
        hit = slots[at] == wanted
        found[hit] = rows[at[hit]]
    return found
