"""Online learning in blocks of lanes: updates that one function makes whole, on memory of the learner's own.

Parameters, what the optimizer keeps of them, and states are copied into blocks when a stretch begins, and back behind
it. An update that is not finite has changed them already: then the stretch is made again, up to the one before it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recdsl.backends.native.block_nests import NORM
from recdsl.backends.native.build import widest
from recdsl.backends.native.call import KINDS
from recdsl.backends.native.lanes import Lanes
from recdsl.backends.native.lower import Blocked, Function, Lasting, Lowering, in_blocks
from recdsl.backends.native.moves import NUMBERS, SCALARS, Moving, Rule
from recdsl.backends.native.online import Done, Learner, Shape, Stretch, Update, order
from recdsl.backends.native.tables import Copy, Loss, Parameter, Patch, array
from recdsl.backends.native.values import NotLoweredError
from recdsl.program.ir import VType


@dataclass(frozen=True)
class Block:
    """Memory of something that lasts. shown: the same memory with the axes as everyone else has them, but for the lane
    axis, which is two: blocks and lanes."""

    memory: Tensor
    shown: Tensor

    def put(self, value: Tensor | float) -> None:
        if isinstance(value, Tensor):
            self.shown.copy_(value.reshape(self.shown.shape))
        else:
            self.shown.fill_(value)

    def get(self, shape: Sequence[int]) -> Tensor:
        return self.shown.reshape(tuple(shape)).clone()


def block(kind: VType, shape: Sequence[int], lane: int | None, lanes: Lanes, dtype: torch.dtype) -> Block:
    """[blocks, samples, rows, lanes], or as it is without lanes. shape: samples, if it has any, and own axes."""
    if lane is None:
        memory = _aligned(tuple(shape), dtype)
        return Block(memory, memory)
    lead = len(shape) - len(kind.axes)
    rows = [lead + k for k in range(len(kind.axes)) if k != lane]
    sizes = [lanes.blocks, *shape[:lead], *(shape[k] for k in rows), lanes.width]
    memory = _aligned(tuple(sizes), dtype)
    at = {axis: 1 + k for k, axis in enumerate([*range(lead), *rows])}
    places = [(at[k],) if k != lead + lane else (0, len(sizes) - 1) for k in range(len(shape))]
    return Block(memory, memory.permute(*(k for part in places for k in part)))


def _aligned(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Zeros that begin where a line of the cache does."""
    count = 1
    for size in shape:
        count *= size
    room = torch.zeros(count + 64, dtype=dtype)
    first = -room.data_ptr() % 64 // room.element_size()
    return room[first : first + count].view(tuple(shape))


