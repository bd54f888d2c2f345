"""`data:` and `train:` are checked with places, all at once, and without torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recdsl.diagnostics import SpecError
from recdsl.training.batches import Place
from recdsl.training.catalogue import check_settings, data_sizes, declarations
from recdsl.training.settings import settings

from .fakes import COPY, read

CASES = [
    ("data: copi(delay=2)", "RD0601", 1, 7, "did you mean `copy`?"),
    ("data: copy(dely=2)", "RD0602", 1, 17, "did you mean `delay`?"),
    ("data: copy(delay=0)", "RD0603", 1, 18, "a whole number of at least 1"),
    ("data: copy(delay=two)", "RD0603", 1, 18, "`two`"),
    ("data: copy(delay=2.5)", "RD0603", 1, 18, "`2.5`"),
    ("data: copy(1, 2, 3, 4, 5, 6)", "RD0605", 1, 27, "5 values"),
    ("data: copy(1, delay=2)", "RD0606", 1, 21, "given twice"),
    ("data: [1, 2]", "RD0612", 1, 7, "takes a call"),
    ("data: images(source=cifar)", "RD0603", 1, 21, "fashion-mnist"),
    ("data: adding(length=5)", "RD0608", 1, 1, "float[2]"),
    ("data: trace_patterning", "RD0607", 1, 1, "has nothing for `y`"),
    ("data: copy(symbols=9)", "RD0608", 1, 1, "labels below 11"),
    ("data: npz()", "RD0604", 1, 7, "needs the option `path`"),
    ("train.batch: 0", "RD0603", 1, 14, "of at least 1"),
    ("train.bacth: 3", "RD0613", 1, 1, "did you mean `batch`?"),
    ("train.every: 2", "RD0616", 1, 1, "add `online: true`"),
    ("train.clip: nan", "RD0603", 1, 13, "a number"),
    ("train.optimizer: adaw", "RD0601", 1, 18, "did you mean `adamw`?"),
    ("train.optimizer: adam(lr=0)", "RD0603", 1, 26, "above 0"),
    ("train.optimizer: adam(lr=1, betas=[0.9])", "RD0603", 1, 35, "two numbers"),
    ("train.optimizer: td_lambda(lr=1)", "RD0618", 1, 18, "no loss is one"),
    ("train.optimizer: 3", "RD0612", 1, 18, "takes a call"),
    ("train.schedule: step", "RD0604", 1, 17, "`every`"),
    ("train.metrics: acuracy", "RD0601", 1, 16, "accuracy"),
    ("train.metrics: mse", "RD0615", 1, 16, "does not know"),
    ("train.stream: 1", "RD0603", 1, 15, "true or false"),
]


@pytest.mark.parametrize(("line", "code", "row", "column", "said"), CASES, ids=[case[0] for case in CASES])
def test_problems(line: str, code: str, row: int, column: int, said: str) -> None:
    with pytest.raises(SpecError) as caught:
        check_settings(read(line + "\n"))
    problem = caught.value.problems[0]
    assert problem.code == code
    assert (problem.span.line, problem.span.column) == (row, column)
    assert said in problem.text() + problem.help()
    assert problem.explain


def test_all_at_once() -> None:
    with pytest.raises(SpecError) as caught:
        check_settings(read("data: copy(dely=2, length=0)\ntrain.batch: no\ntrain.foo: 1\n"))
    assert [problem.code for problem in caught.value.problems] == ["RD0602", "RD0603", "RD0603", "RD0613"]


def test_good_settings() -> None:
    found = settings(read(COPY + "train.metrics: [accuracy(last=2), bits]\n"))
    assert found["steps"] == 12
    assert found.optimizer.options["lr"] == 1e-2
    assert found.optimizer.options["betas"] == (0.9, 0.999)
    assert [(m.name, m.last, m.output, m.target) for m in found.metrics] == [
        ("accuracy_last2", 2, "logits", "y"),
        ("bits", None, "logits", "y"),
    ]


def test_sizes_of_generated_data() -> None:
    assert data_sizes(read("data: copy(symbols=5)\nvocab: data\n")) == {"vocab": 7}
    assert data_sizes(read("data: copy(symbols=5)\n")) == {}
    with pytest.raises(SpecError, match="RD0611"):
        data_sizes(read("vocab: data\n"))


def test_sizes_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.txt").write_text("hello there" * 50, encoding="utf-8")
    spec = read('data: text(path="a.txt")\nvocab: data\ntarget: next\n')
    assert data_sizes(spec, Place(str(tmp_path))) == {"vocab": 7}
    monkeypatch.setenv("RECDSL_DATA", str(tmp_path))
    with pytest.raises(SpecError) as caught:
        data_sizes(read("data: text(source=brown)\nvocab: data\ntarget: next\n"))
    assert caught.value.problems[0].code == "RD0610"
    assert "recdsl data fetch brown" in caught.value.problems[0].help()


def test_a_size_may_stand_for_a_number() -> None:
    assert data_sizes(read("data: copy(length=vocab, symbols=2)\nvocab: 4\n")) == {}
    check_settings(read("data: copy(length=vocab, symbols=2)\nvocab: 4\n"))


def test_declarations_are_complete() -> None:
    for kind, found in declarations().items():
        assert found, kind
        for declaration in found:
            assert declaration.doc
            for option in declaration.options:
                assert option.doc, (declaration.name, option.name)
                assert option.expected()


def test_without_torch() -> None:
    code = (
        "import sys\nfrom recdsl.training import catalogue, settings, fetch, files\n"
        "import recdsl.errors.training\ncatalogue.declarations()\nassert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
