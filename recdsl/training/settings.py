"""`train:` of a spec as one checked record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from recdsl.diagnostics import Problems, suggest
from recdsl.errors.training import (
    MetricUnclear,
    NeedsOnline,
    NoDifference,
    NotACall,
    NotSingle,
    RateTwice,
    StageEmpty,
    StoreForgets,
    UnknownCall,
    UnknownSetting,
    WrongOption,
)
from recdsl.source import Source, Span
from recdsl.syntax.ast import LossDecl, Name, Setting, Spec
from recdsl.syntax.expressions import parse_value
from recdsl.syntax.text import Text
from recdsl.training.declare import Declaration, Option
from recdsl.training.rules import CALLS, LR, METRICS, NUMBERS, ONLINE, SETTINGS, STAGE
from recdsl.training.values import WRONG, Call, Value, as_call, bind, convert, read, show


@dataclass(frozen=True)
class Chosen:
    """A call after checking."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True)
class Metric:
    """A measurement of an output against a target, at each sample's `last` valid steps (None: all).

    `kind` is accuracy, bits, mse or mae; `probabilities`: the output holds these rather than logits.
    """

    name: str
    kind: str
    output: str
    target: str
    last: int | None
    probabilities: bool = False


@dataclass(frozen=True)
class Stage:
    """Parameters that are trained in updates `start` to `until` - 1 (None: to the end)."""

    parameters: str
    start: int
    until: int | None
    span: Span


@dataclass(frozen=True)
class Rate:
    """The learning rate of the parameters that a selector names."""

    selector: str
    value: float
    span: Span


@dataclass(frozen=True)
class Settings:
    """`numbers` are the plain settings by name (see `rules.NUMBERS`). halves: the loss in units of delta^2 / 2.
    rates: of parameters whose learning rate is not the optimizer's."""

    numbers: Mapping[str, Any]
    optimizer: Chosen
    schedule: Chosen
    metrics: tuple[Metric, ...]
    stages: tuple[Stage, ...] = ()
    halves: float = 1.0
    rates: tuple[Rate, ...] = ()

    def __getitem__(self, name: str) -> Any:
        return self.numbers[name]


@dataclass(frozen=True)
class Measured:
    """An output and target that a loss compares, so that metrics find them. `last`: only its last step counts."""

    loss: str
    output: str
    target: str
    last: bool


def settings(spec: Spec) -> Settings:
    """The settings of `train:`. Raises SpecError with every problem of it (RD0601 to RD0624)."""
    problems = Problems()
    found = collect(spec, problems)
    problems.check()
    return found


def collect(spec: Spec, problems: Problems) -> Settings:
    """As `settings`, with the problems added to a collector."""
    numbers: dict[str, Any] = {option.name: option.default for option in NUMBERS}
    chosen = {"optimizer": _default("optimizer"), "schedule": _default("schedule")}
    metrics, stages = _default_metrics(spec), tuple[Stage, ...]()
    sizes = fixed_sizes(spec)
    for setting in spec.train:
        name, value = setting.name.text, read(setting.value)
        option = next((option for option in NUMBERS if option.name == name), None)
        if option is not None:
            numbers[name] = _plain(option, value, sizes, problems)
        elif name in CALLS:
            chosen[name] = _call(name, value, sizes, problems) or chosen[name]
            if chosen[name].name == "td_lambda" and not any(_head(loss) == "td" for loss in spec.losses):
                problems.add(NoDifference(value.span))
        elif name == "metrics":
            metrics = _metrics(spec, value, sizes, problems)
        elif name == "stages":
            stages = _stages(value, sizes, problems)
        else:
            near = suggest(name, SETTINGS)
            problems.add(UnknownSetting(setting.name.span, name, f"{near} " if near else "", ", ".join(SETTINGS)))
    _online(spec, numbers, problems)
    if chosen["optimizer"].name == "idbd":
        _single(spec, numbers, problems)
    halves = 2.0 if [_head(loss) for loss in spec.losses] == ["mse"] else 1.0
    rates = _rates(spec, sizes, problems)
    own = tuple(rate for rate in rates if rate.selector != "default")
    for rate in rates:
        if rate not in own:
            chosen["optimizer"] = _default_rate(spec, chosen["optimizer"], rate, problems)
    return Settings(numbers, chosen["optimizer"], chosen["schedule"], metrics, stages, halves, own)


