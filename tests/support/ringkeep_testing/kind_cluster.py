"""A Ringkeep in a real Kubernetes cluster, for end-to-end tests: only what people type, kubectl and helm.

    with Namespace("...") as space:            a namespace of restricted pods, deleted afterwards
        space.apply(cluster_manifest("demo"))  space.ready("demo")   space.scale("demo", 5)
        with space.recording("demo") as recording: ...break things...
        recording.final                        what was written, lost, wrong; recording.seconds: the same second by second

Everything runs in the current context. Waiting is polling with a limit that only ends a test that hangs; what is measured
is returned, and tests judge it.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, TypeVar

import msgspec

ROOT = Path(__file__).resolve().parents[3]
CHART = ROOT / "helm" / "ringkeep"
RECORDER = Path(__file__).with_name("recorder.py")
LIMIT_S = 180.0
POLL_S = 0.25
Json = dict[str, Any]
T = TypeVar("T")


class Failed(AssertionError):
    """A command failed; ``said`` is what it wrote to standard error."""

    def __init__(self, command: Sequence[str], said: str) -> None:
        super().__init__(f"{' '.join(command[:12])}: {said.strip()[-2000:]}")
        self.said = said


def command(*arguments: str, given: str = "", limit_s: float = LIMIT_S) -> str:
    """Run a program, return what it printed, raise ``Failed`` if it fails."""
    done = subprocess.run(arguments, input=given, capture_output=True, text=True, timeout=limit_s, check=False)
    if done.returncode:
        raise Failed(arguments, done.stderr or done.stdout)
    return done.stdout


def kubectl(*arguments: str, given: str = "", limit_s: float = LIMIT_S) -> str:
    """Run kubectl."""
    return command("kubectl", *arguments, given=given, limit_s=limit_s)


def helm(*arguments: str, limit_s: float = LIMIT_S) -> str:
    """Run helm."""
    return command("helm", *arguments, limit_s=limit_s)


def decoded(text: str) -> Json:
    """Return a JSON object."""
    return msgspec.json.decode(text, type=Json)


def until(ask: Callable[[], T | None], what: str, *, limit_s: float = LIMIT_S, every_s: float = POLL_S) -> T:
    """Ask again and again until there is an answer; fail with what was waited for and the last complaint."""
    deadline, last = time.monotonic() + limit_s, ""
    while time.monotonic() < deadline:
        try:
            if (answer := ask()) is not None:
                return answer
        except Failed as error:
            last = f" (last: {error})"
        time.sleep(every_s)
    raise AssertionError(f"not within {limit_s:.0f} s: {what}{last}")


def cluster_manifest(name: str, replicas: int = 3, **spec: object) -> Json:
    """Return a Cluster with little storage; ``spec`` are further fields as in the resource."""
    return {
        "apiVersion": "ringkeep.dev/v1alpha1",
        "kind": "Cluster",
        "metadata": {"name": name},
        "spec": {"replicas": replicas, "image": "ringkeep-node:dev", "storage": {"size": "64Mi"}, **spec},
    }


@dataclass(frozen=True)
class Condition:
    """One condition of a Cluster."""

    status: str
    reason: str
    message: str
    generation: int


class Namespace:
    """A namespace with restricted pods only. It is deleted at the end, with everything in it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> Self:
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        manifest = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.name, "labels": labels}}
        kubectl("apply", "-f", "-", given=json.dumps(manifest))
        return self

    def __exit__(self, *_: object) -> None:
        kubectl("delete", "namespace", self.name, "--ignore-not-found", "--timeout=120s")

    # -- objects -----------------------------------------------------------------------------------------------

    def kubectl(self, *arguments: str, given: str = "", limit_s: float = LIMIT_S) -> str:
        """Run kubectl in this namespace."""
        return kubectl("--namespace", self.name, *arguments, given=given, limit_s=limit_s)

    def apply(self, *manifests: Json) -> None:
        """Apply objects on the server."""
        items = {"apiVersion": "v1", "kind": "List", "items": list(manifests)}
        self.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", given=json.dumps(items))

    def get(self, kind: str, name: str) -> Json | None:
        """Return an object, or None."""
        text = self.kubectl("get", kind, name, "-o", "json", "--ignore-not-found")
        return decoded(text) if text.strip() else None

    def all(self, kind: str, selector: str = "") -> list[Json]:
        """Return the objects of a kind."""
        chosen = ("-l", selector) if selector else ()
        items: list[Json] = decoded(self.kubectl("get", kind, *chosen, "-o", "json"))["items"]
        return items

    def events(self, name: str) -> list[tuple[str, str]]:
        """Return reason and message of the events about an object."""
        rows = decoded(self.kubectl("get", "events", "--field-selector", f"involvedObject.name={name}", "-o", "json"))
        return [(row.get("reason", ""), row.get("message", "")) for row in rows["items"]]

    def run_python(self, pod: str, code: str, *arguments: str, limit_s: float = 60.0) -> str:
        """Run Python in a pod and return what it printed."""
        return self.kubectl("exec", pod, "--", "python", "-c", code, *arguments, limit_s=limit_s)

    # -- clusters ----------------------------------------------------------------------------------------------

    def cluster(self, name: str) -> Json:
        """Return a Cluster that exists."""
        found = self.get("cluster", name)
        assert found is not None, f"there is no cluster {name}"
        return found

    def conditions(self, name: str) -> dict[str, Condition]:
        """Return the conditions of a Cluster by their types."""
        rows = self.cluster(name).get("status", {}).get("conditions", [])
        return {
            row["type"]: Condition(row["status"], row["reason"], row.get("message", ""), row["observedGeneration"])
            for row in rows
        }

    def pods(self, cluster: str) -> list[Json]:
        """Return the pods of a Cluster."""
        return self.all("pods", f"ringkeep.dev/cluster={cluster}")

    def ready(self, name: str, *, limit_s: float = LIMIT_S) -> float:
        """Wait as people do until a Cluster is Ready; return how long that took."""
        began = time.monotonic()
        self.kubectl(
            "wait", "--for=condition=Ready", f"cluster/{name}", f"--timeout={limit_s:.0f}s", limit_s=limit_s + 10
        )
        return time.monotonic() - began

    def scale(self, name: str, replicas: int, *, limit_s: float = LIMIT_S) -> float:
        """Scale a Cluster and wait until it is Ready in the new size; return how long that took."""
        began = time.monotonic()
        self.kubectl("scale", "cluster", name, f"--replicas={replicas}")
        self.settled(name, limit_s=limit_s)
        return time.monotonic() - began

    def settled(self, name: str, *, limit_s: float = LIMIT_S) -> Json:
        """Return the Cluster once it is Ready for its present generation, with as many members as it wants."""

        def ask() -> Json | None:
            found = self.cluster(name)
            status, generation = found.get("status", {}), found["metadata"]["generation"]
            rows = {row["type"]: row for row in status.get("conditions", [])}
            ready = rows.get("Ready", {})
            is_ready = ready.get("status") == "True" and ready.get("observedGeneration") == generation
            has_all = status.get("readyReplicas") == found["spec"]["replicas"] == len(status.get("members", ()))
            return found if is_ready and has_all else None

        return until(ask, f"{name} is Ready with all its members", limit_s=limit_s)

    def ask(self, pod: str, path: str) -> Json:
        """Ask the node in a pod over REST, from inside of the pod."""
        code = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=5).read().decode())"
        return decoded(self.run_python(pod, code, f"http://127.0.0.1:8080{path}"))

    # -- load --------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def recording(
        self,
        cluster: str,
        *,
        writes_per_s: float = 200,
        reads_per_s: float = 200,
        users: int = 200,
        name: str = "recorder",
    ) -> Iterator[Recording]:
        """Have a pod write and read through the client Service, and verify everything in the end."""
        environment = {
            "URL": f"http://{cluster}.{self.name}.svc:8080",
            "WRITES_PER_S": str(writes_per_s),
            "READS_PER_S": str(reads_per_s),
            "USERS": str(users),
            "TIMEOUT_S": "10",
            "SECONDS_MAX": "900",
        }
        recording = Recording(self, name)
        self.kubectl("delete", "pod", name, "--ignore-not-found", "--now")
        self.apply(
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": name},
                "data": {"recorder.py": RECORDER.read_text()},
            },
            client_pod(name, environment),
        )
        recording.wait_until_it_writes()
        try:
            yield recording
        finally:
            recording.stop()


