"""The command line. One file a command; this one calls them. No command imports torch before it needs it."""

from __future__ import annotations

import sys

from recdsl.cli import check, compile, data, doctor, evaluate, explain, export, gradcheck, new, schema, train
from recdsl.cli.frame import INTERRUPTED, app, session

__all__ = ["app", "main"]

COMMANDS = (new, check, compile, explain, train, evaluate, gradcheck, export, schema, data, doctor)
"""In the order of the help text, which is the order of work."""

for _module in COMMANDS:
    _module.add(app)


def main() -> None:
    """Entry point of the `recdsl` script. Ends the process with the status of the command."""
    arguments = sys.argv[1:]
    session.debug = "--debug" in arguments
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character gets its escape rather than a crash.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        app([word for word in arguments if word != "--debug"], prog_name="recdsl")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
