"""Planted bugs: proof that a test of a safety rule can fail.

A planted bug is a file ``tests/planted/<name>.toml`` that takes one rule out of the product:

    title, rule   what is broken, and which rule of the design that is
    file          path in the repository
    old, new      text to replace; ``old`` occurs exactly once in ``file``
    layer, test   the layer that must catch it, and the pytest node id that must then fail
    simulation    if random seeds catch it too: the pytest node id of a simulation that must fail within its seeds

The change is made in a copy of the tree, never in the product; there are no switches for it in product code.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

COPIED = ("core", "node", "client", "operator", "tests", "pyproject.toml")
CAUGHT = 1
"""pytest's exit code for "some tests failed"; 2 and above mean that nothing was judged."""


@dataclass(frozen=True)
class PlantedBug:
    """One file of ``tests/planted``."""

    name: str
    title: str
    rule: str
    file: str
    old: str
    new: str
    layer: str
    test: str
    simulation: str = ""


class PlantFailed(Exception):
    """The bug cannot be planted: the text that it replaces is not there exactly once."""


def read_bugs(folder: Path) -> list[PlantedBug]:
    """Return the planted bugs of a folder, by name."""
    return [
        PlantedBug(name=path.stem, **tomllib.loads(path.read_text(encoding="utf-8")))
        for path in sorted(folder.glob("*.toml"))
    ]


def plant(bug: PlantedBug, tree: Path) -> None:
    """Make the change in a copy of the tree. Raises ``PlantFailed``."""
    target = tree / bug.file
    text = target.read_text(encoding="utf-8")
    if text.count(bug.old) != 1:
        raise PlantFailed(f"{bug.name}: the text to replace occurs {text.count(bug.old)} times in {bug.file}")
    target.write_text(text.replace(bug.old, bug.new), encoding="utf-8")


def copy_tree(root: Path, target: Path) -> None:
    """Copy what the tests need."""
    ignore = shutil.ignore_patterns("__pycache__", "*.pyc", ".hypothesis", "planted")
    for name in COPIED:
        source = root / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=ignore)
        else:
            shutil.copy(source, target / name)


def is_defined(root: Path, test: str) -> bool:
    """Say whether the module of a pytest node id defines the function that the id names."""
    module, _, function = test.partition("::")
    path = root / module
    if not path.is_file():
        return False
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    return function.partition("[")[0] in names


def run_test(tree: Path, test: str, timeout_s: float) -> tuple[int, str]:
    """Run one test in a copy of the tree. Returns pytest's exit code and its output."""
    # The editable install points at the original tree, so the copy has to come first on the path.
    path = os.pathsep.join(str(tree / part) for part in ("core", "node", "client", "operator", "tests/support"))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", test],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr
