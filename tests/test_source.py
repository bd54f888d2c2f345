from recdsl.source import Source, Span


def test_positions_count_lines_and_columns_from_one() -> None:
    source = Source("a.yaml", "ab\n\ncd")
    assert [source.position(offset) for offset in range(7)] == [(1, 1), (1, 2), (1, 3), (2, 1), (3, 1), (3, 2), (3, 3)]


def test_lines_have_no_ends() -> None:
    source = Source("a.yaml", "ab\r\n\ncd")
    assert [source.line(number) for number in (1, 2, 3)] == ["ab", "", "cd"]
    assert [source.start_of(number) for number in (1, 2, 3)] == [0, 4, 5]


def test_a_span_knows_its_place_and_text() -> None:
    span = Span(Source("dir/a.yaml", "x: 1\ny: two\n"), 8, 11)
    assert (span.line, span.column, span.text) == (2, 4, "two")
    assert str(span) == "dir/a.yaml:2:4"


def test_an_empty_source_has_one_place() -> None:
    assert str(Span(Source("a.yaml", ""), 0, 0)) == "a.yaml:1:1"


def test_a_source_is_shown_without_its_text() -> None:
    assert repr(Source("a.yaml", "secret" * 1000)) == "Source(path='a.yaml')"
