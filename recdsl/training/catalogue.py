"""Data sources, and the check of `data:` and `train:`. Imports no torch; a source's module is imported when named."""

from __future__ import annotations

import os
import pkgutil
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Any, Protocol, cast

from recdsl.diagnostics import Problems, SpecError, suggest
from recdsl.errors.runs import RunError
from recdsl.errors.training import (
    DataUnavailable,
    DoesNotFit,
    NoData,
    NotACall,
    NotProvided,
    SizeNotProvided,
    UnknownCall,
)
from recdsl.syntax.ast import Declared, Expression, Spec
from recdsl.training import rules, settings, sources
from recdsl.training.batches import Place, Source
from recdsl.training.declare import Declaration, Field, Options
from recdsl.training.matching import KINDS, match
from recdsl.training.values import Call, as_call, bind, read, show


class SourceModule(Protocol):
    """What a file in `sources/` holds."""

    DECLARATION: Declaration
    GENERATED: bool

    def open_source(self, options: Options, _place: Place, /) -> Source: ...


@cache
def source_names() -> tuple[str, ...]:
    """The sources there are: the files of the folder."""
    return tuple(sorted(info.name for info in pkgutil.iter_modules(sources.__path__) if info.name != "custom"))


def source_module(name: str) -> SourceModule:
    return cast(SourceModule, import_module(f"recdsl.training.sources.{name}"))


def declarations() -> dict[str, tuple[Declaration, ...]]:
    """Everything that `data:` and `train:` may name, for `schema` and `docs`, by kind."""
    custom = import_module("recdsl.training.sources.custom").DECLARATION
    return {
        "source": (*(source_module(name).DECLARATION for name in source_names()), custom),
        "optimizer": rules.OPTIMIZERS,
        "schedule": rules.SCHEDULES,
        "metric": rules.METRICS,
        "setting": (Declaration("train", "settings of `train:`", rules.NUMBERS),),
    }


def is_custom(call: Call) -> bool:
    """Whether a call names the user's own function."""
    return ":" in call.name


def data_call(expression: Expression, problems: Problems) -> Call | None:
    """The call of `data:`, its name known. What is wrong goes to `problems`."""
    value = read(expression)
    call = as_call(value)
    if call is None:
        problems.add(NotACall(value.span, "data", "copy(delay=10)", show(value)))
    elif not is_custom(call) and call.name not in source_names():
        near = suggest(call.name, source_names())
        known = ", ".join((*source_names(), "module:function"))
        problems.add(UnknownCall(call.span, "data source", call.name, f"{near} " if near else "", known))
        return None
    return call


def data_options(call: Call, spec: Spec, problems: Problems) -> dict[str, Any]:
    """The checked options of a source; those of a user's function are taken as they stand."""
    if not is_custom(call):
        return bind(call, source_module(call.name).DECLARATION, settings.fixed_sizes(spec), problems)
    return {name: _plain(value.data) for name, value in call.keywords}


def _plain(data: Any) -> Any:
    if isinstance(data, tuple):
        return [_plain(item.data) for item in cast("tuple[Any, ...]", data)]
    return str(data) if isinstance(data, str) else data


def open_data(spec: Spec, place: Place) -> tuple[str, Source]:
    """The name and the opened source of `data:`. Raises SpecError and RunError."""
    problems = Problems()
    if spec.data is None:
        raise SpecError([NoData(spec.span, "the spec has no `data:`")])
    call = data_call(spec.data, problems)
    options = {} if call is None else data_options(call, spec, problems)
    problems.check()
    assert call is not None
    if is_custom(call):
        return call.name, import_module("recdsl.training.sources.custom").open_function(call.name, options, place)
    return call.name, source_module(call.name).open_source(options, place)


def check_settings(spec: Spec) -> settings.Settings:
    """The settings of `train:`, with `data:` checked, without reading data files. Raises SpecError with every problem.

    Where the data is generated, its fields are matched with the inputs and targets too.
    """
    problems = Problems()
    found = settings.collect(spec, problems)
    if spec.data is not None:
        before = len(problems.found)
        call = data_call(spec.data, problems)
        if call is not None:
            options = data_options(call, spec, problems)
            if len(problems.found) == before and not is_custom(call) and source_module(call.name).GENERATED:
                _check_fields(spec, call.name, source_module(call.name).open_source(options, Place()), problems)
    elif any(size.value is None for size in spec.sizes):
        problems.add(NoData(_unknown_sizes(spec)[0][1], "a size is `data`, but the spec has no `data:`"))
    problems.check()
    return found


