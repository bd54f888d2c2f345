"""The seam between training and the compiler: a spec becomes a tree, and a module."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from recdsl.graph.step import Input
from recdsl.source import Span
from recdsl.syntax.ast import Spec
from recdsl.training.backend import built, chosen
from recdsl.training.catalogue import data_sizes
from recdsl.training.settings import settings, written


@dataclass(frozen=True)
class Stages:
    """The updates at which what is trained changes, and the module of the updates from such a one on."""

    boundaries: tuple[int, ...] = ()
    module: Callable[[int], nn.Module] | None = None


@dataclass(frozen=True)
class Compiled:
    """A compiled spec: the tree, what a batch holds, the module, the spec with all filled in, the generated code.

    backend: what runs the module, and why.
    """

    spec: Spec
    inputs: tuple[Input, ...]
    module: nn.Module
    resolved: str
    code: str = ""
    backend: str = ""
    stages: Stages = field(default_factory=lambda: Stages())


@dataclass(frozen=True)
class Compiler:
    """Both take a path or a text and overrides, and raise SpecError."""

    read: Callable[[str, Sequence[str]], Spec]
    build: Callable[[str, Sequence[str]], Compiled]


def _read(path_or_text: str, overrides: Sequence[str]) -> Spec:
    from recdsl.syntax.spec import read_spec

    return read_spec(path_or_text, overrides)


def _build(path_or_text: str, overrides: Sequence[str]) -> Compiled:
    from recdsl.driver import analyse

    compilation = analyse(path_or_text, overrides)
    dtype, choice = getattr(torch, settings(compilation.spec)["dtype"]), chosen(compilation)
    module = built(compilation, dtype, choice)
    resolved = _resolved(path_or_text, overrides)
    for remark in compilation.plan.remarks:
        if remark.warns:
            warnings.warn(f"line {remark.line}: {remark.text}", stacklevel=2)

    def later(update: int) -> nn.Module:
        return built(analyse(path_or_text, overrides, update), dtype, choice)

    stages = Stages(compilation.boundaries, later)
    code = getattr(module, "recdsl_source", "") or compilation.source  # the same text, which may have been kept
    return Compiled(compilation.spec, compilation.graph.inputs, module, resolved, code, str(choice), stages)


def _resolved(path_or_text: str, overrides: Sequence[str]) -> str:
    """The spec as text with the overrides applied, the sizes of the data filled in, and every setting of `train:`."""
    from recdsl.syntax.printer import print_spec
    from recdsl.syntax.spec import read_spec

    spec = read_spec(path_or_text, overrides)
    sizes = [f"sizes.{name}={size}" for name, size in data_sizes(spec).items()]
    spec = read_spec(path_or_text, (*overrides, *sizes)) if sizes else spec
    return print_spec(replace(spec, train=written(settings(spec))))


COMPILER = Compiler(_read, _build)


def spans(spec: Spec) -> dict[str, Span]:
    """Where each input and target is declared."""
    return {item.name.text: item.name.span for item in (*spec.inputs, *spec.targets)}
