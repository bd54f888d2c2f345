"""Data sources, one a file: `DECLARATION`, `GENERATED` (needs no file) and `open_source(options, place)`."""
