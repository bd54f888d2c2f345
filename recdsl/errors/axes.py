"""Axes, types and sizes, found while the step graph is built (RD04xx)."""

from __future__ import annotations

from dataclasses import dataclass

from recdsl.diagnostics import Problem


@dataclass(frozen=True)
class MatmulAxes(Problem):
    """`@` on axes that differ."""

    code = "RD0401"
    message = "`@` sums over the last axis of {left} and the first of {right}: `{a}` is not `{b}`"
    hint = "{suggestion}"
    explain = (
        "`a @ b` contracts the last axis of `a` with the first of `b`. They must have the same name, also where their "
        "extents are equal. `M.T` swaps the axes of a matrix, `dot(a, b, over=axis)` names it, `rename` changes it."
    )

    left: str
    right: str
    a: str
    b: str
    suggestion: str = ""


@dataclass(frozen=True)
class MatmulScalar(Problem):
    """`@` on a scalar."""

    code = "RD0402"
    message = "`@` of {left} and {right}: a scalar has no axis to sum over"
    hint = "use `*`"
    explain = "`@` is for values with axes."

    left: str
    right: str


@dataclass(frozen=True)
class Ambiguous(Problem):
    """Elementwise operands that repeat a name differently."""

    code = "RD0403"
    message = "{what} of {left} and {right}: an axis name repeats, so they do not align by name"
    hint = "give one of them another name: `rename(x, {axis}=other)`"
    explain = "Values that repeat a name align by position, which needs equal axes."

    what: str
    left: str
    right: str
    axis: str


@dataclass(frozen=True)
class NoAxis(Problem):
    """An axis that a value does not have."""

    code = "RD0404"
    message = "{type} has no axis `{axis}`"
    hint = "{suggestion}"
    explain = "Axes go by name. The message shows the axes that the value has."

    axis: str
    type: str
    suggestion: str = ""


@dataclass(frozen=True)
class AxisNeeded(Problem):
    """A reduction that does not say over which axis."""

    code = "RD0405"
    message = "`{name}` of {type} needs an axis"
    hint = "{suggestion}"
    explain = "A reduction names its axis, `sum(x, axis=hid)`; it may be left out where there is only one."

    name: str
    type: str
    suggestion: str


@dataclass(frozen=True)
class WrongKind(Problem):
    """A number of the wrong kind."""

    code = "RD0406"
    message = "{what} of {type}"
    hint = "{suggestion}"
    explain = "Classes and tokens are names, not amounts: `onehot(x)` or a row `W[vocab=x]` makes numbers of them."

    what: str
    type: str
    suggestion: str = ""


@dataclass(frozen=True)
class CannotInfer(Problem):
    """A state whose axes nothing determines."""

    code = "RD0407"
    message = "the axes of state `{name}` cannot be inferred"
    hint = 'declare it: `states: {{{name}: "float[...]"}}`'
    explain = (
        "A state takes the type of what is assigned to it. Where that depends only on the state itself, it is a scalar "
        "if that fits; otherwise declare it."
    )

    name: str


@dataclass(frozen=True)
class StateType(Problem):
    """A state that would change its type."""

    code = "RD0408"
    message = "state `{name}` is {declared}, but is assigned {found}"
    hint = "{suggestion}"
    explain = "A state has the same axes at every step; their order does not matter."

    name: str
    declared: str
    found: str
    suggestion: str = ""


@dataclass(frozen=True)
class BadSize(Problem):
    """A size that is not a positive whole number."""

    code = "RD0409"
    message = "{what} is {value}"
    hint = "a size is a whole number from 1 to 2**48"
    explain = "Sizes are computed exactly; a quotient must come out even."

    what: str
    value: str


@dataclass(frozen=True)
class TooLarge(Problem):
    """More memory than can be meant."""

    code = "RD0410"
    message = "{what} needs {bytes} bytes ({numel} numbers)"
    hint = "the limit is {limit} bytes; make an axis smaller"
    explain = "Sizes are multiplied out before anything is allocated."

    what: str
    numel: int
    bytes: int
    limit: int


