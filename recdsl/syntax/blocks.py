"""Blocks: in `blocks:`, in files beside the spec, in the standard library."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from contextvars import ContextVar
from functools import lru_cache
from importlib.resources import files

from recdsl.diagnostics import Problems, SpecError
from recdsl.errors import files as file_errors
from recdsl.errors import keys as errors
from recdsl.source import Source, Span
from recdsl.syntax.ast import BlockDecl, Equation, Expression, Name, ParamDecl, Spec
from recdsl.syntax.declarations import read_declared, read_params, read_states
from recdsl.syntax.expressions import parse_equations
from recdsl.syntax.files import checked, read_file
from recdsl.syntax.limits import NAME_LENGTH
from recdsl.syntax.names import IDENTIFIER, bad_name, split_names
from recdsl.syntax.sections import describe, expression, items, known_items, names, plain_text, require, text, value
from recdsl.syntax.yaml_reader import Mapping, Scalar, YamlNode, read_mapping

KEYS = ("doc", "arguments", "sizes", "params", "states", "step", "returns", "fold", "last")
_NEEDED = (("step", "step: |"), ("returns", "returns: y"))
_BLOCK_KEY = re.compile(r"^block[ \t]*:", re.M)


def read_blocks(node: YamlNode, problems: Problems) -> tuple[BlockDecl, ...]:
    """The blocks of a spec."""
    found: list[BlockDecl] = []
    for key, item in items(node, "blocks", problems, "cell: {arguments: ..., step: ..., returns: ...}"):
        wrong = bad_name(key.text.value, key.span)
        if wrong is not None:
            problems.add(wrong)
        if not isinstance(item, Mapping):
            advice = "its keys are arguments, sizes, params, states, step, returns"
            problems.add(errors.WrongKind(item.span, key.text.value, "a map", describe(item), advice))
            continue
        found.append(read_block(Name(key.text.value, key.span), item, KEYS, problems))
    return tuple(found)


def read_block(name: Name, node: Mapping, known: tuple[str, ...], problems: Problems) -> BlockDecl:
    """One block from its map; what is missing or wrong is reported and left out."""
    where = f"the block `{name.text}`"
    found = known_items(node, where, problems, known, "step: ...")
    require(found, _NEEDED, f"the block `{name.text}`", name.span, problems)
    last_params, last = _last(found["last"], problems) if "last" in found else ((), ())
    fold = names_of(found["fold"], "fold", problems) if "fold" in found else ()
    sizes = _sizes(found["sizes"], problems) if "sizes" in found else ()
    if fold and fold[0].text not in [size.text for size, _ in sizes]:
        problems.add(errors.BadChoice(fold[0].span, "fold", fold[0].text, "it names one of the block's `sizes`"))
    return BlockDecl(
        name,
        plain_text(found["doc"], "doc", problems) if "doc" in found else "",
        read_declared(found["arguments"], "arguments", problems) if "arguments" in found else (),
        sizes,
        read_params(found["params"], problems) if "params" in found else (),
        read_states(found["states"], problems) if "states" in found else (),
        read_step(found["step"], problems) if "step" in found else (),
        names_of(found["returns"], "returns", problems) if "returns" in found else (),
        fold[0] if fold else None,
        last,
        last_params,
    )


def read_step(node: YamlNode, problems: Problems) -> tuple[Equation, ...]:
    """The equations of a step."""
    found = text(node, "step", problems, "text: one assignment a line, after `step: |`")
    return () if found is None else parse_equations(found, problems)


def names_of(node: YamlNode, key: str, problems: Problems) -> tuple[Name, ...]:
    """`a, b`, or a YAML list of names."""
    if not isinstance(node, Scalar) and not isinstance(node, Mapping):
        return tuple(name for item in node.items for name in names_of(item, key, problems))
    found = text(node, key, problems, "a name", "y")
    return () if found is None else split_names(found, problems)


def _sizes(node: YamlNode, problems: Problems) -> tuple[tuple[Name, Expression | None], ...]:
    """Keywords with their defaults; `required` or nothing: there is none."""
    found: list[tuple[Name, Expression | None]] = []
    for key, item in items(node, "sizes", problems, "size: required"):
        needed = isinstance(item, Scalar) and (item.value is None or item.value == "required")
        if needed:
            default = None
        elif isinstance(item, Scalar) and not isinstance(item.value, bool):
            default = expression(item, key.text.value, problems, "a default", "64")
        else:
            default = value(item, key.text.value, problems, "a default", "64")
        found.extend((name, default) for name in names((key,), problems))
    return tuple(found)


def _last(node: YamlNode, problems: Problems) -> tuple[tuple[ParamDecl, ...], tuple[Equation, ...]]:
    if not isinstance(node, Mapping):
        return (), read_step(node, problems)
    found = known_items(node, "`last`", problems, ("params", "step"), "step: ...")
    require(found, _NEEDED[:1], "`last`", node.span, problems)
    params = read_params(found["params"], problems) if "params" in found else ()
    return params, read_step(found["step"], problems) if "step" in found else ()


def check_version(found: dict[str, YamlNode], problems: Problems) -> None:
    """`recdsl: 1`."""
    node = found.get("recdsl")
    if node is not None and not (isinstance(node, Scalar) and node.value == 1 and not isinstance(node.value, bool)):
        problems.add(errors.WrongVersion(node.span, describe(node)))


def read_block_file(source: Source, expected: str | None = None) -> BlockDecl:
    """The block of a block file; `expected` is the name that it must have. Raises SpecError."""
    problems = Problems()
    root = read_mapping(source)
    start = Span(source, root.span.start, root.span.start)
    entries = {key.text.value: node for key, node in root.items}
    needed = (("recdsl", "recdsl: 1"), ("block", f"block: {expected or 'NAME'}"))
    require(entries, needed, "a block file", start, problems)
    check_version(entries, problems)
    name = Name(expected or "block", start)
    if "block" in entries:
        found = names_of(entries["block"], "block", problems)
        name = found[0] if found else name
    if expected is not None and name.text != expected:
        reason = f"the file is named after the block `{expected}`, but holds `{name.text}`"
        problems.add(errors.NotABlockFile(name.span, reason, f"write `block: {expected}`, or rename the file"))
    block = read_block(name, root, (*KEYS, "recdsl", "block"), problems)
    problems.check()
    return block


looked: ContextVar[set[str] | None] = ContextVar("looked", default=None)
"""Where block files were looked for, while someone notes that (`recdsl/analyses.py`)."""


def find_block(name: str, beside: str | None) -> BlockDecl | None:
    """The block file NAME.yaml beside the spec file, else the one of the library, else None. Raises SpecError."""
    if not IDENTIFIER.fullmatch(name) or len(name) > NAME_LENGTH:
        return None
    if beside is not None and not beside.startswith("<"):
        path = os.path.join(os.path.dirname(beside), f"{name}.yaml")
        noted = looked.get()
        if noted is not None:
            noted.add(path)
        try:
            state = os.lstat(path)
        except (OSError, ValueError):
            state = None
        if state is not None:
            found = _beside(path, name, (state.st_mtime_ns, state.st_size, state.st_ino))
            if found is not None:
                return found
    return _shipped(name)


def files_beside(spec: Spec) -> dict[str, Source]:
    """The block files beside the spec that it uses, by name, those used by other blocks among them.

    A name that is only mentioned counts too: blocks can be options of blocks. Raises SpecError.
    """
    home = spec.span.source.path
    own = {block.name.text: block for block in spec.blocks}
    found: dict[str, Source] = {}
    seen, wanted = set[str](), [*_mentioned(spec.step), *(name for b in spec.blocks for name in _named_by(b))]
    while wanted:
        name = wanted.pop()
        if name in seen or name in own:
            continue
        seen.add(name)
        block = find_block(name, home)
        if block is not None:
            wanted += _named_by(block)
            source = block.name.span.source
            if os.path.dirname(source.path) == os.path.dirname(home) and not home.startswith("<"):
                found[name] = source
    return found


def _mentioned(equations: Iterable[Equation]) -> list[str]:
    nodes = (node for equation in equations for node in equation.value.nodes)
    return [str(node.value) for node in nodes if node.kind in ("call", "name")]


def _named_by(block: BlockDecl) -> list[str]:
    defaults = (node for _, default in block.sizes if default is not None for node in default.nodes)
    return [*_mentioned((*block.step, *block.last)), *(str(node.value) for node in defaults if node.kind == "name")]


@lru_cache(maxsize=256)
def _beside(path: str, name: str, _version: tuple[int, int, int]) -> BlockDecl | None:
    """A block file in the user's folder; other files of that name, and links, are passed over."""
    try:
        source = read_file(path, follow=False)
    except SpecError as error:
        if any(isinstance(problem, file_errors.Unreadable | file_errors.NotAFile) for problem in error.problems):
            return None
        if any(isinstance(problem, file_errors.FileTooLarge | file_errors.EmptyFile) for problem in error.problems):
            return None
        raise
    return read_block_file(source, name) if _BLOCK_KEY.search(source.text) else None


@lru_cache(maxsize=256)
def _shipped(name: str) -> BlockDecl | None:
    place = files("recdsl") / "specs" / "blocks" / f"{name}.yaml"
    if not place.is_file():
        return None
    source = checked(Source(f"recdsl/specs/blocks/{name}.yaml", place.read_text("utf-8")))
    return read_block_file(source, name)
