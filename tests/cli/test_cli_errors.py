"""How commands end when something is wrong: statuses, messages, never a traceback unless asked for."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from cli_support import COPY, ROOT, TINY, process, run, tiny
from typer.testing import CliRunner

from recdsl.cli import frame
from recdsl.errors.runs import NoCheckpoint, RunError


def _failing(error: BaseException) -> typer.Typer:
    app = typer.Typer()

    @frame.command(app, "work")
    def work() -> int:  # pyright: ignore[reportUnusedFunction]
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (ValueError("h[t-1] is [/b]"), 70, "internal error: ValueError: h[t-1] is [/b]; please report it"),
        (MemoryError(), 1, "out of memory"),
        (OSError(errno.ENOSPC, "No space left"), 1, "error: cannot write the output: No space left"),
        (OSError(errno.ENODEV, "No such device"), 70, "internal error"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (frame.BadInput("no \x1b[31m"), 2, "error: no \\x1b[31m"),
        (RunError(NoCheckpoint("x", "y")), 2, "error[RD0704]"),
        (RecursionError("deep"), 70, "internal error"),
    ],
)
def test_statuses(error: BaseException, status: int, words: str) -> None:
    done = CliRunner().invoke(_failing(error), [])
    assert done.exit_code == status
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame.session, "debug", True)
    done = CliRunner().invoke(_failing(ValueError("x")), [])
    assert done.exit_code == 70
    assert "Traceback" in done.stderr


def test_debug_may_stand_anywhere() -> None:
    done = process(["check", "missing.yaml", "--debug"])
    assert done.status == 2
    assert "Traceback" in done.err


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["check"],
        ["check", "--nonsense", COPY],
        ["check", "sizes.hidden=3"],
        ["train"],
        ["train", "--resume", "missing/run"],
        ["eval", "missing.yaml"],
        ["eval", COPY, "--batches", "0"],
        ["gradcheck", COPY, "--steps", "100000"],
        ["compile", COPY, "-o", COPY],
        ["compile", COPY, "-o", str(ROOT)],
        ["check", ""],
        ["check", "\x00"],
        ["check", str(ROOT)],
    ],
)
def test_bad_input(words: list[str]) -> None:
    done = run(*words)
    assert done.status == 2, done.err
    assert done.err
    assert "Traceback" not in done.err


def test_a_file_that_cannot_be_written() -> None:
    done = run("compile", COPY, "-o", "/nonexistent/model.py")
    assert done.status == 1
    assert "/nonexistent/model.py" in done.err


def test_a_reader_that_goes_away_is_no_error() -> None:
    """As in `recdsl compile spec.yaml | head -1`."""
    script = f"{shlex.quote(sys.executable)} -m recdsl compile {shlex.quote(COPY)} | head -1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.startswith('"""Generated')
    assert "Traceback" not in done.stderr
    assert "error" not in done.stderr


def test_a_terminal_without_unicode(tmp_path: Path) -> None:
    done = process(["check", tiny(tmp_path, TINY + "naïve: ∂\n")], PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    assert done.status == 2
    assert "RD0101" in done.err


def test_interruption_ends_with_130(tmp_path: Path) -> None:
    """Of a command that is not training: it waits for the rest of its input."""
    process_ = subprocess.Popen(
        [sys.executable, "-m", "recdsl", "check", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    with process_:
        assert process_.stdin is not None
        process_.stdin.write(b"#" * 2**18)  # more than a pipe holds: once it is written, the command is reading
        process_.send_signal(signal.SIGINT)
        assert process_.wait(30) == 130
        assert process_.stderr is not None
        assert b"Traceback" not in process_.stderr.read()


@pytest.mark.parametrize("command", ["train", "eval"])
def test_a_gpu_that_is_not_there(command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    done = run(command, COPY, "train.device=cuda", "train.steps=1")
    assert done.status == 2
    assert "error[RD0713]: `train: {device: cuda}`, but torch" in done.err
    assert "help: write `device: cpu`" in done.err


def test_explanations_show_braces_as_they_are_written() -> None:
    assert "`train: {clip: 1.0}`" in run("explain", "RD0701").out


@pytest.mark.parametrize("words", [["eval", "-", "--batches", "1"], ["export", "-", "-o", "step.pt2"]])
def test_specs_on_standard_input(words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    done = run(*words, text=Path(COPY).read_text())
    assert done.status == 0, done.err


def test_bounds_are_written_out() -> None:
    assert "at most 10,000,000, not `100000000`" in run("check", COPY, "train.batch=100000000").err


def test_a_run_folder_is_no_spec(tmp_path: Path) -> None:
    assert "the spec.yaml in it" in run("check", str(tmp_path)).err
