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
import os
import subprocess
import threading
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
EARLY_POLL_S = 0.1
KILLED = 137
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
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


def is_true(manifest: Json, condition: str) -> bool:
    """Return whether an object has a condition that is True."""
    rows = manifest.get("status", {}).get("conditions", [])
    return any(row["type"] == condition and row["status"] == "True" for row in rows)


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
        kubectl("wait", "--for=delete", f"namespace/{self.name}", "--timeout=120s")
        kubectl("apply", "-f", "-", given=json.dumps(manifest))
        return self

    def __exit__(self, *_: object) -> None:
        # The next test need not wait for it.
        kubectl("delete", "namespace", self.name, "--ignore-not-found", "--wait=false")

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

    def complaint(self, name: str, reason: str, *, limit_s: float = LIMIT_S) -> str:
        """Wait until a Cluster is Degraded for a reason, in its present generation; return the condition's message."""

        def ask() -> str | None:
            row = self.conditions(name).get("Degraded")
            generation = self.cluster(name)["metadata"]["generation"]
            is_it = row is not None and (row.status, row.reason, row.generation) == ("True", reason, generation)
            return row.message if row is not None and is_it else None

        return until(ask, f"{name} is Degraded: {reason}", limit_s=limit_s, every_s=0.1)

    def pods(self, cluster: str) -> list[Json]:
        """Return the pods of a Cluster."""
        return self.all("pods", f"ringkeep.dev/cluster={cluster}")

    def ready(self, name: str, *, limit_s: float = LIMIT_S) -> float:
        """Wait as people do until a Cluster is Ready; return how long that took."""
        began = time.monotonic()
        self.kubectl(
            "wait", "--for=condition=Ready", f"cluster/{name}", f"--timeout={limit_s:.0f}s", limit_s=limit_s + 10
        )
        took_s = time.monotonic() - began
        self.never_early(name)
        return took_s

    def scale(self, name: str, replicas: int, *, limit_s: float = LIMIT_S) -> float:
        """Scale a Cluster and wait, as people do, until it is Ready in the new size; return how long that took."""
        began = time.monotonic()
        self.kubectl("scale", "cluster", name, f"--replicas={replicas}")
        self.ready(name, limit_s=limit_s)
        took_s = time.monotonic() - began
        status = self.cluster(name)["status"]
        has_all = status.get("readyReplicas") == replicas == len(status.get("members", ()))
        assert has_all, f"kubectl wait says that {name} is Ready, and its status is {status}"
        return took_s

    def settled(self, name: str, *, limit_s: float = LIMIT_S) -> Json:
        """Return the Cluster once it is Ready for its present generation, with as many members as it wants."""

        def ask() -> Json | None:
            found = self.cluster(name)
            status, generation = found.get("status", {}), found["metadata"]["generation"]
            rows = {row["type"]: row for row in status.get("conditions", [])}
            ready = rows.get("Ready", {})
            is_ready = ready.get("status") == "True" and ready.get("observedGeneration") == generation
            has_all = status.get("readyReplicas") == found["spec"]["replicas"] == len(status.get("members", ()))
            if not is_ready:
                return None
            assert has_all, f"{name} is called Ready, and its status says {status}"
            return found

        found = until(ask, f"{name} is Ready with all its members", limit_s=limit_s, every_s=EARLY_POLL_S)
        self.never_early(name)
        return found

    def never_early(self, name: str) -> None:
        """Fail unless every shard has all its copies, all of them on living members: what Ready promises."""
        found = self.cluster(name)
        wanted = min(found["spec"]["replicationFactor"], found["spec"]["replicas"])
        pod = f"{name}-0"
        # The members' own word, from a node that has the map that Ready was judged from.
        version = found["status"]["mapVersion"]
        shard_map = until(
            lambda: held if (held := self.ask(pod, "/v1/cluster/map"))["version"] >= version else None,
            f"{pod} has map {version}",
            limit_s=10,
        )
        alive = {row["name"] for row in self.ask(pod, "/v1/cluster/members")["members"] if row["state"] != "dead"}
        short = [
            shard["shard"]
            for shard in shard_map["shards"]
            if len({copy["name"] for copy in shard["in_sync"]} & alive) < wanted
        ]
        assert not short, f"{name} is called Ready, and shards {short[:10]} have fewer than {wanted} copies"

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
        url: str = "",
    ) -> Iterator[Recording]:
        """Have a pod write and read through the client Service, or at ``url``, and verify everything in the end."""
        environment = {
            "URL": url or f"http://{cluster}.{self.name}.svc:8080",
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

    def settled(self) -> Json:
        """Wait until it is Ready, with as many members as it wants."""
        return self.space.settled(self.name)

    def patch(self, **spec: object) -> None:
        """Change fields of the spec."""
        self.space.kubectl("patch", "cluster", self.name, "--type=merge", "-p", json.dumps({"spec": spec}))

    def uid(self, pod: str) -> str:
        """Return the uid of a pod, "" if there is none."""
        return str((self.space.get("pod", pod) or {"metadata": {"uid": ""}})["metadata"]["uid"])

    def uids(self) -> dict[str, str]:
        """Return the uids of the three pods that every test begins with."""
        return {name: self.uid(name) for name in (f"{self.name}-{ordinal}" for ordinal in range(3))}

    def replaced(self, uids: Mapping[str, str]) -> list[str]:
        """Return which of these pods are others now, or gone."""
        return [name for name, uid in uids.items() if self.uid(name) != uid]

    def is_new(self, pod: str, uid: str) -> bool:
        """Return whether there is another pod of that name than the one that had ``uid``, and it is ready."""
        found = self.space.get("pod", pod)
        return found is not None and found["metadata"]["uid"] != uid and is_true(found, "Ready")

    def node(self, pod: str) -> str:
        """Return the Node of a pod."""
        found = self.space.get("pod", pod)
        assert found is not None, f"there is no pod {pod}"
        return str(found["spec"]["nodeName"])

    def state(self, pod: str) -> str:
        """Return what the other members call this one, as the status says; "" if they do not know it."""
        rows = self.space.cluster(self.name)["status"]["members"]
        return next((str(row["state"]) for row in rows if row["name"] == pod), "")

    def serves(self, pod: str) -> bool:
        """Return whether the other members call this one alive, as the status says."""
        return self.state(pod) == "alive"

    def address(self, pod: str) -> str:
        """Return where a pod answers REST, for a client that asks it and no Service."""
        found = self.space.get("pod", pod)
        assert found is not None, f"there is no pod {pod}"
        return f"http://{found['status']['podIP']}:8080"


@dataclass(frozen=True)
class Operator:
    """The operator's process, seen from inside of its pod."""

    namespace: str

    def _read(self, file: str) -> str:
        code = f"print(open('/proc/1/{file}').read())"
        return kubectl(
            "--namespace", self.namespace, "exec", "deployment/ringkeep-operator", "--", "python", "-c", code
        )

    def _pods(self) -> list[Json]:
        selector = "app.kubernetes.io/component=operator"
        text = kubectl("--namespace", self.namespace, "get", "pods", "-l", selector, "-o", "json")
        pods: list[Json] = decoded(text)["items"]
        return pods

    @property
    def node(self) -> str:
        """The Node that it runs on."""
        return str(self._pods()[0]["spec"]["nodeName"])

    def reaches_the_api_server(self) -> bool:
        """Return whether its pod can open a connection to the Service of the API server."""
        code = (
            "import os, socket; "
            "socket.create_connection((os.environ['KUBERNETES_SERVICE_HOST'], os.environ['KUBERNETES_SERVICE_PORT']), 1)"
        )
        pod = "deployment/ringkeep-operator"
        try:
            kubectl("--namespace", self.namespace, "exec", pod, "--", "python", "-c", code, limit_s=10)
        except AssertionError:
            return False
        return True

    def set_failpoint(self, point: str) -> None:
        """Have its process end each time that it comes to a failpoint; "" takes that back. Returns once it runs so."""
        name = "deployment/ringkeep-operator"
        change = f"RINGKEEP_OPERATOR_FAILPOINT={point}:1" if point else "RINGKEEP_OPERATOR_FAILPOINT-"
        kubectl("--namespace", self.namespace, "set", "env", name, change)
        kubectl("--namespace", self.namespace, "rollout", "status", name, "--timeout=120s")

    def deaths(self) -> int:
        """Return how often the process that runs now was ended as a kill ends one."""
        containers = [row for pod in self._pods() for row in pod["status"].get("containerStatuses", ())]
        ends = [row["lastState"].get("terminated", row["state"].get("terminated", {})) for row in containers]
        killed = [row for row, end in zip(containers, ends, strict=True) if end.get("exitCode") == KILLED]
        return sum(max(1, int(row["restartCount"])) for row in killed)

    def memory_bytes(self) -> int:
        """Return its resident memory."""
        line = next(line for line in self._read("status").splitlines() if line.startswith("VmRSS:"))
        return int(line.split()[1]) * 1024

    def cpu_s(self) -> float:
        """Return the processor time that it has used."""
        fields = self._read("stat").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def kind_name() -> str:
    """Return the name of the current context's kind cluster whose machines are docker's here, "" if it is none."""
    try:
        context = command("kubectl", "config", "current-context").strip()
        name = context.removeprefix("kind-")
        if name == context:
            return ""
        command("docker", "inspect", f"{name}-control-plane")
    except (Failed, OSError):
        return ""
    return name


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

    def rest(self) -> None:
        """Stop the load for good, but verify nothing yet: what was acknowledged is compared when it is over."""
        self.space.run_python(self.pod, "open('/tmp/stop', 'w')")

    def stop(self) -> None:
        """Stop the load, wait for the verification and take the result."""
        try:
            self.space.run_python(self.pod, "open('/tmp/verify', 'w'); open('/tmp/stop', 'w')")
        except Failed as error:
            raise AssertionError(f"{error}; the recorder: {self._what_became_of_it()}") from error

        def ask() -> Json | None:
            lines = self._lines()
            return lines[-1] if lines and lines[-1].get("final") else None

        self.final = until(ask, "the recorder has verified everything", every_s=1.0)
        self.seconds = [line for line in self._lines() if not line.get("final")]

    def _what_became_of_it(self) -> str:
        status = (self.space.get("pod", self.pod) or {"status": {"phase": "gone"}})["status"]
        log = self.space.kubectl("logs", self.pod, "--ignore-errors", "--tail=5")
        return (
            json.dumps({name: status.get(name) for name in ("phase", "reason", "message", "containerStatuses")}) + log
        )

    def _lines(self) -> list[Json]:
        text = self.space.kubectl("logs", self.pod, "--ignore-errors")
        return [decoded(line) for line in text.splitlines() if line.startswith("{")]

    def so_far(self) -> list[Json]:
        """Return the seconds up to now, while it runs."""
        return [line for line in self._lines() if not line.get("final")]

    def slowest_write_s(self, since: float) -> float:
        """Return how long the slowest write took that was answered after a moment (unix time)."""
        lines = self.seconds or self.so_far()
        return max((line["write_max_s"] for line in lines if line["at"] >= since and line.get("writes")), default=0.0)

    @property
    def errors(self) -> int:
        """Requests that failed, and failed again."""
        return int(self.final["write_errors"] + self.final["read_errors"])

    @property
    def error_share(self) -> float:
        """Errors after one retry, as a share of all requests."""
        return float(self.errors / max(1, self.errors + self.final["writes"] + self.final["reads"]))

    @property
    def summary(self) -> str:
        """What a failed test should show of it."""
        seconds = [
            {key: line[key] for key in ("at", "writes", "write_errors", "read_errors", "write_max_s") if key in line}
            for line in self.seconds
            if line.get("write_errors") or line.get("read_errors") or line["write_max_s"] > 1
        ]
        return json.dumps(self.final | {"bad_seconds": seconds})

    @property
    def offences(self) -> list[str]:
        """What must never be: acknowledged writes that are gone, and reads of something older."""
        return [*self.final["lost"], *self.final["wrong"]]


class Watch:
    """What ``kubectl get --watch`` prints of one object, line by line with the time at which it came (monotonic)."""

    def __init__(self, space: Namespace, kind: str, name: str, path: str) -> None:
        self.lines: list[tuple[float, str]] = []
        self._process = subprocess.Popen(
            ["kubectl", "--namespace", space.name, "get", kind, name, "--watch", "-o", f"jsonpath={{{path}}}{{'\\n'}}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)

    def _read(self) -> None:
        assert self._process.stdout is not None, "it was asked for"
        for line in self._process.stdout:
            self.lines.append((time.monotonic(), line.strip()))

    def __enter__(self) -> Self:
        self._thread.start()
        until(lambda: self.lines or None, "the watch shows the object", limit_s=20)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._thread.join()
        assert self._process.stdout is not None, "it was asked for"
        self._process.stdout.close()

    def first_change(self) -> float | None:
        """Return when the first value came that is another than the first of all, None if none did."""
        return next((at for at, line in self.lines if line != self.lines[0][1]), None)


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
        lines = [f"{'what':<62} {'n':>3} {'p50':>9} {'p95':>9} {'max':>9} {'limit':>9}"]
        for what, row in self._rows.items():
            values = sorted(row["values"])
            middle, high = values[len(values) // 2], values[min(len(values) - 1, int(0.95 * len(values)))]
            limit = "" if row["limit"] is None else f"{row['limit']:g} {row['unit']}"
            # Not a failure: how fast it is depends on the machine, and this one may have been busy.
            mark = "  ABOVE" if row["limit"] is not None and high > row["limit"] else ""
            figures = f"{middle:>9.3f} {high:>9.3f} {values[-1]:>9.3f} {limit:>9}"
            lines.append(f"{what:<62} {len(values):>3} {figures}{mark}")
        return "\n".join(lines)
