"""`python -m benchmarks run --suite bptt|traces|stream|online|ceiling|memory|store|peers|rtrl|compile|precision
[--quick] [--cell NAME] [--out FILE]`, or
`python -m benchmarks alignment [--seeds N] [--out FILE] [--figure FILE.svg]`, or
`python -m benchmarks trace-patterning [--updates N] [--seeds N] [--out FILE] [--figure FILE.svg]`, or
`python -m benchmarks images [--updates N] [--seeds N] [--out FILE] [--figure FILE.svg] [KEY=VALUE ...]`, or
`python -m benchmarks copying [--delay N] [--updates N] [--seeds N] [--out FILE] [PART OF A MODEL'S NAME ...]`, or
`python -m benchmarks adding [--length N] [--updates N] [--seeds N] [--out FILE] [PART OF A MODEL'S NAME ...]`."""

from __future__ import annotations

import argparse
import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

from benchmarks.table import Row, table

COLUMNS = {
    "bptt": (
        "cell", "config", "native_min_ms", "ours_min_ms", "naive_min_ms", "nn_min_ms", "compile_min_ms", "jax_min_ms",
        "naive/native_median", "nn/native_median", "compile/native_median", "jax/native_median", "naive/ours_median",
        "nn/ours_median", "one_step_ms", "empty_ms", "roof_ms", "native/roof",
        "ours_MiB", "native_MiB", "naive_MiB", "nn_MiB", "compile_s",
    ),
    "traces": (
        "cell", "config", "ours_step_us", "eager_step_us", "func_step_us", "eager/ours", "func/ours",
    ),
    "stream": (
        "cell", "call_100_us", "call_1000_us", "call_10000_us", "call_time_x", "call_MiB", "call_B/step",
        "stream_100_us", "stream_1000_us", "stream_10000_us", "stream_time_x", "stream_MiB", "stream_B/step",
    ),
    "online": ("cell", "torch_us", "calls_us", "native_us", "c_us", "torch/native", "calls/native", "native_per_s"),
    "ceiling": (
        "cell", "config", "native_us", "c_us", "jax_us", "c/native", "jax/native", "bound_us", "native/bound",
        "native_steps_per_s", "native_ns_per_weight",
    ),
    "memory": ("cell", "config", "ours_s", "dense_s", "dense/ours s", "ours_MiB", "dense_MiB", "dense/ours MiB"),
    "store": (
        "cell", "config", "bytes/slot", "x embedding and label", "read_ms", "write_ms", "reinstate_ms", "kept_KiB",
        "peak_grows_MiB", "recall", "build_s",
    ),
    "peers": (
        "cell", "config", "columns torch_us", "columns native_us", "snap(1) torch_us", "snap(1) native_us", "peer_us",
        "peer/columns torch", "peer/columns native", "peer/snap(1) torch", "peer/snap(1) native",
        "peer_without_gradient",
    ),
    "rtrl": ("cell", "config", "torch_us", "native_us", "jax_us", "jax/torch", "jax/native"),
    "compile": ("spec", "nodes", "lines", "analyse_s", "source_s", "total_s", "first_s", "torch_imported", "c_kb",
                "cold_s", "cc_s", "warm_s", "new_s", "learner_cold_s", "learner_cc_s", "learner_warm_s", "learner",
                "native"),
    "precision": ("cell", "config", "runs", "outputs", "loss", "gradients", "parameters"),
}  # fmt: skip


