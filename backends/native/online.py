"""Many updates of online learning in one call of C: forward, reverse passes, traces, loss, and the optimizer.

The entries are those that a call of the model runs, with sizes as literals; `online.c` runs them in turn. What lies
where is settled once, when a `Learner` is made: inputs and outputs move with the update, states go round in a ring.
"""

from __future__ import annotations

import ctypes
from array import array as array_of
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recdsl.backends.native.call import DTYPES, KINDS, Library, extent
from recdsl.backends.native.lower import Function, Lowering, at_once, joined, prelude
from recdsl.backends.native.outline import Cut, cut
from recdsl.backends.native.tables import Copy, Loss, Parameter, Patch, Run, Step, array
from recdsl.backends.native.values import NotLoweredError
from recdsl.program.ir import VType
from recdsl.resources import read_text

RULES = ("sgd", "rmsprop", "adam", "td_lambda", "idbd")
VARIANTS = ("plain", "ragged")
LONGEST = 120_000
"""Characters from which an entry is cut into pieces."""
SHARED = ("grad_", "loss")
"""Beginnings of what both variants leave at the same place."""
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Moved:
    """A parameter, and what the optimizer knows of it: at most two tensors, a count of updates, and its learning rate
    before a schedule."""

    name: str
    value: Tensor
    slots: tuple[Tensor, ...]
    count: float
    rate: float


@dataclass(frozen=True)
class Update:
    """An optimizer. rule: one of `RULES`; options: as `online.c` reads them. largest: norm of a gradient (0: any)."""

    rule: str
    options: tuple[float, ...]
    parameters: tuple[Moved, ...]
    largest: float = 0.0


@dataclass(frozen=True)
class Shape:
    """steps: of a call. newest: those that count, which is also how far calls are apart. behind: how many updates ago
    the state was left that a call begins with, less one."""

    steps: int
    newest: int
    batch: int
    behind: int


@dataclass(frozen=True)
class Stretch:
    """What some updates learn from. stream: inputs by name, [steps, batch, *axes]. reset: [steps, batch] or None.
    states: those of the first `behind` + 1 calls. shares, due: of each update, what learning rates are multiplied by
    (doubles) and whether the norm is asked for (1 or 0); C reads them where they are."""

    stream: Tensors
    reset: Tensor | None
    states: Sequence[Tensors]
    shares: array_of[float]
    due: bytearray


@dataclass(frozen=True)
class Done:
    """losses, norms, parts (by loss): a number an update, as far as updates were made. outputs: by name, [steps, batch,
    *axes]. states: what the last updates began with and what the last one has left."""

    count: int
    losses: Sequence[float]
    parts: Sequence[Sequence[float]]
    norms: Sequence[float]
    outputs: dict[str, Tensor]
    states: list[dict[str, Tensor]]


def order(about: Mapping[str, Any], lowering: Lowering, variant: str) -> list[Function]:
    """The entries of one update. Raises NotLoweredError."""
    names = ["forward", *(["windows", "traces"] if about["traced"] else []), "backward"]
    left, made = dict(lowering.left), {function.entry: function for function in lowering.functions}
    wrong = next((f"`{variant}.{name}` has no C: {left[name]}" for name in names if name in left), None)
    if wrong is not None:
        raise NotLoweredError(wrong)
    return [made[name] for name in names if name in made and (name == "forward" or made[name].results)]


def refusal(about: Mapping[str, Any], shape: Shape, chunk: int) -> str:
    """Why a model's updates are made one by one, or ""."""
    if about["heads"]:
        return "a net answers for what lies behind windows"
    if about.get("stores"):
        return "a memory of the model is written after each call"
    if any(about[name][variant] for name in ("thinned", "signs") for variant in VARIANTS):
        return "its rule draws random numbers at each call"
    long = about.get("deferred")
    if long is not None and shape.steps >= long["least"]:
        return f"a call of {long['least']} steps or more defers its traces"
    if about["pieces"] and shape.steps > chunk:
        return f"a call of more than {chunk} steps is run in pieces"
    return ""


def text(entries: Sequence[tuple[str, Function]], shape: Shape) -> str:
    """The C of a learner, but for the lines that say the precision."""
    parts = [f"#define GIVEN_T(n) {shape.steps}\n#define GIVEN_B(n) {shape.batch}\n" + prelude()]
    parts.append(joined([_static(variant, made) for variant, made in entries]))
    names = ", ".join(f"{variant}_{made.symbol}" for variant, made in entries)
    parts.append("typedef long (*entry_call)(void *const *, const long *);")
    parts.append(f"static const entry_call entries[] = {{{names}}};")
    parts.append(f"static const long T = {shape.steps}, B = {shape.batch};")
    return "\n".join([*parts, read_text("backends", "native", "online.c")])


def _static(variant: str, made: Function) -> Cut:
    """An entry under a name of its own. It is cut up where it is very long only: calls, and sizes that are no literals
    in pieces, would take a good part of an update."""
    return cut(made.static(variant), LONGEST)


class Learner:
    """See the module's text. Raises NotLoweredError where the model is not of this kind, BuildError without C."""

    def __init__(
        self,
        model: Any,
        lowered: Mapping[str, Lowering],
        shape: Shape,
        update: Update,
        outputs: Sequence[str],
        flags: tuple[str, ...] = (),
    ) -> None:
        self.about, self.like, self.shape, self.update = model.recdsl_about, model.recdsl_like, shape, update
        wrong = refusal(self.about, shape, model.recdsl_chunk)
        if wrong or self.like.dtype not in DTYPES or self.like.device.type != "cpu":
            raise NotLoweredError(wrong or "no C for this device or precision")
        self.wanted, self.ring, self.tensor = outputs, shape.behind + 3, model.recdsl_tensor
        windows = {name: -(-shape.steps // every) for name, every in self.about["windows"].items()}
        self.sizes = {"T": shape.steps, "B": shape.batch, **windows}
        calls = {variant: self._calls(lowered[variant], variant) for variant in VARIANTS}
        entries = [(variant, made) for variant in VARIANTS for made in calls[variant]]
        self.code = Library(text(entries, shape), flags).load(self.like.dtype)
        self.code.recdsl_online.argtypes = (ctypes.c_void_p, ctypes.c_long, ctypes.c_long)
        self.held, self.states = self._constants(), dict[str, Tensor]()
        self.moving: list[tuple[Patch, str]] = []
        self.recorded: list[tuple[Copy, str, VType]] = []
        self.timed: dict[str, bool] = {}
        self.keep: list[Any] = []
        self.run = Run()
        self._entries(entries)
        self._losses(calls["plain"][0])
        self._parameters(calls)
        self._numbers()

    def _calls(self, lowering: Lowering, variant: str) -> list[Function]:
        """The functions of one update: one function, where a call is one step."""
        found = order(self.about, lowering, variant)
        if self.shape.steps > 1:
            return found
        unread = {f"out{k}" for k, name in enumerate(self.about["outputs"]) if name not in self.wanted}
        one = at_once(lowering.program, [made.entry for made in found], self.sizes, unread)
        return found if one is None else [one]

    # -- what lies where ------------------------------------------------------------------------------------------
    def _constants(self) -> dict[str, Tensor]:
        """What the entries take besides streams, states and parameters."""
        shape, real = (self.shape.steps, self.shape.batch), self.like.dtype
        found = {"in_mask": torch.ones(shape, dtype=torch.bool), "fresh": torch.zeros((), dtype=real)}
        weights = [f"{letter}{k}" for k in range(len(self.about["losses"])) for letter in "wg"]
        found |= {name: torch.zeros(shape, dtype=real) for name in ("in_t", *weights)}
        for variant in VARIANTS:
            for name, (lag, grid) in self.about["gridded"][variant].items():
                fixed = torch.ones((shape[0] + lag - 1, shape[1]), dtype=real)
                fixed[lag - 1 + grid :: grid] = 0.0
                found[name] = torch.stack([fixed[k : k + shape[0]] for k in range(lag)]).prod(0)
        return found

    def _entries(self, entries: Sequence[tuple[str, Function]]) -> None:
        """The calls of both variants, and the memory that they share."""
        steps: dict[str, list[Step]] = {variant: [] for variant in VARIANTS}
        copies: dict[str, list[tuple[Copy, str, VType]]] = {variant: [] for variant in VARIANTS}
        ends: list[tuple[Any, int]] = []
        need = 0
        for number, (variant, made) in enumerate(entries):
            scalars = [self.sizes[name] if name in self.sizes else self._missing(name) for name in made.scalars]
            numbers = (ctypes.c_long * (2 + len(scalars)))(self.shape.steps, self.shape.batch, *scalars)
            pointers = (ctypes.c_void_p * (len(made.arguments) + len(made.results) + 1))()
            patches = array(Patch, self._pointers(made, variant, pointers, copies[variant]))
            need = max(need, self.code.recdsl_room(ctypes.c_long(number), numbers))
            ends.append((pointers, len(pointers) - 1))
            self.keep += [numbers, pointers, patches]
            places = (ctypes.addressof(item) for item in (pointers, numbers, patches))
            steps[variant].append(Step(number, *places, self.patched))
            self.moving += [(patches[k], name) for k, name in enumerate(self.streamed) if name]
        room = torch.empty(need // 8 + 16, dtype=torch.float64)
        self.keep.append(room)
        for pointers, end in ends:
            pointers[end] = room.data_ptr() + -room.data_ptr() % 64
        for k, variant in enumerate(VARIANTS):
            table, copied = array(Step, steps[variant]), array(Copy, [item for item, _, _ in copies[variant]])
            self.keep += [table, copied]
            self.run.steps[k], self.run.step_count[k] = ctypes.addressof(table), len(steps[variant])
            self.run.copies[k], self.run.copy_count[k] = ctypes.addressof(copied), len(copies[variant])
            self.recorded += [(copied[j], name, kind) for j, (_, name, kind) in enumerate(copies[variant]) if name]

    def _missing(self, name: str) -> int:
        raise NotLoweredError(f"nothing says how large `{name}` is")

    def _pointers(
        self, made: Function, variant: str, pointers: Any, copies: list[tuple[Copy, str, VType]]
    ) -> list[Patch]:
        """Fill in what stays where it is; what moves with the update, and (in `copies`) what is copied out."""
        places = {storage: name for name, storage in self.about["storages"][variant].items()}
        patches: list[Patch] = []
        self.streamed: list[str] = []
        first, later = ctypes.addressof(pointers), self.shape.behind + 1
        for number, name in enumerate((*made.arguments, *made.results)):
            kind, slot = made.storages[name].type, first + 8 * number
            word, _, what = places.get(name, "").partition(" ")
            if word == "parameter":
                pointers[number] = self._value(what)
            elif what in self.about["forgotten"]:
                pointers[number] = self._held(f"{word} {what}", kind).data_ptr()  # zeros, and what nobody reads
            elif word == "state" or (word == "next" and kind.lead and kind.lead[0][0] == "B"):
                ring = self._state(what, kind)
                patches.append(Patch(slot, ring.data_ptr(), _bytes(ring[0]), self.ring, later * (word == "next")))
                self.streamed.append("")
            elif word and word != "next" and name not in self.held:
                patches.append(Patch(slot, None, 0, 0, 0))
                self.streamed.append(word)
            else:
                key = name if name in self.held or name.startswith(SHARED) else f"{variant}.{name}"
                if name in made.arguments and key not in self.held:
                    self._missing(name)
                held = self._held(key, kind)
                pointers[number] = held.data_ptr()
                if word == "next":
                    ring = self._state(what, kind)
                    size = _bytes(held)
                    copies.append((Copy(held.data_ptr(), ring.data_ptr(), size, self.shape.batch, _bytes(ring[0]),
                                        self.ring, later), "", kind))  # fmt: skip
                elif name in made.results and name.removeprefix("out").isdigit():
                    self._output(name, kind, held, copies)
        self.patched = len(patches)
        return patches

    def _held(self, key: str, kind: VType) -> Tensor:
        """Memory that entries share."""
        if key not in self.held:
            shape = [extent(size, self.sizes) for _, size in kind.lead]
            shape += [axis.size for axis in kind.axes]
            self.held[key] = torch.zeros(shape, dtype=KINDS.get(kind.dtype, self.like.dtype))
        return self.held[key]

    def _value(self, name: str) -> int:
        """A parameter that the optimizer moves, or that nothing does."""
        value = next((item.value for item in self.update.parameters if item.name == name), None)
        value = self.tensor(name).detach() if value is None else value
        if not value.is_contiguous():
            raise NotLoweredError(f"`{name}` does not lie in one piece")
        self.keep.append(value)
        return value.data_ptr()

    def _state(self, name: str, kind: VType) -> Tensor:
        """The ring of a state or trace, [ring, batch, *axes]."""
        dtype = KINDS.get(kind.dtype, self.like.dtype)
        if name not in self.states:
            shape = (self.ring, self.shape.batch, *(axis.size for axis in kind.axes))
            self.states[name] = torch.zeros(shape, dtype=dtype)
        if self.states[name].dtype != dtype:
            raise NotLoweredError(f"the state `{name}` is left in another type than it is taken in")
        return self.states[name]

    def _output(self, storage: str, kind: VType, held: Tensor, copies: list[tuple[Copy, str, VType]]) -> None:
        """The newest steps of an output go where the caller reads them; one that does not vary has one entry a call."""
        name = self.about["outputs"][int(storage.removeprefix("out"))]
        if name in self.wanted:
            timed = bool(kind.lead)
            if self.timed.setdefault(name, timed) != timed or [axis for axis, _ in kind.lead] not in ([], ["t", "B"]):
                raise NotLoweredError(f"the output `{name}` varies in one of time and batch alone")
            part = held[-self.shape.newest :] if timed else held
            copies.append((Copy(part.data_ptr(), None, _bytes(part), 1, _bytes(part), 0, 0), name, kind))

    def _losses(self, forward: Function) -> None:
        """How each loss is weighted; `Call` of the torch backend says the same in Python."""
        table: list[Loss] = []
        for k, info in enumerate(self.about["losses"]):
            at = {"all": (0, 1), "last": (1, 1)}.get(info["at"]) if isinstance(info["at"], str) else (2, info["at"][1])
            assert at is not None
            value, w, g = (self.held[f"{name}{k}"].data_ptr() for name in ("loss", "w", "g"))
            ring = self.states.get(info.get("after", ""))
            seen = (0, 0, None) if ring is None else (_bytes(ring[0]), ring.dtype == torch.bool, ring.data_ptr())
            table.append(Loss(value, w, g, info["weight"], *at, *seen))
        self.losses = array(Loss, table)
        self.run.losses, self.run.loss_count = ctypes.addressof(self.losses), len(table)
        self.run.mean, self.run.newest = self.about["reduce"] == "mean", self.shape.newest

    def _parameters(self, calls: Mapping[str, Sequence[Function]]) -> None:
        """Gradients and what the optimizer keeps of each parameter. Those without a gradient are left alone."""
        made = [{name for function in calls[variant] for name in function.results} for variant in VARIANTS]
        table: list[Parameter] = []
        self.learned: list[str] = []
        for item in self.update.parameters:
            storage = self.about["gradients"].get(item.name)
            if (storage in made[0]) != (storage in made[1]):
                raise NotLoweredError(f"`{item.name}` has a gradient at some updates only")
            if storage not in made[0]:
                continue
            tensors = (item.value, *item.slots)
            if not all(x.is_contiguous() and x.dtype == self.like.dtype for x in tensors):
                raise NotLoweredError(f"`{item.name}` does not lie in one piece")
            slots = [x.data_ptr() for x in item.slots] + [None] * (2 - len(item.slots))
            gradient = self.held[storage].data_ptr()
            table.append(Parameter(item.value.data_ptr(), gradient, *slots, item.count, item.rate, item.value.numel()))
            self.keep.append(tensors)
            self.learned.append(item.name)
        self.moved = array(Parameter, table)
        self.run.parameters, self.run.parameter_count = ctypes.addressof(self.moved), len(table)

    def _numbers(self) -> None:
        run = self.run
        run.clock = self.held["in_t"].data_ptr()
        run.every, run.ring, run.rule = self.shape.newest, self.ring, RULES.index(self.update.rule)
        run.option[:] = (*self.update.options, *[0.0] * (8 - len(self.update.options)))
        run.largest = self.update.largest

    # -- updates --------------------------------------------------------------------------------------------------
    def learn(self, given: Stretch) -> Done:
        """Make the updates, up to the first one whose loss or gradient is not finite."""
        count, losses = len(given.shares), len(self.about["losses"])
        streams = self._streams(given, count)
        kept = self._outputs(count)
        total, norms, parts = (doubles(n) for n in (count, count, count * losses))
        resets = self._resets(given.reset, count)
        for name, value in {"total": total, "norms": norms, "parts": parts, "shares": given.shares}.items():
            setattr(self.run, name, value.buffer_info()[0])
        self.run.resets = resets.data_ptr()
        self.run.due = ctypes.addressof((ctypes.c_ubyte * count).from_buffer(given.due))
        self.run.time = float(given.states[0]["t"])
        done = self._made(given, count)
        del streams
        by_loss = [parts[k : done * losses : losses] for k in range(losses)]
        outputs = {name: self._shown(name, room, done) for name, room in kept.items()}
        return Done(done, total[:done], by_loss, norms[:done], outputs, self._left(given, done))

    def _made(self, given: Stretch, count: int) -> int:
        """Run the updates; how many there have been."""
        for name, ring in self.states.items():
            for slot, state in enumerate(given.states):
                ring[slot] = state.get(name, 0)
        return int(self.code.recdsl_online(ctypes.addressof(self.run), 0, count))

    @property
    def counts(self) -> dict[str, float]:
        """Updates of each parameter, as the optimizer counts them."""
        return dict(zip(self.learned, (item.count for item in self.moved), strict=False))

    def recount(self, counts: Mapping[str, float]) -> None:
        """Updates of parameters have been made elsewhere."""
        for item, name in zip(self.moved, self.learned, strict=False):
            item.count = counts.get(name, item.count)

    def _streams(self, given: Stretch, count: int) -> list[Tensor]:
        """Tell the entries where the inputs lie."""
        rows = (count - 1) * self.shape.newest + self.shape.steps
        ready: dict[str, Tensor] = {}
        for patch, name in self.moving:
            if name not in ready:
                value = given.stream.get(name) if name != "reset" else given.reset
                if value is None and name == "reset":
                    value = torch.zeros((rows, self.shape.batch), dtype=torch.bool)
                assert value is not None, name
                assert value.shape[:2] == (rows, self.shape.batch), name
                ready[name] = as_stored(value, self.like.dtype)
            patch.base = ready[name].data_ptr()
            patch.stride = self.shape.newest * ready[name].stride(0) * ready[name].element_size()
        return list(ready.values())

    def _outputs(self, count: int) -> dict[str, Tensor]:
        """Room for the outputs that are asked for: [steps, batch, *axes], or [updates, *axes] of those without time."""
        found: dict[str, Tensor] = {}
        for copy, name, kind in self.recorded:
            lead = [count * self.shape.newest, self.shape.batch] if kind.lead else [count]
            shape = lead + [axis.size for axis in kind.axes]
            if name not in found:
                found[name] = torch.zeros(shape, dtype=KINDS.get(kind.dtype, self.like.dtype))
            copy.to = found[name].data_ptr()
        return found

    def _shown(self, name: str, room: Tensor, done: int) -> Tensor:
        """An output of the updates that were made, as a call shows it."""
        newest = self.shape.newest
        if self.timed[name]:
            return room[: done * newest]
        wide = room[:done].repeat_interleave(newest, 0)[:, None]
        return wide.expand(done * newest, self.shape.batch, *room.shape[1:])

    def _resets(self, reset: Tensor | None, count: int) -> Tensor:
        """By update, whether any of its steps begins anew."""
        if reset is None:
            return torch.zeros(count, dtype=torch.bool)
        return reset.any(1).unfold(0, self.shape.steps, self.shape.newest).any(1)

    def _left(self, given: Stretch, done: int) -> list[dict[str, Tensor]]:
        """The states that the last update saw, and what it left."""
        found: list[dict[str, Tensor]] = []
        for slot in range(done - 1, done + self.shape.behind + 1) if done else ():
            state = {name: ring[slot % self.ring].clone() for name, ring in self.states.items()}
            state["t"] = given.states[0]["t"] + slot * self.shape.newest
            found.append(state)
        return found


def doubles(count: int) -> array_of[float]:
    """So many zeros."""
    return array_of("d", (0.0,)) * count


def as_stored(x: Tensor, real: torch.dtype) -> Tensor:
    """As C reads it: integers of 64 bits, flags, or reals."""
    kind = torch.bool if x.dtype == torch.bool else real if x.is_floating_point() else torch.long
    return x.to(kind).contiguous()


def _bytes(x: Tensor) -> int:
    return x.numel() * x.element_size()
