"""Every source: deterministic from (seed, position), restored exactly, and right about its own task."""

from __future__ import annotations

import gzip
import struct
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recdsl.errors.runs import RunError
from recdsl.training.batches import Batch, Place, Request, Source
from recdsl.training.catalogue import source_module, source_names
from recdsl.training.sources import custom, images, mackey_glass

GENERATED = tuple(name for name in source_names() if source_module(name).GENERATED)


def opened(name: str, place: Place | None = None, **given: Any) -> Source:
    module = source_module(name)
    options = {option.name: option.default for option in module.DECLARATION.options} | given
    return module.open_source(options, place or Place())


def same(a: Batch, b: Batch) -> bool:
    flags = all(
        (x is None and y is None) or (x is not None and y is not None and np.array_equal(x, y))
        for x, y in ((a.mask, b.mask), (a.reset, b.reset))
    )
    return flags and all(np.array_equal(a.arrays[name], b.arrays[name]) for name in a.arrays)


def check(source: Source, split: str, stream: bool = False) -> None:
    """A sampler restored at batch 3 goes on as the one that got there; fields are as declared."""
    request = Request(split, 4, 5, stream)
    first, second = source.draw(request), source.draw(request)
    for _ in range(3):
        first.next()
    second.restore(first.state())
    batch = first.next()
    assert same(batch, second.next())
    assert same(first.next(), second.next())
    time, rows = batch.arrays[source.fields[0].name].shape[:2]
    for field in source.fields:
        array = batch.arrays[field.name]
        assert array.shape == (time, rows, *field.shape)
        if field.kind == "label":
            assert array.dtype == np.int64
            assert 0 <= array.min() <= array.max() < field.size
        else:
            assert np.isfinite(array).all()


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("name", GENERATED)
def test_generated(name: str, split: str) -> None:
    source = opened(name)
    check(source, split)
    other = source.draw(Request(split, 4, 6)).next()
    if split == "train" or source.passes(Request(split, 4, 5)) is None:
        assert not same(source.draw(Request(split, 4, 5)).next(), other)


def test_listing_is_complete() -> None:
    assert source_names() == (
        "adding",
        "associative_recall",
        "copy",
        "csv",
        "delayed_recall",
        "dyck",
        "gradient_testbed",
        "gymnasium",
        "images",
        "mackey_glass",
        "npz",
        "sequential_digits",
        "text",
        "trace_conditioning",
        "trace_patterning",
    )


def test_copy_repeats() -> None:
    batch = opened("copy", delay=5, symbols=3, length=4).draw(Request("train", 6, 0)).next()
    x, y = batch.arrays["x"], batch.arrays["y"]
    assert x.shape == (13, 6)
    assert np.array_equal(y[-4:], x[:4])
    assert (y[:-4] == 0).all()
    assert (x[8] == 4).all()
    assert x[4:8].max() == 0


def test_adding_sums_the_marked() -> None:
    batch = opened("adding", length=9).draw(Request("train", 50, 0)).next()
    x, y = batch.arrays["x"], batch.arrays["y"]
    assert (x[:, :, 1].sum(0) == 2).all()
    assert np.allclose((x[:, :, 0] * x[:, :, 1]).sum(0), y[-1])


def test_delayed_recall_names_the_cue() -> None:
    batch = opened("delayed_recall", delay=3, symbols=4, distractors=2).draw(Request("train", 50, 0)).next()
    x, y = batch.arrays["x"], batch.arrays["y"]
    assert np.array_equal(x[0], y[-1])
    assert set(np.unique(x[1:-1])) == {4, 5}
    assert (x[-1] == 6).all()


def test_associative_recall_asks_for_what_stood_beside() -> None:
    batch = opened("associative_recall", pairs=4, letters=6, digits=3).draw(Request("train", 50, 0)).next()
    x, y = batch.arrays["x"], batch.arrays["y"]
    assert x.shape == (10, 50)
    assert (x[-2] == 9).all()
    for row in range(50):
        pairs = {int(x[k, row]): int(x[k + 1, row]) - 6 for k in range(0, 8, 2)}
        assert len(pairs) == 4
        assert max(pairs) < 6
        assert pairs[int(x[-1, row])] == y[-1, row]


def test_dyck_against_a_stack() -> None:
    batch = opened("dyck", kinds=3, depth=3, length=40).draw(Request("train", 20, 0)).next()
    for row in range(20):
        stack: list[int] = []
        for symbol, answer in zip(batch.arrays["x"][:, row], batch.arrays["y"][:, row], strict=True):
            if symbol < 3:
                stack.append(int(symbol))
            else:
                assert stack.pop() == symbol - 3
            assert len(stack) <= 3
            assert answer == (stack[-1] + 1 if stack else 0)