def rows(args: argparse.Namespace) -> Iterator[Row]:
    """The suite's rows; each suite's module is imported when it is asked for."""
    if args.suite == "compile":
        from benchmarks import compiling

        yield from compiling.run(args.cell, args.repeats)
    elif args.suite == "stream":
        from benchmarks import stream

        yield from stream.run(args.cell, args.repeats)
    elif args.suite == "online":
        from benchmarks import online

        yield from online.run(args.cell, args.repeats)
    elif args.suite == "ceiling":
        from benchmarks import ceiling

        yield from ceiling.run(args.peer_python, args.repeats)
    elif args.suite == "memory":
        from benchmarks import memory

        yield from memory.run(args.cell, args.repeats)
    elif args.suite == "store":
        from benchmarks import store

        yield from store.run(args.cell, args.repeats)
    elif args.suite == "peers":
        from benchmarks import peers

        yield from peers.run(args.peer_python, args.cell, args.repeats)
    elif args.suite == "rtrl":
        from benchmarks import rtrl

        yield from rtrl.run(args.peer_python, args.cell, args.repeats)
    elif args.suite == "precision":
        from benchmarks import precision

        yield from precision.run(args.cell)
    elif args.suite == "traces":
        from benchmarks import traces

        yield from traces.run(args.cell, args.repeats)
    else:
        from benchmarks import bptt

        setting = bptt.Setting(not args.no_memory, args.repeats, args.threads, args.peer_python, args.torch_compile)
        yield from bptt.run(args.quick, args.cell, setting)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="measure a suite")
    run.add_argument("--suite", choices=sorted(COLUMNS), default="bptt")
    run.add_argument("--quick", action="store_true", help="T = 100 only")
    run.add_argument("--cell", action="append", default=[], help="only this cell; may be given several times")
    run.add_argument("--repeats", type=int, default=7)
    run.add_argument("--no-memory", action="store_true", help="leave out the measurements of peak memory")
    run.add_argument("--peer-python", help="a Python with jax, and for the suite peers braintrace")
    run.add_argument("--threads", type=int, choices=(1, 2), default=1, help="of bptt; with 2, times are wall times")
    run.add_argument(
        "--torch-compile", action="store_true", help="bptt: beside torch.compile of the cell (slow to compile)"
    )
    run.add_argument("--out", type=Path, help="write the results there as JSON")
    run.add_argument("--figure", type=Path, help="bptt: write the picture there as SVG")
    draw = commands.add_parser("draw", help="the picture of the suite bptt, from its JSON")
    draw.add_argument("results", type=Path)
    draw.add_argument("--figure", type=Path, required=True)
    bed = commands.add_parser("alignment", help="columnar rules against full BPTT as edges between columns grow")
    bed.add_argument("--seeds", type=int, default=20)
    bed.add_argument("--out", type=Path, help="write the results there as JSON")
    bed.add_argument("--figure", type=Path, help="write the picture there as SVG")
    curves = commands.add_parser("trace-patterning", help="columnar networks against truncated BPTT at equal compute")
    curves.add_argument("--updates", type=int, default=15_000)
    curves.add_argument("--seeds", type=int, default=3)
    curves.add_argument("--out", type=Path, help="write the results there as JSON")
    curves.add_argument("--figure", type=Path, help="write the picture there as SVG")
    images = commands.add_parser("images", help="five mechanisms of credit through an external memory, on images")
    images.add_argument("--updates", type=int, default=100)
    images.add_argument("--seeds", type=int, default=3)
    images.add_argument("--out", type=Path, help="write the results there as JSON")
    images.add_argument("--figure", type=Path, help="write the picture there as SVG")
    images.add_argument("changes", nargs="*", help="overrides of the spec, such as data.source=mnist")
    for task, extent, far, most in (("copying", "delay", 100, 10_000), ("adding", "length", 200, 1_500)):
        apart = commands.add_parser(task, help=f"{task} over a {extent}: sparse attentive backtracking and others")
        apart.add_argument(f"--{extent}", dest="extent", type=int, default=far)
        apart.add_argument("--updates", type=int, default=most, help="at most; a run ends when the task is solved")
        apart.add_argument("--seeds", type=int, default=3)
        apart.add_argument("--out", type=Path, help="write the results there as JSON")
        apart.add_argument("models", nargs="*", help="only models in whose names this stands")
    args = parser.parse_args()
    if args.command == "alignment":
        align(args)
    elif args.command == "draw":
        from benchmarks.picture import drawn

        args.figure.write_text(drawn(json.loads(args.results.read_text())["rows"]))
    elif args.command == "images":
        from benchmarks.images import report as classify

        classify(args.updates, args.seeds, tuple(args.changes), args.out, args.figure)
    elif args.command in ("copying", "adding"):
        from benchmarks.copying import report as remembered

        remembered(args.command, args.extent, args.updates, args.seeds, args.models, args.out)
    elif args.command == "trace-patterning":
        from benchmarks.trace_patterning import report

        report(args.updates, args.seeds, args.out, args.figure)
    else:
        measure(args)


def measure(args: argparse.Namespace) -> None:
    """A suite of costs."""
    found: list[Row] = []
    for row in rows(args):
        found.append(row)
        print(f"{row.get('cell', row.get('spec'))} {row.get('config', '')}", flush=True)
        keep(args.out, {"suite": args.suite, "threads": args.threads}, found)  # a long suite may be interrupted
    columns = [name for name in COLUMNS[args.suite] if any(name in row for row in found)]
    print("\n" + table(found, columns) if found else "nothing was measured")
    if args.suite == "bptt" and args.figure is not None:
        from benchmarks.picture import drawn

        args.figure.write_text(drawn(found))


def align(args: argparse.Namespace) -> None:
    """The test-bed of columnar gradients."""
    from benchmarks import alignment

    found = list(alignment.run(args.seeds))
    kinds = [f"{name} {kind}" for kind in ("alignment", "cosine") for name in (*alignment.RULES, "earlier")]
    print(table(found, ("edges", "p", *kinds)))
    keep(args.out, {"suite": "alignment", "seeds": args.seeds}, found)
    if args.figure is not None:
        args.figure.write_text(alignment.drawn(found, args.seeds))


def keep(out: Path | None, about: Mapping[str, str | int], found: Sequence[Row]) -> None:
    """Rows as JSON, with what they were measured on."""
    if out is not None:
        versions = {"python": platform.python_version(), "torch": version("torch")}
        out.write_text(json.dumps({"about": {"threads": 1, **about, **versions}, "rows": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
