"""The credit plan: what gradient flows where, as data. Built from a spec's `credit:`, its losses and the step graph."""

from __future__ import annotations

from dataclasses import dataclass

from recdsl.graph.step import Parameter, StepGraph
from recdsl.jacobian.pieces import Key
from recdsl.source import Span


@dataclass(frozen=True)
class Window:
    """`tbptt(window=size, every=every)`; size None: the whole call.

    Losses of steps u*every .. (u+1)*every - 1 see every carried value cut on entering step
    max(0, (u+1)*every - size), where that is above 0 (semantics 4.2, anchored on the window's start). A learned
    initial state is not cut. Sizes in steps.
    """

    size: int | None
    every: int


@dataclass(frozen=True)
class Tracing:
    """A forward rule: influences are carried along with the states instead of going back (semantics 2.1, 4.3-4.6).

    scope: "all" | "support" (what is reached within `depth` steps) | "column" (along `axis`, if there are several) |
    "rank" (everywhere, estimated as one product of two vectors with random signs) | "kronecker" (likewise, one
    Kronecker product for each matrix).
    batch: of scope "rank": "sample" (an estimate for each sample) | "joint" (one for all samples of a call together;
    they share its vector over parameters).
    read: "pre": a loss reads the influence on the states that enter its step, through all paths of the step; "post":
    the influence on the states that the step leaves; "window": on the states that enter its window, inside of which
    every path is kept. cuts: "" | "products" (the recurrent products of states) |
    "spikes" (these, and what a neuron's output does to the states that it is made of). decay: what an influence is
    multiplied by on its way to the next step, so a path over k steps counts decay^k (a masked step is none). drift:
    what becomes of traces at the next call, before which parameters may have changed: "accept" (they go on) | "reset" |
    "rerun" (they go on; online, each update runs the last `rerun` steps again with the parameters of now).
    filter: "none" | "readout" (of scope "column": influence is also tracked on states that only read others out and
    leak, which so low-pass what reaches them).
    feedback: how errors reach the states through the products that read them out: "symmetric" (as the derivative says)
    | "random" (by fixed random matrices). stepwise: whether traces go step by step, whatever it costs.
    """

    scope: str
    depth: int = 1
    read: str = "pre"
    cuts: str = ""
    axis: str = ""
    decay: float = 1.0
    drift: str = "accept"
    rerun: int = 0
    feedback: str = "symmetric"
    filter: str = "none"
    stepwise: bool = False
    batch: str = "sample"

    @property
    def random(self) -> bool:
        """Whether influence is estimated with random signs."""
        return self.scope in ("rank", "kronecker")


@dataclass(frozen=True)
class Answering:
    """What a rule asks of the net that answers for the losses behind a window (semantics 4.10).

    hidden: units of its hidden layer (0: none). condition: an input or target that it reads too, or "". scale: what
    its answers are multiplied by where they enter a window. lr: its learning rate (None: that of the other parameters).
    mixing: None: it learns what arrives at the start of a window that has its answer at the end; lambda in 0 .. 1: what
    arrives there with (1 - lambda) times the answer and lambda times what has so arrived behind it, a lambda-return.
    """

    hidden: int = 0
    condition: str = ""
    scale: float = 1.0
    lr: float | None = None
    mixing: float | None = None


@dataclass(frozen=True)
class Head:
    """The net that answers for a class: y = W2 relu(W1 z + b1) + b2, or y = W z + b, without a hidden layer.

    z: the carried values `carries` as the window's last step leaves them, flattened one after the other, then the
    condition at that step (a one-hot vector for classes; zero at a masked step). y / N is the cotangent that the losses
    behind the window would send to these values, laid out likewise; N is the number that the class's loss is divided
    by (the largest, if there are several), so that y does not depend on the size of a batch.
    beyond: whether the last window of a call has an end with losses behind it, in later calls.
    """

    name: str
    asked: Answering
    carries: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    beyond: bool = False


@dataclass(frozen=True)
class Scope:
    """Where the influence of one effective parameter on one carried value is tracked.

    source: the effective parameter, a node of the step graph. allowed: the rule's scope; stored: the part of it that
    is ever non-zero and that a loss can see, as patterns without a common entry.
    """

    source: int
    carry: str
    allowed: tuple[Key, ...]
    stored: tuple[Key, ...]


SHORT = 32
"""Steps of windows, up to which one pass with cuts in it is quicker than a pass a window (measured on torch)."""


@dataclass(frozen=True)
class Deferral:
    """How traces go from window to window in a long call (`recdsl.credit.deferral` decides).

    parameters: those with traces. size: steps of a window. least: steps of the shortest call that is run so. rows: of
    the Jacobian of a window, one for each entry of the states that have traces. stepwise, flops: floating point
    operations a step and sample, step by step and so. bytes: what rows keep inside a window, for each sample, beside
    the traces.
    """

    parameters: tuple[str, ...]
    size: int
    least: int
    rows: int
    stepwise: int
    flops: int
    bytes: int


