"""YAML: what is refused, what scalars mean, and where things stand."""

from __future__ import annotations

import math
import time

import pytest
from syntax_support import places

from recdsl.diagnostics import SpecError
from recdsl.source import Source
from recdsl.syntax.scalars import resolve
from recdsl.syntax.yaml_reader import Mapping, Scalar, Sequence, YamlNode, read_mapping, read_yaml


def tree(text: str) -> YamlNode:
    return read_yaml(Source("x.yaml", text))


def plain(node: YamlNode) -> object:
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Sequence):
        return [plain(item) for item in node.items]
    return {key.text.value: plain(value) for key, value in node.items}


def problems(text: str) -> list[str]:
    with pytest.raises(SpecError) as caught:
        read_mapping(Source("x.yaml", text))
    return places(caught.value.problems)


def test_a_tree() -> None:
    text = "a: 1\nb: [x, 'y', {c: null}]\nd:\n  e: |\n    text\n  f: >-\n    more\n"
    assert plain(tree(text)) == {"a": 1, "b": ["x", "y", {"c": None}], "d": {"e": "text\n", "f": "more"}}


SCALARS: list[tuple[str, object]] = [
    ("1", 1),
    ("-7", -7),
    ("+7", 7),
    ("017", 17),
    ("0o17", 15),
    ("0x1F", 31),
    ("2_000", 2000),
    ("1_000.5", 1000.5),
    ("1e-3", 0.001),
    ("1E5", 1e5),
    (".5", 0.5),
    ("1.", 1.0),
    ("-.5e+2", -50.0),
    ("null", None),
    ("~", None),
    ("", None),
    ("true", True),
    ("FALSE", False),
    (".inf", math.inf),
    ("-.INF", -math.inf),
    ("no", "no"),
    ("on", "on"),
    ("yes", "yes"),
    ("tRue", "tRue"),
    ("1:30:00", "1:30:00"),
    ("2001-01-01", "2001-01-01"),
    ("2001-99-99", "2001-99-99"),
    ("1__0", "1__0"),
    ("_1", "_1"),
    ("1_", "1_"),
    ("0x_", "0x_"),
    ("0b1", "0b1"),
    ("10**12", "10**12"),
    ("1e", "1e"),
    ("e3", "e3"),
    (".", "."),
    ("١", "١"),
    ("=", "="),
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    found = resolve(text)
    assert found == value
    assert found.__class__ is value.__class__


def test_nan() -> None:
    found = resolve(".nan")
    assert isinstance(found, float)
    assert math.isnan(found)


def test_quoted_scalars_are_text() -> None:
    assert plain(tree("a: '1'\nb: \"true\"\nc: |-\n  2\n")) == {"a": "1", "b": "true", "c": "2"}


REFUSED = [
    ("a: &x 1\nb: *x\n", ["RD0012 1:4"]),
    ("a: *x\n", ["RD0012 1:4"]),
    ("a: &x [*x]\n", ["RD0012 1:4"]),
    ("&x a: 1\n", ["RD0012 1:1"]),
    ("*x : 1\n", ["RD0012 1:1"]),
    ("a: {<<: {b: 1}}\n", ["RD0013 1:5"]),
    ("<<: 1\n", ["RD0013 1:1"]),
    ("a: !!float 1\n", ["RD0014 1:4"]),
    ("a: ! 1\n", ["RD0014 1:4"]),
    ("a: !x [1]\n", ["RD0014 1:4"]),
    ("a: !!python/object/apply:os.system [ls]\n", ["RD0014 1:4"]),
    ("%TAG ! tag:x,2000:\n---\na: !y 1\n", ["RD0014 3:4"]),
    ("a: 1\n---\nb: 2\n", ["RD0015 2:1"]),
    ("a: 1\n...\n---\nb: 2\n", ["RD0015 3:1"]),
    ("a: 1\nb: 2\na: 3\n", ["RD0018 3:1"]),
    ("a: {b: 1, 'b': 2}\n", ["RD0018 1:11"]),
    ("[a]: 1\n", ["RD0019 1:1"]),
    ("{a: 1}: 1\n", ["RD0019 1:1"]),
    ("? [a]\n: 1\n", ["RD0019 1:3"]),
    ("- a\n", ["RD0020 1:1"]),
    ("just words\n", ["RD0020 1:1"]),
    ("--- \n", ["RD0020 2:1"]),
    ("a: " + "9" * 401 + "\n", ["RD0021 1:4"]),
    ("a: 1e999\n", ["RD0022 1:4"]),
    ("a: {x: float[n]}\n", ["RD0010 1:13"]),
    ("a: b: c\n", ["RD0010 1:5"]),
    ("a: 'b\n", ["RD0010 2:1"]),
    ("a: \"\\q\"\n", ["RD0010 1:5"]),
    ("a: 1\n b: 2\n", ["RD0010 2:3"]),
    ("a: @b\n", ["RD0010 1:4"]),
    ("a: 1\nb\n", ["RD0010 3:1"]),
    ("a: [1, 2\n", ["RD0010 2:1"]),
    ("a:\n\tb: 1\n", ["RD0011 2:1"]),
    ("a:\n  b: 1\n\tc: 1\n", ["RD0011 3:1"]),
]


@pytest.mark.parametrize(("text", "found"), REFUSED, ids=[text[:24] for text, _ in REFUSED])
def test_refused(text: str, found: list[str]) -> None:
    assert problems(text) == found


def test_a_second_key_points_at_the_first() -> None:
    with pytest.raises(SpecError) as caught:
        tree("a: 1\nb: 2\na: 3\n")
    (note,) = caught.value.problems[0].notes
    assert (str(note.span), note.message) == ("x.yaml:1:1", "first here")


def test_several_are_found_at_once() -> None:
    text = "a: 1\na: 2\nb: &x 1\n<<: 1\nc: 1e999\n"
    assert problems(text) == ["RD0018 2:1", "RD0012 3:4", "RD0013 4:1", "RD0022 5:4"]


def merges(levels: int) -> str:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}]}}" for n in range(1, levels)]
    return "\n".join(lines) + "\n"