def test_trace_patterning_pays_after_the_interval() -> None:
    source = opened("trace_patterning", length=20_000, isi=(4.0, 6.0), iti=(8.0, 12.0))
    x = source.draw(Request("train", 1, 0)).next().arrays["x"][:, 0]
    shown = np.flatnonzero(x[:, :6].sum(1))
    assert (x[shown, :6].sum(1) == 3).all()
    paid = {tuple(x[start, :6]): bool(x[start : start + 7, 6].any()) for start in shown[:-1]}
    assert len(paid) == 20
    assert sum(paid.values()) == 10
    assert np.allclose(x[:, 7:].mean(0), 0.1 / np.arange(1, 6), atol=0.01)


def test_trace_patterning_does_not_depend_on_the_window() -> None:
    whole = opened("trace_patterning", length=600).draw(Request("train", 2, 3)).next().arrays["x"]
    part = opened("trace_patterning", length=200).draw(Request("train", 2, 3))
    assert np.array_equal(whole, np.concatenate([part.next().arrays["x"] for _ in range(3)]))


@pytest.mark.parametrize("name", ["trace_patterning", "trace_conditioning"])
@pytest.mark.parametrize("discount", [0.0, 0.9, 0.995])
def test_returns_are_what_comes(name: str, discount: float) -> None:
    source = opened(name, length=6_000, isi=(4.0, 6.0), iti=(8.0, 12.0), discount=discount)
    batch = source.draw(Request("train", 2, 0)).next()
    cumulants, returns = batch.arrays["cumulant"], batch.arrays["return"]
    later = np.zeros(2)
    for t in range(len(cumulants) - 1, -1, -1):
        if t < 1_000:
            assert np.allclose(returns[t], later, atol=1e-5)
        later = cumulants[t] + discount * later
    assert np.array_equal(cumulants, batch.arrays["x"][:, :, 6 if name == "trace_patterning" else 1])


def test_trace_conditioning_pays_after_each_cue() -> None:
    source = opened("trace_conditioning", length=5_000, distractors=2)
    x = source.draw(Request("train", 1, 0)).next().arrays["x"][:, 0]
    cues, paid = np.flatnonzero(x[:, 0]), np.flatnonzero(x[:, 1])
    gaps = paid - cues[: len(paid)]
    assert (gaps.min(), gaps.max()) >= (24, 24)
    assert gaps.max() <= 36
    pauses = cues[1:] - paid[: len(cues) - 1]
    assert pauses.min() >= 80
    assert pauses.max() <= 120
    assert x.shape[1] == 4


def test_mackey_glass() -> None:
    """The range and the mean of the known series, no period, and rows that differ; the step is fine enough."""
    sampler = opened("mackey_glass", length=2_000).draw(Request("train", 2, 0))
    batch = sampler.next()
    x, y = batch.arrays["x"][..., 0], batch.arrays["y"]
    assert np.array_equal(x[1:], y[:-1])
    assert np.array_equal(sampler.next().arrays["x"][0, :, 0], y[-1])
    assert 0.2 < x.min() < 0.5
    assert 1.2 < x.max() < 1.4
    assert 0.85 < x.mean() < 0.97
    assert not np.allclose(x[:, 0], x[:, 1], atol=0.1)


def test_mackey_glass_obeys_its_equation(monkeypatch: pytest.MonkeyPatch) -> None:
    """With steps of half the width the series is the same, to the accuracy of the delayed value's mean."""
    options = {"length": 50, "tau": 17}
    coarse = mackey_glass.Series(options, Request("train", 1, 0)).next().arrays["y"][:30]
    monkeypatch.setattr(mackey_glass, "WIDTH", 0.05)
    monkeypatch.setattr(mackey_glass, "UNIT", 20)
    fine = mackey_glass.Series(options, Request("train", 1, 0)).next().arrays["y"][:30]
    assert np.allclose(coarse, fine, atol=0.02)


def test_gradient_testbed() -> None:
    batch = opened("gradient_testbed").draw(Request("train", 40, 0)).next()
    assert set(np.unique(batch.arrays["x"])) == {0.0, 1.0}
    assert abs(float(batch.arrays["x"].mean()) - 0.5) < 0.01
    assert -50 <= batch.arrays["y"].min() < -45
    assert abs(float(batch.arrays["y"].mean())) < 2.5


