"""The command line. One file a command; no command imports torch before it needs it."""

from __future__ import annotations

import sys

INTERRUPTED = 130


def main() -> None:
    """Entry point of the `recdsl` script. Ends the process with the status of the command."""
    try:
        # Inside, so that Ctrl-C during the imports ends as at any other time.
        from recdsl.cli.app import run

        run(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
