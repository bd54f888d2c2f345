"""Errors of `data:` and `train:` with a place in the spec: RD0601 to RD0639."""

from __future__ import annotations

from dataclasses import dataclass

from recdsl.diagnostics import Problem


@dataclass(frozen=True)
class UnknownCall(Problem):
    """`what` is "data source", "optimizer", "schedule" or "metric"."""

    code = "RD0601"
    message = "unknown {what} `{name}`"
    hint = "{suggestion}known: {known}"
    explain = "`data:`, `train: optimizer`, `train: schedule` and `train: metrics` take one of a fixed list of calls."

    what: str
    name: str
    suggestion: str
    known: str


@dataclass(frozen=True)
class UnknownOption(Problem):
    code = "RD0602"
    message = "`{call}` has no option `{option}`"
    hint = "{suggestion}options: {known}"
    explain = "An option that is not known is an error, so that a misspelt one is never silently left at its default."

    call: str
    option: str
    suggestion: str
    known: str


@dataclass(frozen=True)
class WrongOption(Problem):
    code = "RD0603"
    message = "`{option}` of `{call}` is {expected}, not `{got}`"
    hint = "{doc}"
    explain = "Each option has a type and, where it makes sense, bounds or a list of choices."

    call: str
    option: str
    expected: str
    got: str
    doc: str


@dataclass(frozen=True)
class MissingOption(Problem):
    code = "RD0604"
    message = "`{call}` needs the option `{option}`"
    hint = "write `{call}({option}=...)`: {doc}"
    explain = "Options without a default must be given."

    call: str
    option: str
    doc: str


@dataclass(frozen=True)
class TooManyValues(Problem):
    code = "RD0605"
    message = "`{call}` takes {count} values at most"
    hint = "options: {known}"
    explain = "Values without a name fill a call's options in their order."

    call: str
    count: int
    known: str


@dataclass(frozen=True)
class RepeatedOption(Problem):
    code = "RD0606"
    message = "`{option}` of `{call}` is given twice"
    hint = "keep one of them"
    explain = "A value without a name already filled this option."

    call: str
    option: str


@dataclass(frozen=True)
class NotProvided(Problem):
    code = "RD0607"
    message = "the data `{source}` has nothing for `{name}`"
    hint = "its fields are {known}; they match by name, then by order among those of one kind"
    explain = "Inputs and targets take the data's field of their own name; the others are filled in order."

    name: str
    source: str
    known: str


@dataclass(frozen=True)
class DoesNotFit(Problem):
    code = "RD0608"
    message = "`{name}` is {wanted}, but the data's `{field}` is {given}"
    hint = "change the type of `{name}`, the size, or the options of `data:`"
    explain = "A field fits an input of the same kind and shape; labels fit any size that is large enough."

    name: str
    wanted: str
    field: str
    given: str


@dataclass(frozen=True)
class SizeNotProvided(Problem):
    code = "RD0609"
    message = "the data `{source}` does not say what size `{name}` is"
    hint = "use `{name}` as an axis of an input or target, or write one of {known}, or give a number"
    explain = "A size that is `data` is taken from the input or target that has it as an axis, or from its own name."

    name: str
    source: str
    known: str


@dataclass(frozen=True)
class DataUnavailable(Problem):
    code = "RD0610"
    message = "{reason}"
    hint = "{help_text}"
    explain = "A size that is `data` needs the data set itself, which could not be read."

    reason: str
    help_text: str


@dataclass(frozen=True)
class NoData(Problem):
    code = "RD0611"
    message = "{reason}"
    hint = "add a line such as `data: copy(delay=10)`"
    explain = "Training, and sizes that are `data`, need a `data:` line."

    reason: str


@dataclass(frozen=True)
class NotACall(Problem):
    code = "RD0612"
    message = "`{key}` takes a call such as `{example}`, not `{got}`"
    explain = "Some settings are calls with options; a bare name is a call without any."

    key: str
    example: str
    got: str


@dataclass(frozen=True)
class UnknownSetting(Problem):
    code = "RD0613"
    message = "`train:` has no key `{name}`"
    hint = "{suggestion}keys: {known}"
    explain = "An unknown key is an error, so that a misspelt setting is never silently left at its default."

    name: str
    suggestion: str
    known: str


