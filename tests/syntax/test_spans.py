"""Where things stand in the file, whatever YAML did to the text on the way."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from syntax_support import failure, spec

from recdsl.source import Source
from recdsl.syntax.yaml_reader import Scalar, read_mapping

PLACES = [
    ("step: h = 2 x", "RD0206 1:13"),
    ("step: 'h = 2 x'", "RD0206 1:14"),
    ('step: "h = 2 x"', "RD0206 1:14"),
    ("step: |\n  a = 1\n\n  h = 2 x", "RD0206 4:9"),
    ("step: |4\n      a = 1\n      h = 2 x", "RD0206 3:13"),
    ("step: |-  # comment\n\n\n  # note\n  h = 2 x\n", "RD0206 5:9"),
    ("step: |+\n     h = f(\n       2 x)\n\n\n", "RD0206 3:10"),
    ("step: >\n  h = f(a,\n  2 x)\n", "RD0206 3:5"),
    ("step: >-\n\n   h = 2 x", "RD0206 3:10"),
    ('step: "h = \\x32 x"', "RD0206 1:17"),
    ('step: "a = 1\\nh = 2 x"', "RD0206 1:21"),
    ('step: "a = \\"\\u00e9"', "RD0201 1:12"),
    ('step: "h =\n   2\n\n   x"', "RD0207 4:4"),
    ('step: "h = \\\n   2 x"', "RD0206 2:6"),
    ("step: 'h = '' x'", "RD0201 1:12"),
    ("step: h =\n  2\n  x", "RD0206 3:3"),
    ("sizes: {a: 1 1, b: 2}", "RD0206 1:14"),
    ("sizes: {a: 'b c', d: \"e\tf\"}", "RD0206 1:15"),
    ("name: é\nstep: |\n  # é😀\n  h = 2 x", "RD0206 4:9"),
]


@pytest.mark.parametrize(("body", "place"), PLACES, ids=[body for body, _ in PLACES])
def test_places(body: str, place: str) -> None:
    assert place in failure(body)


def test_values_stand_where_they_are_written() -> None:
    found = spec('inputs: {x: "float[n, m]", "y , z": float}\nstep: |\n  h = tanh(\n    W @ x)\n  g = h\n')
    assert [axis.span.text for axis in found.inputs[0].type.axes] == ["n", "m"]
    assert [(item.name.span.text, item.name.span.column) for item in found.inputs] == [("x", 10), ("y", 29), ("z", 33)]
    assert found.step[0].value.nodes[0].span.line == 4
    assert found.step[1].span.text == "g = h"


WORDS = st.text(st.sampled_from("ab \t\n\\\"'#:é😀"), max_size=30)


@settings(deadline=None)
@given(WORDS, st.sampled_from(("'", '"', "|", "|-", "|+", "|2")))
def test_every_character_of_a_value_is_found(value: str, style: str) -> None:
    if style == "'":
        body = "'" + value.replace("'", "''") + "'"
    elif style == '"':
        body = '"' + "".join({"\\": "\\\\", '"': '\\"', "\n": "\\n", "é": "\\xe9"}.get(c, c) for c in value) + '"'
    else:
        body = style + "\n" + "\n".join("  " + line for line in ("x" + value).split("\n")) + "\n"
    try:
        root = read_mapping(Source("x.yaml", f"k: {body}\n"))
    except Exception:
        return
    scalar = root.items[0][1]
    assert isinstance(scalar, Scalar)
    text = scalar.text
    assert len(text.offsets) == len(text.value) + 1
    assert list(text.offsets) == sorted(text.offsets)
    assert all(text.start <= offset <= text.end for offset in text.offsets)
    for index, char in enumerate(text.value):
        if char in "ab#:😀":
            assert text.source.text[text.offsets[index]] == char
