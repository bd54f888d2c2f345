"""Float32 over long calls and many online updates: as far from float64 as rounding takes it, and no farther.

The bounds at 5,000 steps are stated in benchmarks/README.md, which measures with the same functions.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks import precision
from recdsl.backends.native import lower, moves, nests, online, reductions
from recdsl.backends.native.values import NotLoweredError
from recdsl.driver import analyse

pytestmark = pytest.mark.compiler
STEPS, UPDATES = 400, 500
ROOM = 2.0
"""Times what was measured."""
BOUNDS = {
    "gru": (2.2e-7, 2e-7, 4e-7),
    "elman": (2.2e-7, 2e-7, 4e-7),
    "lru": (4e-7, 2e-7, 4e-6),
    "lstm_columns": (2.5e-7, 2e-7, 6e-7),
    "sab": (1e-6, 2e-7, 1.5e-6),
}
"""Of outputs, the loss and gradients, each in units of its largest entry."""
APART = 3e-6
"""After the updates, parameters are so far from those of float64, in units of the way that they have gone."""
MOMENTUM = "momentum(lr=3e-3)"


@cache
def exact(name: str) -> precision.Found:
    return precision.called(analyse(precision.SPECS[name]), "torch", torch.float64, STEPS)


def within(name: str) -> None:
    found = precision.called(analyse(precision.SPECS[name]), "native", torch.float32, STEPS)
    output, loss, gradient = BOUNDS[name]
    for key, off in precision.apart(found, exact(name)).items():
        bound = {"outputs": output, "loss": loss}.get(key, gradient)
        assert off <= ROOM * bound, f"{name}: {key} off by {off:.1e}"


@pytest.mark.parametrize("name", BOUNDS)
def test_long_calls(name: str) -> None:
    within(name)


@cache
def exact_sums() -> precision.Found:
    return precision.called(analyse(precision.SPECS["elman"]), "native", torch.float64, 5_000)


def sums_within() -> None:
    found = precision.called(analyse(precision.SPECS["elman"]), "native", torch.float32, 5_000)
    for key, off in precision.apart(found, exact_sums()).items():
        assert off <= ROOM * 5e-7, f"{key} off by {off:.1e}"


def test_sums_over_thousands_of_steps() -> None:
    sums_within()


def test_sums_in_order_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    exact_sums()
    monkeypatch.setattr(reductions, "PART", 10**9)
    monkeypatch.setattr(nests, "stripped", lambda program, name, tape: dict(program.entries)[name])
    with pytest.raises(AssertionError, match="off by"):
        sums_within()


@cache
def exact_updates() -> tuple[Tensor, Tensor]:
    return precision.learned(MOMENTUM, "native", torch.float64, UPDATES)


def updates_within() -> None:
    (first, expected), (_, found) = exact_updates(), precision.learned(MOMENTUM, "native", torch.float32, UPDATES)
    off = float((found - expected).norm() / (expected - first).norm())
    assert off <= ROOM * APART, f"apart by {off:.1e} of the way"


def without_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The learner of models that no axis divides into blocks."""

    def refused(*_: object) -> None:
        raise NotLoweredError("not here")

    monkeypatch.setattr("recdsl.backends.native.blocks.BlockLearner", refused)


@pytest.mark.parametrize("blocks", [True, False])
def test_online_updates(blocks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not blocks:
        without_blocks(monkeypatch)
    updates_within()


FAULTS = {
    "log(2) in one part": ("prelude.c", "    r = r - n * LOG2_LOW;\n", ""),
    "a shorter sum in exp": ("prelude.c", "p = p * r + R(1.0 / 24);", "p = R(1.0 / 24);"),
    "sums that lose small terms": (
        "online.c", "a[i] = mu * a[i] + move;", "a[i] = mu * a[i] + ((move + R(64)) - R(64));",
    ),
}  # fmt: skip


def test_a_fault_in_blocks_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real: Any = moves._Update.sgd  # pyright: ignore[reportPrivateUsage]

    def losing(self: Any, value: str, gradient: str, kept: list[str]) -> Any:
        return real(self, value, self.plus(self.plus(gradient, self.const(64.0)), self.const(-64.0)), kept)

    exact_updates()
    monkeypatch.setattr(moves._Update, "sgd", losing)  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(AssertionError, match="apart by"):
        updates_within()


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file, old, new = FAULTS[fault]
    owner = online if file == "online.c" else lower
    real = owner.read_text

    def read(*path: str) -> str:
        text = real(*path)
        assert path[-1] != file or old in text
        return text.replace(old, new) if path[-1] == file else text

    if owner is online:
        without_blocks(monkeypatch)
        exact_updates()
    monkeypatch.setattr(owner, "read_text", read)
    with pytest.raises(AssertionError, match=r"off by|apart by"):
        updates_within() if owner is online else within("gru")
