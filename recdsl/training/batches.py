"""Batches as a source makes them, and samplers whose position can be saved and restored exactly."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from recdsl.training.arrays import np
from recdsl.training.declare import Field

Array: TypeAlias = "np.ndarray[Any, Any]"
SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Batch:
    """Arrays by field name, [time, batch, ...]; `mask` (True: valid) and `reset` are bool [time, batch] or None."""

    arrays: Mapping[str, Array]
    mask: Array | None = None
    reset: Array | None = None


@dataclass(frozen=True)
class Request:
    """What a run asks of a source. `stream`: rows go on where the previous batch ended."""

    split: str
    batch: int
    seed: int
    stream: bool = False

    def rng(self, *key: int) -> np.random.Generator:
        """The generator of one draw: a function of seed, split and key alone."""
        return np.random.Generator(np.random.PCG64([self.seed, SPLITS.index(self.split), *key]))


class Sampler(Protocol):
    """An endless sequence of batches. `restore(state())` puts it back exactly; a state is plain JSON.

    One that follows a curriculum has a method `learned(loss)` too: told of the mean loss of each batch it has given.
    """

    def next(self) -> Batch: ...
    def state(self) -> dict[str, Any]: ...
    def restore(self, state: Mapping[str, Any]) -> None: ...


@dataclass(frozen=True)
class Source:
    """An opened data source.

    `draw` makes a sampler; `passes` tells how many batches cover a split once (None: it has no end).
    `sizes` are names that a spec's `sizes: {name: data}` can take; `symbols` is the text of each
    label, where there is one; `fingerprint` computes what identifies the data ("" where the options do).
    `continues`: for a request with `stream`, the rows of a batch go on where those of the one before ended.
    """

    fields: tuple[Field, ...]
    draw: Callable[[Request], Sampler]
    passes: Callable[[Request], int | None] = lambda _request: None
    sizes: Mapping[str, int] = field(default_factory=dict[str, int])
    symbols: tuple[str, ...] = ()
    fingerprint: Callable[[], str] = lambda: ""
    continues: bool = False


@dataclass
class Keyed:
    """Batch n is `make(request.rng(n), request.batch)`: a generated data set."""

    make: Callable[[np.random.Generator, int], Batch]
    request: Request
    position: int = 0

    def next(self) -> Batch:
        self.position += 1
        return self.make(self.request.rng(self.position - 1), self.request.batch)

    def state(self) -> dict[str, Any]:
        return {"position": self.position}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.position = int(state["position"])


@dataclass
class Epochs:
    """Passes over `count` examples; `gather` makes a batch of the chosen ones.

    Training shuffles each pass anew and leaves out what does not fill a batch; other splits go in order and end
    with a smaller batch.
    """

    count: int
    gather: Callable[[Array], Batch]
    request: Request
    position: int = 0
    _order: tuple[int, Array] | None = None

    @property
    def passes(self) -> int:
        if self.request.split == "train":
            return max(1, self.count // self.request.batch)
        return -(-self.count // self.request.batch)

    def next(self) -> Batch:
        epoch, index = divmod(self.position, self.passes)
        start = index * self.request.batch
        chosen = self._permutation(epoch)[start : start + self.request.batch]
        self.position += 1
        return self.gather(chosen)

    def _permutation(self, epoch: int) -> Array:
        if self.request.split != "train":
            return np.arange(self.count)
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, self.request.rng(epoch).permutation(self.count)
        return self._order[1]

    def state(self) -> dict[str, Any]:
        return {"position": self.position}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.position = int(state["position"])


def epochs(
    sizes: Mapping[str, int], gather: Callable[[str, Array], Batch]
) -> tuple[Callable[[Request], Epochs], Callable[[Request], int | None]]:
    """`draw` and `passes` of a source with `sizes[split]` examples."""

    def draw(request: Request) -> Epochs:
        return Epochs(sizes[request.split], lambda chosen: gather(request.split, chosen), request)

    return draw, lambda request: draw(request).passes


def keyed(make: Callable[[np.random.Generator, int], Batch]) -> Callable[[Request], Keyed]:
    """`draw` of a generated source."""
    return lambda request: Keyed(make, request)


@dataclass(frozen=True)
class Place:
    """Where a source may look: relative paths start at `folder` (the spec's); `trust` lets it run the user's code."""

    folder: str = "."
    trust: bool = False
