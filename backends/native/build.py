"""C text -> a loaded library: the system's compiler, and a cache of what it made.

The cache is in the user's own cache folder. Nothing in it is trusted unless folder and file belong to the user, nobody
else may write there, and the file has the checksum that was written down when it was made.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

FLAGS = ("-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast")
WIDE = ("-mprefer-vector-width=512",)
"""For processors that have them, vectors of 512 bits: compilers take half of that by default."""
LINK = ("-std=gnu11", "-shared", "-fPIC", "-fvisibility=hidden", "-w", "-lm")
SHORTER = ("-fno-ipa-cp-clone", "-fno-version-loops-for-strides")
"""For GCC alone: copies of functions and loops, a fifth of the time of compiling, which make nothing faster here."""
SECONDS, PATIENCE = 300, "RECDSL_CC_SECONDS"
"""How long the compiler may take, and the variable of the environment that says otherwise."""
FULL = ("No space left on device", "Disk quota exceeded", "File too large", "Read-only file system")
"""What compilers and linkers pass on of a disk that takes no more."""


class BuildError(Exception):
    """Why there is no library: `code` is stable, the message one line for the user."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code, self.message = code, message


class NativeWarning(UserWarning):
    """Something that the native backend did otherwise than asked for."""


@dataclass(frozen=True)
class Compiler:
    """command: the program, and words that stand before all arguments (`zig cc`)."""

    command: tuple[str, ...]
    version: str

    @property
    def path(self) -> str:
        return self.command[0]

    @property
    def flags(self) -> tuple[str, ...]:
        """Those that other compilers do not know."""
        return SHORTER if "Free Software Foundation" in self.version else ()


def compiler() -> Compiler:
    """`$CC`, else the first of cc, gcc and clang on the path, else the package ziglang. Raises BuildError N1."""
    given = os.environ.get("CC", "").split()
    wanted = [given] if given else [["cc"], ["gcc"], ["clang"]]
    found = next(([path, *words] for name, *words in wanted if (path := shutil.which(name))), None)
    found = found or ([] if given else _packaged())
    if not found:
        names = ", ".join(name for name, *_ in wanted)
        raise BuildError("N1", f"no C compiler ({names} not found; the package `ziglang` has one)")
    return Compiler(tuple(found), _version(tuple(found), os.stat(found[0]).st_mtime_ns))


def _packaged() -> list[str]:
    """The compiler of the package `ziglang`, if it is installed."""
    spec = find_spec("ziglang")
    places = (Path(folder) / "zig" for folder in (spec and spec.submodule_search_locations) or ())
    return next(([str(path), "cc"] for path in places if os.access(path, os.X_OK)), [])


@cache
def _version(command: tuple[str, ...], changed: int) -> str:
    """What a compiler says of itself."""
    try:
        return _run([*command, "--version"], 30).stdout.decode(errors="replace")
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError("N1", f"the C compiler {command[0]} does not run: {error}") from None


def _run(command: list[str], seconds: float) -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(
        command, capture_output=True, timeout=seconds, stdin=subprocess.DEVNULL, env=environment, check=False
    )


@cache
def processor() -> str:
    """What `-march=native` depends on."""
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        kept = [line for line in lines if line.startswith(("vendor_id", "model name", "flags", "Features", "CPU part"))]
        if kept:
            return "\n".join(dict.fromkeys(kept))
    return f"{platform.machine()} {platform.processor()}"


def widest() -> tuple[int, tuple[str, ...]]:
    """Bytes of a vector, and the flags with which compilers use all of them: by themselves they take half of 64."""
    if platform.machine() in ("x86_64", "AMD64") and "avx512f" in processor().split():
        return 64, ("-mprefer-vector-width=512",)
    return 32, ()


# -- cache ------------------------------------------------------------------------------------------------------------
def folder() -> Path:
    """Where libraries are kept."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache") / "recdsl" / "native"


def check_folder(path: Path) -> None:
    """Make it, for this user alone. Raises BuildError N3 where it cannot be used or others could write to it."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for place in (path, path.parent):
            found = os.lstat(place)
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                raise BuildError("N3", f"the cache folder {place} is not a folder of this user")
            if found.st_mode & 0o022:
                os.chmod(place, 0o700)
        for place in path.parent.parents:
            found = os.stat(place)
            open_to_all = found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX
            if open_to_all or found.st_uid not in (0, os.getuid()):
                raise BuildError("N3", f"others can write to {place}, which holds the cache folder")
        os.chmod(path, 0o700)
    except OSError as error:
        raise BuildError("N3", f"the cache folder {path} cannot be used: {error.strerror}") from None


def flags() -> tuple[str, ...]:
    """Of the compiler, for this processor."""
    return (*FLAGS, *(WIDE if "avx512f" in processor() else ()))


