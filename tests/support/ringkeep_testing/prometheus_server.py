"""A real Prometheus on loopback, for tests: started with a configuration, asked over its API, ended by its own process.

Where the program is missing the tests that need it are skipped, with a sentence.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml  # type: ignore[import-untyped]  # it has no types, and its stubs are not worth a dependency

from ringkeep.launcher.ports import next_free
from ringkeep_testing.real_cluster import HOST, LIMIT_S, MORTAL_NODE, POLL_S, own_ports


class PrometheusServer:
    """A running Prometheus; ``url`` is where its API is."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url, self._process, self._log = url, process, log

    async def ask(self, path: str, **parameters: str) -> Any:
        """Return the data of an answer; an assertion fails if it is an error."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.url}/api/v1/{path}", params=parameters) as answer,
        ):
            body = await answer.json()

        assert body["status"] == "success", body
        return body["data"]

    async def query(self, query: str) -> list[dict[str, Any]]:
        """Return the samples of a query."""
        found: list[dict[str, Any]] = (await self.ask("query", query=query))["result"]
        return found

    async def wait_ready(self) -> None:
        """Return when it answers; fail with its log when it has ended or the time is up."""
        async with asyncio.timeout(LIMIT_S), aiohttp.ClientSession() as session:
            while True:
                assert self._process.poll() is None, self._log.read_text()
                try:
                    async with session.get(f"{self.url}/-/ready") as answer:
                        if answer.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(POLL_S)


@contextmanager
def prometheus_server(folder: Path, configuration: Mapping[str, Any]) -> Iterator[PrometheusServer]:
    """Run Prometheus with a configuration; its data and log are in ``folder``."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("needs prometheus (tools/test_programs.sh installs it; Debian: apt-get install prometheus)")
    folder.mkdir()
    (folder / "prometheus.yml").write_text(yaml.safe_dump(dict(configuration)))
    port = next_free(own_ports()[0] + 150, ())
    arguments = (
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={HOST}:{port}",
    )
    # Like the nodes, it ends with the process that started it.
    command = [*MORTAL_NODE[:5], program, *arguments]
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield PrometheusServer(f"http://{HOST}:{port}", process, log)
    finally:
        process.kill()
        process.wait(LIMIT_S)
