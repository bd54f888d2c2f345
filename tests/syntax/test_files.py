"""All the ways in which a path can fail to be a spec."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from syntax_support import places

from recdsl.diagnostics import SpecError, headline
from recdsl.syntax.files import open_source
from recdsl.syntax.limits import FILE_BYTES
from recdsl.syntax.spec import read_spec

SPEC = "recdsl: 1\nstep: h = x\nloss: mse(h, 0)\n"


def problems(path: str | Path) -> list[str]:
    with pytest.raises(SpecError) as caught:
        read_spec(str(path))
    return places(caught.value.problems)


def write(folder: Path, content: bytes) -> Path:
    path = folder / "a.yaml"
    path.write_bytes(content)
    return path


def test_a_path_and_a_text_read_alike(tmp_path: Path) -> None:
    path = write(tmp_path, SPEC.encode())
    assert read_spec(str(path)).span.source.path == str(path)
    assert read_spec(SPEC).span.source.path == "<text>"
    assert read_spec(str(path)).name == "a"
    assert read_spec(SPEC).name == "model"


def test_a_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    assert open_source(str(write(tmp_path, b"\xef\xbb\xbf" + SPEC.encode()))).text == SPEC
    assert open_source("\ufeff" + SPEC).text == SPEC
    assert read_spec("\ufeff" + SPEC).span.column == 1


def test_windows_line_ends(tmp_path: Path) -> None:
    body = SPEC.replace("step: h = x", "step: |\n  a = 1\n  h = 2 x").replace("\n", "\r\n")
    assert problems(write(tmp_path, body.encode())) == ["RD0206 4:9"]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "RD0006 1:1"),
        (b"  \n\n# only\n \t\n", "RD0006 1:1"),
        (b"recdsl: 1\nname: \xff\n", "RD0004 2:7"),
        (b"recdsl: 1\nname: \xc3\xa9\xe2\x82", "RD0004 2:8"),
        (SPEC.encode("utf-16"), "RD0004 1:1"),
        (b"recdsl: 1\nname: a\x00b\n", "RD0005 2:8"),
        (b"recdsl: 1\nname: \x1b[2J\n", "RD0005 2:7"),
        (b"recdsl: 1\nname: a\xef\xbb\xbfb\n", "RD0005 2:8"),
        (b"recdsl: 1\rname: a\n", "RD0005 1:10"),
        ("recdsl: 1\nname: a\u2028b\n".encode(), "RD0005 2:8"),
        ("recdsl: 1\nname: a\x85b\n".encode(), "RD0005 2:8"),
        (b"#" * (FILE_BYTES + 1), "RD0003 1:1"),
        (b"\x89PNG\r\n\x1a\n", "RD0004 1:1"),
        (b"recdsl: 1\nsizes:\n\ta: 1\n", "RD0011 3:1"),
        (b"recdsl: 1\nstep: |\n\th = x\n", "RD0011 3:1"),
    ],
)
def test_contents(tmp_path: Path, content: bytes, found: str) -> None:
    assert problems(write(tmp_path, content)) == [found]


def test_a_text_of_the_largest_size_is_read(tmp_path: Path) -> None:
    content = SPEC.encode() + b"#" * (FILE_BYTES - len(SPEC))
    assert read_spec(str(write(tmp_path, content))).name == "a"
    with pytest.raises(SpecError, match="RD0003"):
        read_spec(SPEC + "#" * FILE_BYTES)


def test_things_that_are_no_file(tmp_path: Path) -> None:
    assert problems(tmp_path) == ["RD0002 1:1"]
    assert problems(tmp_path / "missing.yaml") == ["RD0001 1:1"]
    assert problems(write(tmp_path, SPEC.encode()) / "below") == ["RD0001 1:1"]
    assert problems("") == ["RD0006 1:1"]
    assert problems("a" * 5000) == ["RD0007 1:1"]
    assert problems("a\0b") == ["RD0007 1:1"]
    assert problems("/dev/null") == ["RD0002 1:1"]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert problems(pipe) == ["RD0002 1:1"]


def test_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert problems(tmp_path / "a") == ["RD0007 1:1"]


def test_a_link_to_a_spec_is_read(tmp_path: Path) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(write(tmp_path, SPEC.encode()))
    assert read_spec(str(link)).name == "link"


def test_an_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SpecError) as caught:
        open_source(str(tmp_path / "a.yaml"))
    assert "cannot be read: Permission denied" in headline(caught.value.problems[0])


def test_odd_names_of_files(tmp_path: Path) -> None:
    path = tmp_path / "1 ä spec-x.v2.yaml"
    path.write_text(SPEC)
    assert read_spec(str(path)).name == "1___spec-x.v2"
