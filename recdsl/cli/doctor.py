"""`recdsl doctor`: what this installation can do."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import typer

from recdsl.cli.frame import FAILED, OK, AsJson, command, say, say_json

PACKAGES = ("lark", "networkx", "numpy", "pyyaml", "rich", "safetensors", "typer")
PACKAGED = (("grammars", "equations.lark"), ("specs", "copy_lstm.yaml"), ("specs", "blocks", "gru.yaml"))


def add(app: typer.Typer) -> None:
    @command(app, "doctor")
    def doctor(as_json: AsJson = False) -> int:  # pyright: ignore[reportUnusedFunction]
        """Report versions, folders and devices, and what is amiss. Status 1 if something is."""
        facts, problems = examine()
        if as_json:
            say_json({"facts": facts, "problems": problems})
        else:
            width = max(map(len, facts))
            say("\n".join([*(f"{name.ljust(width)}  {value}" for name, value in facts.items()), ""]))
            say("\n".join(f"problem: {problem}" for problem in problems) or "all is well")
        return FAILED if problems else OK


def examine() -> tuple[dict[str, str], list[str]]:
    """Facts by name, and problems."""
    problems: list[str] = []
    facts = versions(problems) | torch_facts(problems)
    from recdsl.backends.native.build import facts as native_facts

    found, wrong = native_facts()
    facts |= found
    problems += wrong
    from recdsl.training.files import cache

    facts["data cache"] = folder(cache(), problems)
    facts["working folder"] = folder(Path.cwd(), problems)
    facts["temporary folder"] = folder(Path(tempfile.gettempdir()), problems)
    return facts, problems


def versions(problems: list[str]) -> dict[str, str]:
    """Python, recdsl and what it needs; whether the package is whole."""
    from importlib.metadata import PackageNotFoundError, version

    from recdsl import __version__
    from recdsl.resources import read_text

    facts = {"recdsl": __version__, "Python": sys.version.split()[0], "system": platform.platform()}
    for name in PACKAGES:
        try:
            facts[name] = version(name)
        except PackageNotFoundError:
            problems.append(f"the package {name} is missing")
    for path in PACKAGED:
        try:
            read_text(*path)
        except OSError as error:
            problems.append(f"recdsl/{'/'.join(path)} is missing: {error.strerror} (a clone without symbolic links?)")
    return facts


def torch_facts(problems: list[str]) -> dict[str, str]:
    """What torch says of itself."""
    try:
        from recdsl.training.probe import facts
    except ImportError as error:
        problems.append(f"torch cannot be imported: {error}")
        return {}
    found: dict[str, Any] = facts()
    if found["autograd"] != "works":
        problems.append("torch gives a wrong gradient")
    return found


def folder(path: Path, problems: list[str]) -> str:
    """A folder with what can be done to it. One that does not exist yet is judged by where it would be made."""
    existing = next(parent for parent in (path, *path.absolute().parents) if parent.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        problems.append(f"{path} cannot be written")
        return f"{path} (cannot be written)"
    free = shutil.disk_usage(existing).free / 2**30
    return f"{path} ({'' if path.exists() else 'not made yet, '}{free:,.1f} GiB free)"
