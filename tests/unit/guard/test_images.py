"""The images: built by any builder, from a base that is a choice, and with nothing in them that only builds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FILES = ("node/Dockerfile", "operator/Dockerfile")


def instructions(file: str) -> list[str]:
    """Return the instructions of a Dockerfile, each on one line, without comments."""
    lines = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]
    return re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()


@pytest.mark.parametrize("file", FILES)
def test_an_image_needs_no_buildkit_and_takes_its_base_as_an_argument(file: str) -> None:
    found = instructions(file)

    assert found[0].startswith("ARG BASE=")
    assert [line for line in found if line.startswith("FROM ")] == ["FROM ${BASE} AS build", "FROM ${BASE}"]
    assert "syntax=" not in (ROOT / file).read_text().splitlines()[0]
    assert not [line for line in found if re.search(r"^RUN --|--mount|--link|--chmod|<<", line)]


@pytest.mark.parametrize("file", FILES)
def test_what_runs_is_built_before_and_is_nobody(file: str) -> None:
    found = instructions(file)
    last = found[found.index("FROM ${BASE}") + 1 :]
    copied = [line for line in last if line.startswith(("COPY", "ADD"))]
    ran = [line for line in last if line.startswith("RUN")]

    assert copied == ["COPY --from=build /opt/ringkeep /opt/ringkeep"]
    assert not [line for line in ran if re.search(r"\b(apt|apk|dnf|pip|gcc|make|curl|wget)\b", line)]
    assert [line for line in last if line.startswith("USER")] == ["USER 65532:65532"]
    assert last[-1].startswith('ENTRYPOINT ["ringkeep-')


@pytest.mark.parametrize("file", FILES)
def test_what_is_installed_is_locked_by_its_hash_and_never_compiled(file: str) -> None:
    installs = [line for line in instructions(file) if "install --quiet --require-hashes" in line]

    assert len(installs) == 1
    assert "--no-deps" in installs[0] and "--only-binary=:all:" in installs[0]