@dataclass(frozen=True)
class OutOfRange(Problem):
    """An index past the end."""

    code = "RD0411"
    message = "index {index} is outside axis `{axis}`, which has {size} entries"
    hint = "entries count from 0"
    explain = "Literal indices and slices are checked when compiling."

    index: str
    axis: str
    size: int


@dataclass(frozen=True)
class LiteralShape(Problem):
    """Nested numbers of the wrong shape."""

    code = "RD0412"
    message = "a literal of shape {found} for {type}"
    hint = "write one list per axis, in order: shape {wanted}"
    explain = "A nested literal has one level for each axis, each of the axis's extent."

    found: str
    type: str
    wanted: str


@dataclass(frozen=True)
class ConcatAxes(Problem):
    """Pieces that do not fit together."""

    code = "RD0413"
    message = "`[...; ...]` of {left} and {right}"
    hint = "pieces share all axes but the one along which they are joined"
    explain = "Pieces are joined along the one axis in which they differ, else along the last. A scalar is one entry."

    left: str
    right: str


@dataclass(frozen=True)
class ArgumentType(Problem):
    """A block argument of the wrong type."""

    code = "RD0414"
    message = "block `{block}` takes `{name}: {declared}`, but gets {found}"
    hint = "{suggestion}"
    explain = "An argument's axes are matched in order; a size that is given must be the axis of that name."

    block: str
    name: str
    declared: str
    found: str
    suggestion: str = ""


@dataclass(frozen=True)
class LossAxes(Problem):
    """Loss operands that do not fit each other."""

    code = "RD0415"
    message = "`{name}` of {left} and {right}"
    hint = "{suggestion}"
    explain = "Prediction and target have the same axes; a class is looked up on the axis it was declared with."

    name: str
    left: str
    right: str
    suggestion: str = "both need the same axes"


@dataclass(frozen=True)
class InitialVaries(Problem):
    """An initial value that depends on the step."""

    code = "RD0416"
    message = "the initial value of `{name}` depends on the step"
    hint = "use numbers and parameters"
    explain = "A state starts from a constant or from parameters (then it is learned)."

    name: str


@dataclass(frozen=True)
class Refused(Problem):
    """Operands that an operation refuses."""

    code = "RD0417"
    message = "{what}"
    hint = "{suggestion}"
    explain = "The operation cannot take operands of these types."

    what: str
    suggestion: str = ""


@dataclass(frozen=True)
class NotAMatrix(Problem):
    """Something that needs two axes."""

    code = "RD0418"
    message = "{what} of {type}: it takes exactly two axes"
    hint = "{suggestion}"
    explain = "`.T` and orthogonal initialisation are for matrices."

    what: str
    type: str
    suggestion: str = ""


@dataclass(frozen=True)
class RenameClash(Problem):
    """A new axis name that does not fit."""

    code = "RD0419"
    message = "axis `{axis}` cannot be renamed to `{new}`: {why}"
    hint = "choose another name"
    explain = "The new name must be free in the value, and where it is a size, that size."

    axis: str
    new: str
    why: str


@dataclass(frozen=True)
class BadNumber(Problem):
    """Arithmetic on literals that has no result."""

    code = "RD0420"
    message = "{what}"
    hint = "{suggestion}"
    explain = "Numbers are computed when compiling; the result must be finite and in range."

    what: str
    suggestion: str = ""


@dataclass(frozen=True)
class BadMask(Problem):
    """A mask that does not fit its matrix."""

    code = "RD0421"
    message = "mask `{name}` on {type}: {why}"
    hint = "{suggestion}"
    explain = "`sparse(density)` keeps a fixed random part of the entries, `blocks(n)` keeps n equal diagonal blocks."

    name: str
    type: str
    why: str
    suggestion: str = ""
