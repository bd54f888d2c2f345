"""Random models that learn from a stream: many updates in one call of C are those of torch, one at a time.

`python -m recdsl.testing.streams --seeds 0:500` runs as many more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from recdsl.backends.native import blocks, build, line
from recdsl.backends.native.block_nests import BlockNests
from recdsl.backends.native.blocks import BlockLearner
from recdsl.backends.native.online import Learner
from recdsl.backends.torch.trace_entry import TraceEntry
from recdsl.testing.streams import Tally, check, learning

pytestmark = pytest.mark.compiler
UPDATES = 60
BLOCKS = (13, 24, 29, 45)
OTHERS = (12, 145)
"""Windows, and a model without lanes."""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Vectorised code takes three times as long to compile."""
    monkeypatch.setattr(build, "FLAGS", ("-O0", "-march=native", "-fno-math-errno"))


@pytest.mark.parametrize("seed", [*BLOCKS, *OTHERS])
def test_updates_are_those_of_torch(seed: int) -> None:
    tally = Tally()
    found = check(seed, UPDATES, tally)
    assert found is not None
    assert found.learner is not None
    assert isinstance(found.learner, BlockLearner) == (seed in BLOCKS)
    assert (tally.updates, tally.sensitive) == (UPDATES, 0)


def test_runs_differ() -> None:
    """Optimizers, batches, rules and streams of the first seeds."""
    runs = [learning(seed) for seed in range(16)]
    for part, least in (("train.optimizer", 6), ("train.batch", 4), ("train.schedule", 4)):
        assert len({change for run in runs for change in run.changes if change.startswith(part)}) >= least, part
    assert len({run.text.split("default: ")[1] for run in runs}) >= 6
    assert {run.resets > 0 for run in runs} == {run.continues for run in runs} == {True, False}


def _as_given(_: BlockNests, items: Sequence[object]) -> list[object]:
    """The order in which entries were made."""
    return list(items)


def _none_found(*_: object) -> set[str]:
    """Nothing is a view."""
    return set()


def _nothing(*_: object) -> None:
    """In the place of what is left out."""


FAULTS: dict[str, tuple[int, Callable[[pytest.MonkeyPatch], None]]] = {
    "what has no lanes reads parameters that have moved": (
        45,
        lambda patch: patch.setattr(line.Line, "_early", line.Line._value),  # pyright: ignore[reportPrivateUsage]
    ),
    "entries stand in front of those that they read": (
        144,
        lambda patch: patch.setattr(BlockNests, "_ordered", _as_given),
    ),
    "updates that torch has made are not counted": (29, lambda patch: patch.setattr(Learner, "recount", _nothing)),
    "traces are left in room of others": (145, lambda patch: patch.setattr(TraceEntry, "_views", _none_found)),
    "states are those of the stretch before": (24, lambda patch: patch.setattr(blocks.Block, "put", _nothing)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_faults(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seed, plant = FAULTS[fault]
    plant(monkeypatch)
    with pytest.raises(AssertionError, match=r"off by|instead of"):
        check(seed, UPDATES, Tally())
