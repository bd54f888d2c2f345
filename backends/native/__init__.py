"""The `native` backend: a program's loops as C, compiled by the system's compiler and called in the place of the
functions that the `torch` backend generates. Everything around them is that backend's."""

from __future__ import annotations

import sys
from hashlib import sha256
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from recdsl.credit.plan import CreditPlan
    from recdsl.driver import Compilation
    from recdsl.graph.step import StepGraph


class NativeBackend:
    """Runs on torch what cannot be compiled, and says so once."""

    name = "native"

    def module(self, compilation: Compilation, dtype: torch.dtype | None) -> torch.nn.Module:
        """A `CompiledModel` with `.recdsl_source` and `.recdsl_c`, the texts that it runs."""
        module = native_module(compilation.graph, compilation.plan, compilation.source)
        model = module.Model(compilation.seed, dtype)
        model.recdsl_source = compilation.source
        model.recdsl_prepare()
        return model


def native_module(
    graph: StepGraph, plan: CreditPlan, source: str, *, optimise: bool = True, flags: tuple[str, ...] = ()
) -> ModuleType:
    """The generated torch module's `Model` with compiled functions. flags: more of them for the compiler."""
    from recdsl.backends.native.lower import lower
    from recdsl.backends.native.model import native_model
    from recdsl.backends.torch import execute
    from recdsl.backends.torch.module import programs

    made = programs(graph, plan, optimise=optimise)
    lowered = {variant: lower(assembled) for variant, assembled in made.items()}
    texts = (source, *(item.source for item in lowered.values()), *flags)
    name = f"recdsl_native_{sha256(chr(0).join(texts).encode()).hexdigest()[:16]}"
    if name not in sys.modules:
        module = ModuleType(name)
        module.Model = native_model(execute(source).Model, lowered, name, flags)  # type: ignore[attr-defined]
        sys.modules[name] = module
    return sys.modules[name]


BACKEND = NativeBackend()
