import json
import re
import subprocess
import sys
from dataclasses import dataclass, fields
from string import Formatter

import pytest

from recdsl.diagnostics import (
    Note,
    Problem,
    Problems,
    SpecError,
    catalogue,
    headline,
    render,
    suggest,
    to_json,
    visible,
)
from recdsl.errors import syntax
from recdsl.source import Source, Span


@dataclass(frozen=True)
class Sample(Problem):
    code = "RD9999"
    message = "no `{name}` here"
    hint = "{advice}"
    name: str = "h[t-1]"
    advice: str = ""


TEXT = "recdsl: 1\nstep: |\n  h = W @ x\n"


MANY = "recdsl: 1\nstp: {}\nlss: 1\nstep: |\n  h = 2 x\n  y = (a\n  b = c]\nloss: {at: 1, to: 2}\n"


def at(start: int, end: int, text: str = TEXT) -> Span:
    return Span(Source("a.yaml", text), start, end)


def test_the_headline_is_path_line_column_code_and_message() -> None:
    assert headline(Sample(at(20, 21))) == "a.yaml:3:3: error[RD9999]: no `h[t-1]` here"


def test_an_excerpt_underlines_the_span() -> None:
    assert render([Sample(at(24, 29), advice="try [bold]")]).split("\n") == [
        "a.yaml:3:7: error[RD9999]: no `h[t-1]` here",
        " 3 |   h = W @ x",
        "   |       ^^^^^",
        "  help: try [bold]",
    ]


def test_notes_have_their_own_excerpt() -> None:
    problem = Sample(at(20, 21), notes=(Note(at(0, 6), "this one"),))
    assert render([problem]).split("\n")[3:] == ["  note: a.yaml:1:1: this one", " 1 | recdsl: 1", "   | ^^^^^^"]


def test_a_span_over_lines_is_underlined_to_the_end_of_its_first() -> None:
    assert render([Sample(at(10, 29))]).split("\n")[1:] == [" 2 | step: |", "   | ^^^^^^^"]


def test_the_end_of_a_line_can_be_marked() -> None:
    assert render([Sample(at(29, 29))]).split("\n")[2] == "   |            ^"


def test_an_empty_source_has_no_excerpt() -> None:
    assert render([Sample(at(0, 0, ""))]) == "a.yaml:1:1: error[RD9999]: no `h[t-1]` here"


def test_long_lines_are_cut_around_the_mark() -> None:
    shown = render([Sample(at(5000, 5003, "x" * 5000 + "abc" + "y" * 5000))]).split("\n")
    assert all(len(line) < 130 for line in shown)
    assert shown[1].index("abc") == shown[2].index("^^^")


def test_wide_and_combining_characters_keep_the_mark_in_place() -> None:
    assert render([Sample(at(2, 3, "漢字x"))]).split("\n")[2] == "   |     ^"
    assert render([Sample(at(2, 3, "e\u0301x"))]).split("\n")[2] == "   |  ^"


@pytest.mark.parametrize("text", ["\x1b[2J", "\x00", "\u202e", "\u2028", "\x9b", "\r", "\n"])
def test_control_characters_are_shown_not_sent(text: str) -> None:
    problem = Sample(Span(Source(f"a{text}", f"x{text}"), 0, 1), name=text, advice=text)
    for line in render([problem]).split("\n"):
        assert line.isprintable()
    assert visible("\x1b[31m") == "\\x1b[31m"


def test_json_has_the_shape_of_the_language_server_protocol() -> None:
    problem = Sample(at(24, 29), advice="do", notes=(Note(at(0, 6), "see"),))
    found = json.loads(json.dumps(to_json(problem)))
    assert found == {
        "range": {"start": {"line": 2, "character": 6}, "end": {"line": 2, "character": 11}},
        "severity": 1,
        "code": "RD9999",
        "source": "recdsl",
        "message": "no `h[t-1]` here",
        "relatedInformation": [
            {
                "location": {
                    "uri": "a.yaml",
                    "range": {"start": {"line": 0, "character": 0}, "end": {"line": 0, "character": 6}},
                },
                "message": "see",
            }
        ],
        "data": {"hint": "do", "path": "a.yaml"},
    }


def test_json_counts_utf16_units() -> None:
    assert to_json(Sample(at(2, 3, "\U0001f600 x")))["range"]["start"] == {"line": 0, "character": 3}


def test_an_error_carries_its_problems_once_and_in_file_order() -> None:
    late, early = Sample(at(20, 21)), Sample(at(0, 1))
    assert SpecError([late, early, late]).problems == (early, late)
    assert str(SpecError([late, early])).split("\n")[0].startswith("a.yaml:1:1: error[RD9999]")


def test_a_collector_raises_only_if_something_was_found() -> None:
    problems = Problems()
    problems.check()
    problems.add(Sample(at(0, 1)))
    with pytest.raises(SpecError):
        problems.check()


def test_a_collector_stops_at_a_thousand() -> None:
    problems = Problems()
    for index in range(1500):
        problems.add(Sample(at(0, 1), name=str(index)))
    assert problems.full
    assert len(problems.found) == 1000


def test_long_user_text_is_cut_in_messages() -> None:
    assert len(Sample(at(0, 1), name="x" * 100_000).text()) < 1100


def test_suggestions() -> None:
    assert suggest("lodss", ("loss", "step")) == "did you mean `loss`?"
    assert suggest("zzz", ("loss", "step")) == ""
    assert suggest("h" * 1000, ("h",)) == ""
    assert suggest("name12", [f"name{index}" for index in range(5000)]).startswith("did you mean `name")


def test_every_code_has_one_class_with_words() -> None:
    codes = catalogue()
    assert len(codes) > 100
    assert list(codes) == sorted(codes)
    for code, item in codes.items():
        assert re.fullmatch(r"RD\d{4}", code)
        assert item.message, code
        assert item.explain.strip().endswith((".", ")", "`")), code
        assert len(item.explain) > 20, code


def test_the_phases_keep_to_their_codes() -> None:
    for code, item in catalogue().items():
        phase = item.__module__.rsplit(".", 1)[-1]
        wanted = {"files": ("RD00",), "yaml": ("RD00",), "keys": ("RD01",), "syntax": ("RD02",)}.get(phase)
        assert wanted is None or code.startswith(wanted), (code, phase)


def test_templates_name_fields_that_exist() -> None:
    for code, item in catalogue().items():
        if not issubclass(item, Problem):
            continue
        used = {name for text in (item.message, item.hint) for _, name, _, _ in Formatter().parse(text) if name}
        assert used <= {one.name for one in fields(item)}, code


def test_braces_in_user_text_are_no_template() -> None:
    assert "{0}" in headline(syntax.BadCharacter(at(0, 1), "{0}"))


def test_the_order_of_problems_does_not_depend_on_the_hash_seed() -> None:
    script = f"""
from recdsl.syntax.spec import read_spec
from recdsl.diagnostics import SpecError, render
try:
    read_spec({MANY!r})
except SpecError as error:
    print(render(error.problems))
"""
    runs: set[bytes] = set()
    for seed in ("0", "1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": "."}
        command = [sys.executable, "-c", script]
        runs.add(subprocess.run(command, env=environment, capture_output=True, check=True).stdout)
    (only,) = runs
    assert only.count(b"error[") == 6
