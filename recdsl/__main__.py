"""`python -m recdsl`."""

from recdsl.cli import main

main()
