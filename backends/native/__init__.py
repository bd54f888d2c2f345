"""The `native` backend: a program's loops as C, compiled by the system's compiler and called in the place of the
functions that the `torch` backend generates. Everything around them is that backend's."""

from __future__ import annotations

import sys
from hashlib import sha256
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from recdsl.backends.native.store import Store
    from recdsl.backends.native.variants import Programs
    from recdsl.credit.plan import CreditPlan
    from recdsl.driver import Compilation
    from recdsl.graph.step import StepGraph


class NativeBackend:
    """Runs on torch what cannot be compiled, and says so once."""

    name = "native"

    def module(self, compilation: Compilation, dtype: torch.dtype | None) -> torch.nn.Module:
        """A `CompiledModel` with `.recdsl_source` and `.recdsl_c`, the texts that it runs. What was generated for the
        same model before is not generated again (`store.py`)."""
        from recdsl.backends.native.store import Store

        store = Store(compilation.key) if compilation.key else Store.none()
        base, source, names = _torch_model(compilation, store)
        module = _module(base, source, lambda: compilation.programs, names, store)
        model = module.Model(compilation.seed, dtype)
        model.recdsl_source = source
        model.recdsl_prepare()
        return model


def _torch_model(compilation: Compilation, store: Store) -> tuple[type[Any], str, tuple[str, ...]]:
    """The torch backend's class `Model`, its text, and the names of its variants."""
    from recdsl.backends.torch import bytecode, execute

    kept = store.find("module")
    if kept is None:
        source, names = compilation.source, tuple(compilation.programs)
        code = bytecode(source)
        store.keep("module", (source, names, code))
    else:
        source, names, code = kept
    return execute(source, code).Model, source, names


def native_module(
    graph: StepGraph, plan: CreditPlan, source: str, *, optimise: bool = True, flags: tuple[str, ...] = ()
) -> ModuleType:
    """The generated torch module's `Model` with compiled functions. flags: more of them for the compiler."""
    from recdsl.backends.native.store import Store
    from recdsl.backends.torch import execute
    from recdsl.backends.torch.module import programs

    made = programs(graph, plan, optimise=optimise)
    return _module(execute(source).Model, source, lambda: made, tuple(made), Store.none(), flags)


def _module(
    base: type[Any],
    source: str,
    programs: Programs,
    names: tuple[str, ...],
    store: Store,
    flags: tuple[str, ...] = (),
) -> ModuleType:
    """A module for equal texts. Where nothing is kept, texts of all variants are made at once: they are its name."""
    from recdsl.backends.native.model import native_model
    from recdsl.backends.native.variants import Variants

    variants = Variants(names, programs, store)
    known = [variants.variant(name) for name in (names[:1] if store.key else names)]
    texts = (source, *(text for item in known for text in (item.source, item.later)), *flags)
    name = f"recdsl_native_{sha256(chr(0).join(texts).encode()).hexdigest()[:16]}"
    if name not in sys.modules:
        module = ModuleType(name)
        vars(module)["Model"] = native_model(base, variants, name, flags)
        sys.modules[name] = module
    return sys.modules[name]


BACKEND = NativeBackend()