def library(source: str, extra: tuple[str, ...] = ()) -> ctypes.CDLL:
    """The compiled and loaded text. Raises BuildError where there is none.

    A file's name has two parts: what is compiled and for which processor, and by what. Without a compiler the first
    part alone decides.
    """
    asked = (*flags(), *extra)
    key = _digest(source, *asked, *LINK, processor(), _recdsl())
    place = folder()
    check_folder(place)
    try:
        tool = compiler()
    except BuildError:
        for made in sorted(place.glob(f"{key}-*.so")):
            if _good(made):
                return _load(made)
        raise
    made = place / f"{key}-{_digest(*tool.command, tool.version, *tool.flags)[:16]}.so"
    with _lock(made.with_suffix(".lock")):
        if not _good(made):
            _build(source, tool, asked, made)
        return _load(made)


def _recdsl() -> str:
    return str(import_module("recdsl").__version__)


def _digest(*parts: str) -> str:
    return sha256("\0".join(parts).encode()).hexdigest()


def _load(made: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(made))
    except OSError as error:
        raise BuildError("N4", f"the compiled library does not load: {error}") from None


def _good(made: Path) -> bool:
    """Whether there is a library as it was made. One that is not is warned about and made anew."""
    note = made.with_suffix(".sha256")
    try:
        for path in (made, note):
            found = os.lstat(path)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
                raise ValueError("belongs to others")
        if sha256(made.read_bytes()).hexdigest() == note.read_text().strip():
            return True
        raise ValueError("is damaged")
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as error:
        warnings.warn(f"N5: {made.name} in the cache {error}; it is made anew", NativeWarning, stacklevel=2)
        return False


@contextmanager
def _lock(path: Path) -> Generator[None]:
    """One process at a time; the kernel ends the lock with its holder."""
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise BuildError("N3", f"the cache folder {path.parent} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _build(source: str, tool: Compiler, flags: tuple[str, ...], made: Path) -> None:
    """Compile beside the target; the checksum is in place before the library is."""
    with suppress(OSError):
        made.unlink(missing_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=made.parent, prefix="build-") as scratch:
            text, out = Path(scratch) / "model.c", Path(scratch) / "model.so"
            text.write_text(source)
            _compile([*tool.command, *flags, *tool.flags, *LINK[:-1], "-o", str(out), str(text), LINK[-1]], out)
            _commit(out, made)
    except OSError as error:
        raise BuildError("N3", f"the cache folder {made.parent} cannot be written: {error.strerror}") from None


def compile_text(text: Path, out: Path) -> None:
    """A library for files of the user's own, beside the cache. Raises BuildError N1 and N2."""
    tool = compiler()
    _compile([*tool.command, *flags(), *tool.flags, *LINK[:-1], "-o", str(out), str(text), LINK[-1]], out)


def seconds() -> float:
    """How long the compiler may take. Raises BuildError N2 for what is no number of seconds."""
    said = os.environ.get(PATIENCE, "")
    try:
        found = float(said or SECONDS)
    except ValueError:
        found = 0.0
    if not 0 < found < threading.TIMEOUT_MAX:
        raise BuildError("N2", f"{PATIENCE} is `{said}`, not a number of seconds")
    return found


def _compile(command: list[str], out: Path) -> None:
    limit = seconds()
    try:
        done = _run(command, limit)
    except subprocess.TimeoutExpired:
        more = f"{PATIENCE}={max(1, round(4 * limit))} gives it more time, the backend `torch` needs none"
        raise BuildError("N2", f"the C compiler took more than {limit:g} s and was stopped ({more})") from None
    except (OSError, subprocess.SubprocessError) as error:
        raise BuildError("N2", f"the C compiler did not finish: {error}") from None
    if done.returncode or not out.exists():
        lines = done.stderr.decode(errors="replace").splitlines()
        full = next((reason for reason in FULL if any(reason in line for line in lines)), None)
        if full:
            raise BuildError("N3", f"the folder {out.parent.parent} cannot be written: {full}")
        said = next((line for line in lines if "error" in line), "no message")
        killed = f"was killed by signal {-done.returncode}" if done.returncode < 0 else f"failed: {said[:200]}"
        raise BuildError("N2", f"the C compiler {killed}")


def _commit(out: Path, made: Path) -> None:
    """Checksum, then library, each whole or not at all, also after a loss of power."""
    data = out.read_bytes()
    replace(made.with_suffix(".sha256"), sha256(data).hexdigest().encode() + b"\n")
    replace(made, data)
    handle = os.open(made.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace(target: Path, data: bytes) -> None:
    """The file with these contents, whole or as it was."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=".new-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def facts() -> tuple[dict[str, str], list[str]]:
    """For `recdsl doctor`: compiler and cache, and what is amiss with them."""
    found: dict[str, str] = {}
    problems: list[str] = []
    try:
        tool = compiler()
        version = tool.version.splitlines()[0] if tool.version else "no version"
        found["C compiler"] = f"{' '.join(tool.command)} ({version})"
    except BuildError as error:
        found["C compiler"] = f"none: {error.message}; models compiled for `native` run on torch"
    place = folder()
    found["native cache"] = str(place)
    if place.exists():
        try:
            check_folder(place)
            kept = list(place.glob("*.so"))
            size = sum(path.stat().st_size for path in kept)
            found["native cache"] = f"{place} ({len(kept)} libraries, {size / 2**20:.1f} MiB)"
        except BuildError as error:
            problems.append(error.message)
    return found, problems
