"""The `torch` backend: a readable generated Python module with analytic adjoints."""

from __future__ import annotations

import linecache
import sys
from hashlib import sha256
from types import CodeType, ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

    from recdsl.driver import Compilation


class TorchBackend:
    """Generates the file's text and runs that very text."""

    name = "torch"

    def module(self, compilation: Compilation, dtype: torch.dtype | None) -> torch.nn.Module:
        """A `CompiledModel` with `.recdsl_source`, the text it was made from."""
        model = execute(compilation.source).Model(compilation.seed, dtype)
        model.recdsl_source = compilation.source
        return model


def bytecode(source: str) -> CodeType:
    """The generated text, compiled."""
    return compile(source, f"<{_name(source)}>", "exec")


def _name(source: str) -> str:
    return f"recdsl_generated_{sha256(source.encode()).hexdigest()[:16]}"


def execute(source: str, code: CodeType | None = None) -> ModuleType:
    """The generated text as a module, under a name of its own so that tracebacks show its lines. code: its bytecode, if
    that is there."""
    name = _name(source)
    if name not in sys.modules:
        module = ModuleType(name)
        path = f"<{name}>"
        linecache.cache[path] = (len(source), None, source.splitlines(keepends=True), path)
        sys.modules[name] = module
        exec(bytecode(source) if code is None else code, module.__dict__)
    return sys.modules[name]


BACKEND = TorchBackend()
