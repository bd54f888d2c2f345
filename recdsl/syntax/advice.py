"""What an unexpected token or character most likely means, and what to write instead."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

_OPERATORS = ("PLUS", "MINUS", "STAR", "SLASH", "MATMUL", "PERCENT", "POWER", "COMPARE", "AND", "OR", "DOT")
_ENDS_VALUE = ("NAME", "NUMBER", "RPAR", "RSQB", "WORD", "SIGNED", "STRING", "DELAY")
_SHOWN = {
    "EQUAL": "`=`",
    "COMMA": "`,`",
    "RPAR": "`)`",
    "RSQB": "`]`",
    "SEMICOLON": "`;`",
    "TILDE": "`~`",
    "$END": "the end of the line",
}
_CHARACTERS = {
    "^": "powers are `x ** 2`",
    "{": "lists are `[a, b]`, and brackets in expressions are round",
    "}": "lists are `[a, b]`, and brackets in expressions are round",
    "&": "write `and`",
    "|": "write `or`; the absolute value is `abs(x)`",
    "!": "write `not x`, or `a != b`",
    '"': "equations hold no quoted text",
    "'": "equations hold no quoted text; a transpose is `M.T`",
    ":": "a range is `slice(z, axis=hid, start=0, size=half)`; values are assigned by `=`",
    "?": "a choice is `where(condition, a, b)`",
    "\\": "a line goes on inside brackets; no backslash is needed",
    "$": "",
    "`": "",
    "~": "`~` stands in `params` only; write `not x`",
}
_LOOKALIKES = {
    "\u2212": "write `-`",
    "\u2013": "write `-`",
    "\u2014": "write `-`",
    "\u00b7": "write `*`",
    "\u00d7": "write `*`",
    "\u22c5": "write `*`",
    "\u2299": "the elementwise product is `*`",
    "\u2297": "the outer product is `*` of values with different axes",
    "\u00f7": "write `/`",
    "\u00b2": "write `** 2`",
    "\u00b3": "write `** 3`",
    "\u2264": "write `<=`",
    "\u2265": "write `>=`",
    "\u2260": "write `!=`",
    "\u221a": "write `sqrt(x)`",
    "\u03a3": "write `sum(x, axis=...)`",
    "\u2211": "write `sum(x, axis=...)`",
    "\u00a0": "it looks like a blank; write a plain one",
    "\u2190": "write `=`",
}


def of_character(char: str) -> str:
    """Advice on an ASCII character that no token of an equation begins with."""
    return _CHARACTERS.get(char, "")


def in_call(char: str) -> str:
    """Advice on an ASCII character that no token of `data`, `credit` or `train` begins with."""
    if char in "'\"":
        return "this quote is never closed"
    return "put text that begins with a digit in quotes" if char.isdigit() else "no arithmetic here; put text in quotes"


def of_unicode(char: str) -> tuple[str, str]:
    """How to show a non-ASCII character, and what to do about it."""
    name = unicodedata.name(char, "without a name")
    shown = f"U+{ord(char):04X} {name}"
    if char in _LOOKALIKES:
        return shown, _LOOKALIKES[char]
    base = unicodedata.normalize("NFKD", char)[0]
    if base.isascii() and base.isalnum():
        return shown, f"write `{base}`"
    if char.isalpha() and "GREEK" in name:
        letter = name.split(" WITH ")[0].split()[-1].lower().replace("lamda", "lambda")
        return shown, f"write names in ASCII, such as `{letter}`"
    return shown, "write names in ASCII" if char.isalpha() else "delete or replace it"


def expected(accepted: Sequence[str]) -> str:
    """The words for a set of terminals."""
    words: list[str] = []
    if {"NUMBER", "SIGNED"} & set(accepted):
        words.append("a value")
    elif {"NAME", "WORD"} & set(accepted):
        words.append("a name")
    if "STAR" in accepted:
        words.append("an operator")
    words.extend(shown for key, shown in _SHOWN.items() if key in accepted)
    if "LSQB" in accepted and not words:
        words.append("`[`")
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words) or "something else"


def of_token(before: Sequence[tuple[str, str]], kind: str, text: str, following: str) -> str:
    """The likely cause of an unexpected token, from the (kind, text) of the tokens before it."""
    previous, shown = before[-1] if before else ("", "")
    if previous in _ENDS_VALUE and kind in ("NAME", "NUMBER", "LPAR", "WORD", "SIGNED"):
        return _missing_operator(before, kind, text)
    if kind == "EQUAL":
        return _equals(previous, shown)
    if previous == "SLASH" and kind == "SLASH":
        return "there is no `//`; sizes divide exactly by `/`"
    if previous == "POWER" and kind == "STAR":
        return "powers are `x ** 2`"
    if kind == "COMMA" and previous in ("COMMA", "LPAR", "LSQB"):
        return "a value is missing before `,`"
    if kind == "COMMA":
        return "to concatenate write `[a; b]`; arguments stand in a call's brackets"
    if kind == "SEMICOLON":
        return "one assignment a line; `;` concatenates inside `[a; b]`"
    if kind == "COMPARE" and previous == "EQUAL":
        return "comparisons are `<`, `<=`, `>`, `>=`, `==` and `!=`"
    if kind == "RPAR" and previous in _OPERATORS:
        return f"a value is missing after `{shown}`"
    if kind == "$END":
        return f"a value is missing after `{shown}`" if previous in (*_OPERATORS, "EQUAL") else ""
    return "`:=` is not needed; `=` assigns" if following.startswith(":=") else ""


def _missing_operator(before: Sequence[tuple[str, str]], kind: str, text: str) -> str:
    previous, shown = before[-1]
    words = [value for _, value in before]
    if text == "if" or "if" in words:
        return "a choice is `where(condition, a, b)`"
    if text in ("in", "is", "for", "lambda"):
        return f"`{text}` is not part of the language"
    if kind == "LPAR" and previous in ("RPAR", "NUMBER", "RSQB"):
        return "is a `*` missing before `(`?"
    if previous == "NUMBER" and kind == "NAME":
        return f"is a `*` missing? `{shown} * {text}`"
    if previous == "NAME" and kind in ("NAME", "NUMBER"):
        return f"is an operator missing? `{shown} * {text}`" + (f", `{shown} @ {text}`" if kind == "NAME" else "")
    return "is an operator or a comma missing?"


def _equals(previous: str, shown: str) -> str:
    if previous == "COMPARE":
        return f"write `{shown}=` without a blank inside"
    if previous in ("PLUS", "MINUS", "STAR", "SLASH"):
        return f"there is no `{shown}=`: a name is assigned once, `h = h[t-1] {shown} ...`"
    return "`==` compares; `=` assigns once, at the start of a line"
