"""Every stage of a few small specs, as text: a change of the compiler shows as a readable difference.

A golden file has a section a stage: META (what it shows), SPEC, GRAPH, PLAN, PROGRAM (without mask and reset, and
without places in the spec) and SOURCE (what it becomes, but for cotangents of outputs; the runtime behind it is the
same for all models). META and SPEC are written by hand, the rest by `--update-golden`.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path

import pytest

from recdsl.cli.compile import plan_text
from recdsl.driver import analyse
from recdsl.graph.text import text as graph_text
from recdsl.program.text import show

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("*.md"))
SECTION = re.compile(r"^## (\w+)\n+(?:```\w*\n(.*?)```\n|(.*?)(?=^## |\Z))", re.MULTILINE | re.DOTALL)
LANGUAGES = {"SPEC": "yaml", "SOURCE": "python"}


def sections(path: Path) -> dict[str, str]:
    """By name; the text of a fenced section, or the paragraph."""
    return {name: fenced or plain for name, fenced, plain in SECTION.findall(path.read_text(encoding="utf-8"))}


def stages(spec: str) -> dict[str, str]:
    """The text of every stage behind the spec."""
    made = analyse(spec)
    return {
        "GRAPH": graph_text(made.graph),
        "PLAN": plan_text(made),
        "PROGRAM": show(made.program.program, spans=False),
        "SOURCE": "\n\n".join(functions(made.source)),
    }


def functions(source: str) -> Iterator[str]:
    """`start`, `forward` and `backward` of the program without mask and reset."""
    head = source.split("# ---- runtime", 1)[0]
    for text in re.split(r"(?m)^(?=def )", head)[1:]:
        if text.startswith(("def start(", "def forward(", "def backward(")):
            yield text.strip() + "\n"


def written(title: str, parts: dict[str, str]) -> str:
    """The whole file."""
    lines = [f"# {title}\n\n## META\n\n{parts['META'].strip()}\n"]
    for name in ("SPEC", "GRAPH", "PLAN", "PROGRAM", "SOURCE"):
        lines.append(f"## {name}\n\n```{LANGUAGES.get(name, '')}\n{parts[name].rstrip()}\n```\n")
    return "\n".join(lines)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_golden(path: Path, request: pytest.FixtureRequest):
    given = sections(path)
    made = written(path.stem, {**given, **stages(given["SPEC"])})
    if request.config.getoption("--update-golden", default=False):
        path.write_text(made, encoding="utf-8")
        return
    old = path.read_text(encoding="utf-8")
    difference = "".join(unified_diff(old.splitlines(True), made.splitlines(True), "golden", "now", n=2))
    assert not difference, f"pytest tests/golden --update-golden writes it anew\n{difference[:6000]}"


def test_files_are_complete():
    assert len(FILES) >= 6
    for path in FILES:
        assert list(sections(path)) == ["META", "SPEC", "GRAPH", "PLAN", "PROGRAM", "SOURCE"], path.name


PRINT = """
import sys
from hashlib import sha256
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_golden import FILES, analyse, sections, stages
for path in FILES:
    spec = sections(path)["SPEC"]
    text = analyse(spec).source + "".join(stages(spec).values())
    print(path.stem, sha256(text.encode()).hexdigest())
"""


def test_output_does_not_depend_on_the_hash_seed():
    """Whole files, runtime and both variants included, byte for byte."""
    found: set[str] = set()
    for seed in ("0", "1", "4242"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", PRINT, str(HERE)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        found.add(done.stdout)
    assert len(found) == 1, found
