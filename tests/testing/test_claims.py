"""The command that counts claims of exactness: it counts, repeats what it finds, and finds what is claimed too much."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from recdsl.credit.verdict import Judge
from recdsl.testing import claims
from recdsl.testing.additions import added, draft
from recdsl.testing.draws import Draws
from recdsl.testing.models import random_model

RULES = ("tbptt(window=3)", "snap(2)")


def test_claims_are_counted_and_hold() -> None:
    count = claims.run(range(4), RULES)
    assert count.failures == []
    assert (count.models, count.modules + count.refused) == (4, 8)
    assert count.exact > 20
    assert count.definitions
    assert str(claims.run(range(1), RULES)) == str(claims.run(range(1), RULES))


def test_rules_with_strokes_between_them_are_dealt() -> None:
    rules = "tbptt(window=2) / columns / bptt"
    texts = [claims.credit(claims.model(seed), rules) for seed in range(8)]
    assert all("default: bptt" in text for text in texts)
    assert [word for word in ("tbptt(window=2)", "columns") if not any(f": {word}\n" in text for text in texts)] == []
    assert claims.run(range(3), [rules]).failures == []


def test_some_calls_are_run_in_pieces() -> None:
    """Both calls of this seed, and calls of every second model."""
    assert claims.piece(6, "sab(truncate=2, replay=always)")
    count = claims.run(range(6, 7), ["sab(truncate=2, replay=always)", "sab(truncate=2)"])
    assert count.failures == []
    assert (count.parted, count.of("sab(truncate=2)").parted) == (2, 0)
    sizes = [claims.piece(seed, "rtrl") for seed in range(40)]
    assert 10 < sizes.count(0) < 30
    assert set(sizes) == set(range(5))


def test_claims_about_stores_of_the_model_hold_in_calls_in_a_row() -> None:
    count = claims.run(range(5, 7), ["through & bptt", "reinstate(exact, encode=code, decode=stored) & bptt"])
    assert count.failures == []
    assert count.exact > count.vanishing


def test_stored_items_may_be_the_same_for_all_samples() -> None:
    """A state that is a parameter is what the model of this seed stores."""
    assert claims.run(range(30_003, 30_004), ["through & bptt"]).failures == []


def test_rounding_that_grows_with_all_gradients_is_no_false_claim() -> None:
    """Gradients of the model of this seed are as large as 1e21."""
    assert claims.run(range(42_023, 42_024), ["rtrl"]).failures == []


def test_a_wrong_whole_gradient_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """By differences, which need none."""
    right = claims.whole_gradients
    monkeypatch.setattr(claims, "whole_gradients", lambda case: {n: 2 * v + 1 for n, v in right(case).items()})  # pyright: ignore
    count = claims.run(range(6), ["none"])
    assert any("off by" in text for text in count.failures)


def test_counts_add_up_over_rules() -> None:
    count = claims.run(range(3), RULES)
    assert count.exact == sum(own.exact for own in count.rules.values())
    assert list(count.rules) == list(RULES)


def test_false_claims_are_found(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    row = Judge.row
    monkeypatch.setattr(Judge, "row", lambda self, case: replace(row(self, case), verdict="exact"))  # pyright: ignore
    assert claims.main(["--seeds", "0:4", "--rules", "none"]) == 1
    assert "is said to be exact" in capsys.readouterr().out


def test_what_fails_is_named_with_what_repeats_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*given: Any) -> None:
        raise ZeroDivisionError("no way")

    monkeypatch.setattr(claims, "check", broken)
    assert claims.run(range(7, 8), ["rtrl"]).failures == ['--seeds 7:8 --rules "rtrl": ZeroDivisionError: no way']


def test_models_have_all_that_can_be_added() -> None:
    texts: list[str] = []
    for seed in range(150):
        draws = Draws.seeded(seed)
        made = random_model(draws, (), td=draws.chance(25))
        assert draft(made).text == made.text
        texts.append(added(draws, made).text)
    words = (
        "slots: 2",
        "unbounded",
        " kept",
        "normalise(",
        "lru(",
        "td(",
        "past.read",
        "least_used",
        "key: ",
        "when: ",
        "(x, size=wide)",
        " sparse(",
        " blocks(2)",
    )
    assert [word for word in words if not any(word in text for text in texts)] == []
