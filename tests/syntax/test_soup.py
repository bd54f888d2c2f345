"""Nonsense of all kinds: either a spec or a SpecError with places, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from recdsl.diagnostics import Problem, SpecError, render, to_json
from recdsl.syntax.ast import Spec
from recdsl.syntax.printer import print_spec
from recdsl.syntax.same import same
from recdsl.syntax.spec import read_spec

GOOD = [path.read_text() for path in sorted((Path(__file__).parent.parent / "good").glob("*.yaml"))]
TOKENS = st.sampled_from(
    [
        *"()[]{}=+-*/@%<>!,;:.~#&|^\\'\"`?$_ \n\t",
        *("**", "==", "<=", "and", "or", "not", "t", "h", "x", "T", "h[t-1]", "[t]", ".T", "1", "2.5", "1e-3", "1_0"),
        *("recdsl: 1\n", "step: |\n  ", "loss: ", "params:\n  ", "credit: ", "\n  ", "float", "float[n]", "0x1"),
        *("frozen", "sizes: ", "train: ", "blocks:\n  ", "<<: ", "*a", "&a ", "!!int ", "---\n", "é", "\u2028"),
        *("{a: 1}", "[1, 2]", ": ", "- ", "null", "data", "memory: ", "require: ", "exact for ", ".inf", "\r\n"),
        *("~ normal(0, 1)", "\U0001f600", "\x00"),
    ]
)


def attempt(text: str, *overrides: str) -> None:
    """Read; print what was read, or show what went wrong."""
    found = read(text if "\n" in text else text + "\n", *overrides)
    if isinstance(found, Spec):
        again = read(print_spec(found))
        # That a name is declared twice, as in `W, W: float`, is not seen before the step graph.
        assert same(found, again) if isinstance(again, Spec) else {problem.code for problem in again} == {"RD0018"}
        return
    assert found
    for problem in found:
        line, column = problem.span.line, problem.span.column
        assert 1 <= line <= problem.span.source.text.count("\n") + 1
        assert 1 <= column <= len(problem.span.source.line(line)) + 2
        json.dumps(to_json(problem))
    assert all(line.isprintable() for line in render(found).split("\n"))


def read(text: str, *overrides: str) -> Spec | tuple[Problem, ...]:
    try:
        return read_spec(text, overrides)
    except SpecError as error:
        return error.problems


@settings(deadline=None, max_examples=300)
@given(st.lists(TOKENS, max_size=40).map("".join))
def test_tokens(text: str) -> None:
    attempt(text)


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(("step", "loss", "credit", "data", "name", "doc")), st.lists(TOKENS, max_size=20).map("".join))
def test_values(key: str, value: str) -> None:
    rest = {"recdsl": "1", "step": "h = x", "loss": "mse(h, 0)"} | {key: value.replace("\n", "\n  ")}
    attempt("".join(f"{name}: {word}\n" for name, word in rest.items()))
    rest[key] = "|\n  " + value.replace("\n", "\n  ")
    attempt("".join(f"{name}: {word}\n" for name, word in rest.items()))


@settings(deadline=None, max_examples=200)
@given(st.text(max_size=60))
def test_characters(text: str) -> None:
    attempt(text)


@settings(deadline=None, max_examples=400)
@given(st.data())
def test_good_specs_with_a_fault(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(GOOD))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = min(len(text), start + data.draw(st.sampled_from((0, 0, 1, 3, 20))))
        text = text[:start] + data.draw(st.one_of(st.just(""), TOKENS, st.just(text[start:end] * 2))) + text[end:]
    attempt(text)


@settings(deadline=None, max_examples=200)
@given(st.lists(TOKENS, max_size=8).map("".join), st.lists(TOKENS, max_size=8).map("".join))
def test_overrides(key: str, value: str) -> None:
    for section in ("", "sizes.", "train.", "credit.", "data.", "loss."):
        attempt(GOOD[0], f"{section}{key}={value}")
