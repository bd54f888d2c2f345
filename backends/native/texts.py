"""C text of sizes, bounds and conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from recdsl.backends.native.values import NotLoweredError
from recdsl.program.ir import Affine, Bound

SIGNS = {"lt": "<", "le": "<=", "eq": "==", "ge": ">=", "ne": "!="}


def affine_text(value: Affine, symbols: Mapping[str, str]) -> str:
    """`const + sum(coefficient * symbol)`; raises NotLoweredError for a symbol that is nobody's."""
    for name, _ in value.terms:
        if name not in symbols:
            raise NotLoweredError(f"no size `{name}` here")
    parts = [symbols[name] if k == 1 else f"{k} * {symbols[name]}" for name, k in value.terms]
    if value.const or not parts:
        parts.append(str(value.const))
    return parts[0] if len(parts) == 1 else f"({' + '.join(parts)})"


def bound_text(bound: Bound, symbols: Mapping[str, str]) -> str:
    """The largest or smallest part."""
    found = affine_text(bound.parts[0], symbols)
    for part in bound.parts[1:]:
        found = f"{'MAX' if bound.kind == 'max' else 'MIN'}({found}, {affine_text(part, symbols)})"
    return found


def condition_text(predicate: tuple[str, Affine, Affine], symbols: Mapping[str, str]) -> str:
    kind, left, right = predicate[0], affine_text(predicate[1], symbols), affine_text(predicate[2], symbols)
    if kind in SIGNS:
        return f"{left} {SIGNS[kind]} {right}"
    return f"{right} % {left} {'==' if kind == 'divides' else '!='} 0"


def comment(text: str) -> str:
    """User text that cannot leave a comment or a line."""
    return "".join(c if c.isascii() and (c.isalnum() or c in " _-.,:=+[]()") else f"<{ord(c):x}>" for c in text)


def indent(lines: Sequence[str]) -> str:
    """Text with blocks moved in."""
    out: list[str] = []
    depth = 0
    for line in lines:
        depth -= line.startswith("}")
        out.append("    " * depth + line if not line.startswith("SIMD") else line)
        depth += line.endswith("{")
    return "\n".join(out) + "\n"
