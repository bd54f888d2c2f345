"""RD02xx: equations, types and calls, as written."""

from __future__ import annotations

from dataclasses import dataclass

from recdsl.diagnostics import Problem


@dataclass(frozen=True)
class BadCharacter(Problem):
    code = "RD0201"
    message = "`{character}` has no meaning here"
    hint = "{advice}"
    explain = (
        "The character is not part of the language of this text. Equations know names, numbers, `+ - * / @ % **`, "
        "comparisons, `and or not`, round and square brackets, `.T`, commas and `;` inside `[a; b]`."
    )
    character: str
    advice: str = ""


@dataclass(frozen=True)
class NotAscii(Problem):
    code = "RD0202"
    message = "the character {shown} is not ASCII"
    hint = "{advice}"
    explain = (
        "Names and operators are ASCII, because many other characters look like them: a Cyrillic `а` in a name would "
        "be another name than the Latin `a`. Comments and `doc:` may hold any character."
    )
    shown: str
    advice: str = ""


@dataclass(frozen=True)
class Unclosed(Problem):
    code = "RD0203"
    message = "this `{bracket}` is never closed"
    hint = "{advice}"
    explain = (
        "A line of `step:` goes on inside brackets until they are closed. Here the text ended, or the next "
        "assignment began, before that. Inside a YAML map in braces a comma ends the value, so "
        '`{x: adam(lr=1, eps=2)}` must be `{x: "adam(lr=1, eps=2)"}`.'
    )
    bracket: str
    advice: str = ""


@dataclass(frozen=True)
class Unopened(Problem):
    code = "RD0204"
    message = "this `{bracket}` closes nothing"
    hint = "delete it, or write the opening bracket"
    explain = "A closing bracket stands without its opening one, as in `y = tanh(x))`."
    bracket: str


@dataclass(frozen=True)
class Mismatched(Problem):
    code = "RD0205"
    message = "`{bracket}` does not close `{opening}`"
    hint = "write `{wanted}` here, or close the brackets in between first"
    explain = "Brackets close in the order they were opened, each by its own kind: `tanh(h[t-1])`, not `tanh(h[t-1)]`."
    bracket: str
    opening: str
    wanted: str


@dataclass(frozen=True)
class Unexpected(Problem):
    code = "RD0206"
    message = "unexpected {found}: expected {expected}"
    hint = "{advice}"
    explain = (
        "The text is fine up to here, but what follows fits nothing. Products are written out: `2 * x`, `W @ x`. "
        "`=` assigns, once a line; `==` compares. Powers are `x ** 2`; the previous value of h is `h[t-1]`."
    )
    found: str
    expected: str
    advice: str = ""


@dataclass(frozen=True)
class NotAnAssignment(Problem):
    code = "RD0207"
    message = "a line of a step assigns: `name = expression`"
    hint = "{advice}"
    explain = (
        "Each line of `step:` gives a name to a value, as in `h = tanh(W @ x)` or `h, c = lstm(x, size=hid)`. "
        "The left side is a plain name: the step says what holds at time t, so write `h = ...`, not `h[t] = ...`."
    )
    advice: str = ""


@dataclass(frozen=True)
class BadDelay(Problem):
    code = "RD0208"
    message = "`[{index}]` is not a delay"
    hint = "{advice}"
    explain = (
        "The only place in time an equation can name is the past: `h[t-1]`, or `h[t-5]` for five steps back, with a "
        "literal whole number of at least 1. The present value is just `h`; the future cannot be read. To pick along "
        "an axis name it: `z[gate=0]`; a range is `slice(z, axis=hid, start=0, size=half)`."
    )
    index: str
    advice: str


@dataclass(frozen=True)
class ChainedComparison(Problem):
    code = "RD0209"
    message = "comparisons do not chain"
    hint = "write `a < b and b < c`"
    explain = (
        "Python reads `a < b < c` as `a < b and b < c`; arrays cannot do that, so it is refused instead of meaning "
        "`(a < b) < c`. Write the two comparisons and join them by `and`."
    )


@dataclass(frozen=True)
class NestedTooDeep(Problem):
    code = "RD0210"
    message = "brackets are nested more than {limit} deep"
    hint = "give parts of the expression names of their own"
    explain = "Brackets may be nested 200 deep. Give inner parts their own line and name: `a = ...`, `b = f(a)`."
    limit: int


@dataclass(frozen=True)
class ExpressionTooBig(Problem):
    code = "RD0211"
    message = "an expression of more than {limit} {unit}"
    hint = "split it over several lines, each with a name"
    explain = (
        "One expression may have up to 10,000 parts and 64 KiB of text. Assign parts of it to names of their own; "
        "a long repetition is a block, a matrix product or a sum over an axis."
    )
    limit: int
    unit: str


@dataclass(frozen=True)
class NameTooLong(Problem):
    code = "RD0212"
    message = "a name of {length} characters; the limit is {limit}"
    hint = ""
    explain = "Names may have up to 128 characters, so that tables and generated code stay readable."
    length: int
    limit: int