class BlockLearner(Learner):
    """A learner whose functions make whole updates. Raises NotLoweredError where the model or its calls are not such.

    asked: whether some updates are asked for the norm of their gradient.
    """

    def __init__(
        self,
        model: Any,
        lowered: Mapping[str, Lowering],
        shape: Shape,
        update: Update,
        outputs: Sequence[str],
        flags: tuple[str, ...] = (),
        *,
        asked: bool = False,
    ) -> None:
        if shape.steps != 1 or shape.behind or update.largest or model.recdsl_about["forgotten"]:
            raise NotLoweredError("updates of several steps, gradients that are scaled down, or traces begun anew")
        self.origin = (model, lowered, shape, update, outputs, flags)
        self.functions: list[Function] = []
        self.before = dict[str, Tensor]()
        self.asked = asked
        self.twin: BlockLearner | None = None
        self.lanes: dict[str, Lanes] = {}
        self.blocks: dict[str, Block] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.origins: dict[str, Tensor] = {}
        size, more = widest()
        self.wide = size // model.recdsl_like.element_size()
        super().__init__(model, lowered, shape, update, outputs, (*flags, *more))

    # -- what lies where ------------------------------------------------------------------------------------------
    def _calls(self, lowering: Lowering, variant: str) -> list[Function]:
        found = order(self.about, lowering, variant)
        unread = {f"out{k}" for k, name in enumerate(self.about["outputs"]) if name not in self.wanted}
        made: Blocked = in_blocks(
            lowering.program, [function.entry for function in found], self.sizes, unread, self._lasting(variant, found)
        )
        self.lanes[variant] = made.lanes
        self.functions.append(made.function)
        return [made.function]

    def _lasting(self, variant: str, found: Sequence[Function]) -> Lasting:
        roles = self.about["storages"][variant]
        states = {name: roles[f"state {role[5:]}"] for role, name in roles.items()
                  if role.startswith("next ") and f"state {role[5:]}" in roles}  # fmt: skip
        if any(role.startswith("next ") and name not in states for role, name in roles.items()):
            raise NotLoweredError("a state that is left and not read")
        results = {name for function in found for name in function.results}
        gradients: Mapping[str, str] = self.about["gradients"]
        self.learned = [item.name for item in self.update.parameters if gradients.get(item.name) in results]
        moved = {item.name: item for item in self.update.parameters}
        moving = tuple(
            Moving(roles[f"parameter {name}"], gradients[name], len(moved[name].slots)) for name in self.learned
        )
        losses = tuple((f"loss{k}", info["weight"]) for k, info in enumerate(self.about["losses"]))
        return Lasting(states, moving, Rule(self.update.rule, self.update.options, losses), self.asked, self.wide)

    def _pointers(
        self, made: Function, variant: str, pointers: Any, copies: list[tuple[Copy, str, VType]]
    ) -> list[Patch]:
        places = {storage: name for name, storage in self.about["storages"][variant].items()}
        patches: list[Patch] = []
        self.streamed: list[str] = []
        first = ctypes.addressof(pointers)
        for number, name in enumerate((*made.arguments, *made.results)):
            kind = made.storages[name].type
            base, _, slot = name.partition(".slot")
            word, _, what = places.get(base, "").partition(" ")
            if name == SCALARS:
                pointers[number] = self._held(SCALARS, kind).data_ptr()
            elif name == NORM:
                pointers[number] = self._held(NORM, kind).data_ptr()
            elif word in ("parameter", "state"):
                pointers[number] = self._block(f"{word} {what}", slot, kind, variant, name).memory.data_ptr()
            elif word and name not in self.held:
                patches.append(Patch(first + 8 * number, None, 0, 0, 0))
                self.streamed.append(word)
            else:
                key = name if name in self.held or name.startswith("loss") else f"{variant}.{name}"
                if name in made.arguments and key not in self.held:
                    self._missing(name)
                held = self._held(key, kind)
                pointers[number] = held.data_ptr()
                if name in made.results and name.removeprefix("out").isdigit():
                    self._output(name, kind, held, copies)
        self.patched = len(patches)
        return patches

    def _block(self, role: str, slot: str, kind: VType, variant: str, storage: str) -> Block:
        """Memory of a parameter, a tensor of the optimizer's, or a state; both variants must see it alike."""
        lanes, key = self.lanes[variant], f"{role}.{slot}" if slot else role
        lane = lanes.storages.get(storage)
        dtype = KINDS.get(kind.dtype) or self.like.dtype
        if role.startswith("state "):
            shape: tuple[int, ...] = (self.shape.batch, *(axis.size for axis in kind.axes))
        else:
            item = next((item for item in self.update.parameters if item.name == role.partition(" ")[2]), None)
            tensors = (item.value, *item.slots) if item else (self.tensor(role.partition(" ")[2]).detach(),)
            self.origins[key] = tensors[int(slot) + 1 if slot else 0]
            shape = tuple(axis.size for axis in kind.axes)
        self.shapes[key] = shape
        made = block(kind, shape, lane, lanes, dtype)
        old = self.blocks.setdefault(key, made)
        if old.shown.stride() != made.shown.stride() or old.memory.dtype != dtype:
            raise NotLoweredError(f"`{role}` lies in blocks at some updates only")
        return old

    def _losses(self, forward: Function) -> None:
        table: list[Loss] = []
        for k, info in enumerate(self.about["losses"]):
            at = {"all": (0, 1), "last": (1, 1)}.get(info["at"]) if isinstance(info["at"], str) else (2, info["at"][1])
            assert at is not None
            value, w, g = (self.held[f"{name}{k}"].data_ptr() for name in ("loss", "w", "g"))
            state = self.blocks.get(f"state {info.get('after', '')}")
            if state is not None and state.shown is not state.memory:
                raise NotLoweredError("a flag with lanes")
            seen = (0, 0, None) if state is None else (0, state.memory.dtype == torch.bool, state.memory.data_ptr())
            table.append(Loss(value, w, g, info["weight"], *at, *seen))
        self.losses = array(Loss, table)
        self.run.losses, self.run.loss_count = ctypes.addressof(self.losses), len(table)
        self.run.mean, self.run.newest = self.about["reduce"] == "mean", self.shape.newest

    def _parameters(self, calls: Mapping[str, Sequence[Function]]) -> None:
        moved = {item.name: item for item in self.update.parameters}
        table = [Parameter(None, None, None, None, moved[name].count, moved[name].rate, 0) for name in self.learned]
        self.moved = array(Parameter, table)
        self.run.parameters, self.run.parameter_count = ctypes.addressof(self.moved), len(table)

    def _numbers(self) -> None:
        super()._numbers()
        if all("in_t" not in made.arguments for made in self.functions):
            self.run.clock = None
        kind = VType("float", (), ())
        self.run.numbers = self.held[SCALARS].data_ptr()
        self.run.square = self._held(NORM, kind).data_ptr()
        assert self.held[SCALARS].numel() >= NUMBERS * len(self.learned)

    # -- updates --------------------------------------------------------------------------------------------------
    def learn(self, given: Stretch) -> Done:
        if self.asked or 1 not in given.due:
            return super().learn(given)
        if self.twin is None:
            self.twin = BlockLearner(*self.origin, asked=True)
        self._hand_over(self, self.twin)
        done = self.twin.learn(given)
        self._hand_over(self.twin, self)
        return done

    def _hand_over(self, one: BlockLearner, other: BlockLearner) -> None:
        """Counts of updates."""
        for k in range(len(one.learned)):
            other.moved[k].count = one.moved[k].count

    def _made(self, given: Stretch, count: int) -> int:
        self._put(given)
        done = self._through(count)
        if done < count:
            self._put(given)
            if done:
                self._through(done)
        for k in range(len(self.learned)):
            self.moved[k].count += done
        for key, origin in self.origins.items() if done else ():
            origin.copy_(self.blocks[key].get(origin.shape))
        return done

    def _put(self, given: Stretch) -> None:
        for key, origin in self.origins.items():
            self.blocks[key].put(origin)
        for key, made in self.blocks.items():
            if key.startswith("state "):
                made.put(given.states[0].get(key.removeprefix("state "), 0))

    def _through(self, count: int) -> int:
        """So many updates; the states that the last one begins with are kept."""
        call, run = self.code.recdsl_online, ctypes.addressof(self.run)
        done = int(call(run, 0, count - 1)) if count > 1 else 0
        if done < count - 1:
            return done
        self.before = self._kept()
        return int(call(run, count - 1, count))

    def _kept(self) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for key, made in self.blocks.items():
            if key.startswith("state "):
                found[key.removeprefix("state ")] = made.get(self.shapes[key])
        return found

    def _left(self, given: Stretch, done: int) -> list[dict[str, Tensor]]:
        found = [self.before, self._kept()] if done else []
        for k, state in enumerate(found):
            state["t"] = given.states[0]["t"] + done - 1 + k
        return found