@dataclass(frozen=True)
class RoutingClass:
    """One reverse pass: which losses it carries, what it cuts, whose gradient it keeps.

    losses: indices into `StepGraph.losses`; outputs: whether cotangents of `.outputs` enter too.
    cuts: edges (source node, consuming node) of the step graph that carry no gradient, such as the uses of h[t-1]
    under `h[t-1]: cut` (the hold edge of a delay line is none of them).
    parameters: names of the parameters whose gradient this pass gives; each trained parameter is in exactly one class.
    tracing: None for a reverse pass; else the class is a forward rule with these scopes: what is older than its window
    is carried along, reverse mode is inside (for most rules in a window of one step).
    late: whether a loss may as well read the influence on the states that its step leaves: the same gradient, with less
    to read. True where read is "post"; else where no influence leaves its scope in the step of the loss.
    thinning: credit is cut at random between steps, on average once in so many, and made up for elsewhere (0: never).
    tail: 0: with the same chance between any two steps; alpha > 1: with alpha / ((alpha - 1) thinning + k), where k
    steps lie behind the last truncation, so that long runs are rare like k^-alpha and not exponentially so.
    scales: edges (source, consumer, weight) whose gradient is multiplied by the weight. feedback: edges (source,
    product, buffer) whose gradient goes through the named buffer instead of the matrix that multiplies the source.
    spared: names of carries, those of memories, that the windows do not cut. Windows then do not overlap, and the pass
    goes back over the whole call.
    apart: whether a pass a window is needed: a factor between two steps does not cut slots that stay where they were
    written.
    budget: steps of recurrence that credit crosses at most from a loss, and again from each item of a memory, back
    (semantics 4.11, sliding); to cross what is spared is free. 0: no such limit.
    replay: whether long calls are run in pieces, each of them again on the way back: "auto" (where the call would keep
    much) | "always" | "never" (also of rules to which it does not apply).
    deferred: whether traces go from boundary to boundary at once, by reverse passes over the window, and not step by
    step. Windows then do not overlap.
    head: the net that answers for what lies behind a window (None: nothing does).
    """

    window: Window
    cuts: frozenset[tuple[int, int]]
    losses: tuple[int, ...]
    outputs: bool
    parameters: tuple[str, ...]
    tracing: Tracing | None = None
    scopes: tuple[Scope, ...] = ()
    thinning: int = 0
    late: bool = False
    tail: float = 0.0
    head: Head | None = None
    scales: tuple[tuple[int, int, float], ...] = ()
    feedback: tuple[tuple[int, int, str], ...] = ()
    spared: frozenset[str] = frozenset()
    budget: int = 0
    replay: str = "never"
    deferred: bool = False
    deferral: Deferral | None = None
    apart: bool = False

    @property
    def altered(self) -> frozenset[tuple[int, int]]:
        """Edges on which credit is not what the derivative says, but is there."""
        return frozenset((a, b) for a, b, _ in (*self.scales, *self.feedback))

    @property
    def grid(self) -> int:
        """Steps between the cuts of one pass over the whole call; 0 for passes with other windows, or none.

        A pass that spares some carries is one, and so is one of short windows that do not overlap: what a window begins
        and ends with then costs more than a factor at each step.
        """
        size, every = self.window.size, self.window.every
        if size is None or self.spared:
            return every if size is not None else 0
        alone = self.tracing is None and self.head is None and not self.thinning and not self.budget
        return every if alone and not self.apart and 1 < size == every <= SHORT else 0


@dataclass(frozen=True)
class Dropped:
    """An edge that carries no credit although it lies on a path from the group to a loss."""

    edge: str
    line: int | None
    span: Span | None


@dataclass(frozen=True)
class Row:
    """One line of `explain`: a parameter, its rule, the verdict and why. Lags in steps.

    verdict: "exact" | "unbiased" | "biased" | "frozen". first_dropped_lag: smallest lag of a dropped path (None: no
    path is dropped). longest_kept_lag: largest lag of a kept path (None: unbounded, or no path is kept). flops and
    bytes: a step and sample, of the parameter by itself (`recdsl.credit.total` has the model's), with what one item of
    a store that lasts as long as the model takes. Qualifiers: "declared-jacobian", where an op on the way is not
    smooth; "unmasked", where the verdict needs that no masked step stands before a valid one of its sequence;
    "no-credit", where every path from the parameter to a loss is dropped; "random-signs" and "random-truncation", where
    draws are right on average; "decay", where paths over steps count less; "drift", where traces go on from call to
    call: if parameters change between calls, the gradient is that by one shift of the parameters of all calls
    (semantics 5.1); "rerun", where that is so for what is older than the steps that each update runs again;
    "reset-at-call"; "scaled" and "feedback", where an edge on the way carries another derivative than its own;
    "learned", where a net answers for what is dropped.
    """

    parameter: str
    rule: str
    verdict: str
    qualifiers: tuple[str, ...]
    first_dropped_lag: int | None
    longest_kept_lag: int | None
    dropped: tuple[Dropped, ...]
    flops: int
    bytes: int