def test_copy_grows_with_success() -> None:
    sampler: Any = opened("copy", delay=2, symbols=3, length=7, grow=0.15).draw(Request("train", 50, 0))
    lengths: list[set[int]] = []
    for loss in (0.0, 0.0, 9.0, *[0.0] * 9):
        batch = sampler.next()
        rows = (batch.mask.sum(0) - 2) // 2
        lengths.append(set(rows.tolist()))
        for row, n in enumerate(rows):
            x, y = batch.arrays["x"][:, row], batch.arrays["y"][:, row]
            assert np.array_equal(x[:n], y[n + 2 : 2 * n + 2])
            assert x[n + 1] == 4
            assert not y[2 * n + 2 :].any()
        sampler.learned(loss)
    assert lengths[:4] == [{1}, {1, 2}, {1, 2, 3}, {1, 2, 3}]
    assert max(lengths[-1]) == 7
    assert min(lengths[-1]) == 2
    just = 0.15 * np.log(2) / sampler.steps_a_symbol
    sampler.level = 3
    sampler.learned(just * 1.01)
    assert sampler.level == 3
    sampler.learned(just * 0.99)
    assert sampler.level == 4
    again: Any = opened("copy", delay=2, symbols=3, length=7, grow=0.15).draw(Request("train", 50, 0))
    again.restore(sampler.state())
    assert same(again.next(), sampler.next())
    full = opened("copy", delay=2, symbols=3, length=7, grow=0.15).draw(Request("test", 5, 0)).next()
    assert full.arrays["x"].shape == (16, 5)


def test_copy_delay_grows_behind_the_number_of_symbols() -> None:
    sampler: Any = opened("copy", delay=12, symbols=3, length=3, grow=0.15, first=5).draw(Request("train", 4, 0))
    seen: list[tuple[int, int, int, int]] = []
    for loss in (9.0, *[0.0] * 40):
        batch = sampler.next()
        steps, asked = len(batch.arrays["x"]), sampler.asked
        delay = steps - 2 * asked
        seen.append((sampler.level, asked, sampler.delay, delay))
        assert batch.mask is None
        assert np.array_equal(batch.arrays["x"][:asked], batch.arrays["y"][asked + delay :])
        assert (batch.arrays["x"][asked + delay - 1] == 4).all()
        sampler.learned(loss)
    assert seen[0][:3] == seen[1][:3] == (1, 1, 5)
    assert all(asked <= level and (longest + 1) // 2 <= delay <= longest for level, asked, longest, delay in seen)
    assert {longest for level, _, longest, _ in seen if level < 3} == {5}
    assert {longest for *_, longest, _ in seen} == {5, 6, 7, 8, 9, 10, 12}
    again: Any = opened("copy", delay=12, symbols=3, length=3, grow=0.15, first=5).draw(Request("train", 4, 0))
    again.restore(sampler.state())
    assert same(again.next(), sampler.next())
    full = opened("copy", delay=12, symbols=3, length=3, grow=0.15, first=5).draw(Request("test", 5, 0)).next()
    assert full.arrays["x"].shape == (18, 5)


def test_adding_grows_with_success() -> None:
    sampler: Any = opened("adding", length=17, grow=0.02, first=7).draw(Request("train", 20, 0))
    seen: list[tuple[int, int]] = []
    for loss in (9.0, 9.0, *[0.0] * 60):
        longest, batch = sampler.longest, sampler.next()
        x, y = batch.arrays["x"], batch.arrays["y"]
        seen.append((longest, len(x)))
        half = len(x) // 2
        assert (x[:half, :, 1].sum(0) == 1).all()
        assert (x[half:, :, 1].sum(0) == 1).all()
        assert np.allclose((x[:, :, 0] * x[:, :, 1]).sum(0), y[-1])
        sampler.learned(loss)
        assert sampler.longest == longest or (loss < 0.02 and len(x) == longest)
    assert seen[2][0] == 7
    assert all((longest + 1) // 2 <= steps <= longest for longest, steps in seen)
    assert any(steps < longest for longest, steps in seen)
    assert {longest for longest, _ in seen} == {7, 8, 9, 10, 12, 14, 16, 17}
    sampler.longest, sampler.asked = 10, 10
    sampler.learned(0.02)
    assert sampler.longest == 10
    sampler.learned(0.0199)
    assert sampler.longest == 12
    sampler.next()
    again: Any = opened("adding", length=17, grow=0.02, first=7).draw(Request("train", 20, 0))
    again.restore(sampler.state())
    assert again.state() == sampler.state()
    assert same(again.next(), sampler.next())
    for split in ("valid", "test"):
        full = opened("adding", length=17, grow=0.02, first=7).draw(Request(split, 5, 0)).next()
        assert same(full, opened("adding", length=17).draw(Request(split, 5, 0)).next())
    short = opened("adding", length=5, grow=0.02).draw(Request("train", 5, 0))
    assert {len(short.next().arrays["x"]) for _ in range(20)} == {3, 4, 5}


def test_gymnasium_is_asked_for_clearly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    with pytest.raises(RunError, match=r"(?s)RD0714.*pip install gymnasium"):
        opened("gymnasium", env="CartPole-v1")


def test_gymnasium() -> None:
    pytest.importorskip("gymnasium")
    source = opened("gymnasium", env="CartPole-v1", length=120, discount=0.9)
    for split in ("train", "test"):
        check(source, split)
    batch = source.draw(Request("train", 3, 0)).next()
    assert source.sizes == {"obs": 4}
    assert batch.reset is not None
    assert batch.reset[0].all()
    begun = np.flatnonzero(batch.reset[:, 0])
    first = slice(0, begun[1])
    n = begun[1] - 1
    assert np.array_equal(batch.arrays["cumulant"][first, 0], [0.0, *[1.0] * n])
    assert np.allclose(batch.arrays["return"][0, 0], (1 - 0.9**n) / 0.1)
    assert batch.arrays["return"][n, 0] == 0
    assert not np.array_equal(batch.arrays["x"][0], batch.arrays["x"][begun[1]])
    with pytest.raises(RunError, match="RD0715"):
        opened("gymnasium", env="NoSuchThing-v0")
    taxi = opened("gymnasium", env="FrozenLake-v1", policy="constant", action=1)
    assert (taxi.draw(Request("train", 2, 0)).next().arrays["x"].sum(-1) == 1).all()


def test_digits_are_all_there_once() -> None:
    source = opened("sequential_digits", None, **{"as": "pixels"})
    counts = np.zeros(10, np.int64)
    for split, total in (("train", 1297), ("valid", 140), ("test", 360)):
        request = Request(split, 1 if split == "train" else 100, 0)
        passes = source.passes(request)
        assert passes is not None
        sampler = source.draw(request)
        batches = [sampler.next() for _ in range(passes)]
        labels = np.concatenate([batch.arrays["y"][0] for batch in batches])
        assert len(labels) == total
        counts += np.bincount(labels, minlength=10)
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_text_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("abcd" * 200, encoding="utf-8")
    source = opened("text", Place(str(tmp_path)), path="a.txt", length=5)
    assert source.sizes == {"vocab": 4}
    assert source.symbols == ("a", "b", "c", "d")
    for split in ("train", "valid", "test"):
        check(source, split)
    check(source, "train", stream=True)
    batch = source.draw(Request("train", 3, 0)).next()
    assert np.array_equal((batch.arrays["x"] + 1) % 4, batch.arrays["next"])


def test_text_stream_is_contiguous(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("".join(chr(33 + i % 90) for i in range(400)), encoding="utf-8")
    source = opened("text", Place(str(tmp_path)), path="a.txt", length=10)
    sampler = source.draw(Request("train", 3, 0, stream=True))
    first, second = sampler.next(), sampler.next()
    assert np.array_equal(first.arrays["next"][-1], second.arrays["x"][0])
    assert first.reset is not None
    assert second.reset is not None
    assert first.reset[0].all()
    assert not first.reset[1:].any()
    assert not second.reset.any()


def idx(array: np.ndarray[Any, Any]) -> bytes:
    return (
        bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.astype(np.uint8).tobytes()
    )


def write_images(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 36), ("t10k", 7)):
        packed = gzip.compress(idx(rng.integers(0, 256, (count, 4, 3))))
        (folder / f"{prefix}-images-idx3-ubyte.gz").write_bytes(packed)
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(idx(np.arange(count) % 5))


@pytest.mark.parametrize(("form", "shape"), [("flat", (1, 4, 12)), ("rows", (4, 4, 3)), ("pixels", (12, 4))])
def test_images(tmp_path: Path, form: str, shape: tuple[int, ...]) -> None:
    write_images(tmp_path)
    source = opened("images", Place(str(tmp_path)), path=".", **{"as": form})
    batch = source.draw(Request("train", 4, 0)).next()
    assert batch.arrays["x"].shape == shape
    assert source.sizes == {"pixels": 12, "rows": 4, "columns": 3, "classes": 5}
    assert source.passes(Request("test", 4, 0)) == 2
    check(source, "train")


def test_permuted_images_hold_the_same_pixels(tmp_path: Path) -> None:
    write_images(tmp_path)
    place = Place(str(tmp_path))
    plain, mixed = (
        opened("images", place, path=".", **{"as": "pixels"}, permute=seed)
        .draw(Request("test", 7, 0))
        .next()
        .arrays["x"]
        for seed in (None, 1)
    )
    assert not np.array_equal(plain, mixed)
    assert np.array_equal(np.sort(plain, 0), np.sort(mixed, 0))


@pytest.mark.parametrize("data", [b"", b"\0\0\x08", b"\0\0\x0d\x01\0\0\0\0", b"\0\0\x08\x01\xff\xff\xff\xff", b"hello"])
def test_bad_idx(data: bytes) -> None:
    with pytest.raises(RunError, match="RD0653"):
        images.parse(data, "file")


def test_npz(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 6, 2)), rng.integers(0, 4, (30, 6))
    y[0, 0] = 3
    np.savez(tmp_path / "d.npz", x=x, y=y, lengths=rng.integers(1, 7, 30))
    source = opened("npz", Place(str(tmp_path)), path="d.npz")
    check(source, "train")
    batch = source.draw(Request("test", 3, 0)).next()
    assert np.allclose(batch.arrays["x"], x[27:30].swapaxes(0, 1))
    assert batch.mask is not None
    assert batch.mask.shape == (6, 3)
    assert [str(field) for field in source.fields] == ["float[2]", "labels below 4"]


def test_npz_never_unpickles(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=np.array([[{"a": 1}]], dtype=object))
    with pytest.raises(RunError, match="RD0653"):
        opened("npz", Place(str(tmp_path)), path="d.npz")


def test_csv(tmp_path: Path) -> None:
    rows = "\n".join(f"{i},{i * i % 17},{i % 3}" for i in range(200))
    (tmp_path / "d.csv").write_text("time,a,b\n" + rows + "\n", encoding="utf-8")
    source = opened(
        "csv", Place(str(tmp_path)), path="d.csv", inputs=("time",), targets=("a",), length=7, standardise=False
    )
    for split in ("train", "valid", "test"):
        check(source, split)
    batch = source.draw(Request("train", 4, 0)).next()
    assert np.array_equal((batch.arrays["x"][..., 0] + 1) ** 2 % 17, batch.arrays["y"])


@pytest.mark.parametrize(
    ("text", "said"), [("", "first row"), ("a,b\n1,x\n", "line 2"), ("a,b\n1\n", "line 2"), ("a,a\n1,2\n", "different")]
)
def test_bad_csv(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "d.csv").write_text(text, encoding="utf-8")
    with pytest.raises(RunError, match=said):
        opened("csv", Place(str(tmp_path)), path="d.csv")


@pytest.mark.parametrize("name", ["missing.txt", ".", "a\0b", "~/x", "http://x/y"])
def test_bad_paths(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError, match="RD0653"):
        opened("text", Place(str(tmp_path)), path=name)


def test_missing_dataset_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECDSL_DATA", str(tmp_path))
    with pytest.raises(RunError, match="run: recdsl data fetch mnist") as caught:
        opened("images", source="mnist")
    assert caught.value.problem.code == "RD0650"


USER = """
def make(rng, batch, split, size=3):
    x = rng.normal(size=(5, batch, size))
    return {"x": x, "y": (x.sum(-1) > 0).astype("int64"), "mask": x[..., 0] > -9}

def broken(rng, batch, split):
    raise RuntimeError("no luck")
"""


def test_custom(tmp_path: Path) -> None:
    (tmp_path / "user_data_of_test.py").write_text(USER, encoding="utf-8")
    options: Mapping[str, Any] = {"size": 2}
    with pytest.raises(RunError, match="--trust"):
        custom.open_function("user_data_of_test:make", options, Place(str(tmp_path)))
    source = custom.open_function("user_data_of_test:make", options, Place(str(tmp_path), trust=True))
    request = Request("train", 4, 0)
    first, second = source.draw(request), source.draw(request)
    first.next()
    second.restore(first.state())
    assert same(first.next(), second.next())
    with pytest.raises(RunError, match="no luck"):
        custom.open_function("user_data_of_test:broken", {}, Place(str(tmp_path), trust=True))
