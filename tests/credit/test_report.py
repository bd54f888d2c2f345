"""What `explain` prints and returns."""

from __future__ import annotations

import json

from credit_support import elman, planned

from recdsl.credit.lags import Lags
from recdsl.credit.report import Report

KEYS = [
    "parameter",
    "rule",
    "verdict",
    "qualifiers",
    "first_dropped_lag",
    "longest_kept_lag",
    "dropped",
    "flops",
    "bytes",
]


def test_the_dict_has_the_fixed_keys():
    made = Report.of(planned(elman(), ("default", "tbptt(3)")), "net").to_dict()
    assert json.loads(json.dumps(made)) == made
    assert all(list(row) == KEYS for row in made["rows"])
    assert made["rows"][0]["dropped"] == [{"edge": "h[t-1] -> h", "line": None}]


def test_the_table_is_aligned():
    lines = str(Report.of(planned(elman(), ("default", "tbptt(3)")))).splitlines()
    assert lines[0].split()[:3] == ["parameter", "rule", "verdict"]
    column = lines[0].index("verdict")
    assert [line[column:].split()[0] for line in lines[1:5]] == ["biased", "biased", "biased", "exact"]
    assert lines[5:7] == ["", "credit is dropped at"]
    assert lines[7].split("  ")[1:] == ["h[t-1] -> h", "", "for W1, U2, s3"] or "for W1, U2, s3" in lines[7]


def test_lags_repeat():
    """0, then 3, 5, 7, ... for ever."""
    lags = Lags((True, False, False, True, False), 2, False)
    assert [lag for lag in range(9) if lag in lags] == [0, 3, 5, 7]
    assert not lags.bounded
    assert (lags.at_least(1), lags.at_least(100), lags.at_most(100), lags.at_most(2)) == (3, 101, 99, 0)
    assert lags.longest() is None


def test_lags_end():
    lags = Lags((False, True, False, True), 0, False)
    assert lags.bounded
    assert (lags.longest(), lags.at_least(4), lags.at_least(2), lags.at_most(50), lags.at_most(2)) == (3, None, 3, 3, 1)
    assert Lags((False,), 0, False).longest() is None


def test_a_walk_that_was_given_up_claims_nothing():
    lags = Lags((True, False), 0, True)
    assert (lags.bounded, lags.at_least(1), lags.at_least(70), lags.longest()) == (False, 2, 70, None)
