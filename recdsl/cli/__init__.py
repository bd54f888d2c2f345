"""The command line. One file a command; no command imports torch before it needs it."""

from __future__ import annotations

import gc
import os
import sys

INTERRUPTED = 130


def main() -> None:
    """Entry point of the `recdsl` script. Ends the process with the status of the command."""
    # What imports make stays to the end: to look through it for cycles takes a sixth of a short command's time.
    # Longer commands turn this on again (`frame.command`).
    gc.disable()
    # torch reads it when it is imported: notes of its allocator would lie between the lines of a report.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    try:
        # Inside, so that Ctrl-C during the imports ends as at any other time.
        from recdsl.cli.app import run

        run(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    finally:
        gc.freeze()  # nor is the end a time to look
        gc.enable()
