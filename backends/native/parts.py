"""What is known of C texts without writing any: so that a model that was compiled before needs no compiler."""

from __future__ import annotations

LATER = "_outputs"
"""The end of entries for gradients that arrive at outputs, which most programs never ask for."""


def head(*, single: bool) -> str:
    """The lines that say the precision."""
    return f"#define REAL {'float' if single else 'double'}\n#define SINGLE {int(single)}\n"
