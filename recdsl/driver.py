"""The pipeline, in one straight line: text -> spec -> step graph -> credit plan -> program -> module.

The only module that joins front, middle and back. torch is imported by `compile` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from recdsl.canonical import digest
from recdsl.pause import paused

if TYPE_CHECKING:
    import torch

    from recdsl.analyses import Found
    from recdsl.credit.plan import CreditPlan
    from recdsl.credit.report import Report
    from recdsl.graph.step import StepGraph
    from recdsl.program.interface import Assembled
    from recdsl.source import Source
    from recdsl.syntax.ast import Spec


@dataclass(frozen=True)
class Compilation:
    """Every stage of one spec; the later ones are made when asked for.

    boundaries: updates at which `train: stages` changes what is trained.
    """

    spec: Spec
    graph: StepGraph
    plan: CreditPlan
    boundaries: tuple[int, ...] = ()

    @cached_property
    def credit(self) -> str:
        """The rule as the spec writes it."""
        from recdsl.syntax.printer import print_expression

        named = [f"{item.selector.text}: {print_expression(item.rule)}" for item in self.spec.credit]
        return ", ".join(named).removeprefix("default: ") if named else "bptt"

    @cached_property
    def report(self) -> Report:
        """What `explain` says."""
        from recdsl.credit.notes import batch_remarks
        from recdsl.credit.report import Report
        from recdsl.credit.total import total
        from recdsl.training.catalogue import check_settings

        names = [loss.name for loss in self.graph.losses]
        made = batch_remarks(self.graph, self.plan, check_settings(self.spec)["batch"])
        told = replace(self.plan, remarks=(*self.plan.remarks, *made))
        return Report.of(told, self.spec.name, names, total(self.graph, self.plan))

    @cached_property
    def program(self) -> Assembled:
        """The program without mask and reset; the backends make the other variant by the same pass."""
        from recdsl.program.assemble import assemble

        return assemble(self.graph, self.plan)

    @cached_property
    def programs(self) -> Mapping[str, Assembled]:
        """The programs of a module by variant: `plain`, `ragged` (with mask and reset), and those of long calls."""
        from recdsl.backends.torch.module import programs

        with paused():
            return programs(self.graph, self.plan)

    @cached_property
    def source(self) -> str:
        """The generated PyTorch file."""
        from recdsl.backends.torch.module import generate

        with paused():
            return generate(self.graph, self.plan, self.credit, made=self.programs)

    @cached_property
    def key(self) -> str:
        """The checksum of what code follows from; "" where some of it is no data."""
        with suppress(TypeError):
            return digest(self.graph, self.plan, self.credit)
        return ""

    @cached_property
    def seed(self) -> int:
        """`train.seed`, 0 where the spec has none."""
        for setting in self.spec.train:
            if setting.name.text == "seed" and isinstance(setting.value.root.value, int):
                return setting.value.root.value
        return 0


ABOUT = ("boundaries", "credit", "key", "seed")
"""What stands in front of what is kept: enough for a model whose code is there."""


class _Kept(Compilation):
    """An analysis that was kept; spec, graph and plan are read when they are asked for. again: where they cannot be."""

    def __init__(self, found: Found, again: Callable[[], Compilation]) -> None:
        self.__dict__ |= {**found.about, "_parts": lambda: found.parts() or _parts(again())}

    def __getattr__(self, name: str) -> Any:
        if name not in ("spec", "graph", "plan"):
            raise AttributeError(name)
        self.__dict__ |= zip(("spec", "graph", "plan"), self.__dict__["_parts"](), strict=True)
        return self.__dict__[name]


def _parts(made: Compilation) -> tuple[Spec, StepGraph, CreditPlan]:
    return made.spec, made.graph, made.plan


@paused()
def analyse(path_or_text: str, overrides: Sequence[str] = (), update: int = 0) -> Compilation:
    """Everything short of code. Raises SpecError with all problems of the first phase that has any.

    update: of `train: stages`, the one whose parameters are trained.
    """
    from recdsl.syntax.files import open_source

    return _analysed(open_source(path_or_text), overrides, update)[0]


@paused()
def analysed(path_or_text: str, overrides: Sequence[str] = (), update: int = 0) -> Compilation:
    """As `analyse`, but what was analysed before is not analysed again."""
    from recdsl.analyses import Analyses
    from recdsl.syntax.files import open_source

    source = open_source(path_or_text)
    known = Analyses(source, overrides, update)
    found = known.find()
    if found is not None:
        kept = _Kept(found, lambda: _analysed(source, overrides, update)[0])
        if not found.sizes or _sizes(kept.spec) == found.sizes:
            return kept
    with known.noted() as looked:
        made, sizes = _analysed(source, overrides, update)
    about = {name: getattr(made, name) for name in ABOUT}
    known.keep(about, (made.spec, replace(made.graph), made.plan), looked, sizes)  # a graph without its facts
    return made


def _sizes(spec: Spec) -> dict[str, int]:
    from recdsl.training.catalogue import data_sizes

    return data_sizes(spec)


def _analysed(source: Source, overrides: Sequence[str], update: int) -> tuple[Compilation, dict[str, int]]:
    """An analysis, and the sizes that files of data have said."""
    from recdsl.credit.build import plan
    from recdsl.graph.build import build
    from recdsl.graph.temporal import with_traces
    from recdsl.syntax.spec import read_source
    from recdsl.training import rates
    from recdsl.training.catalogue import check_settings, needs_files
    from recdsl.training.stages import resolved

    spec = read_source(source, overrides)
    settings = check_settings(spec)
    sizes = _sizes(spec)
    graph = with_traces(build(spec, sizes), settings.optimizer.options.get("trace", 0.0))
    rates.check(settings.rates, graph)
    stages = resolved(settings.stages, graph, settings["steps"])
    stream = settings["stream"]
    if not update:
        for later in stages.boundaries:
            plan(stages.graph(graph, later), spec.credit, spec.require, stages.numbers, stream=stream)
    graph = stages.graph(graph, update)
    made = plan(graph, spec.credit, spec.require, stages.numbers, stream=stream)
    return Compilation(spec, graph, made, stages.boundaries), sizes if needs_files(spec) else {}


def compile(
    path_or_text: str,
    backend: str = "torch",
    dtype: torch.dtype | None = None,
    overrides: Sequence[str] = (),
) -> torch.nn.Module:
    """A spec as an ordinary `torch.nn.Module` (see `recdsl.backends.torch.runtime.CompiledModel`).

    path_or_text: a path, or the text itself if it holds a newline. dtype: of parameters and floats (torch's default).
    backend: "torch"; "native" (compiled C); "auto", whichever of them is faster. overrides: such as "sizes.hidden=64".
    Raises SpecError; ValueError for a backend that does not exist.
    """
    from recdsl.training.backend import built, for_calls

    compilation = (analyse if backend == "torch" else analysed)(path_or_text, overrides)
    return built(compilation, dtype, for_calls(compilation, backend))


def explain(path_or_text: str, overrides: Sequence[str] = ()) -> Report:
    """Verdict, lags, dropped edges and cost of every parameter, and of the model. Printable; `.rows`, `.to_dict()`."""
    return analyse(path_or_text, overrides).report