BOMBS = {
    "merge": (merges(30), "RD0012 1:5"),
    "alias": ("a: &a [1]\n" + "".join(f"b{n}: &b{n} [*a, *a, *a]\n" for n in range(20)), "RD0012 1:4"),
    "lists": ("[" * 500_000 + "\n", "RD0016 1:65"),
    "maps": ("{a: " * 200_000 + "\n", "RD0016 1:257"),
    "dashes": ("- " * 400_000 + "\n", "RD0016 1:129"),
    "keys": ("? " * 400_000 + "\n", "RD0019 1:3"),
    "blocks": ("".join(" " * n + "a:\n" for n in range(1000)), "RD0016 65:65"),
    "values": ("a: [" + "1," * 110_000 + "]\n", "RD0017 1:199999"),
    "anchors": ("a: " + "&a" * 400_000 + "\n", "RD0010 1:6"),
    "quote": ("'" * 900_001 + "\n", "RD0010 2:1"),
}


@pytest.mark.parametrize("name", sorted(BOMBS))
def test_bombs_are_refused_at_once(name: str) -> None:
    text, found = BOMBS[name]
    start = time.process_time()
    with pytest.raises(SpecError) as caught:
        tree(text)
    assert places(caught.value.problems)[0] == found
    assert time.process_time() - start < 2


def test_as_deep_and_as_many_as_allowed() -> None:
    assert isinstance(tree("a: " + "[" * 63 + "1" + "]" * 63 + "\n"), Mapping)
    assert isinstance(tree("a: [" + "1," * 99_996 + "1]\n"), Mapping)


def test_the_pure_parser_says_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    import yaml

    from recdsl.syntax import yaml_reader

    for text, found in REFUSED:
        if not found[0].startswith("RD0010"):
            monkeypatch.setattr(yaml_reader, "_LOADER", yaml.SafeLoader)
            assert problems(text) == found, text
