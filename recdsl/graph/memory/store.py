"""A store as checked data: what every lowering of it starts from."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isinf

from recdsl.graph.sizes import Size
from recdsl.source import Span
from recdsl.syntax.ast import Expression, Name


@dataclass(frozen=True)
class Score:
    """How a query is compared with a key. `number`: sharpness or delta; `width`: of the hidden layer of `mlp`.

    kind: "dot" | "cosine" | "inverse_distance" (1 / (|q - k|^2 + delta), Pritzel et al. 2017) | "mlp" (w . tanh(Wk k +
    Wq q), as in Ke et al. 2018) | "separable" (wk . tanh(k) + wq . tanh(q), as in the code released with that paper).
    """

    kind: str
    number: float = 1.0
    width: Size | None = None


@dataclass(frozen=True)
class Select:
    """Which slots take part in a read. kind: "all" | "topk" (the `number` best) | "threshold" (from `number` on)."""

    kind: str
    number: float = 0.0


@dataclass(frozen=True)
class Shift:
    """What `normalise: shifted_relu` subtracts, and what it does where nothing stands below the threshold.

    kth: the threshold is the k-th score, not the one after it. stopped: no gradient through it. underfull: "shift" |
    "raw" | "softmax" | "equal", while topk(k) has no more than k slots. floor: added to the threshold and to the sum of
    the weights, in place of equal weights below a sum of 1e-7.
    """

    kth: bool = False
    stopped: bool = False
    underfull: str = "shift"
    floor: float = 0.0


@dataclass(frozen=True)
class Index:
    """How a search looks for rows. lists: of an inverted file (0: the square root of its items); probes: how
    many of them a search looks at."""

    lists: int
    probes: int
    span: Span


@dataclass(frozen=True)
class Read:
    """One read. `name` is its place in the step ("past.read"), `scorer` the prefix of the scorer's parameters.

    null_slot: a slot of zeros can be selected too. every: it is made at steps every - 1, 2 every - 1, ..., and gives
    zeros at the others. hit: under `mean`, slots with scores from there on are read alone, if there are any.
    index: None where all scores are made.
    """

    name: str
    scorer: str
    query: Expression
    score: Score
    select: Select
    normalise: str
    shift: Shift
    every: int
    null_slot: bool
    span: Span
    hit: float = inf
    index: Index | None = None

    @property
    def selective(self) -> bool:
        """Whether which slots get credit depends on the data."""
        return self.select.kind != "all" or self.normalise == "shifted_relu" or not isinf(self.hit)


@dataclass(frozen=True)
class Merge:
    """What becomes of the value of a stored item when another with its key is written, which then takes no slot.

    kind: "max" (of each entry, Blundell et al. 2016) | "step" (by `rate` of the difference, Pritzel et al. 2017).
    within: the distance up to which keys count as one; of several the nearest does.
    """

    kind: str
    rate: float
    within: float


@dataclass(frozen=True)
class Write:
    """What is written, after the reads of a step. `key` None: the value; `when` None: always. evaluated: in evaluation
    too, where the store lasts as long as the model."""

    key: Expression | None
    value: Expression
    every: int
    when: Expression | None
    span: Span
    evaluated: bool = False
    merge: Merge | None = None


@dataclass(frozen=True)
class Evict:
    """Which item makes room in a full store. kind: "oldest" | "least_used" (by weights of reads, fading by `decay` a
    step) | "lowest" (by `priority` at the write; a new item below all others is not stored)."""

    kind: str
    decay: float = 0.0
    priority: Expression | None = None


@dataclass(frozen=True)
class Store:
    """An external memory. slots: None where it is unbounded. life: "sequence" | "stream" | "model". storage: where its
    rows are written "disk", None where that is not said. place: a folder of the user's for them."""

    name: str
    slots: int | None
    life: str
    evict: Evict
    write: Write
    reads: tuple[Read, ...]
    span: Span
    storage: Name | None = None
    place: str = ""

    @property
    def on_disk(self) -> bool:
        return self.storage is not None and self.storage.text == "disk"