def _unknown_sizes(spec: Spec) -> list[tuple[str, Any]]:
    return [(size.name.text, size.name.span) for size in spec.sizes if size.value is None]


def _matched(spec: Spec, source: Source) -> dict[str, Field]:
    inputs, targets = ([(d.name.text, d.type.kind) for d in group] for group in (spec.inputs, spec.targets))
    return match(inputs, targets, source)


def _check_fields(spec: Spec, name: str, source: Source, problems: Problems) -> None:
    found = _matched(spec, source)
    known = ", ".join(f"{field.name} ({field})" for field in source.fields)
    sizes = settings.fixed_sizes(spec)
    for declared in (*spec.inputs, *spec.targets):
        field = found.get(declared.name.text)
        if field is None:
            problems.add(NotProvided(declared.name.span, declared.name.text, name, known))
        elif not _fits(declared, field, sizes):
            wanted = declared.type.span.text or declared.type.kind
            problems.add(DoesNotFit(declared.name.span, declared.name.text, wanted, field.name, str(field)))


def _fits(declared: Declared, field: Field, sizes: Mapping[str, int]) -> bool:
    """Whether a field can fill a type, as far as its sizes are numbers here; computed ones are compared later."""
    if field.kind != KINDS[declared.type.kind]:
        return False
    extents = [_extent(axis, sizes) for axis in declared.type.axes]
    if field.kind == "label":
        return not extents or extents[0] is None or extents[0] >= field.size
    own, given = ([n for n in shape if n != 1] for shape in (extents, field.shape))
    return len(own) == len(given) and all(a in (None, b) for a, b in zip(own, given, strict=True))


def _extent(axis: Expression, sizes: Mapping[str, int]) -> int | None:
    root = axis.root
    if root.kind == "number" and isinstance(root.value, int):
        return root.value
    return sizes.get(str(root.value)) if root.kind == "name" else None


def beside(spec: Spec, trust: bool = False) -> Place:
    """Relative paths of a spec start at its own folder (a text's at the working directory)."""
    path = spec.span.source.path
    return Place(os.path.dirname(os.path.abspath(path)) if os.path.isfile(path) else os.getcwd(), trust)


def data_sizes(spec: Spec, place: Place | None = None) -> dict[str, int]:
    """The sizes that are `data`, by name. Raises SpecError; for a missing data set it names the command."""
    wanted = _unknown_sizes(spec)
    if not wanted:
        return {}
    if spec.data is None:
        raise SpecError([NoData(wanted[0][1], "a size is `data`, but the spec has no `data:`")])
    try:
        name, source = open_data(spec, place or beside(spec))
    except RunError as error:
        raise SpecError([DataUnavailable(spec.data.span, error.problem.text(), error.problem.help())]) from error
    known = dict(source.sizes) | dict(used_sizes(spec, source))
    missing = [(size, span) for size, span in wanted if size not in known]
    if missing:
        raise SpecError(
            [SizeNotProvided(span, size, name, ", ".join(source.sizes) or "none") for size, span in missing]
        )
    return {size: known[size] for size, _ in wanted}


def needs_files(spec: Spec) -> bool:
    """Whether the data, which is checked, is more than the spec and recdsl's own files say."""
    call = None if spec.data is None else as_call(read(spec.data))
    return call is not None and (is_custom(call) or not source_module(call.name).GENERATED)


def used_sizes(spec: Spec, source: Source) -> Iterator[tuple[str, int]]:
    """Sizes read off the field that fills an input or target with that axis; labels' sizes are the largest of them."""
    found = _matched(spec, source)
    sizes: dict[str, int] = {}
    for declared in (*spec.inputs, *spec.targets):
        field = found.get(declared.name.text)
        extents = () if field is None else _extents(field)
        for axis, extent in zip(declared.type.axes, extents, strict=False):
            if axis.root.kind == "name" and extent:
                sizes[str(axis.root.value)] = max(extent, sizes.get(str(axis.root.value), 0))
    yield from sizes.items()


def _extents(field: Field) -> tuple[int, ...]:
    return (field.size,) if field.kind == "label" else field.shape
