"""Which backend a run takes: `auto` weighs what compiled loops save against what compiling costs. Needs no torch.

The numbers were measured on one core (`python -m benchmarks run` repeats them): generated torch against C, by rule,
batch and width. Where both spend their time in the same matrix products, C gains nothing; a run of few steps is over
before its C is compiled.
"""

from __future__ import annotations

from dataclasses import dataclass

from recdsl.backends.native.build import BuildError, compiler

AUTO = "auto"
OWN = ("native", "torch")
BUILD = 3.0
"""Seconds in which both variants of a usual model are compiled."""
SAVED_REVERSE, SAVED_FORWARD, SAVED_UPDATE = 14e-6, 200e-6, 600e-6
"""Seconds that C saves: a step of a call under reverse and under forward rules, and an update of online learning."""
SAVED_SEARCH = 280e-6
"""The same, a step of a call that searches a growing memory: 285 to 546 microseconds for 1 to 32 samples."""
WIDE = 512
"""From this smaller side of a matrix on, C is no faster under reverse rules: 0.84 to 0.97 times torch's speed."""


@dataclass(frozen=True)
class Work:
    """What is to be run. steps: of all calls together (None: nobody knows, as for a module that a program will call).
    updates: calls of online learning. forward: whether rules look forward. width: smaller side of the largest
    matrix. search: whether each step searches a memory that grows."""

    steps: int | None
    updates: int
    forward: bool
    width: int
    device: str = "cpu"
    search: bool = False

    @property
    def saved(self) -> float:
        """Seconds that C saves, about."""
        if self.steps is None:
            return float("inf")
        step = SAVED_FORWARD if self.forward else SAVED_REVERSE
        return self.steps * (max(step, SAVED_SEARCH) if self.search else step) + self.updates * SAVED_UPDATE


@dataclass(frozen=True)
class Choice:
    """A backend's name, why it is taken, and the name that was asked for."""

    backend: str
    reason: str = ""
    asked: str = AUTO

    def __str__(self) -> str:
        if self.asked != AUTO:
            return self.backend + (f" ({self.reason})" if self.reason else "")
        return f"{self.backend} (auto: {self.reason})"


def choose(work: Work, asked: str = AUTO) -> Choice:
    """The backend for some work; a name other than `auto` is taken as it is."""
    if asked != AUTO:
        return Choice(asked, "", asked)
    if work.device != "cpu":
        return Choice("torch", f"C runs on the CPU, not on {work.device}")
    if work.width >= WIDE and not work.forward and not work.search:
        return Choice("torch", f"matrices of {work.width} and more take the same time in C")
    if work.saved < BUILD:
        return Choice("torch", f"compiling C takes about {BUILD:.0f} s and would save {work.saved:.1f} s in this run")
    try:
        compiler()
    except BuildError as error:
        return Choice("torch", f"{error.message}; with one, loops would run as C")
    rule = "forward rules" if work.forward else "reverse rules"
    rule += ", searches of a memory" if work.search else ""
    size = f", matrices up to {work.width} wide" if work.width else ""
    return Choice("native", rule + size)
