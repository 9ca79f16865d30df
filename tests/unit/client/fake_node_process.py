"""A process that looks like a node from outside, for tests of the launcher (standard library only).

The nodes of one cluster share a file beside their data directories. FAKE_NODE_MODE changes the behaviour: ``crash``
ends with a sentence, ``deaf`` ignores SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NAME = os.environ["RINGKEEP_NAME"]
DATA = Path(os.environ["RINGKEEP_DATA"])
SHARED = DATA.parent.parent / "shared-map.json"
HOST, _, PORT = os.environ["RINGKEEP_API"].rpartition(":")


def _storage_id() -> str:
    path = DATA / "storage-id"
    if not path.exists():
        path.write_text(f"storage-of-{NAME}")
    return path.read_text()


class Handler(BaseHTTPRequestHandler):
    """Answers what the launcher asks."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer members, map, readiness and documents (which never exist)."""
        shared = json.loads(SHARED.read_text()) if SHARED.exists() else None
        if self.path == "/v1/cluster/members":
            self._answer(200, {"members": self._members(shared)})
        elif shared is None:
            self._problem(503, "no_primary", "this node belongs to no cluster yet")
        elif self.path == "/v1/cluster/map":
            self._answer(200, shared)
        elif self.path == "/v1/cluster":
            self._answer(200, {"node": NAME, "cluster_id": os.environ.get("FAKE_NODE_CLUSTER", shared["cluster_id"])})
        elif self.path == "/readyz":
            self._answer(200, {"ready": True})
        else:
            self._problem(404, "not_found", "no such document")

    def do_POST(self) -> None:
        """Take the bootstrap, once; an import is never answered."""
        if self.path == "/v1/import":
            threading.Event().wait()
        wish = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if SHARED.exists():
            self._problem(409, "conflict", "this node already belongs to a cluster")
            return
        identity = {"name": NAME, "storage_id": _storage_id(), "boot_id": "b1"}
        shards = [{"shard": shard, "epoch": 1, "primary": identity} for shard in range(wish["shards"])]
        made = {"cluster_id": "feed000000000001", "version": 1, "members": wish["members"], "shards": shards}
        fresh = SHARED.with_name(f"{NAME}.tmp")
        fresh.write_text(json.dumps({**made, "wanted": wish}))
        os.replace(fresh, SHARED)  # in one step: the other nodes read it all the time
        self._answer(200, {"cluster_id": made["cluster_id"]})

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def _members(self, shared: dict[str, list[dict[str, str]]] | None) -> list[dict[str, str]]:
        if shared is not None:
            return shared["members"]
        return [{"name": NAME, "storage_id": _storage_id(), "boot_id": "b1", "url": "", "peer": "", "state": "joining"}]

    def _problem(self, status: int, code: str, detail: str) -> None:
        self._answer(status, {"code": code, "detail": detail, "status": status})

    def _answer(self, status: int, body: object) -> None:
        encoded = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.send_header("Ringkeep-Node", NAME)
        self.end_headers()
        self.wfile.write(encoded)


class Server(ThreadingHTTPServer):
    """Says nothing when somebody stops waiting for an answer."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Leave the log as it is."""


def main() -> None:
    """Serve until SIGTERM."""
    mode = os.environ.get("FAKE_NODE_MODE", "")
    if mode == "crash":
        sys.exit('{"event": "start_refused", "reason": "this directory belongs to another node"}')
    (DATA.parent / "environment.json").write_text(
        json.dumps({name: value for name, value in os.environ.items() if name.startswith("RINGKEEP_")})
    )
    signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "deaf" else lambda *_: os._exit(0))
    print(json.dumps({"event": "started", "node": NAME}), flush=True)
    Server((HOST, int(PORT)), Handler).serve_forever()


if __name__ == "__main__":
    main()
