"""The README tells the truth: its spec, its outputs and its code are the real ones.

`python tests/test_readme.py` writes the present ones into it.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
SPEC = "specs/char_gru.yaml"
VOCABULARY = "sizes.vocab=77"
"""Of the data set, so that it need not be there."""


def _recdsl(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "recdsl", *words, VOCABULARY],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    return done.stdout.rstrip()


def _loop(source: str) -> str:
    """The first loop of `forward`, moved to the left."""
    lines = source[source.index("\ndef forward(") :].splitlines()
    first = next(k for k, line in enumerate(lines) if line.startswith("        for "))
    rest = lines[first:]
    closed = next(k for k, line in enumerate(rest) if line.endswith(":"))
    last = next(k for k, line in enumerate(rest) if k > closed and not line.startswith("            "))
    return "\n".join(line[8:] for line in rest[:last])


def _truth() -> dict[str, str]:
    """Blocks of the README by how they begin."""
    return {
        "```yaml\n# A language model": (ROOT / SPEC).read_text().rstrip(),
        "```text\nparameter  rule": _recdsl("explain", SPEC).partition("\n\nbackend")[0],
        "```python\nfor ": _loop(_recdsl("compile", SPEC)),
    }


def _block(text: str, start: str) -> str:
    found = re.search(re.escape(start) + r".*?\n```\n", text, re.DOTALL)
    assert found, f"the README has no block that begins {start!r}"
    return found.group(0)


def test_what_the_readme_shows_is_real() -> None:
    text = README.read_text()
    for start, truth in _truth().items():
        fence = start.split("\n")[0]
        assert _block(text, start) == f"{fence}\n{truth}\n```\n", "python tests/test_readme.py brings it up to date"


def test_what_the_readme_names_exists() -> None:
    text = README.read_text()
    for name in re.findall(r"\]\(([\w./]+)\)", text):
        assert (ROOT / name).exists(), name
    for name in re.findall(r"specs/\w+\.yaml", text):
        assert (ROOT / name).exists(), name


def test_contributing_and_architecture_name_real_files() -> None:
    for document in ("CONTRIBUTING.md", "ARCHITECTURE.md"):
        for name in re.findall(r"`((?:recdsl|backends|specs|tests|grammars)/[\w./]*)`", (ROOT / document).read_text()):
            if "NAME" not in name and "PHASE" not in name:
                assert (ROOT / name).exists(), f"{document}: {name}"


def test_continuous_integration_does_what_the_readme_says() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    commands = re.findall(r"^\.venv/bin/.*$", README.read_text(), re.MULTILINE)
    assert any(command.endswith("-m pytest -n 2") for command in commands)
    assert ".venv/bin/python -m pytest -n 2" in script
    assert "-c constraints.txt -e '.[dev]'" in script
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


if __name__ == "__main__":
    readme = README.read_text()
    for beginning, real in _truth().items():
        readme = readme.replace(_block(readme, beginning), f"{beginning.split(chr(10))[0]}\n{real}\n```\n")
    README.write_text(readme)
