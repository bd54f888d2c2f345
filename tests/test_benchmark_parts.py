"""Parts of the benchmarks that need no measurement: what a call must do, the picture, and peers that are not there."""

from __future__ import annotations

import sys
from xml.etree import ElementTree

import pytest

from benchmarks import ceiling, copying
from benchmarks.cells import CELLS
from benchmarks.elsewhere import missing
from benchmarks.picture import drawn
from benchmarks.roofline import work
from benchmarks.variants import Config
from recdsl.driver import analyse

GRU = next(cell for cell in CELLS if cell.name == "gru")


def test_operations_of_a_call_are_those_of_its_products() -> None:
    """Counted by hand: three gates, two products of 8 x 8 forward, one back, two for the gradients of weights."""
    found = work(GRU, Config(batch=2, size=8, steps=5))
    assert found.flops == 2 * (5 * 2) * (3 * 8 * 8) * 5
    assert found.weights == 4 * (3 * 8 * 8) * 5 * 2
    assert found.least_ms(gemm=1e9, stream=1e30, reread=1e30) == 1e3 * found.flops / 1e9
    assert found.least_ms(gemm=1e30, stream=1e9, reread=2e9) == 1e3 * (found.streamed / 1e9 + found.weights / 2e9)


def test_the_picture_has_a_panel_for_each_cell_and_batch() -> None:
    rows = [
        {
            "cell": cell,
            "batch": batch,
            "size": size,
            "steps": steps,
            "naive/native_median": 5.0,
            "jax/native_median": 2.0,
        }
        for cell in ("gru", "lstm")
        for batch in (1, 32)
        for size in (64, 256)
        for steps in (100, 500)
    ]
    text = drawn(rows)
    ElementTree.fromstring(text)
    assert [f"{cell}, batch {batch}" in text for cell in ("gru", "lstm") for batch in (1, 32)] == [True] * 4
    assert "eager loop" in text
    assert "torch.nn" not in text


def test_a_peer_that_is_not_there_says_why() -> None:
    assert "no_such_package" in missing(sys.executable, "no_such_package")
    assert "names no Python" in missing(None, "jax")
    assert missing("/nowhere/python", "jax").startswith("/nowhere/python: ")
    assert missing(sys.executable, "torch") == ""


@pytest.mark.parametrize("task", copying.TASKS)
def test_models_beside_a_memory_are_what_their_names_say(task: str) -> None:
    """Of each task: one spec with its memory under three kinds of credit, and LSTMs without one."""
    made = {name: analyse(copying.text(copying.TASKS[task], name, 40)) for name in copying.MODELS}
    assert [name for name, found in made.items() if not found.spec.memory] == [*copying.MODELS][3:]
    exact = [name for name, found in made.items() if all(row.verdict == "exact" for row in found.plan.rows)]
    # "Every 5" is a `stop` of the model itself, which is no cut of its rule.
    assert exact == ["attention over all, bptt", "LSTM, bptt", "LSTM, h cut every 5, c whole"]
    assert all(found.spec.name == made["LSTM, bptt"].spec.name for found in made.values())


@pytest.mark.compiler
@pytest.mark.parametrize("batch", [1, 3])
def test_the_loop_by_hand_learns_what_the_online_learner_does(batch: int) -> None:
    """Weights after an update at each step; those of other targets are not the same."""
    size = ceiling.Size(batch, columns=32, inputs=5, steps=50)
    x, y = ceiling.drawn(size)
    (_, learned), start = ceiling.ours(size, x, y)
    ceiling.agreed("C", ceiling.by_hand(size, x, y, start), learned, start)
    with pytest.raises(AssertionError, match="C: weights are"):
        ceiling.agreed("C", ceiling.by_hand(size, x, 1.1 * y, start), learned, start)
