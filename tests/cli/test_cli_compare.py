"""compare: the table, the picture, what is refused."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from xml.etree import ElementTree

import pytest
from cli_support import SMALL, SPECS, process, run, tiny

from recdsl.cli.compare import split
from recdsl.cli.figure import Bars, Lines, Scale, Series, figure, nice, number

ADDING = str(SPECS / "adding_gru.yaml")
RULES = "bptt,tbptt(window=3),snap(1),columns,rflo"


def test_gradients_over_lags_costs_and_learning(tmp_path: Path) -> None:
    out = tmp_path / "rules.svg"
    words = ["compare", ADDING, *SMALL, "data.length=10", "train.batch=4", "--rules", RULES, "--train", "6", "--json"]
    done = run(*words, "--batch", "2", "--out", str(out))
    assert done.status == 0, done.err
    rows = {row["rule"]: row for row in done.json["rows"]}
    assert list(rows) == split(RULES)
    assert rows["bptt"]["error"] == 0
    assert all(at["error"] == 0 for at in rows["bptt"]["lags"])
    assert [at["ratio"] for at in rows["tbptt(window=3)"]["lags"]][:2] == [1.0, 0.0]  # step 10 begins a window
    assert rows["snap(1)"]["lags"][0]["error"] < 1e-12
    assert 0 < rows["columns"]["lags"][3]["cosine"] < 1
    for row in rows.values():
        assert row["cost"]["time"] > 0
        assert row["cost"]["held"] > 1000
        assert [step for step, _ in row["curve"]] == [1, 2, 3, 4, 5, 6]
    assert _texts(out) >= {"bptt", "snap(1)", "Cosine to full BPTT", "Learning", "updates", "KiB", "microseconds"}


def test_the_table_of_a_spec_without_data(tmp_path: Path) -> None:
    done = run("compare", tiny(tmp_path), "--rules", "bptt,columns,artbp(mean=3)", "--steps", "8")
    assert done.status == 0, done.err
    head, *rows = done.out.splitlines()
    assert head.split()[:3] == ["rule", "parameters", "error"]
    assert rows[0].split()[:3] == ["bptt", "1", "exact"]
    assert "1 unbiased" in rows[2]
    assert "random numbers, 8 steps, 8 samples" in done.out
    assert list(tmp_path.iterdir()) == [tmp_path / "tiny.yaml"]


def test_rules_that_do_not_fit_are_left_out_by_name(tmp_path: Path) -> None:
    done = run("compare", tiny(tmp_path), "--rules", "bptt,snap(0),nonsense", "--steps", "4")
    assert done.status == 0
    assert "nonsense: not compared: unknown credit rule" in done.out
    assert "snap(0): not compared" in done.out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rules", ","], "names no rule"),
        (["--rules", ",".join(f"snap({k})" for k in range(1, 12))], "at most 8"),
        (["--rules", "nonsense"], "unknown credit rule"),
        (["--out", "picture.png"], ".svg"),
        (["--out", "."], "is a folder"),
        (["--train", "3"], "the spec has no `data:`"),
    ],
)
def test_bad_input(words: list[str], message: str, tmp_path: Path) -> None:
    done = run("compare", tiny(tmp_path), "--steps", "3", *words)
    assert done.status == 2, done.out
    assert message in done.err
    assert "Traceback" not in done.err


def test_help_imports_no_torch() -> None:
    assert process(["compare", "--help"]).status == 0
    assert split("bptt, tbptt(window=5, every=2),snap(1),bptt") == ["bptt", "tbptt(window=5, every=2)", "snap(1)"]


# -- figures ----------------------------------------------------------------------------------------------------------
def test_a_figure_is_valid_and_says_everything(tmp_path: Path) -> None:
    line = Series(0, ((0.0, 1.0), (1.0, 0.5), (2.0, float("nan")), (3.0, 0.25)))
    panels = [
        Lines("a < b", "lag", "share & more", (line,), 0.0, 1.0),
        Lines("logs", "lag", "size", (line,), log=True),
        Lines("none", "lag", "size", (Series(0, ()),)),
        Bars("time", "us", (3.0, None), ("3 us", "-"), ("one", "two")),
        Bars("nothing", "us", (None,), ("-",), ("one",), wide=True),
    ]
    path = tmp_path / "figure.svg"
    path.write_text(figure("title", "sub", ["one", "two"], panels))
    assert _texts(path) >= {"title", "sub", "a < b", "share & more", "3 us", "not measured", "one", "two"}
    root = ElementTree.parse(path).getroot()
    width, height = (float(root.attrib[name]) for name in ("width", "height"))
    assert (width, height) > (1000, 500)
    lines = root.findall(".//{*}polyline")
    assert len(lines) == 2 + 2  # the legend's samples, and one line with a gap in each of two panels
    assert "nan" not in path.read_text()


def test_nothing_of_a_figure_is_outside_of_it(tmp_path: Path) -> None:
    """Many long names take several rows; the last tick may be long."""
    path, names = tmp_path / "figure.svg", [f"a mechanism with a long name, {k}" for k in range(8)]
    line = Lines("one", "steps", "error", (Series(7, ((0.0, 1.0), (150_000.0, 0.5))),), wide=True)
    path.write_text(figure("title", "", names, [line], columns=2))
    root = ElementTree.parse(path).getroot()
    width, height = (float(root.attrib[name]) for name in ("width", "height"))
    ends = {e.text or "": (float(e.attrib["x"]), float(e.attrib["y"])) for e in root.iter() if e.tag.endswith("text")}
    for name in names:
        assert ends[name][0] + 6 * len(name) < width
        assert ends[name][1] < height
    panel = root.find("{*}g")
    assert panel is not None
    assert float(panel.attrib["transform"].split()[1].strip(")")) + 22 > max(ends[name][1] for name in names)
    assert ends["150,000"][0] + 3 * len("150,000") < width


def test_ticks_are_round() -> None:
    assert Scale(0, 1, 0, 100).ticks() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert Scale(1e-6, 1, 0, 100, log=True).ticks() == pytest.approx([1e-6, 1e-4, 1e-2, 1])
    assert [nice(width) for width in (0.3, 1, 7, 30)] == pytest.approx([0.5, 1, 10, 50])
    assert [number(value) for value in (0, 0.25, 1234, 1e-5)] == ["0", "0.25", "1,234", "1e-5"]
    scale = Scale(0, 10, 300, 100)
    assert all(scale.at(a) > scale.at(b) for a, b in pairwise(range(11)))


def _texts(path: Path) -> set[str]:
    return {element.text or "" for element in ElementTree.parse(path).iter() if element.tag.endswith("text")}


def test_json_is_data(tmp_path: Path) -> None:
    done = run("compare", tiny(tmp_path), "--rules", "none", "--steps", "4", "--json")
    found = json.loads(done.out)
    assert (found["steps"], found["batch"], found["data"]) == (4, 8, "random numbers")
    assert found["rows"][0]["verdicts"] == {"biased": 1}


@pytest.mark.parametrize(("limit", "reason"), [("SLOWEST", "a call takes about"), ("LARGEST_BYTES", "GiB")])
def test_what_takes_too_much_is_left_out(
    limit: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import recdsl.training.compare as measuring

    monkeypatch.setattr(measuring, limit, 0)
    out = tmp_path / "empty.svg"
    done = run("compare", tiny(tmp_path), "--rules", "rtrl", "--steps", "4", "--out", str(out))
    assert done.status == 0
    assert f"rtrl: left out: {'it needs about' if reason == 'GiB' else reason}" in done.out
    assert "not measured" in _texts(out)
