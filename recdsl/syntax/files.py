"""A path or a text to a `Source`; all the ways in which reading a file can fail are problems with a place."""

from __future__ import annotations

import os
import re
import stat

from recdsl.diagnostics import SpecError
from recdsl.errors import files as errors
from recdsl.source import Source, Span
from recdsl.syntax.limits import FILE_BYTES

# Tabs and line ends are judged where they stand. The rarer line ends (a lone CR, NEL, LS, PS), which editors and YAML
# count differently, are refused, so that line numbers mean the same everywhere.
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff\ufeff\ufffe\uffff]|\r(?!\n)")
_KINDS = {
    stat.S_IFDIR: "directory",
    stat.S_IFIFO: "pipe",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "device",
    stat.S_IFBLK: "device",
}


def open_source(path_or_text: str) -> Source:
    """A text that holds a line break is the spec itself; anything else is a path. Raises SpecError."""
    if "\n" in path_or_text or path_or_text == "":
        return checked(Source("<text>", path_or_text.removeprefix("\ufeff")))
    return read_file(path_or_text)


def read_file(path: str, *, follow: bool = True) -> Source:
    """Read one regular file of UTF-8 text. Raises SpecError."""
    place = Span(Source(path, ""), 0, 0)
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0)
    try:
        # Without O_NONBLOCK, opening a pipe would wait for a writer; the checks then use this one descriptor.
        descriptor = os.open(path, flags if follow else flags | getattr(os, "O_NOFOLLOW", 0))
    except (FileNotFoundError, NotADirectoryError) as missing:
        raise SpecError([errors.MissingFile(place, path)]) from missing
    except (OSError, ValueError) as error:
        raise SpecError([errors.Unreadable(place, path, _reason(error))]) from error
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise SpecError([errors.NotAFile(place, path, _KINDS.get(stat.S_IFMT(mode), "special file"))])
        with os.fdopen(os.dup(descriptor), "rb") as file:
            content = file.read(FILE_BYTES + 1)
        size = max(len(content), os.fstat(descriptor).st_size)
    except OSError as error:
        raise SpecError([errors.Unreadable(place, path, _reason(error))]) from error
    finally:
        os.close(descriptor)
    if len(content) > FILE_BYTES:
        raise SpecError([errors.FileTooLarge(place, size, FILE_BYTES)])
    return checked(_decode(path, content))


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _decode(path: str, content: bytes) -> Source:
    content = content.removeprefix(b"\xef\xbb\xbf")
    try:
        return Source(path, content.decode("utf-8"))
    except UnicodeDecodeError as error:
        # The bytes before the bad one are good; the rest is kept only so that the line can be shown.
        start = len(content[: error.start].decode("utf-8"))
        source = Source(path, content.decode("utf-8", "backslashreplace"))
        problem = errors.NotUtf8(Span(source, start, start + 4), content[error.start])
        raise SpecError([problem]) from error


def checked(source: Source) -> Source:
    """Refuse empty, oversized and binary texts. Raises SpecError."""
    size = len(source.text.encode("utf-8", "surrogatepass"))
    if size > FILE_BYTES:
        raise SpecError([errors.FileTooLarge(Span(source, 0, 0), size, FILE_BYTES)])
    control = _CONTROL.search(source.text)
    if control is not None:
        shown = f"U+{ord(control.group()):04X}"
        raise SpecError([errors.ControlCharacter(Span(source, control.start(), control.end()), shown)])
    if not any(line.strip() and not line.lstrip().startswith("#") for line in source.text.split("\n")):
        raise SpecError([errors.EmptyFile(Span(source, 0, 0))])
    return source
