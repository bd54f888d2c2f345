"""What a backend is: a name and a way from the compiler's stages to a module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch

    from recdsl.driver import Compilation


class Backend(Protocol):
    """`module` lowers a compiled spec. Third parties register one by the entry point group `recdsl.backends`."""

    name: str

    def module(self, compilation: Compilation, dtype: torch.dtype | None) -> torch.nn.Module: ...
