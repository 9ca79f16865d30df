"""A real Prometheus process that finds its targets at a cluster of real nodes, for as long as a test needs it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import aiohttp
import pytest

from ringkeep_testing.real_cluster import HOST, mortal

RESOLVER = "/etc/resolv.conf"


class RealPrometheus:
    """Use as a context. ``config`` is its configuration (JSON is YAML); ``name_server``: who answers its DNS questions.

    A name server of its own needs a mount namespace, in which another file stands in the place of the resolver's.
    """

    package = "prometheus"

    def __init__(self, path: Path, config: dict[str, Any], *, name_server: str = "") -> None:
        program = shutil.which(self.package)
        if program is None:
            pytest.skip(f"needs the program {self.package} on this machine (Debian: apt-get install {self.package})")
        path.mkdir(parents=True)
        (path / "prometheus.yml").write_text(json.dumps(config))
        self._port = _free_port()
        self._log = path / "log.txt"
        self._command: Sequence[str] = (program, *self._options(path))
        if name_server:
            (path / "resolv.conf").write_text(f"nameserver {name_server}\noptions timeout:1 attempts:1\n")
            inside = f'mount --bind "$0" {RESOLVER} && exec "$@"'
            self._command = (
                shutil.which("unshare") or "unshare",
                "-m",
                "sh",
                "-c",
                inside,
                str(path / "resolv.conf"),
                *self._command,
            )

    def _options(self, path: Path) -> Sequence[str]:
        return (
            f"--config.file={path / 'prometheus.yml'}",
            f"--storage.tsdb.path={path / 'data'}",
            f"--web.listen-address={HOST}:{self._port}",
        )

    def __enter__(self) -> Self:
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                mortal(self._command), stdout=log, stderr=log, env={**os.environ, "GOMAXPROCS": "1"}
            )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    async def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer of its API; an assertion fails if it is an error."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{HOST}:{self._port}/api/v1/{path}", params=parameters) as answer,
        ):
            body = await answer.json()

        assert body["status"] == "success", body
        return body["data"]

    async def query(self, query: str) -> list[dict[str, Any]]:
        """Return the samples of a query."""
        found: list[dict[str, Any]] = (await self.ask("query", query=query))["result"]
        return found

    def targets(self, job: str) -> list[dict[str, Any]] | None:
        """Return the active targets of a job; None while the process does not answer."""
        assert self._process.poll() is None, self._log.read_text()[-2000:]
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self._port}/api/v1/targets?state=active", timeout=5) as answer:
                active: list[dict[str, Any]] = json.load(answer)["data"]["activeTargets"]
        except (urllib.error.URLError, ConnectionError):
            return None
        return [row for row in active if row["discoveredLabels"]["job"] == job]

    async def addresses(self, job: str) -> set[str] | None:
        """Return host:port of the active targets of a job."""
        rows = self.targets(job)
        return None if rows is None else {row["discoveredLabels"]["__address__"] for row in rows}

    async def up(self, job: str) -> set[str] | None:
        """Return host:port of those targets of a job that were scraped with success."""
        rows = self.targets(job)
        return (
            None if rows is None else {row["discoveredLabels"]["__address__"] for row in rows if row["health"] == "up"}
        )


class RealVictoriaMetrics(RealPrometheus):
    """VictoriaMetrics, which takes Prometheus' configuration and has the Consul discovery that Debian's Prometheus lacks."""

    package = "victoria-metrics"

    def _options(self, path: Path) -> Sequence[str]:
        return (
            f"-promscrape.config={path / 'prometheus.yml'}",
            "-promscrape.consulSDCheckInterval=1s",
            f"-storageDataPath={path / 'data'}",
            f"-httpListenAddr={HOST}:{self._port}",
            "-memory.allowedBytes=64MiB",
        )


def can_have_its_own_resolver() -> bool:
    """Return whether this user may make mount namespaces."""
    program = shutil.which("unshare")
    return (
        program is not None
        and subprocess.run([program, "-m", "true"], check=False, capture_output=True).returncode == 0
    )


def may_listen(host: str, port: int) -> bool:
    """Return whether this user may take a port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