@dataclass(frozen=True)
class NotYet(Problem):
    code = "RD0614"
    message = "`{what}` is not supported yet"
    hint = "{instead}"
    explain = "The language reserves this word; this version does not implement it and says so rather than ignore it."

    what: str
    instead: str


@dataclass(frozen=True)
class MetricUnclear(Problem):
    code = "RD0615"
    message = "the metric `{metric}` does not know what to compare"
    hint = "name an output and a target, such as `{metric}(logits, y)`"
    explain = "Without arguments a metric reads the output and target of the first loss that it can measure."

    metric: str


@dataclass(frozen=True)
class NeedsOnline(Problem):
    code = "RD0616"
    message = "`{setting}` is for online learning, which this spec does not ask for"
    hint = "add `online: true`, or leave `{setting}` out"
    explain = "With `online: true` the data is a stream, and every few observations make an update."

    setting: str


@dataclass(frozen=True)
class WindowUneven(Problem):
    code = "RD0617"
    message = "an update every {every} steps does not divide windows of {sizes} steps evenly"
    hint = "`every` must divide each window that is longer, and windows of different lengths must fit together"
    explain = (
        "Online, the last steps are replayed so that the newest ones see a whole window. That is the rule as it is "
        "written only if no window ends in the middle of an update."
    )

    every: int
    sizes: str


@dataclass(frozen=True)
class NoDifference(Problem):
    code = "RD0618"
    message = "`td_lambda` learns from temporal differences, but no loss is one"
    hint = "add a loss `td(v, cumulant, discount=0.9)`, or use another optimizer"
    explain = "`td_lambda` keeps traces of the gradients of predictions; other losses have nothing to keep."


@dataclass(frozen=True)
class StageEmpty(Problem):
    code = "RD0619"
    message = "this stage ends at update {until}, not after its start at {start}"
    hint = "`until` is the first update that no longer trains the parameters"
    explain = "A stage trains its parameters in the updates from `start` on, as long as they come before `until`."

    start: int
    until: int


@dataclass(frozen=True)
class StageUnknown(Problem):
    code = "RD0620"
    message = "`{selector}` names no parameter that is trained"
    hint = "{known}"
    explain = "A stage names parameters by a selector, such as `late.*`; those that are `frozen` are never trained."

    selector: str
    known: str


@dataclass(frozen=True)
class StageTwice(Problem):
    code = "RD0621"
    message = "`{parameter}` is in two stages"
    hint = "name each parameter in one stage; what no stage names is trained all the time"
    explain = "A parameter is trained for one stretch of updates and constant before and after."

    parameter: str


@dataclass(frozen=True)
class StageIdle(Problem):
    code = "RD0622"
    message = "nothing is trained at update {step}"
    hint = "let a stage begin at update {step}, or name fewer parameters"
    explain = "Every update needs a parameter that it may change."

    step: int


@dataclass(frozen=True)
class RateUnknown(Problem):
    code = "RD0625"
    message = "`lr`: `{selector}` names no parameter that is trained"
    hint = "{known}"
    explain = (
        "`train: lr` gives parameters learning rates by selectors, as `credit` gives them rules: `dec.*`, a block, or "
        "a parameter; `default` is the rate of the others."
    )

    selector: str
    known: str


@dataclass(frozen=True)
class RateTwice(Problem):
    """`first` and `second` are where the rates stand, in backticks."""

    code = "RD0626"
    message = "{what} has two learning rates, by {first} and by {second}"
    hint = "leave one of them out"
    explain = "A parameter has one learning rate: that of a selector of `train: lr`, or else the optimizer's."

    what: str
    first: str
    second: str


@dataclass(frozen=True)
class NotSingle(Problem):
    code = "RD0623"
    message = "`idbd` {reason}"
    hint = "it needs {wanted}"
    explain = (
        "Incremental delta-bar-delta uses the square of a prediction's gradient. It can be told from the gradient of a "
        "loss for one error only, not from a mean over several."
    )

    reason: str
    wanted: str


@dataclass(frozen=True)
class StoreForgets(Problem):
    code = "RD0624"
    message = "online, the memory `{memory}` with `slots: unbounded` would begin empty at each update"
    hint = "write `slots: 1_000` and `life: stream` in the memory, or leave `online` out"
    explain = (
        "An unbounded store lasts one call, and online learning makes a call every few observations. A store with a "
        "number of slots goes on: for each sample (`life: stream`), or one for all (`life: model`)."
    )

    memory: str
