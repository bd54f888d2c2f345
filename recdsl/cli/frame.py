"""What all commands share: the app, how they end, and how they speak.

Data goes to stdout and everything else to stderr. Rich markup is off throughout: it would eat the `[t-1]` of an
equation. A command returns its exit status.
"""

from __future__ import annotations

import errno
import gc
import json
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, Any, ParamSpec

import typer

from recdsl.cli import INTERRUPTED

OK, FAILED, BAD_INPUT, INTERNAL = 0, 1, 2, 70
STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""Errors of a disk, which no spec and no program is to blame for."""

HELP = "Recurrent networks as short specs, compiled to PyTorch, with the credit-assignment rule as part of the model."
EPILOG = """Overrides: `key=value` arguments change a spec, such as sizes.hidden=64 train.lr=1e-3 credit=bptt.
Exit status: 0 ok, 1 failed run, 2 bad input, 130 interrupted.
"""

app = typer.Typer(
    name="recdsl",
    help=HELP,
    epilog=EPILOG,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SpecArgument = Annotated[str, typer.Argument(metavar="SPEC", help="A YAML file, or - for standard input.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Changes to the spec.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Backend = Annotated[
    str | None, typer.Option("--backend", metavar="auto|native|torch", help="What runs the loops (train.backend).")
]
Trust = Annotated[bool, typer.Option("--trust", help="Allow the spec to import and call your own data function.")]

P = ParamSpec("P")


@dataclass
class Session:
    """What holds for the whole process."""

    debug: bool = False


session = Session()


class BadInput(Exception):
    """An argument that makes no sense; its text is the message. Exit status 2."""


def _version(wanted: bool) -> None:
    if wanted:
        from recdsl import __version__

        typer.echo(f"recdsl {__version__}")
        raise typer.Exit(OK)


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    """Options of all commands."""
    del version, debug  # seen to by `_version` and, so that it may stand anywhere, by `main`


def command(group: typer.Typer, name: str, brief: bool = False) -> Callable[[Callable[P, int]], Callable[P, None]]:
    """Register a function that returns an exit status; its docstring is the help text.

    brief: it ends so soon that looking for cycles of garbage costs more than they do (`main` has turned that off).
    """

    def register(work: Callable[P, int]) -> Callable[P, None]:
        @wraps(work)
        def run(*args: P.args, **kwargs: P.kwargs) -> None:
            if not brief:
                gc.enable()
            raise typer.Exit(guarded(lambda: work(*args, **kwargs)))

        group.command(name)(run)
        return run

    return register


def as_note(message: Warning | str, category: type[Warning], *_where: object) -> None:
    """Warnings as notes, without the place in the code that issued them."""
    from recdsl.diagnostics import visible

    complain(f"note: {visible(str(message))}")


def guarded(work: Callable[[], int]) -> int:
    """The status of some work; what it raises becomes a message and a status."""
    try:
        return work()
    except BrokenPipeError:
        raise  # the reader has gone: the app ends quietly
    except KeyboardInterrupt:
        complain("interrupted")
        return INTERRUPTED
    except Exception as error:
        return report(error)


def report(error: Exception) -> int:
    """Say what went wrong, and the status that it ends with."""
    from recdsl.diagnostics import SpecError, render, visible
    from recdsl.errors.runs import RunError

    if session.debug:
        complain("".join(traceback.format_exception(error)).rstrip())
    if isinstance(error, SpecError):
        complain(render(error.problems))
        count = len(error.problems)
        if count > 1:
            complain(f"\n{count} errors")
        return BAD_INPUT
    if isinstance(error, RunError):
        complain("\n".join(map(visible, str(error).splitlines())))
        return error.status
    if isinstance(error, BadInput):
        complain(f"error: {visible(str(error))}")
        return BAD_INPUT
    if isinstance(error, MemoryError):
        complain("error: out of memory; use smaller sizes, or a smaller batch")
        return FAILED
    if isinstance(error, OSError) and error.errno in STORAGE:
        where = error.filename or "the output"
        complain(f"error: cannot write {visible(str(where))}: {error.strerror}")
        return FAILED
    what = visible(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")
    complain(f"internal error: {what}; please report it with the spec (--debug shows the traceback)")
    return INTERNAL


def complain(text: str) -> None:
    """To stderr."""
    typer.echo(text, err=True)


def say(text: str) -> None:
    """To stdout."""
    typer.echo(text)


def say_json(value: Any) -> None:
    """Data to stdout. Numbers that JSON does not have become null."""
    typer.echo(json.dumps(finite(value), indent=1, ensure_ascii=False))


def finite(value: Any) -> Any:
    """The value with nan and infinities replaced by None."""
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {str(key): finite(item) for key, item in value.items()}  # type: ignore[misc]
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]  # type: ignore[misc]
    return value


def with_backend(overrides: list[str] | None, backend: str | None) -> list[str]:
    """The overrides, and the option as one."""
    return [*(overrides or ()), *([f"train.backend={backend}"] if backend is not None else ())]


def spec_text(spec: str) -> str:
    """The path, or, for `-`, the text on standard input."""
    if spec != "-":
        return spec
    text = sys.stdin.read(2**21)
    return text if text.endswith("\n") else text + "\n"
