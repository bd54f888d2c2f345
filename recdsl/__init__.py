"""recdsl: recurrent networks as short specs, with the credit-assignment rule as part of the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recdsl.diagnostics import SpecError

if TYPE_CHECKING:
    from recdsl.driver import compile, explain
    from recdsl.training.loading import load

__version__ = "0.1.0"
__all__ = ["SpecError", "__version__", "compile", "explain", "load"]


def __getattr__(name: str) -> object:
    """`compile`, `explain` and `load` are imported when first asked for, so that `import recdsl` stays quick."""
    if name in ("compile", "explain"):
        from recdsl import driver

        return getattr(driver, name)
    if name == "load":
        from recdsl.training.loading import load

        return load
    raise AttributeError(f"module 'recdsl' has no attribute {name!r}")
