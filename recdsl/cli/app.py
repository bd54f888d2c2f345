"""The app with all its commands."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from io import TextIOWrapper

from recdsl.cli import check, compare, compile, data, doctor, evaluate, explain, export, gradcheck, new, schema, train
from recdsl.cli.frame import app, as_note, session

COMMANDS = (new, check, compile, explain, train, evaluate, gradcheck, compare, export, schema, data, doctor)
"""In the order of the help text, which is the order of work."""

for _module in COMMANDS:
    _module.add(app)


def run(arguments: Sequence[str]) -> None:
    """Run a command line; it ends by SystemExit."""
    session.debug = "--debug" in arguments
    for stream in (sys.stdout, sys.stderr):
        # A file name that is not valid text gets escapes rather than a crash.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = as_note
    app([word for word in arguments if word != "--debug"], prog_name="recdsl")
