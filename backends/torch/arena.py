"""Memory that a model keeps from call to call, and which piece of it each of its functions gets where.

The text of this file is part of every exported model; it needs torch only.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from recdsl.backends.torch.searches import Lookups


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


SHORT = 1024  # entries


class Replay:
    """The arena of a function that has run before: everything is known."""

    def __init__(self, script: list[Any], like: Tensor, lookups: Lookups, whole: Arena | None = None) -> None:
        self.next: Callable[[], Any] = iter(script).__next__
        self.like, self.lookups, self.whole = like, lookups, whole

    def take(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return self.next()

    def show(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        found = self.next()
        return self.like.new_empty(shape, dtype=dtype) if found is None else found

    def rows(self, x: Tensor, lo: int = 0, hi: int | None = None, start: int = 0, stop: int | None = None) -> Any:
        return self.next() or split_rows(x, lo, hi, start, stop)

    def give(self, *tensors: Tensor) -> None:
        """Settled when the script was written."""

    def finish(self, name: str) -> None:
        """Nothing to write down."""


class Record:
    """The arena of a function's first run in a frame; without a frame it makes tensors anew each time."""

    def __init__(
        self, frame: Frame | None, like: Tensor, lookups: Lookups | None = None, whole: Arena | None = None
    ) -> None:
        self.frame, self.like, self.lookups, self.whole = frame, like, lookups, whole
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

    def show(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor that the caller will see: one of its own, but for short rows, which are cheaper to copy out in the
        end than to take apart at each call."""
        if self.frame is not None and math.prod(shape[1:]) <= SHORT:
            return self.take(*shape, dtype=dtype)
        self.script.append(None)
        return self.like.new_empty(shape, dtype=dtype)

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
        """The function has run to its end. `forward` and `again` leave something behind: what a backward pass reads."""
        if self.frame is not None:
            self.frame.scripts[name] = self.script
            if name not in ("forward", "again"):
                self.frame.free += [self.frame.held.pop(key) for key in set(self.frame.held) - self.before]


class Arena:
    """Frames, kept from call to call: fresh pages cost more than the arithmetic on small models.

    Used on the CPU only; elsewhere the device's own caching allocator does this. shared: whether a call's memory serves
    another one when nobody can go back through the first; else each call has its own for as long as it is known.
    """

    def __init__(self, shared: bool = True) -> None:
        self.idle: list[Frame] = []
        self.rooms: list[Tensor] = []
        self.shared = shared

    def __deepcopy__(self, memo: Any) -> Arena:
        return Arena(self.shared)

    def __reduce__(self) -> tuple[type[Arena], tuple[bool]]:
        return Arena, (self.shared,)

    def borrow(self, size: int, like: Tensor) -> Tensor:
        """Memory for `size` numbers of eight bytes, for one function while it runs, and a little more: pieces of a call
        need more from one to the next, and what is freed between what they leave would not be found again."""
        room = self.rooms.pop() if self.rooms else None
        if room is None or room.numel() < size:
            room = None  # before there is another
            room = like.new_empty(size + size // 8, dtype=torch.float64)
        return room

    def bring(self, room: Tensor) -> None:
        """Give back what was borrowed; one such piece of memory is kept."""
        self.rooms = [room]

    def lease(self, like: Tensor, kind: Any) -> Lease:
        """Room for one call. Where lengths vary, a new kind takes over the memory of the one unused for longest."""
        if like.device.type != "cpu" or not self.shared:
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

    def open(self, name: str, lookups: Lookups) -> Replay | Record:
        """The arena of one function of the call, which has with it what the call looks rows up with."""
        if self.frame is not None and name in self.frame.scripts:
            return Replay(self.frame.scripts[name], self.like, lookups, self.arena)
        return Record(self.frame if name != "start" else None, self.like, lookups, self.arena)

    def once(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What is the same at each call of a kind."""
        if self.frame is None:
            return make()
        if name not in self.frame.constants:
            self.frame.constants[name] = make()
        return self.frame.constants[name]

    def owns(self, x: Tensor) -> bool:
        """Whether a tensor lies in the arena's memory."""
        return self.frame is not None and self.frame.owns(x)

    def spoil(self) -> None:
        """After an error nobody knows what is held: the frame is not used again."""
        self.frame = None

    def close(self) -> None:
        """Hand back everything."""
        if self.frame is not None:
            self.frame.spare = []
            self.arena.idle.append(self.frame)
            self.frame = None