def _rates(spec: Spec, sizes: Mapping[str, int], problems: Problems) -> tuple[Rate, ...]:
    """`lr:` as written; what is no rate is left out."""
    before, found = len(problems.found), list[Rate]()
    for item in spec.rates:
        value = _plain(LR, read(item.value), sizes, problems)
        found.append(Rate(item.selector.text, value, item.selector.span))
    return tuple(found) if len(problems.found) == before else ()


def _default_rate(spec: Spec, optimizer: Chosen, rate: Rate, problems: Problems) -> Chosen:
    """The optimizer with the rate of `lr: default`, unless its call has another one."""
    calls = [as_call(read(setting.value)) for setting in spec.train if setting.name.text == "optimizer"]
    given = any(call.args or any(name == "lr" for name, _ in call.keywords) for call in calls if call is not None)
    if given and optimizer.options["lr"] != rate.value:
        problems.add(RateTwice(rate.span, "what no selector names", f"`{optimizer.name}`", "`lr`"))
    return Chosen(optimizer.name, {**optimizer.options, "lr": rate.value})


def _single(spec: Spec, numbers: Mapping[str, Any], problems: Problems) -> None:
    """`idbd` needs the gradient of one prediction: from means over several it could not be told."""
    span = next(setting.value.span for setting in spec.train if setting.name.text == "optimizer")
    if not numbers["online"] or numbers["batch"] != 1 or numbers["every"] != 1:
        problems.add(NotSingle(span, "needs an update for each step of one stream", "online: true, batch: 1, every: 1"))
    wide = {item.name.text for item in (*spec.inputs, *spec.targets) if item.type.axes}
    heads = [_head(loss) for loss in spec.losses]
    names = {str(node.value) for loss in spec.losses for node in loss.value.nodes if node.kind == "name"}
    if heads not in (["td"], ["mse"]) or names & wide:
        problems.add(NotSingle(span, "learns from the error of one number", "one loss, `td` or `mse`, of a scalar"))


def _stages(value: Value, sizes: Mapping[str, int], problems: Problems) -> tuple[Stage, ...]:
    found: list[Stage] = []
    for item in value.data if isinstance(value.data, tuple) else (value,):
        call = as_call(item)
        if call is None:
            problems.add(NotACall(item.span, "train: stages", 'train("late.*", start=10_000)', show(item)))
        elif lookup("stage", call, (STAGE,), problems) is not None:
            options = bind(call, STAGE, sizes, problems)
            if options["until"] is not None and options["until"] <= options["start"]:
                problems.add(StageEmpty(item.span, options["start"], options["until"]))
            found.append(Stage(options["parameters"], options["start"], options["until"], item.span))
    return tuple(found)


def _online(spec: Spec, numbers: dict[str, Any], problems: Problems) -> None:
    """What online learning changes about the other settings: the state is carried, and one stream is enough."""
    given = {setting.name.text: setting.name.span for setting in spec.train}
    if not numbers["online"]:
        for name in [name for name in ONLINE if name in given]:
            problems.add(NeedsOnline(given[name], name))
        return
    for store in spec.memory:
        if store.slots is None:
            problems.add(StoreForgets(given["online"], store.name.text))
    numbers["stream"] = True
    numbers |= {name: value for name, value in ONLINE_DEFAULTS.items() if name not in given}


ONLINE_DEFAULTS = {"batch": 1, "evaluate": 0, "log": 1_000, "checkpoint": 100_000}


def _head(loss: LossDecl) -> str:
    """The loss that is called."""
    return str(loss.value.root.value) if loss.value.root.kind == "call" else ""


def fixed_sizes(spec: Spec) -> dict[str, int]:
    """Sizes that are written as a number; computed ones are the graph's affair."""
    found: dict[str, int] = {}
    for size in spec.sizes:
        if size.value is not None and isinstance(size.value.root.value, int) and size.value.root.kind == "number":
            found[size.name.text] = size.value.root.value
    return found


def _plain(option: Option, value: Value, sizes: Mapping[str, int], problems: Problems) -> Any:
    found = convert(option, value.data, sizes)
    if found is not WRONG:
        return found
    problems.add(WrongOption(value.span, "train", option.name, option.expected(), show(value), option.doc))
    return option.default


def lookup(what: str, call: Call, known: tuple[Declaration, ...], problems: Problems) -> Declaration | None:
    """The declaration that a call names; an unknown name is a problem."""
    names = [declaration.name for declaration in known]
    if call.name in names:
        return known[names.index(call.name)]
    near = suggest(call.name, names)
    problems.add(UnknownCall(call.span, what, call.name, f"{near} " if near else "", ", ".join(names)))
    return None