@dataclass(frozen=True)
class Settled:
    """A cluster that is Ready, and where it is."""

    space: Namespace
    name: str

    @property
    def leader(self) -> str:
        """The Raft leader, as the status says."""
        return str(self.space.cluster(self.name)["status"]["leader"])


def client_pod(name: str, environment: Mapping[str, str]) -> Json:
    """Return the pod of the recording client."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/component": "recorder"}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "enableServiceLinks": False,
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "runAsGroup": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            # On the control plane: a worker that a test breaks must not take the witness along.
            "nodeSelector": {"node-role.kubernetes.io/control-plane": ""},
            "tolerations": [{"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"}],
            "containers": [
                {
                    "name": "recorder",
                    "image": "ringkeep-node:dev",
                    "command": ["python", "/recorder/recorder.py"],
                    "env": [{"name": key, "value": value} for key, value in environment.items()],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    "volumeMounts": [
                        {"name": "script", "mountPath": "/recorder", "readOnly": True},
                        {"name": "tmp", "mountPath": "/tmp"},
                    ],
                }
            ],
            "volumes": [{"name": "script", "configMap": {"name": name}}, {"name": "tmp", "emptyDir": {}}],
        },
    }


@dataclass
class Recording:
    """What a recording client saw. ``final`` is there once it has been stopped."""

    space: Namespace
    pod: str
    final: Json = field(default_factory=dict)
    seconds: list[Json] = field(default_factory=list)

    def wait_until_it_writes(self) -> None:
        """Return once writes are acknowledged."""

        def ask() -> bool | None:
            return True if any(line.get("writes") for line in self._lines()) else None

        until(ask, "the recorder writes")

    def stop(self) -> None:
        """Stop the load, wait for the verification and take the result."""
        self.space.run_python(self.pod, "open('/tmp/stop', 'w')")

        def ask() -> Json | None:
            lines = self._lines()
            return lines[-1] if lines and lines[-1].get("final") else None

        self.final = until(ask, "the recorder has verified everything", every_s=1.0)
        self.seconds = [line for line in self._lines() if not line.get("final")]

    def _lines(self) -> list[Json]:
        text = self.space.kubectl("logs", self.pod, "--ignore-errors")
        return [decoded(line) for line in text.splitlines() if line.startswith("{")]

    def so_far(self) -> list[Json]:
        """Return the seconds up to now, while it runs."""
        return [line for line in self._lines() if not line.get("final")]

    @property
    def error_share(self) -> float:
        """Errors after one retry, as a share of all requests."""
        errors = self.final["write_errors"] + self.final["read_errors"]
        return float(errors / max(1, errors + self.final["writes"] + self.final["reads"]))

    @property
    def offences(self) -> list[str]:
        """What must never be: acknowledged writes that are gone, and reads of something older."""
        return [*self.final["lost"], *self.final["wrong"]]


class Report:
    """Measured figures by name; written as JSON and shown as a table of p50 and p95 against their limits."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: dict[str, Json] = {}
        if path.exists():
            self._rows = decoded(path.read_text())

    def add(self, what: str, value: float, *, limit: float | None = None, unit: str = "s") -> None:
        """Add one measured value; the file is written at once, so that a test that fails later loses nothing."""
        row = self._rows.setdefault(what, {"unit": unit, "limit": limit, "values": []})
        row["values"].append(round(value, 4))
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps(self._rows, indent=1) + "\n")

    def table(self) -> str:
        """Return the table."""
        lines = [f"{'what':<58} {'n':>3} {'p50':>9} {'p95':>9} {'max':>9} {'limit':>9}"]
        for what, row in self._rows.items():
            values = sorted(row["values"])
            middle, high = values[len(values) // 2], values[min(len(values) - 1, int(0.95 * len(values)))]
            limit = "" if row["limit"] is None else f"{row['limit']:g} {row['unit']}"
            lines.append(f"{what:<58} {len(values):>3} {middle:>9.3f} {high:>9.3f} {values[-1]:>9.3f} {limit:>9}")
        return "\n".join(lines)
