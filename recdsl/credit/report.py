"""The verdicts for people (a table) and for programs (a dict)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from recdsl.credit.notes import QUALIFIERS
from recdsl.credit.plan import CreditPlan, Remark, Row
from recdsl.credit.total import Total

_HEAD = ("parameter", "rule", "verdict", "first dropped lag", "longest kept lag", "FLOPs", "bytes", "qualifiers")
_NUMBERS = range(3, 7)


@dataclass(frozen=True)
class Report:
    """What `explain` says. `str()` is the table, what the model costs as a whole, the reverse passes, where there are
    several rules for them, the edges where credit is dropped, with their lines, what the qualifiers mean, and remarks.

    passes: the parameters of each reverse pass, those that stand for the rows of a store included. losses: of each
    pass, by name, where they are known. rules: how many ways parameters have to go back.
    """

    rows: tuple[Row, ...]
    name: str = ""
    remarks: tuple[Remark, ...] = ()
    passes: tuple[tuple[str, ...], ...] = ()
    rules: int = 0
    losses: tuple[tuple[str, ...], ...] = ()
    total: Total | None = None

    @classmethod
    def of(cls, plan: CreditPlan, name: str = "", losses: Sequence[str] = (), total: Total | None = None) -> Report:
        """losses: their names, in the order of the model. total: of the model, if it is to be shown."""
        ways = len(plan.passes) + sum(len(group) - 1 for group in plan.shared)
        named = tuple(tuple(losses[k] for k in seeds) for seeds in plan.seeds) if losses else ()
        return cls(plan.rows, name, plan.remarks, plan.passes, ways, named, total)

    def to_dict(self) -> dict[str, Any]:
        """Plain data: {"name", "rows": [...], "passes": [...], "remarks": [...]}; a row has the keys of `Row`, an edge
        {"edge", "line"}, a remark {"text", "line"}; a pass is a list of parameters. Where it is known, "total":
        {"flops", "forward", "backward", "traces", "item"}."""
        remarks = [{"text": item.text, "line": item.line} for item in self.remarks]
        found = {"name": self.name, "rows": [_plain(row) for row in self.rows]}
        found |= {"passes": [list(names) for names in self.passes], "remarks": remarks}
        return found if self.total is None else found | {"total": {"flops": self.total.flops, **asdict(self.total)}}

    def __str__(self) -> str:
        lines = _table([_HEAD, *(_cells(row) for row in self.rows)])
        if self.total is not None:
            lines += ["", _all(self.total)]
        if self.rules > 1:
            lines += ["", *self._shown()]
        edges: dict[tuple[str, int | None], list[str]] = {}
        for row in self.rows:
            for item in row.dropped:
                edges.setdefault((item.edge, item.line), []).append(row.parameter)
        if edges:
            lines += ["", "credit is dropped at"]
            lines += _table([(f"  {edge}", f"line {line}" if line else "", f"for {_few(list(dict.fromkeys(names)))}")
                             for (edge, line), names in edges.items()])  # fmt: skip
        words = dict.fromkeys(word for row in self.rows for word in row.qualifiers if word in QUALIFIERS)
        if words:
            lines += ["", *_table([(f"{word}:", QUALIFIERS[word]) for word in words])]
        if self.remarks:
            lines += ["", *(f"line {item.line}: {item.text}" if item.line else item.text for item in self.remarks)]
        return "\n".join(lines)

    def _shown(self) -> list[str]:
        """The reverse passes, which rules share one, and the losses of each, where these differ."""
        rules = {row.parameter: row.rule for row in self.rows}
        lines = [f"{len(self.passes)} reverse pass{'es' if len(self.passes) > 1 else ''}"]
        for k, names in enumerate(self.passes):
            own: dict[str, list[str]] = {}
            for name in names:
                own.setdefault(rules.get(name, ""), []).append(name)
            shown = ", with ".join(f"{rule or 'credit'} for {_few(found)}" for rule, found in own.items())
            origin = f"; from {', '.join(self.losses[k])}" if len(set(self.losses)) > 1 else ""
            lines.append(f"  {shown}{origin}")
        return lines


def _all(total: Total) -> str:
    """Rows share operations, so that they do not add up to this."""
    parts = [(total.forward, "forward"), (total.backward, "back"), (total.traces, "for traces")]
    words = ", ".join(f"{number:,} {word}" for number, word in parts if number or word == "forward")
    item = f"; {total.item:,} more for each stored item that gets a gradient" if total.item else ""
    return f"all parameters together: {total.flops:,} FLOPs a step and sample ({words}){item}"


def _plain(row: Row) -> dict[str, Any]:
    return {
        "parameter": row.parameter,
        "rule": row.rule,
        "verdict": row.verdict,
        "qualifiers": list(row.qualifiers),
        "first_dropped_lag": row.first_dropped_lag,
        "longest_kept_lag": row.longest_kept_lag,
        "dropped": [{"edge": item.edge, "line": item.line} for item in row.dropped],
        "flops": row.flops,
        "bytes": row.bytes,
    }


def _cells(row: Row) -> tuple[str, ...]:
    first = "-" if row.first_dropped_lag is None else str(row.first_dropped_lag)
    credited = row.flops or {"drift", "predicted", "re-encoded"} & set(row.qualifiers)  # or credit of a store alone
    unbounded = "inf" if credited and "no-credit" not in row.qualifiers else "-"
    kept = unbounded if row.longest_kept_lag is None else str(row.longest_kept_lag)
    verdict = row.verdict
    words = ", ".join(row.qualifiers)
    return row.parameter, row.rule, verdict, first, kept, f"{row.flops:,}", f"{row.bytes:,}", words


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - 6} more" if len(names) > 6 else ""
    return ", ".join(names[:6]) + more


def _table(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Columns as wide as their widest cell; numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    wide = len(rows[0]) == len(_HEAD)
    lines: list[str] = []
    for row in rows:
        cells = [
            c.rjust(w) if wide and k in _NUMBERS else c.ljust(w)
            for k, (c, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return lines
