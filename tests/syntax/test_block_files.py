"""Blocks, in a spec and in files."""

from __future__ import annotations

import os
from importlib.resources import files
from pathlib import Path

import pytest
from syntax_support import places, spec, tree

from recdsl.diagnostics import SpecError
from recdsl.source import Source
from recdsl.syntax.ast import BlockDecl
from recdsl.syntax.blocks import read_block_file
from recdsl.syntax.printer import print_type
from recdsl.syntax.spec import find_block

BODY = """doc: layers
arguments: {x: "float[inp]"}
sizes: {sizes: required, act: tanh, half: 3, list: [1, n], none: }
params:
  W: float[sizes, inp] ~ glorot
states: {s: "float[inp] = 1"}
step: y = act(W @ x)
returns: y
fold: sizes
last:
  params: {V: "float[sizes, inp] ~ glorot"}
  step: y = V @ x
"""
FILE = f"recdsl: 1\nblock: layers\n{BODY}"


def check(block: BlockDecl) -> None:
    assert (block.name.text, block.doc) == ("layers", "layers")
    assert [(item.name.text, print_type(item.type)) for item in block.arguments] == [("x", "float[inp]")]
    assert {name.text: default and tree(default) for name, default in block.sizes} == {
        "sizes": None, "act": "tanh", "half": "3", "list": "(list 1 n)", "none": None,
    }
    assert [item.name.text for item in (*block.params, *block.states)] == ["W", "s"]
    assert [tree(line.value) for line in (*block.step, *block.last)] == ["(call act (@ W x))", "(@ V x)"]
    assert [name.text for name in block.returns] == ["y"]
    assert block.fold is not None
    assert block.fold.text == "sizes"
    assert [item.name.text for item in block.last_params] == ["V"]


def test_in_a_spec_and_in_a_file() -> None:
    check(spec("blocks:\n  layers:\n" + "".join(f"    {line}\n" for line in BODY.splitlines())).blocks[0])
    check(read_block_file(Source("layers.yaml", FILE), "layers"))


def test_returns_and_last_have_short_forms() -> None:
    (block,) = spec("blocks: {b: {step: 'a, b = f(x)', returns: [a, b], last: 'a, b = g(x)'}}").blocks
    assert [name.text for name in block.returns] == ["a", "b"]
    assert len(block.last) == 1
    (block,) = spec("blocks: {b: {step: 'a, b = f(x)', returns: 'a, b'}}").blocks
    assert [name.text for name in block.returns] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (FILE.replace("recdsl: 1\n", ""), ["RD0102 1:1"]),
        (FILE.replace("recdsl: 1", "recdsl: 2"), ["RD0103 1:9"]),
        (FILE.replace("block: layers\n", ""), ["RD0102 1:1"]),
        (FILE.replace("block: layers", "block: other"), ["RD0109 2:8"]),
        (FILE + "loss: mse(y)\n", ["RD0101 15:1"]),
        (FILE.replace("returns: y\n", ""), ["RD0102 2:8"]),
    ],
)
def test_files_that_are_wrong(text: str, found: list[str]) -> None:
    with pytest.raises(SpecError) as caught:
        read_block_file(Source("layers.yaml", text), "layers")
    assert places(caught.value.problems) == found


def test_every_block_of_the_library_reads() -> None:
    shipped = [item.name.removesuffix(".yaml") for item in (files("recdsl") / "specs" / "blocks").iterdir()]
    assert "gru" in shipped
    for name in shipped:
        block = find_block(name, None)
        assert block is not None
        assert block.name.text == name
        assert block.doc


def test_a_file_beside_the_spec_comes_first(tmp_path: Path) -> None:
    beside = str(tmp_path / "spec.yaml")
    assert find_block("layers", beside) is None
    path = tmp_path / "layers.yaml"
    path.write_text(FILE)
    found = find_block("layers", beside)
    assert found is not None
    check(found)
    assert found is find_block("layers", beside)
    path.write_text(FILE.replace("doc: layers", "doc: changed"))
    changed = find_block("layers", beside)
    assert changed is not None
    assert changed.doc == "changed"
    (tmp_path / "gru.yaml").write_text(FILE.replace("block: layers", "block: gru"))
    own = find_block("gru", beside)
    assert own is not None
    assert own.fold is not None


def test_other_files_of_the_name_are_passed_over(tmp_path: Path) -> None:
    beside = str(tmp_path / "spec.yaml")
    library = find_block("gru", None)
    path = tmp_path / "gru.yaml"
    for content in ("recdsl: 1\nstep: h = gru(x)\nloss: mse(h, 0)\n", "", "# block: gru\n", "x" * 2_000_000):
        path.write_text(content)
        assert find_block("gru", beside) is library
    path.unlink()
    path.mkdir()
    assert find_block("gru", beside) is library
    path.rmdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text(FILE.replace("block: layers", "block: gru"))
    path.symlink_to(elsewhere)
    assert find_block("gru", beside) is library
    path.unlink()
    os.mkfifo(path)
    assert find_block("gru", beside) is library


def test_a_broken_block_file_is_an_error_in_that_file(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("recdsl: 1\nblock: mine\nstep: y = 2 x\nreturns: y\n")
    with pytest.raises(SpecError) as caught:
        find_block("mine", str(tmp_path / "spec.yaml"))
    assert places(caught.value.problems) == ["RD0206 3:13"]
    assert caught.value.problems[0].span.source.path.endswith("mine.yaml")


@pytest.mark.parametrize("name", ["../gru", "/etc/passwd", "a.b", "", "gru\0", "h.gru", "gru.yaml", "..", "a" * 300])
def test_names_are_no_paths(name: str, tmp_path: Path) -> None:
    (tmp_path / "gru.yaml").write_text(FILE)
    (tmp_path / "below").mkdir()
    assert find_block(name, str(tmp_path / "below" / "spec.yaml")) is None


def test_texts_have_nothing_beside_them() -> None:
    assert find_block("gru", "<text>") is find_block("gru", None)
