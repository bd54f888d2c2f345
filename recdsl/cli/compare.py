"""`recdsl compare`: several credit-assignment rules on one spec, as a table and a picture."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from recdsl.cli.figure import Bars, Lines, Panel, Series, figure
from recdsl.cli.frame import (
    OK,
    AsJson,
    Backend,
    BadInput,
    Overrides,
    SpecArgument,
    Trust,
    command,
    complain,
    say,
    say_json,
    with_backend,
)
from recdsl.cli.frame import spec_text as read

if TYPE_CHECKING:
    from recdsl.training.compare import Comparison, Contender

HEAD = ("rule", "parameters", "error", "cosine", "norm ratio", "signs", "us a step", "peak KiB", "KiB a step")
RULES = "bptt,snap(1),columns,rflo"
MOST = 8
"""Rules in one comparison: more lines cannot be told apart."""


def add(app: typer.Typer) -> None:
    @command(app, "compare")
    def compare(  # pyright: ignore[reportUnusedFunction]
        spec: SpecArgument,
        overrides: Overrides = None,
        rules: Annotated[str, typer.Option("--rules", metavar="A,B,...", help="The rules.")] = RULES,
        train: Annotated[int, typer.Option(min=0, metavar="N", help="Also train each for N updates.")] = 0,
        out: Annotated[str | None, typer.Option("--out", metavar="FILE.svg", help="Draw a picture there.")] = None,
        steps: Annotated[int | None, typer.Option(min=2, help="Steps of the batch (default: at most 48).")] = None,
        batch: Annotated[int, typer.Option(min=1, help="Its samples.")] = 8,
        seed: Annotated[int, typer.Option(help="Its seed.")] = 0,
        backend: Backend = None,
        trust: Trust = False,
        as_json: AsJson = False,
    ) -> int:
        """Compare rules: gradients against full backpropagation over lags, time and memory, learning curves."""
        wanted = split(rules)
        target = None if out is None else picture(out)
        text = read(spec)
        from recdsl.training.compare import Question
        from recdsl.training.compare import compare as measure
        from recdsl.training.gradcheck import CannotMeasure

        changes = with_backend(overrides, backend)
        asked = Question(text, changes, wanted, steps, batch, seed, train, trust, lambda t: complain(f"... {t}"))
        try:
            found = measure(asked)
        except CannotMeasure as error:
            raise BadInput(str(error)) from None
        if as_json:
            say_json(asdict(found))
        else:
            say(table(found))
        if target is not None:
            from recdsl.training.store import replace

            replace(target, drawn(found).encode())
            complain(f"wrote {out}")
        return OK


def split(rules: str) -> list[str]:
    """`bptt,tbptt(window=5, every=2)` at the commas outside of parentheses."""
    found, depth = [""], 0
    for sign in rules:
        depth += (sign == "(") - (sign == ")")
        if sign == "," and not depth:
            found.append("")
        else:
            found[-1] += sign
    names = list(dict.fromkeys(name.strip() for name in found if name.strip()))
    if not names:
        raise BadInput(f"--rules names no rule; for example --rules '{RULES}'")
    if len(names) > MOST:
        raise BadInput(f"--rules names {len(names)} rules; at most {MOST} fit into one comparison")
    return names


def picture(out: str) -> Path:
    """Where the picture goes."""
    target = Path(os.path.realpath(out))
    if target.is_dir():
        raise BadInput(f"{out} is a folder; name a file in it")
    if target.suffix.lower() != ".svg":
        raise BadInput(f"{out}: pictures are SVG, so the name ends in .svg")
    return target


# -- the table ---------------------------------------------------------------------------------------------------------
def table(found: Comparison) -> str:
    """A row a rule, then what was left out."""
    rows = [HEAD, *(_cells(row) for row in found.rows)]
    learned = any(row.curve for row in found.rows)
    if learned:
        last = [row.curve[-1][1] if row.curve else float("nan") for row in found.rows]
        rows = [(*row, *extra) for row, extra in zip(rows, [("loss",), *((f"{k:.4g}",) for k in last)], strict=True)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(c.rjust(w) if k > 1 else c.ljust(w) for k, (c, w) in enumerate(zip(row, widths, strict=True)))
             for row in rows]  # fmt: skip
    lines += [
        "",
        f"against full backpropagation through time; {found.data}, {found.steps} steps, {found.batch} samples",
    ]
    lines += [f"{row.rule}: {row.note}" for row in found.rows if row.note]
    lines += [f"{rule}: not compared: {reason}" for rule, reason in found.refused.items()]
    return "\n".join(lines)


def _cells(row: Contender) -> tuple[str, ...]:
    counts = ", ".join(f"{count} {verdict}" for verdict, count in sorted(row.verdicts.items(), reverse=True))
    quality = (f"{row.error:.1e}", f"{row.cosine:.4f}", f"{row.ratio:.4f}", f"{row.signs:.0%}")
    if row.cost is None:
        return row.rule, counts, *("-" if "nan" in word else word for word in quality), "-", "-", "-"
    cost = (f"{row.cost.time:,.1f}", f"{row.cost.held / 1024:,.0f}", f"{row.cost.growth / 1024:,.1f}")
    return row.rule, counts, *quality, *cost


# -- the picture -------------------------------------------------------------------------------------------------------
def drawn(found: Comparison) -> str:
    """The figure: credit over lags, costs, and learning curves where there are any."""
    names = [row.rule for row in found.rows]
    panels: list[Panel] = [*_over_lags(found), *_costs(found)]
    if any(row.curve for row in found.rows):
        curves = tuple(Series(k, tuple((float(a), b) for a, b in row.curve)) for k, row in enumerate(found.rows))
        panels.append(Lines("Learning", "updates", "training loss", curves, wide=True))
    losses = "a loss" if len(found.losses) == 1 else f"{len(found.losses)} losses"
    random = [row.rule for row in found.rows if row.note]
    mean = f" (of {', '.join(random)}: the mean of all draws)" if random else ""
    about = f"{found.data}: {found.steps} steps, {found.batch} samples; parts of the gradient of {losses}{mean}"
    return figure(f"{found.name}: credit-assignment rules", about, names, panels)


def _over_lags(found: Comparison) -> list[Panel]:
    """How much credit there is at each lag, and how much of it each rule gets right."""
    lag = "lag: steps from use to loss"

    def lines(value: Any) -> tuple[Series, ...]:
        return tuple(
            Series(k, tuple((float(at.lag), value(at)) for at in row.lags)) for k, row in enumerate(found.rows)
        )

    shares = lines(lambda at: at.share * at.ratio)
    top = max((at.ratio for row in found.rows for at in row.lags), default=1.0)
    return [
        Lines("Size of the gradient's part", lag, "norm / largest of full BPTT", shares, log=True),
        Lines("Cosine to full BPTT", lag, "cosine", lines(lambda at: at.cosine), _lowest(found), 1.05),
        Lines("Sign agreement with full BPTT", lag, "share of entries", lines(lambda at: at.signs), 0.0, 1.05),
        Lines(
            "Norm ratio to full BPTT", lag, "|part| / |full part|", lines(lambda at: at.ratio), 0.0, 1.05 * max(1, top)
        ),
    ]


def _lowest(found: Comparison) -> float:
    """0, or -1 where a rule points the wrong way."""
    return -1.05 if any(at.cosine < 0 for row in found.rows for at in row.lags) else 0.0


def _costs(found: Comparison) -> list[Panel]:
    names = tuple(row.rule for row in found.rows)
    costs = [row.cost for row in found.rows]
    times = tuple(None if cost is None else cost.time for cost in costs)
    held = tuple(None if cost is None else cost.held / 1024 for cost in costs)
    spoken = tuple("-" if cost is None else f"{cost.time:,.0f} us" for cost in costs)
    grows = tuple("-" if c is None else f"{c.held / 1024:,.0f}, +{c.growth / 1024:,.1f} a step" for c in costs)
    return [
        Bars("Time of a step, forward and backward", "microseconds", times, spoken, names),
        Bars(f"Memory of a call of {found.steps} steps, at its peak", "KiB", held, grows, names),
    ]