def _default(key: str) -> Chosen:
    declaration = CALLS[key][1][0]
    return Chosen(declaration.name, {option.name: option.default for option in declaration.options})


def _call(key: str, value: Value, sizes: Mapping[str, int], problems: Problems) -> Chosen | None:
    example, known = CALLS[key]
    call = as_call(value)
    if call is None:
        problems.add(NotACall(value.span, f"train: {key}", example, show(value)))
        return None
    declaration = lookup(key, call, known, problems)
    return None if declaration is None else Chosen(call.name, bind(call, declaration, sizes, problems))


def measured(spec: Spec) -> list[Measured]:
    """What the losses compare: those whose first argument is an output's name and whose second a target's."""
    targets = {target.name.text for target in spec.targets}
    found: list[Measured] = []
    for loss in spec.losses:
        root = loss.value.root
        names = [loss.value.nodes[index] for index in root.args]
        if root.kind == "call" and len(names) == 2 and all(node.kind == "name" for node in names):
            output, target = str(names[0].value), str(names[1].value)
            if target in targets:
                found.append(Measured(str(root.value), output, target, loss.at == "last"))
    return found


FITS = {
    "cross_entropy": ("accuracy", "bits"),
    "nll": ("accuracy", "bits"),
    "mse": ("mse",),
    "mae": ("mae",),
    "huber": ("mse",),
}


def _default_metrics(spec: Spec) -> tuple[Metric, ...]:
    first = next((item for item in measured(spec) if item.loss in FITS), None)
    return () if first is None else tuple(_metric(kind, first, 1 if first.last else None) for kind in FITS[first.loss])


def _metric(kind: str, pair: Measured, last: int | None) -> Metric:
    name = kind if last is None or pair.last else f"{kind}_last{last}"
    return Metric(name, kind, pair.output, pair.target, last, pair.loss == "nll")


def _metrics(spec: Spec, value: Value, sizes: Mapping[str, int], problems: Problems) -> tuple[Metric, ...]:
    items = value.data if isinstance(value.data, tuple) else (value,)
    found: list[Metric] = []
    for item in items:
        call = as_call(item)
        if call is None:
            problems.add(NotACall(item.span, "train: metrics", "accuracy(last=10)", show(item)))
        elif (declaration := lookup("metric", call, METRICS, problems)) is not None:
            metric = _resolve(spec, call.name, bind(call, declaration, sizes, problems), item.span, problems)
            found += [] if metric is None else [metric]
    return tuple(found)


def _resolve(spec: Spec, kind: str, options: Mapping[str, Any], span: Span, problems: Problems) -> Metric | None:
    output, target, last = options["output"], options["target"], options["last"]
    pairs = measured(spec)
    if output is None and target is None:
        pairs = [pair for pair in pairs if kind in FITS.get(pair.loss, ())]
    else:
        pairs = [pair for pair in pairs if output in (None, pair.output) and target in (None, pair.target)]
        if not pairs and output is not None and target in {item.name.text for item in spec.targets}:
            pairs = [Measured("", output, target, False)]
    if not pairs:
        problems.add(MetricUnclear(span, kind))
        return None
    return _metric(kind, pairs[0], last if last is not None or not pairs[0].last else 1)


def written(found: Settings) -> tuple[Setting, ...]:
    """`train:` with every setting there is, as it would be written out."""
    metrics = [_call_text(m.kind, {"output": m.output, "target": m.target, "last": m.last}) for m in found.metrics]
    plain = {name: value for name, value in found.numbers.items() if found["online"] or name not in ONLINE}
    texts = {name: _text(value) for name, value in plain.items()}
    for key, call in (("optimizer", found.optimizer), ("schedule", found.schedule)):
        texts[key] = _call_text(call.name, call.options)
    texts["metrics"] = f"[{', '.join(metrics)}]"
    stages = [
        _call_text("train", {"parameters": f'"{s.parameters}"', "start": s.start, "until": s.until})
        for s in found.stages
    ]
    texts |= {"stages": f"[{', '.join(stages)}]"} if stages else {}
    problems, made = Problems(), list[Setting]()
    for name, text in texts.items():
        source = Text.whole(Source("<settings>", text))
        value = parse_value(source, problems)
        assert value is not None
        made.append(Setting(Name(name, source.whole_span), value))
    return tuple(made)


def _call_text(name: str, options: Mapping[str, Any]) -> str:
    return f"{name}({', '.join(f'{key}={_text(value)}' for key, value in options.items())})"


def _text(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(map(_text, value))}]"  # type: ignore[arg-type]
    words = {None: "none", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else str(value)
