"""RD0001-RD0009: the file itself."""

from __future__ import annotations

from dataclasses import dataclass

from recdsl.diagnostics import Problem


@dataclass(frozen=True)
class MissingFile(Problem):
    code = "RD0001"
    message = "there is no file `{path}`"
    hint = "check the path; a spec given as text instead of a path must hold a line break"
    explain = (
        "The path names nothing. `recdsl.compile` and the command line read a path, or, in Python, the text of a "
        "spec itself: text is recognised by its line breaks, so a one-line text is taken for a path."
    )
    path: str


@dataclass(frozen=True)
class NotAFile(Problem):
    code = "RD0002"
    message = "`{path}` is a {what}, not a file"
    hint = "give the path of one YAML file; the spec of a run folder is the spec.yaml in it"
    explain = (
        "A spec is read from one regular file. Folders, pipes, sockets and devices are refused, because reading "
        "them could block or never end. For example `recdsl check specs/` must be `recdsl check specs/char_gru.yaml`."
    )
    path: str
    what: str


@dataclass(frozen=True)
class FileTooLarge(Problem):
    code = "RD0003"
    message = "the file has {size} bytes; the limit is {limit}"
    hint = "data belongs in data files; a large model belongs in blocks"
    explain = (
        "Spec files are limited to 1 MiB, so that a wrong path (a data set, a checkpoint) is answered at once. "
        "Real specs are a few kilobytes. Large tables are read from the data set, not from the spec."
    )
    size: int
    limit: int


@dataclass(frozen=True)
class NotUtf8(Problem):
    code = "RD0004"
    message = "the file is not UTF-8: byte 0x{byte:02x} cannot stand here"
    hint = "save the file as UTF-8"
    explain = (
        "Specs are UTF-8 text. The place shown is the first byte that is not valid UTF-8. UTF-16 files, often "
        "written by Windows editors, start with the bytes FF FE and are refused in the same way."
    )
    byte: int


@dataclass(frozen=True)
class ControlCharacter(Problem):
    code = "RD0005"
    message = "a control character, {shown}, stands here"
    hint = "delete it"
    explain = (
        "Control characters other than line breaks and tabs are invisible and have no place in a spec. NUL "
        "characters usually mean that the file is binary or UTF-16."
    )
    shown: str


@dataclass(frozen=True)
class EmptyFile(Problem):
    code = "RD0006"
    message = "there is nothing in this file"
    hint = "a spec needs at least `recdsl: 1`, `step:` and `loss:`; `recdsl new` writes one to start from"
    explain = (
        "The file has no content, or only blanks and comments. The smallest spec has the keys `recdsl`, `step` and "
        "`loss`; `recdsl new NAME` writes a working one."
    )


@dataclass(frozen=True)
class Unreadable(Problem):
    code = "RD0007"
    message = "`{path}` cannot be read: {reason}"
    hint = ""
    explain = (
        "The operating system refused to open or read the file; its reason is given in the message. Often the "
        "permissions are missing (`chmod +r FILE`) or the path is malformed."
    )
    path: str
    reason: str
