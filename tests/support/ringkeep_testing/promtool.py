"""What Prometheus' own checker says, for tests. Where the program is missing they are skipped, with a sentence."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

PROMTOOL_S = 60.0


def promtool() -> str:
    """Return where promtool is; skip the test if it is nowhere."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("needs promtool (tools/test_programs.sh installs it; Debian: apt-get install prometheus)")
    return program


def check_metrics(page: bytes) -> str:
    """Return what promtool finds wrong with a page of metrics, "" for nothing."""
    command = [promtool(), "check", "metrics"]
    done = subprocess.run(command, input=page, capture_output=True, timeout=PROMTOOL_S, check=False)
    return "" if done.returncode == 0 and not done.stderr else (done.stdout + done.stderr).decode()


def asked(*arguments: str, folder: Path) -> tuple[int, str]:
    """Return the exit code of promtool in a folder, and all that it says."""
    command = [promtool(), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=PROMTOOL_S, check=False)
    return done.returncode, done.stdout + done.stderr
