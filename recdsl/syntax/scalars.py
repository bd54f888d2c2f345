"""YAML 1.2 core scalars (PyYAML would apply YAML 1.1: `1e-3` text, `no` false, `017` fifteen)."""

from __future__ import annotations

import math
import re

_INT = re.compile(r"[-+]?[0-9]+(?:_[0-9]+)*")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9]+(?:_[0-9]+)*(?:\.(?:[0-9]+(?:_[0-9]+)*)?)?|\.[0-9]+(?:_[0-9]+)*)(?:[eE][-+]?[0-9]+)?"
)
_OTHER_BASE = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_INFINITE = re.compile(r"[-+]?\.(?:inf|Inf|INF)")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


def is_number(text: str) -> bool:
    """Whether the text has the form of a number, of whatever length."""
    return bool(_INT.fullmatch(text) or _FLOAT.fullmatch(text) or _OTHER_BASE.fullmatch(text))


def number(text: str) -> int | float:
    """The value of a text for which `is_number` holds; digits may be grouped by `_`."""
    if _OTHER_BASE.fullmatch(text):
        return int(text, 0)
    return int(text) if _INT.fullmatch(text) else float(text)


def resolve(text: str) -> int | float | str | bool | None:
    """The value of a plain scalar whose length has been bounded."""
    if text in _WORDS:
        return _WORDS[text]
    if is_number(text):
        return number(text)
    if _INFINITE.fullmatch(text):
        return -math.inf if text.startswith("-") else math.inf
    return math.nan if text in (".nan", ".NaN", ".NAN") else text
