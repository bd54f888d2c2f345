"""Compiler and cache of the native backend: what goes wrong there costs speed, never a result or a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from backend_support import normal
from native_support import SPEC

from recdsl.backends.native import build
from recdsl.backends.native.build import BuildError, NativeWarning
from recdsl.driver import compile as compile_spec

pytestmark = pytest.mark.compiler
TEXT = '__attribute__((visibility("default"))) long answer(void) { return 42; }\n'


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache of its own, and a compiler that has not been asked yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    for name in [name for name in sys.modules if name.startswith("recdsl_native_")]:
        del sys.modules[name]
    return tmp_path / "recdsl" / "native"


def answer(source: str = TEXT) -> int:
    return build.library(source).answer()


def loss(expected: str) -> float:
    """The loss of the spec, compiled for this backend; `expected` begins what runs it."""
    model: Any = compile_spec(SPEC, "native", torch.float64)
    assert model.recdsl_runs.startswith(expected), model.recdsl_runs
    result = model({"x": normal(1, 5, 3, 2), "y": normal(2, 5, 3, 2)})
    result.loss.backward()
    return float(result.loss.detach())


@pytest.fixture
def right() -> float:
    model: Any = compile_spec(SPEC, dtype=torch.float64)
    return float(model({"x": normal(1, 5, 3, 2), "y": normal(2, 5, 3, 2)}).loss.detach())


def falls_back(code: str, right: float, words: str = "") -> None:
    """One warning with a stable code, and the same loss."""
    with pytest.warns(NativeWarning, match=f"{code}: .*{words}.*torch backend") as seen:
        assert abs(loss("torch") - right) < 1e-12
    assert len(seen) == 1


def script(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "fakecc"
    path.write_text("#!/bin/sh\n" + text)
    path.chmod(0o755)
    return path


def test_compiles_and_is_cached(cache: Path, monkeypatch: pytest.MonkeyPatch):
    """What is there is not compiled again, and needs no compiler at all."""
    assert answer() == 42
    assert (cache.stat().st_mode & 0o777) == 0o700
    assert sorted(path.suffix for path in cache.iterdir()) == [".lock", ".sha256", ".so"]

    def never(command: list[str], out: Path) -> None:
        raise AssertionError("compiled again")

    monkeypatch.setattr(build, "_compile", never)
    assert answer() == 42
    monkeypatch.setenv("PATH", "")
    assert answer() == 42
    with pytest.raises(BuildError, match="N1"):
        answer(TEXT + "\n")


def test_whole_model(right: float):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert abs(loss("native") - right) < 1e-12


def test_no_compiler(monkeypatch: pytest.MonkeyPatch, right: float, tmp_path: Path):
    monkeypatch.setenv("PATH", str(tmp_path))
    falls_back("N1", right)


def test_wanted_compiler_is_missing(monkeypatch: pytest.MonkeyPatch, right: float):
    monkeypatch.setenv("CC", "no-such-compiler")
    falls_back("N1", right)


def test_the_compiler_of_a_package(monkeypatch: pytest.MonkeyPatch, right: float, tmp_path: Path):
    """Where the path has none, `zig cc` of the package ziglang; words behind `$CC` are passed on in the same way."""
    real = build.compiler().path
    package = tmp_path / "packages" / "ziglang"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    text = f'[ "$1" = cc ] || exit 1\nshift\nPATH=/usr/bin:/bin exec {real} "$@"\n'
    zig = script(package, text).rename(package / "zig")
    monkeypatch.syspath_prepend(package.parent)
    assert build.compiler().path == real
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.compiler().command == (str(zig), "cc")
    assert str(zig) in build.facts()[0]["C compiler"]
    assert abs(loss("native") - right) < 1e-12
    monkeypatch.setenv("CC", f"{zig} cc -g0")
    assert build.compiler().command == (str(zig), "cc", "-g0")
    assert answer() == 42


def test_compiler_fails(monkeypatch: pytest.MonkeyPatch, right: float, tmp_path: Path):
    monkeypatch.setenv("CC", str(script(tmp_path, '[ "$1" = --version ] && exit 0\necho "error: no" >&2; exit 1\n')))
    falls_back("N2", right)


def test_a_model_says_what_it_runs_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert "backend=native" in repr(compile_spec(SPEC, "native", torch.float64))
    monkeypatch.setenv("CC", str(script(tmp_path, '[ "$1" = --version ] && exit 0\nexit 1\n')))
    for name in [name for name in sys.modules if name.startswith("recdsl_native_")]:
        del sys.modules[name]
    with pytest.warns(NativeWarning, match="N2"):
        model = compile_spec(SPEC, "native", torch.float64)
    assert "backend=torch" in repr(model)


def test_compiler_is_killed(monkeypatch: pytest.MonkeyPatch, right: float, tmp_path: Path):
    monkeypatch.setenv("CC", str(script(tmp_path, '[ "$1" = --version ] && exit 0\nkill -9 $$\n')))
    falls_back("N2", right)


def test_compiler_hangs(monkeypatch: pytest.MonkeyPatch, right: float, tmp_path: Path):
    monkeypatch.setenv("CC", str(script(tmp_path, '[ "$1" = --version ] && exit 0\nexec sleep 60\n')))
    monkeypatch.setattr(build, "SECONDS", 0.2)
    falls_back("N2", right, "took more than 0.2 s and was stopped .RECDSL_CC_SECONDS=1 gives it more time, the backend")


def test_the_compilers_time_is_a_setting(monkeypatch: pytest.MonkeyPatch, right: float, tmp_path: Path):
    monkeypatch.setenv("CC", str(script(tmp_path, '[ "$1" = --version ] && exit 0\nexec sleep 60\n')))
    monkeypatch.setenv("RECDSL_CC_SECONDS", "0.1")
    falls_back("N2", right, "took more than 0.1 s")
    for wrong in ("soon", "-1", "nan", "inf"):
        monkeypatch.setenv("RECDSL_CC_SECONDS", wrong)
        with pytest.raises(build.BuildError, match=f"RECDSL_CC_SECONDS is `{wrong}`"):
            build.seconds()


def test_cache_is_a_file(cache: Path, right: float):
    cache.parent.parent.mkdir(exist_ok=True)
    cache.parent.write_text("in the way")
    falls_back("N3", right)


def test_cache_is_a_link(cache: Path, right: float, tmp_path: Path):
    """A planted link is not followed."""
    (tmp_path / "elsewhere").mkdir()
    cache.parent.mkdir()
    cache.symlink_to(tmp_path / "elsewhere")
    falls_back("N3", right)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_disk_is_full(monkeypatch: pytest.MonkeyPatch, right: float, cache: Path):
    def full(target: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(build, "replace", full)
    falls_back("N3", right)
    assert not list(cache.glob("*.so"))


def test_disk_is_full_for_the_compiler(monkeypatch: pytest.MonkeyPatch, right: float, tmp_path: Path):
    """What a linker says of it comes before its own `error`."""
    said = "collect2: error: ld returned 1\\nld: final link failed: No space left on device"
    monkeypatch.setenv("CC", str(script(tmp_path, f'[ "$1" = --version ] && exit 0\nprintf "{said}" >&2; exit 1\n')))
    with pytest.warns(NativeWarning, match="N3: .*cannot be written: No space left on device"):
        assert abs(loss("torch") - right) < 1e-12


def test_a_folder_that_others_can_write_to(monkeypatch: pytest.MonkeyPatch, right: float, tmp_path: Path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared))
    falls_back("N3", right)


@pytest.mark.parametrize("harm", ["truncate", "poison", "note", "link", "mode"])
def test_a_damaged_library_is_made_anew(cache: Path, harm: str, tmp_path: Path):
    assert answer() == 42
    (made,) = cache.glob("*.so")
    data = made.read_bytes()
    if harm == "truncate":
        made.unlink()  # this process has it mapped
        made.write_bytes(data[: len(data) // 2])
    elif harm == "poison":
        made.unlink()
        made.write_bytes(data.replace(b"answer", b"beswer"))
    elif harm == "note":
        made.with_suffix(".sha256").write_text("0" * 64)
    elif harm == "link":
        (tmp_path / "other.so").write_bytes(data)
        made.unlink()
        made.symlink_to(tmp_path / "other.so")
    else:
        made.chmod(0o777)
    with pytest.warns(NativeWarning, match="N5: .*made anew"):
        assert answer() == 42
    assert not made.is_symlink()
    assert made.stat().st_mode & 0o022 == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert answer() == 42


def test_not_a_library(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """A compiler that leaves rubbish: no crash, and its name is in the key, so that the next one starts anew."""
    text = '[ "$1" = --version ] && exit 0\nwhile [ "$1" != -o ]; do shift; done\necho rubbish > "$2"\n'
    monkeypatch.setenv("CC", str(script(tmp_path, text)))
    with pytest.raises(BuildError, match="N4"):
        answer()
    monkeypatch.delenv("CC")
    assert answer() == 42


RACE = """
import sys
from recdsl.backends.native import build
assert build.library({text!r}).answer() == 42
"""


def environment(tmp_path: Path, compiler: Path | None = None) -> dict[str, str]:
    root = str(Path(build.__file__).parents[3])
    found = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    return found if compiler is None else {**found, "CC": str(compiler)}


def test_eight_processes_at_once(cache: Path, tmp_path: Path):
    """All of them get the library; it is compiled once."""
    count = tmp_path / "count"
    real = build.compiler().path
    text = f'[ "$1" = --version ] && exec {real} "$@"\necho one >> {count}\nexec {real} "$@"\n'
    place = environment(tmp_path, script(tmp_path, text))
    command = [sys.executable, "-W", "error", "-c", RACE.format(text=TEXT)]
    running = [subprocess.Popen(command, env=place) for _ in range(8)]
    assert [process.wait(timeout=120) for process in running] == [0] * 8
    assert count.read_text() == "one\n"
    assert not list(cache.glob(".new-*"))


def test_a_killed_build_leaves_nothing_bad(cache: Path, tmp_path: Path):
    """Killed while its compiler runs: the lock is gone with it, and the next build is as the first."""
    begun = tmp_path / "begun"
    slow = script(tmp_path, f'[ "$1" = --version ] && exit 0\n: > {begun}\nexec sleep 5\n')
    command = [sys.executable, "-c", RACE.format(text=TEXT)]
    process = subprocess.Popen(command, env=environment(tmp_path, slow), start_new_session=True)
    deadline = time.monotonic() + 60
    while not begun.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not list(cache.glob("*.so"))
    assert subprocess.run(command, env=environment(tmp_path), check=False, timeout=60).returncode == 0
    assert answer() == 42


def test_user_text_stays_out_of_the_code(right: float):
    """Names of the spec are in comments, with everything escaped that could end one."""
    from recdsl.backends.native.texts import comment

    assert comment("a*/ #include\n??/\\") == "a<2a><2f> <23>include<a><3f><3f><2f><5c>"
    model: Any = compile_spec(SPEC.replace("recdsl: 1", "recdsl: 1\nname: hostile"), "native", torch.float64)
    outside = "\n".join(line for line in model.recdsl_c.splitlines() if "/*" not in line)
    assert "hostile" not in outside
    assert "past0" not in outside
