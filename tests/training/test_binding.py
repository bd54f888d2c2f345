"""Batches against the spec's types: each way to be wrong has its own words."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recdsl.diagnostics import SpecError
from recdsl.errors.runs import RunError
from recdsl.graph.step import Input
from recdsl.graph.types import INT, Axis, Type
from recdsl.training.batches import Batch, Keyed, Source
from recdsl.training.binding import bind_data, checked
from recdsl.training.declare import Field
from recdsl.training.matching import match
from recdsl.training.metrics import Tally, counted, measure
from recdsl.training.settings import Metric

X = Input("x", "float", Type("float", (Axis("obs", 3),)), 0, False, None)
K = Input("k", "token", INT, 5, False, None)
B = Input("b", "bool", Type("bool"), 0, False, None)
Y = Input("y", "class", INT, 4, True, None)
GOOD: dict[str, Any] = {
    "x": np.zeros((6, 2, 3), np.float32),
    "k": np.zeros((6, 2), np.int32),
    "b": np.zeros((6, 2), np.bool_),
    "y": np.zeros((6, 2), np.int64),
}


def call(changes: dict[str, Any], mask: Any = None, reset: Any = None) -> Any:
    return checked((X, K, B, Y), GOOD | changes, mask, reset, "7", torch.float32, "cpu")


def test_good() -> None:
    made = call({})
    assert made.shape == (6, 2)
    assert made.tensors["k"].dtype == torch.int64
    assert call({"x": np.zeros((6, 2, 3), np.int16)}).tensors["x"].dtype == torch.float32


BAD = [
    ({"x": np.zeros((6, 2))}, "has the shape [6, 2]"),
    ({"x": np.zeros((6, 2, 4))}, "has the shape [6, 2, 4]"),
    ({"x": np.zeros((6, 2, 3), np.complex64)}, "has the dtype torch.complex64"),
    ({"x": np.zeros((0, 2, 3))}, "is empty"),
    ({"k": np.zeros((6, 3), np.int64)}, "[time, batch] = [6, 3]"),
    ({"k": np.zeros((6, 2))}, "has the dtype torch.float64"),
    ({"k": np.full((6, 2), 5)}, "has the label 5"),
    ({"k": np.full((6, 2), -1)}, "has the label -1"),
    ({"b": np.zeros((6, 2))}, "has the dtype torch.float64"),
]


@pytest.mark.parametrize(("change", "said"), BAD, ids=[said for _, said in BAD])
def test_bad(change: dict[str, Any], said: str) -> None:
    with pytest.raises(RunError) as caught:
        call(change)
    assert caught.value.problem.code == "RD0654"
    assert said in caught.value.problem.text()
    assert "the spec says" in caught.value.problem.help()


def test_missing() -> None:
    with pytest.raises(RunError, match="`x` is missing"):
        checked((X,), {}, None, None, "7", torch.float32, "cpu")


@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_not_finite(number: float) -> None:
    x = np.zeros((6, 2, 3), np.float32)
    x[2, 1, 0] = number
    with pytest.raises(RunError, match="step 7: the input `x` is not finite") as caught:
        call({"x": x})
    assert caught.value.problem.code == "RD0701"
    mask = np.ones((6, 2), np.bool_)
    mask[2, 1] = False
    call({"x": x}, mask)


def test_masked_labels_are_never_read() -> None:
    y = np.zeros((6, 2), np.int64)
    y[5] = -100
    mask = np.ones((6, 2), np.bool_)
    mask[5] = False
    assert call({"y": y}, mask).tensors["y"].min() == 0
    with pytest.raises(RunError, match="-100"):
        call({"y": y})


@pytest.mark.parametrize("flag", [np.ones((6, 3), np.bool_), np.ones((6, 2))])
def test_bad_flags(flag: Any) -> None:
    for flags in ({"mask": flag}, {"reset": flag}):
        with pytest.raises(RunError, match="RD0654"):
            call({}, **flags)


def source(*fields: Field) -> Source:
    return Source(fields, lambda request: Keyed(lambda _rng, _n: Batch({}), request))


def test_matching_by_name_then_order() -> None:
    data = source(
        Field("a", "label", "input", 3),
        Field("b", "float", "input"),
        Field("c", "float", "input"),
        Field("d", "label", "target", 3),
    )
    found = match([("c", "float"), ("u", "float"), ("v", "token")], [("w", "class")], data)
    assert {name: field.name for name, field in found.items()} == {"c": "c", "u": "b", "v": "a", "w": "d"}


def test_binding_errors() -> None:
    with pytest.raises(SpecError, match="RD0607"):
        bind_data((X, Y), "data", source(Field("x", "float", "input", shape=(3,))), {})
    with pytest.raises(SpecError, match="RD0608"):
        bind_data((X,), "data", source(Field("x", "float", "input", shape=(4,))), {})
    with pytest.raises(SpecError, match="RD0608"):
        bind_data((Y,), "data", source(Field("y", "label", "target", 5)), {})
    assert bind_data((Y,), "data", source(Field("y", "label", "target", 4)), {})


def test_last_counts_valid_steps() -> None:
    mask = torch.tensor([[True, True], [True, True], [True, False], [False, False]])
    assert counted(mask, (4, 2), 1).int().tolist() == [[0, 0], [0, 1], [1, 0], [0, 0]]
    assert counted(None, (3, 1), 2).int().flatten().tolist() == [0, 1, 1]


@given(st.integers(1, 5), st.integers(1, 4), st.integers(2, 5), st.integers(0, 1000))
def test_metrics_in_parts_are_metrics_of_the_whole(time: int, rows: int, labels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(time, rows, labels, generator=generator)
    y = torch.randint(0, labels, (time, rows), generator=generator)
    metrics = [Metric(kind, kind, "o", "y", None) for kind in ("accuracy", "bits")]
    whole, parts = Tally(), Tally()
    measure(metrics, {"o": logits}, {"y": y}, None, whole)
    for row in range(rows):
        measure(metrics, {"o": logits[:, row : row + 1]}, {"y": y[:, row : row + 1]}, None, parts)
    for name, value in whole.means().items():
        assert abs(parts.means()[name] - value) < 1e-9
    assert (
        abs(
            whole.means()["bits"]
            - float(torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())) / np.log(2)
        )
        < 1e-5
    )


def test_mse_of_scalars_and_vectors() -> None:
    tally = Tally()
    measure([Metric("mse", "mse", "o", "y", 1)], {"o": torch.ones(3, 2)}, {"y": torch.zeros(3, 2)}, None, tally)
    measure(
        [Metric("mae", "mae", "o", "y", None)], {"o": torch.ones(3, 2, 4)}, {"y": torch.zeros(3, 2, 4)}, None, tally
    )
    assert tally.means() == {"mse": 1.0, "mae": 1.0}
