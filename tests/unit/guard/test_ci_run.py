"""`.ci/run` ends with one line that sums up all tests, and with 0 only if every layer passed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAMS = ("kind", "docker", "kubectl", "helm", "prometheus", "chromium", "dig", "victoria-metrics")


def run_with_layers(folder: Path, **says: str) -> tuple[int, str]:
    """Run a copy of `.ci/run` whose `make TARGET` does what `says` has for it; its exit code and its last line."""
    (folder / ".ci").mkdir()
    (folder / "tools").mkdir()
    (folder / "bin").mkdir()
    shutil.copy(ROOT / ".ci/run", folder / ".ci/run")
    shutil.copy(ROOT / "tools/sum_up.sh", folder / "tools/sum_up.sh")
    shutil.copy(ROOT / "tools/test_programs.sh", folder / "tools/test_programs.sh")
    cases = "".join(f"    {target}) {command} ;;\n" for target, command in says.items())
    script = f'#!/bin/sh\nfor target in "$@"; do case $target in\n{cases}    -*) ;;\n    esac; done\n'
    for program in (*PROGRAMS, "make"):
        path = folder / "bin" / program
        path.write_text(script if program == "make" else "#!/bin/sh\nexit 0\n")
        path.chmod(0o755)
    done = subprocess.run(
        ["bash", str(folder / ".ci/run")],
        env={"PATH": f"{folder}/bin:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("check", "e2e", "ends"),
    [
        ("echo '12 passed, 0 failed'", "echo '3 passed, 0 failed'", (0, "15 passed, 0 failed")),
        ("echo '12 passed, 0 failed'", "echo '2 passed, 0 failed, 1 skipped'", (0, "14 passed, 0 failed, 1 skipped")),
        ("echo '11 passed, 1 failed'; exit 1", "echo '3 passed, 0 failed'", (1, "14 passed, 1 failed")),
        ("echo '12 passed, 0 failed'", "echo '1 passed, 2 failed'; exit 1", (1, "13 passed, 2 failed")),
        ("echo '12 passed, 0 failed'", "exit 1", (1, "12 passed, 1 failed")),
        ("exit 1", "exit 1", (1, "0 passed, 1 failed")),
        ("true", "true", (1, "0 passed, 1 failed")),
    ],
)
def test_the_last_line_sums_up_every_layer_and_the_exit_code_agrees(
    check: str, e2e: str, ends: tuple[int, str], tmp_path: Path
) -> None:
    assert run_with_layers(tmp_path, venv="true", check=check, demo="true", e2e=e2e) == ends


def test_a_failed_demo_fails_the_run_although_no_test_failed(tmp_path: Path) -> None:
    ends = run_with_layers(tmp_path, venv="true", check="echo '5 passed, 0 failed'", demo="exit 3", e2e="true")
    assert ends == (1, "5 passed, 1 failed")


def test_programs_that_cannot_be_installed_fail_nothing(tmp_path: Path) -> None:
    for program, does in (("id", "echo 0"), ("apt-get", "exit 1")):
        path = tmp_path / program
        path.write_text(f"#!/bin/sh\n{does}\n")
        path.chmod(0o755)
    done = subprocess.run(
        ["/bin/bash", str(ROOT / "tools/test_programs.sh")],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    skipped = [line for line in done.stdout.splitlines() if line.endswith("its tests will be skipped")]

    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split(": ")[1].split(" ")[0] for line in skipped] == [
        "chromium",
        "prometheus",
        "dnsutils",
        "victoria-metrics",
    ]
