"""The corpora of good and bad specs. A bad one says in its first comments what is wrong, and where."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from recdsl.credit.build import plan
from recdsl.diagnostics import SpecError
from recdsl.driver import analyse
from recdsl.graph.build import build
from recdsl.graph.check import verify
from recdsl.graph.ragged import ragged
from recdsl.graph.text import text
from recdsl.syntax.spec import read_spec

HERE = Path(__file__).parent
GOOD = sorted((HERE / "good").glob("*.yaml"))
BAD = sorted((HERE / "bad").glob("*.yaml"))
EXPECT = re.compile(rb"^# expect: (RD\d{4}) (\d+):(\d+)\s*$", re.MULTILINE)
SIZES = re.compile(r"^# sizes: (.*)$", re.MULTILINE)


def _problems(path: Path | str) -> list[tuple[str, int, int]]:
    try:
        spec = read_spec(str(path))
        plan(build(spec), spec.credit, spec.require)
        analyse(str(path))
    except SpecError as error:
        for problem in error.problems:
            assert problem.text()
            assert isinstance(problem.help(), str)
        return [(problem.code, problem.span.line, problem.span.column) for problem in error.problems]
    return []


@pytest.mark.parametrize("path", GOOD, ids=lambda path: path.stem)
def test_good(path: Path) -> None:
    given = SIZES.search(path.read_text())
    pairs = (pair.split("=") for pair in given[1].split()) if given else ()
    graph = verify(build(read_spec(str(path)), {name: int(value) for name, value in pairs}))
    assert verify(ragged(graph)).losses
    assert text(graph).startswith("graph ")


@pytest.mark.parametrize("path", BAD, ids=lambda path: path.stem)
def test_bad(path: Path) -> None:
    expected = [(code.decode(), int(line), int(column)) for code, line, column in EXPECT.findall(path.read_bytes())]
    assert expected
    assert _problems(path) == sorted(expected, key=lambda item: item[1:])


def test_the_corpora_are_large_enough() -> None:
    assert len(GOOD) >= 60
    assert len(BAD) >= 80


def test_a_directory(tmp_path: Path) -> None:
    assert len(_problems(tmp_path)) == 1


def test_five_thousand_parentheses() -> None:
    text = f"recdsl: 1\ninputs: {{x: float}}\nstep: h = {'(' * 5000}x{')' * 5000}\nloss: mse(h, 0)\n"
    assert _problems(text) == [("RD0210", 3, 211)]


def test_five_thousand_open_parentheses() -> None:
    found = _problems(f"recdsl: 1\ninputs: {{x: float}}\nstep: h = {'(' * 5000}x\nloss: mse(h, 0)\n")
    assert found
    assert all(line == 3 for _, line, _ in found)


def test_an_empty_file(tmp_path: Path) -> None:
    path = tmp_path / "empty.yaml"
    path.touch()
    assert _problems(path) == [("RD0006", 1, 1)]


def test_a_bomb_of_merge_keys() -> None:
    levels = "\n".join(f"a{k}: &a{k} {{<<: [*a{k - 1}, *a{k - 1}]}}" for k in range(1, 31))
    found = _problems(f"recdsl: 1\na0: &a0 {{x: 1}}\n{levels}\n")
    assert {code for code, *_ in found} <= {"RD0012", "RD0013"}
    assert found


def test_deep_lists_in_a_literal() -> None:
    text = f"recdsl: 1\nparams:\n  k: float = {'[' * 300}1{']' * 300}\nstep: h = k\nloss: mse(h, 0)\n"
    assert len(_problems(text)) == 1
