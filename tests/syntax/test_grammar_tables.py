"""The stored tables are those of the grammars. `python tests/syntax/test_grammar_tables.py` writes them."""

from __future__ import annotations

import json
from pathlib import Path

import lark
import pytest

from recdsl.resources import read_text
from recdsl.syntax import grammar

PLACE = Path(__file__).parent.parent.parent / "grammars" / "tables.json"


def text() -> str:
    return json.dumps(grammar.tables(), separators=(",", ":")) + "\n"


def test_stored_tables_are_those_of_the_grammars() -> None:
    assert read_text("grammars", "tables.json") == text(), "python tests/syntax/test_grammar_tables.py"


@pytest.mark.parametrize(("file", "starts"), [grammar.EQUATIONS, grammar.CALLS])
def test_tables_are_used_unless_of_another_version(
    file: str, starts: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert grammar.parser(file, starts).source_path == "<deserialized>"
    grammar._tables.cache_clear()  # pyright: ignore[reportPrivateUsage]
    with monkeypatch.context() as changed:
        changed.setattr(lark, "__version__", "0.0")
        assert grammar.parser.__wrapped__(file, starts).source_path != "<deserialized>"
    grammar._tables.cache_clear()  # pyright: ignore[reportPrivateUsage]


if __name__ == "__main__":
    PLACE.write_text(text(), encoding="utf-8")
