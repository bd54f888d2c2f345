"""Names, calls and what belongs together, found while the step graph is built (RD03xx)."""

from __future__ import annotations

from dataclasses import dataclass

from recdsl.diagnostics import Problem


@dataclass(frozen=True)
class UnknownName(Problem):
    """A name that nothing defines."""

    code = "RD0301"
    message = "unknown name `{name}`"
    hint = "{suggestion}"
    explain = (
        "An expression may use inputs, parameters, sizes, `t`, and names that the step assigns, in any order. Inside "
        "a block only the block's own arguments, sizes, parameters and names can be seen."
    )

    name: str
    suggestion: str = ""


@dataclass(frozen=True)
class DefinedTwice(Problem):
    """One name, two definitions."""

    code = "RD0302"
    message = "`{name}` is defined twice"
    hint = "give each its own name{suggestion}"
    explain = "A name has one definition: as a size, input, target or parameter, or by one equation."

    name: str
    suggestion: str = ""


@dataclass(frozen=True)
class ReservedName(Problem):
    """A name that means something else."""

    code = "RD0303"
    message = "`{name}` cannot be the name of {what}: {why}"
    hint = "choose another name"
    explain = (
        "`t` is the step number. Inputs may not be called `mask`, `reset` or `state`, which every model accepts. "
        "Parameters become attributes of a torch.nn.Module, and so do names that blocks are assigned to: names that "
        "the module owns are refused, and those that begin with `recdsl_` or two underscores."
    )

    name: str
    what: str
    why: str


@dataclass(frozen=True)
class Cycle(Problem):
    """Equations that need each other within one step."""

    code = "RD0304"
    message = "{chain}: these need each other within one step"
    hint = "use the value of the step before somewhere, as in `{name}[t-1]`"
    explain = "Equations may stand in any order, but the values of one step must not depend on themselves."

    chain: str
    name: str


@dataclass(frozen=True)
class NeverAssigned(Problem):
    """A state without an equation."""

    code = "RD0305"
    message = "state `{name}` is never assigned"
    hint = "{suggestion}"
    explain = "`h[t-1]` is what the step before assigned to `h`, so the step needs an equation `h = ...`."

    name: str
    suggestion: str = ""


@dataclass(frozen=True)
class UnknownFunction(Problem):
    """A call of something that is neither a function nor a block."""

    code = "RD0306"
    message = "unknown function or block `{name}`"
    hint = "{suggestion}"
    explain = "Functions are built in; blocks come from `blocks:`, from files beside the spec, or from the library."

    name: str
    suggestion: str = ""


@dataclass(frozen=True)
class NestedBlock(Problem):
    """A block call that is not the whole right-hand side."""

    code = "RD0307"
    message = "block `{name}` is called inside an expression"
    hint = "a block's parameters live under the name it is assigned to; write `{first}`, then `{second}`"
    explain = "A block is called by an equation of its own: `inner = gru(x, size=hidden)`."

    name: str
    first: str
    second: str


@dataclass(frozen=True)
class BadCall(Problem):
    """Arguments that a function, block or initialiser does not take, or lacks."""

    code = "RD0308"
    message = "`{name}`: {what}"
    hint = "{use}"
    explain = "The hint shows how the function or block is called."

    name: str
    what: str
    use: str = ""


@dataclass(frozen=True)
class TargetInStep(Problem):
    """The model looks at the answer."""

    code = "RD0309"
    message = "target `{name}` is used in an equation"
    hint = "targets are for losses and for what a memory stores; what the model may see stands under `inputs`"
    explain = "Targets at masked steps are never read, and at inference there are none."

    name: str


@dataclass(frozen=True)
class NoHistory(Problem):
    """`[t-k]` on something that has no steps."""

    code = "RD0310"
    message = "`{name}[t-{lag}]`: {what} has no previous value"
    hint = "{suggestion}"
    explain = "`[t-k]` reads an earlier value of an input or of a name that the step assigns."

    name: str
    lag: int
    what: str
    suggestion: str = ""


@dataclass(frozen=True)
class ResultCount(Problem):
    """More names on the left than results on the right."""

    code = "RD0311"
    message = "{targets} names are assigned, but `{name}` gives {results}"
    hint = "{suggestion}"
    explain = "Only a block has several results. Fewer names than results is fine."

    targets: int
    name: str
    results: int
    suggestion: str = ""


@dataclass(frozen=True)
class UnknownLoss(Problem):
    """A loss that is not in the list."""

    code = "RD0312"
    message = "unknown loss `{name}`"
    hint = "{suggestion}"
    explain = "Losses: mse, mae, huber, cross_entropy, binary_cross_entropy, nll, kl, td."

    name: str
    suggestion: str = ""


@dataclass(frozen=True)
class NoMatch(Problem):
    """A selector in `trains` that names no parameter."""

    code = "RD0313"
    message = "`{selector}` matches no parameter"
    hint = "{suggestion}"
    explain = "`trains` takes parameter names and patterns such as `enc.*`; frozen parameters do not count."

    selector: str
    suggestion: str = ""


@dataclass(frozen=True)
class Unreached(Problem):
    """A parameter that would never be trained."""

    code = "RD0314"
    message = "no loss reaches parameter `{name}`"
    hint = "{suggestion}"
    explain = (
        "A path from the parameter to a loss must carry gradient: `stop`, comparisons, `floor` and `sign` do not. With "
        "`trains`, only the losses that train the parameter count. A constant is declared with `frozen`."
    )

    name: str
    suggestion: str = "use it, take it out, or write `frozen` at the end of its declaration"


@dataclass(frozen=True)
class Recursive(Problem):
    """Blocks that contain themselves, or nest too deeply."""

    code = "RD0315"
    message = "block `{name}` {what}: {chain}"
    hint = "a block may call other blocks, at most 32 deep and 2,000 in all, but not itself"
    explain = "Blocks are expanded in place, so a block that calls itself would never end."

    name: str
    what: str
    chain: str


@dataclass(frozen=True)
class NotYet(Problem):
    """Part of the language that is not built yet."""

    code = "RD0316"
    message = "{what} is not supported yet"
    hint = "{suggestion}"
    explain = "The word is reserved for a part of the language that this version does not compile."

    what: str
    suggestion: str = ""


@dataclass(frozen=True)
class NotALoss(Problem):
    """A loss entry that is not a call of a loss."""

    code = "RD0317"
    message = "a loss is a call such as `mse(v, y)`"
    hint = "call one of mse, mae, huber, cross_entropy, binary_cross_entropy, nll, kl"
    explain = "The arguments of the loss may be any expressions of the step's names and the targets."


@dataclass(frozen=True)
class NoResult(Problem):
    """A block that does not assign what it returns."""

    code = "RD0318"
    message = "block `{block}` returns `{name}` but its step does not assign it"
    hint = "{suggestion}"
    explain = "Each name under `returns` needs an equation in the block's step."

    block: str
    name: str
    suggestion: str = ""


@dataclass(frozen=True)
class SizeFromData(Problem):
    """`data` as a size, without data that gives it."""

    code = "RD0319"
    message = "size `{name}` comes from the data, which does not give it"
    hint = "write a number, or name a data set under `data:` that has `{name}`"
    explain = "A size declared as `data` is filled in from the data set, such as the number of distinct characters."

    name: str


@dataclass(frozen=True)
class NotConstant(Problem):
    """Something that must be known when compiling."""

    code = "RD0320"
    message = "{what} must be {kind}"
    hint = "{suggestion}"
    explain = "Sizes, axes, options and arguments of initialisers are known before the model runs."

    what: str
    kind: str
    suggestion: str = ""
