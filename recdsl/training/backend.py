"""The backend that a spec's `train: backend` means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from recdsl.backends.choose import AUTO, Choice, Work, choose

if TYPE_CHECKING:
    import torch

    from recdsl.driver import Compilation

CALL = 50
"""Steps of a call where only the data knows how many there are."""


def chosen(compilation: Compilation, asked: str = "") -> Choice:
    """What runs the spec's training. asked: the name of a backend, or "" for what `train: backend` says."""
    from recdsl.training.settings import settings

    found = settings(compilation.spec)
    online = bool(found["online"])
    steps = found["steps"] * (found["every"] if online else CALL)
    work = _work(compilation, steps, found["steps"] if online else 0, found["device"])
    return choose(work, asked or found["backend"])


def for_calls(compilation: Compilation, asked: str) -> Choice:
    """What runs a module that a program will call nobody knows how often."""
    if asked not in ("", AUTO):  # nothing has to be known of the model
        return Choice(asked, asked=asked)
    from recdsl.training.settings import settings

    return choose(_work(compilation, None, 0, "cpu"), asked or settings(compilation.spec)["backend"])


def _work(compilation: Compilation, steps: int | None, updates: int, device: str) -> Work:
    forward = any(routing.tracing is not None for routing in compilation.plan.classes)
    sides = [min(p.type.shape) for p in compilation.graph.parameters if len(p.type.shape) > 1]
    search = any(node.op == "nearest" for node in compilation.graph.nodes)
    return Work(steps, updates, forward, max(sides, default=0), device, search)


def running(backend: str, module: torch.nn.Module) -> str:
    """What runs a module, and why: torch, where it was to be C and there is none after all. backend: chosen."""
    runs = str(getattr(module, "recdsl_runs", ""))
    return f"{runs}, not {backend}" if runs.startswith("torch") else backend


def built(compilation: Compilation, dtype: torch.dtype | None, choice: Choice) -> torch.nn.Module:
    """The module. Raises ValueError for a backend that does not exist."""
    from recdsl.backends import find

    return find(choice.backend).module(compilation, dtype)
