"""The pipeline, in one straight line: text -> spec -> step graph -> credit plan -> program -> module.

The only module that joins front, middle and back. torch is imported by `compile` alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from recdsl.credit.build import plan
from recdsl.credit.notes import batch_remarks
from recdsl.credit.plan import CreditPlan
from recdsl.credit.report import Report
from recdsl.credit.total import total
from recdsl.graph.build import build
from recdsl.graph.step import StepGraph
from recdsl.graph.temporal import with_traces
from recdsl.pause import paused
from recdsl.syntax.ast import Spec
from recdsl.syntax.printer import print_expression
from recdsl.syntax.spec import read_spec
from recdsl.training import rates
from recdsl.training.catalogue import check_settings, data_sizes
from recdsl.training.stages import resolved

if TYPE_CHECKING:
    import torch

    from recdsl.program.interface import Assembled


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
        named = [f"{item.selector.text}: {print_expression(item.rule)}" for item in self.spec.credit]
        return ", ".join(named).removeprefix("default: ") if named else "bptt"

    @cached_property
    def report(self) -> Report:
        """What `explain` says."""
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

    @property
    def seed(self) -> int:
        """`train.seed`, 0 where the spec has none."""
        for setting in self.spec.train:
            if setting.name.text == "seed" and isinstance(setting.value.root.value, int):
                return setting.value.root.value
        return 0


@paused()
def analyse(path_or_text: str, overrides: Sequence[str] = (), update: int = 0) -> Compilation:
    """Everything short of code. Raises SpecError with all problems of the first phase that has any.

    update: of `train: stages`, the one whose parameters are trained.
    """
    spec = read_spec(path_or_text, overrides)
    settings = check_settings(spec)
    graph = with_traces(build(spec, data_sizes(spec)), settings.optimizer.options.get("trace", 0.0))
    rates.check(settings.rates, graph)
    stages = resolved(settings.stages, graph, settings["steps"])
    stream = settings["stream"]
    if not update:
        for later in stages.boundaries:
            plan(stages.graph(graph, later), spec.credit, spec.require, stages.numbers, stream=stream)
    graph = stages.graph(graph, update)
    made = plan(graph, spec.credit, spec.require, stages.numbers, stream=stream)
    return Compilation(spec, graph, made, stages.boundaries)


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

    compilation = analyse(path_or_text, overrides)
    return built(compilation, dtype, for_calls(compilation, backend))


def explain(path_or_text: str, overrides: Sequence[str] = ()) -> Report:
    """Verdict, lags, dropped edges and cost of every parameter, and of the model. Printable; `.rows`, `.to_dict()`."""
    return analyse(path_or_text, overrides).report