@dataclass(frozen=True)
class BadCall(Problem):
    code = "RD0213"
    message = "{reason}"
    hint = "{advice}"
    explain = (
        "A call is `name(positional, ..., keyword=value)`: a plain name, then the arguments by position, then those by "
        "keyword, each keyword once. A number or bracket directly before `(` is usually a missing `*`: `2 * (a + b)`."
    )
    reason: str
    advice: str = ""


@dataclass(frozen=True)
class BadDot(Problem):
    code = "RD0214"
    message = "`.{name}` cannot follow this"
    hint = "only `.T` (transpose) can follow an expression; dotted names are `past.read`, `h.Wz`"
    explain = (
        "A dot joins the parts of a name, as in `past.read` (the read of a memory) or `h.Wz` (a block's parameter), or "
        "transposes: `(A + B).T`. There are no other attributes and no methods: `sum(x, axis=hid)`, not `x.sum()`."
    )
    name: str


@dataclass(frozen=True)
class ValueCalled(Problem):
    code = "RD0215"
    message = "`{name}` is a value, not a function"
    hint = "its earlier value is `{name}[t-{lag}]`, with square brackets"
    explain = (
        "Round brackets call a function: `tanh(x)`. Square brackets read a carried value: `h[t-1]` is h one step ago. "
        "`h(t-1)` would call h."
    )
    name: str
    lag: int


@dataclass(frozen=True)
class NeedsCall(Problem):
    code = "RD0216"
    message = "{what} must be a call such as `{example}`"
    hint = "{advice}"
    explain = (
        "Losses, rules, data sets, initialisers and optimisers are written as calls: `cross_entropy(logits, next)`, "
        "`tbptt(window=64)`, `adam(lr=1e-3)`. A loss may not be a bare expression: assign it in `step:` and reduce it "
        "by one of the losses."
    )
    what: str
    example: str
    advice: str = ""


@dataclass(frozen=True)
class UnknownType(Problem):
    code = "RD0217"
    message = "there is no type `{name}`"
    hint = "{advice}"
    explain = (
        "Types are `float` (a number), `float[hid]`, `float[hid, inp]` (arrays with named axes), `onehot[n]`, "
        "`class[n]`, `token[n]` (whole numbers below n) and `bool`. Batch and time are not written."
    )
    name: str
    advice: str


@dataclass(frozen=True)
class TypeAxes(Problem):
    code = "RD0218"
    message = "`{kind}` takes {wanted}, not {found}"
    hint = "{advice}"
    explain = (
        "`float` has any number of axes: `float`, `float[hid]`, `float[hid, inp + hid]`. `onehot[n]`, `class[n]` and "
        "`token[n]` have exactly one size, the number of symbols. `bool` has none."
    )
    kind: str
    wanted: str
    found: str
    advice: str = ""


@dataclass(frozen=True)
class BadModifier(Problem):
    code = "RD0219"
    message = "{reason}"
    hint = "{advice}"
    explain = (
        "After its type a parameter has one start value, `~ normal(0, 0.1)` or `= 0`, then optional masks "
        "`sparse(density)` and `blocks(n)`, then optionally `frozen`: "
        "`W: float[hid, hid] ~ orthogonal sparse(0.1) frozen`. Inputs and targets have a type only; a state may have "
        "`= value`, and the word `kept` if no reset is to restart it."
    )
    reason: str
    advice: str = ""


@dataclass(frozen=True)
class NoInitialiser(Problem):
    code = "RD0220"
    message = "the parameter `{name}` has no start value"
    hint = "write for example `~ normal(0, 0.1)`, `~ glorot` or `= 0` after its type"
    explain = (
        "Each parameter says where it starts, because no default fits all: `W: float[hid, inp] ~ glorot`, "
        "`b: float[hid] = 0`. Initialisers: uniform, normal, glorot, orthogonal, he, lecun, ring, zeros, ones, "
        "constant."
    )
    name: str


@dataclass(frozen=True)
class UnknownInitialiser(Problem):
    code = "RD0221"
    message = "there is no {what} `{name}`"
    hint = "{advice}"
    explain = (
        "Initialisers are uniform(low, high), normal(mean, std), glorot, orthogonal, he, lecun, ring, zeros, ones and "
        "constant(value); masks are sparse(density) and blocks(n)."
    )
    what: str
    name: str
    advice: str


@dataclass(frozen=True)
class BadLiteral(Problem):
    code = "RD0222"
    message = "{reason}"
    hint = "{advice}"
    explain = (
        "After `=` stands a number, or nested lists of numbers whose rows are equally long: `= 0.5`, `= [0, 0, 1]`, "
        "`= [[1, 0], [0, 1]]`. A state may also start at a parameter: `h: float[hid] = start`."
    )
    reason: str
    advice: str = ""


@dataclass(frozen=True)
class BadNumber(Problem):
    code = "RD0223"
    message = "the number `{written}` {reason}"
    hint = ""
    explain = (
        "Numbers are whole (`64`, `2_000`) or decimal (`0.1`, `1e-3`), of at most 400 characters and "
        "at most about 1.8e308."
    )
    written: str
    reason: str


@dataclass(frozen=True)
class Nothing(Problem):
    code = "RD0224"
    message = "there is nothing here: expected {expected}"
    hint = "{advice}"
    explain = "The text is empty, or holds only blanks and comments, where something must be written."
    expected: str
    advice: str = ""
