"""A process that looks like a node from outside, for tests of the launcher (standard library only).

The nodes of one cluster share a file beside their data directories; a plan is carried out as soon as it is wanted.
FAKE_NODE_MODE changes the behaviour: ``crash`` ends with a sentence, ``deaf`` ignores SIGTERM. So do files beside the
shared one: ``refusal`` holds the reason for which a plan is refused, ``voter-<name>`` lets one attempt to leave fail.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

NAME = os.environ["RINGKEEP_NAME"]
DATA = Path(os.environ["RINGKEEP_DATA"])
SHARED = DATA.parent.parent / "shared-map.json"
HOST, _, PORT = os.environ["RINGKEEP_API"].rpartition(":")


def _share(shared: object) -> None:
    fresh = SHARED.with_name(f"{NAME}.tmp")
    fresh.write_text(json.dumps(shared))
    os.replace(fresh, SHARED)  # in one step: the other nodes read it all the time


def _register() -> None:
    """Join the cluster that there is, as a node with an empty directory does."""
    own = {"name": NAME, "storage_id": _storage_id(), "peer": os.environ["RINGKEEP_PEER"]}
    with SHARED.with_name("registering").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # Several nodes start at once.
        shared = json.loads(SHARED.read_text())
        if all(member["name"] != NAME for member in shared["members"]):
            shared["members"].append(own)
            _share(shared)


def _plan(shared: Any) -> dict[str, Any]:
    wanted = shared["desired"]["members"]
    nodes = [
        {"name": one["name"], "copies": 16 if not wanted.get(one["name"], {"draining": True})["draining"] else 0}
        for one in shared["members"]
    ]
    return {"wanted_revision": shared["desired"]["revision"], "version": 1, "nodes": nodes, "steps": []}


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
        elif self.path == "/v1/cluster/leader":
            self._answer(200, {"name": NAME, "url": f"http://{HOST}:{PORT}", "term": 1})
        elif self.path == "/v1/cluster/wanted":
            self._answer(200, shared["desired"])
        elif self.path == "/v1/cluster/plan":
            self._answer(200, _plan(shared))
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
        if self.path.endswith("/leave"):
            self._leave(self.path.split("/")[-2])
            return
        wish = self._body()
        if self.path == "/v1/cluster/plan":
            refusal = SHARED.with_name("refusal")
            if refusal.exists():
                self._problem(409, "conflict", refusal.read_text())
            else:
                self._answer(200, _plan(json.loads(SHARED.read_text())))
            return
        if SHARED.exists():
            self._problem(409, "conflict", "this node already belongs to a cluster")
            return
        identity = {"name": NAME, "storage_id": _storage_id(), "boot_id": "b1"}
        shards = [{"shard": shard, "epoch": 1, "primary": identity} for shard in range(wish["shards"])]
        made = {"cluster_id": "feed000000000001", "version": 1, "members": wish["members"], "shards": shards}
        usual = {"weight": 1.0, "zone": "", "draining": False}
        desired = {"revision": 1, "members": {one["name"]: usual for one in wish["members"]}, "settings": {}}
        _share({**made, "wanted": wish, "desired": desired})
        self._answer(200, {"cluster_id": made["cluster_id"]})

    def do_PUT(self) -> None:
        """Take a wanted state whose revision is the present one."""
        wish, shared = self._body(), json.loads(SHARED.read_text())
        if wish["revision"] != shared["desired"]["revision"]:
            self._problem(409, "conflict", "the wanted state was changed by somebody else")
            return
        shared["desired"] = {**wish, "revision": wish["revision"] + 1}
        _share(shared)
        self._answer(200, shared["desired"])

    def _leave(self, name: str) -> None:
        votes, shared = SHARED.with_name(f"voter-{name}"), json.loads(SHARED.read_text())
        wanted = shared["desired"]["members"]
        if votes.exists():
            votes.unlink()
            self._problem(409, "conflict", f"{name} is in the Raft configuration")
        elif all(member["name"] != name for member in shared["members"]):
            self._problem(404, "not_found", f"there is no member {name}")
        elif name in wanted and not wanted[name]["draining"]:
            self._problem(409, "conflict", f"{name} is wanted and not draining")
        else:
            wanted.pop(name, None)
            shared["members"] = [member for member in shared["members"] if member["name"] != name]
            shared["left"] = [*shared.get("left", ()), f"storage-of-{name}"]
            _share(shared)
            self._answer(200, {"left": name, "storage_id": f"storage-of-{name}"})

    def _body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def log_message(self, *args: object) -> None:
        """Say nothing."""

    def _members(self, shared: Any) -> list[dict[str, str]]:
        if shared is not None:
            wanted = shared["desired"]["members"]
            return [one | {"state": "alive" if one["name"] in wanted else "joining"} for one in shared["members"]]
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
    if SHARED.exists():
        _register()
    signal.signal(signal.SIGTERM, signal.SIG_IGN if mode == "deaf" else lambda *_: os._exit(0))
    print(json.dumps({"event": "started", "node": NAME}), flush=True)
    Server((HOST, int(PORT)), Handler).serve_forever()


if __name__ == "__main__":
    main()