@dataclass(frozen=True)
class Remark:
    """What a user may not expect of a rule on this model, and the line of the spec that it is about. warns: it is said
    wherever the spec is used, not by `explain` alone."""

    text: str
    line: int | None
    warns: bool = False


@dataclass(frozen=True)
class Replay:
    """How items get credit by running their encoder again: which part of them it makes, the encoder as a graph of its
    own (its inputs are `observed`), the decoder from an item to the one input (None: observations are stored), and how
    many items are run at a time. every: gradients wait and are applied together in every so many passes back, and when
    an item leaves (0: then alone). freshen: rows are made anew every so many calls (0: never). tangent: of a gradient
    what lies along the item is left out. cosine: whether reads compare this part by cosine alone."""

    part: str
    encoder: StepGraph
    decoder: StepGraph | None
    observed: tuple[str, ...]
    chunk: int
    every: int = 1
    freshen: int = 0
    tangent: bool = False
    cosine: bool = False


@dataclass(frozen=True)
class StoreCredit:
    """What becomes of the gradient of the rows of a store that lasts as long as the model (Hansen 2017).

    kind: "stop" (nothing: credit ends at the call) | "through" (the graphs of the calls that wrote the items are kept,
    with the parameters of the time) | "param" (rows are parameters, moved by -lr times their gradient; Pritzel et al.
    2017) | "synthetic" (a net predicts, from an item and the `condition`, the sum of the gradients that it will get
    while it is stored, and the call that writes it sends that back) | "reinstate" (`replay`) | "corrected"
    ("synthetic", and `replay` applies what the prediction was wrong by when an item leaves). exact: rows are made anew
    by the encoder before each call reads them, so that their gradient is the encoder's; else they are read as stored,
    and their gradient is applied to what the encoder would make now. parts: of items, those whose gradient is asked
    for. parameters: of the net; lr: of the rows, or of the net (None: that of the other parameters).
    """

    memory: str
    kind: str
    span: Span | None = None
    parts: tuple[str, ...] = ()
    exact: bool = False
    replay: Replay | None = None
    hidden: int = 0
    condition: str = ""
    parameters: tuple[Parameter, ...] = ()
    lr: float | None = None


@dataclass(frozen=True)
class CreditPlan:
    """All passes of a model, the verdict of each parameter, and what else there is to say.

    buffers: random matrices that rules own; a module has them beside its parameters. stores: of each store that lasts
    as long as the model. shared: places of classes that have one reverse pass, the one with the longest window first
    (semantics, theorem 0, corollary b).
    """

    classes: tuple[RoutingClass, ...]
    rows: tuple[Row, ...]
    remarks: tuple[Remark, ...] = ()
    buffers: tuple[Parameter, ...] = ()
    stores: tuple[StoreCredit, ...] = ()
    shared: tuple[tuple[int, ...], ...] = ()

    def sharing(self, index: int) -> tuple[int, ...]:
        """The classes that have the pass of this one, the one with the longest window first."""
        return next((group for group in self.shared if index in group), (index,))

    @property
    def passes(self) -> tuple[tuple[str, ...], ...]:
        """The parameters of each reverse pass. Rules that carry all influence along have none."""
        return tuple(tuple(name for k in group for name in self.classes[k].parameters) for group in self._passes)

    @property
    def seeds(self) -> tuple[tuple[int, ...], ...]:
        """The losses of each reverse pass, by their places."""
        return tuple(tuple(sorted({k for one in group for k in self.classes[one].losses})) for group in self._passes)

    @property
    def _passes(self) -> list[tuple[int, ...]]:
        backward = [k for k, made in enumerate(self.classes) if made.tracing is None or made.window.size != 1]
        return [self.sharing(k) for k in backward if self.sharing(k)[0] == k]

    @property
    def owned(self) -> tuple[Parameter, ...]:
        """Parameters that rules bring along: matrices of feedback, and the nets that answer for windows."""
        heads = [routing.head for routing in self.classes if routing.head is not None]
        return (*self.buffers, *(item for made in heads for item in made.parameters))

    @property
    def nets(self) -> tuple[Parameter, ...]:
        """Parameters of the nets that predict gradients of stored items; no program reads them."""
        return tuple(item for store in self.stores for item in store.parameters)
