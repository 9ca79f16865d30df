"""A StatefulSet controller, kubelets and a data plane for tests of the operator: what happens after each of its writes.

    StatefulSet.replicas --> pods and claims --> nodes with a disk each --> members of one map (the core's own rules)
    PUT wanted --> refusals and targets as the core computes them; copies move at once, or when the test says so

Nodes answer over real HTTP under ``/<pod>/v1/cluster...``, in the shapes of the node's own code.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import msgspec
from aiohttp import web
from msgspec.structs import replace
from xxhash import xxh3_64_hexdigest

from ringkeep_core.mapchanges import Boot, Leave, SetWanted, apply, bootstrap
from ringkeep_core.placement import NodeState
from ringkeep_core.plans import NodeFacts, refusal_of, target_of
from ringkeep_core.shardmap import Copy, Member, Primary, Settings, Shard, ShardMap
from ringkeep_node.http.administration import WantedBody, wanted_of
from ringkeep_node.http.cluster import map_shape
from ringkeep_node.runtime.founding import BootstrapRequest
from ringkeep_node.runtime.reports import LeaderReport, MemberReport
from ringkeep_operator.state import SeenPod
from ringkeep_testing.fake_kube import FakeKube, Json

CLUSTER_ID = "c0ffee0000000001"
STRANGER_ID = "c0ffee0000000002"
LABEL = "ringkeep.dev/cluster"
STARTED = "2026-01-01T00:00:00Z"


class Disk(msgspec.Struct):
    """What a claim holds: an identity, and whether its node belongs to the cluster or has left it."""

    storage: str
    boots: int = 0
    cluster_id: str = ""
    has_left: bool = False


class FakePods:
    """Follows the StatefulSets of a ``FakeKube``. Use as ``async with FakePods(kube) as pods``."""

    def __init__(self, kube: FakeKube) -> None:
        self.kube = kube
        self.disks: dict[str, Disk] = {}
        self.map: ShardMap | None = None
        self.token = ""
        self.changes: list[str] = []
        """What the operator changed: bootstrap, wanted, leave, transfer."""
        self.holds_moves = False
        """While true a plan stands still: copies stay where they are."""
        self.running: Json | None = None
        """What the leader says of the plan that it carries out."""
        self.bad_images: set[str] = set()
        self.over_quota: set[str] = set()
        """Pods that the API server does not let the controller make."""
        self.refusals: dict[str, str] = {}
        """The sentence with which a change is refused, by the end of its path."""
        self.silent: set[str] = set()
        """Pods whose node does not answer, and that the others call dead."""
        self.hanging: set[str] = set()
        """Pods whose node takes requests and never answers, and that the others call dead."""
        self.strangers: set[str] = set()
        """Pods whose address belongs to a node of another cluster now, which says it knows more than any other."""
        self.asked: list[tuple[str, str, str]] = []
        """What was asked: the method, the rest of the path, and the cluster that was meant."""
        self.leader = ""
        self._disk_number = 0
        self._map_changed = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.url = ""
        self.broken: list[str] = []
        """What must never be: volumes that go before their member has left, sets that shrink below a member."""
        kube.settled, kube.deleting = self.settle, self._check_volume

    async def __aenter__(self) -> Self:
        """Listen on a free port of loopback."""
        app = web.Application()
        app.router.add_route("*", "/{pod}/v1/cluster{rest:.*}", self._answer)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop listening."""
        self._map_changed.set()
        assert self._runner is not None
        await self._runner.cleanup()

    def address(self, pod: SeenPod) -> str:
        """Return where the node in a pod is asked."""
        return f"{self.url}/{pod.name}"

    def make_workers(self) -> None:
        """Make the Nodes that the pods run on, each its own zone."""
        for worker in range(3):
            labels = {"topology.kubernetes.io/zone": f"zone-{worker}", "kubernetes.io/hostname": f"host-{worker}"}
            ready = {"conditions": [{"type": "Ready", "status": "True"}]}
            node = {"metadata": {"name": f"worker-{worker}", "labels": labels}, "status": ready}
            self.kube.put("nodes", node, "")

    # --- what Kubernetes does

    def settle(self) -> None:
        """Do what controllers and kubelets would do now, until nothing more happens."""
        for _ in range(100):
            before = self.kube.version
            for (plural, _, _), manifest in list(self.kube.objects.items()):
                if plural == "statefulsets":
                    self._follow(manifest)
            self._end_orphans()
            self._ready()
            if self.kube.version == before:
                return
        raise AssertionError("the fake controllers never come to an end")

    def _check_volume(self, where: tuple[str, str, str]) -> None:
        plural, _, claim = where
        disk = self.disks.get(claim)
        if plural == "persistentvolumeclaims" and disk is not None and disk.cluster_id and not disk.has_left:
            self.broken.append(f"{claim} is deleted, and its member has not left")

    def _check_size(self, name: str, replicas: int) -> None:
        """A suspended cluster has no pods, and all its members."""
        listed = self.map.wanted.members if self.map is not None and replicas else ()
        self.broken += [
            f"{name} shrinks to {replicas}, and {member} has not left"
            for member in listed
            if member.rpartition("-")[0] == name and int(member.rpartition("-")[2]) >= replicas
        ]

    def _follow(self, manifest: Json) -> None:
        name, spec, kube = manifest["metadata"]["name"], manifest["spec"], self.kube
        self._check_size(name, spec["replicas"])
        revision = f"{name}-{xxh3_64_hexdigest(msgspec.json.encode(spec['template']))[:8]}"
        wanted = [f"{name}-{ordinal}" for ordinal in range(spec["replicas"])]
        for pod in [pod for pod in kube.names("pods") if pod.rpartition("-")[0] == name and pod not in wanted]:
            kube.remove("pods", pod)
        for pod in wanted:
            claim = f"data-{pod}"
            if spec.get("volumeClaimTemplates") and claim not in kube.names("persistentvolumeclaims"):
                labels = spec["template"]["metadata"]["labels"]
                size = spec["volumeClaimTemplates"][0]["spec"]
                kube.put(
                    "persistentvolumeclaims",
                    {"metadata": {"name": claim, "labels": labels}, "spec": size, "status": {"phase": "Bound"}},
                )
            if pod in self.over_quota:
                self._tell(manifest, pod, "failed error: pods is forbidden: exceeded quota")
            elif pod not in kube.names("pods"):
                self._tell(manifest, pod, "successful")
                self._start(pod, spec["template"], revision)
        pods = [kube.get("pods", pod) for pod in wanted if pod in kube.names("pods")]
        kube.change(
            "statefulsets",
            name,
            {
                "status": {
                    "observedGeneration": kube.get("statefulsets", name)["metadata"]["generation"],
                    "replicas": len(pods),
                    "updateRevision": revision,
                    "readyReplicas": sum(1 for pod in pods if is_ready(pod)),
                }
            },
        )

    def _tell(self, manifest: Json, pod: str, outcome: str) -> None:
        """What the controller says of making a pod; a second is later than the first."""
        message = f"create Pod {pod} in StatefulSet {manifest['metadata']['name']} {outcome}"
        about = {"kind": "StatefulSet", "uid": manifest["metadata"]["uid"]}
        if any(one.get("message") == message for (kind, _, _), one in self.kube.objects.items() if kind == "events"):
            return
        at = f"2026-01-01T00:00:{len(self.kube.names('events')) % 60:02}Z"
        event = {"metadata": {"name": f"set-{len(self.kube.names('events'))}"}, "involvedObject": about}
        reason = "SuccessfulCreate" if outcome == "successful" else "FailedCreate"
        self.kube.put("events", {**event, "reason": reason, "message": message, "lastTimestamp": at})

    def _start(self, pod: str, template: Json, revision: str) -> None:
        labels = {**template["metadata"]["labels"], "controller-revision-hash": revision}
        image = template["spec"]["containers"][0]["image"]
        ordinal = int(pod.rpartition("-")[2])
        manifest: Json = {
            "metadata": {"name": pod, "labels": labels, "creationTimestamp": STARTED},
            "spec": {"nodeName": f"worker-{ordinal % 3}", "containers": [{"image": image}]},
        }
        if image in self.bad_images:
            waiting = {"waiting": {"reason": "ImagePullBackOff", "message": f"cannot pull {image}"}}
            manifest["status"] = {"phase": "Pending", "containerStatuses": [{"state": waiting}]}
            self.kube.put("pods", manifest)
            return
        manifest["status"] = {"phase": "Running", "podIP": f"10.0.0.{ordinal + 1}"}
        self.kube.put("pods", manifest)
        self._boot(pod)

    def _end_orphans(self) -> None:
        sets = self.kube.names("statefulsets")
        for pod in self.kube.names("pods"):
            if pod.rpartition("-")[0] not in sets:
                self.kube.remove("pods", pod)
        # A gateway's disk ends with its pod.
        kept = {*self.kube.names("persistentvolumeclaims"), *(f"data-{pod}" for pod in self.kube.names("pods"))}
        for claim in list(self.disks):
            if claim.startswith("data-") and claim not in kept:
                del self.disks[claim]

    def _ready(self) -> None:
        for pod in self.kube.names("pods"):
            manifest = self.kube.get("pods", pod)
            if manifest["status"]["phase"] == "Running":
                disk = self.disks[f"data-{pod}"]
                ready = bool(disk.cluster_id) and not disk.has_left and pod not in self.silent | self.hanging
                ready = ready and not self._has_given_up(pod, disk)
                conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
                self.kube.change("pods", pod, {"status": {"conditions": conditions}})

    # --- what nodes do

    def _has_given_up(self, pod: str, disk: Disk) -> bool:
        """A member that drains and holds nothing says that it is not ready: it is about to leave."""
        want = self.map.wanted.members.get(pod) if self.map is not None else None
        if self.map is None or want is None or not want.draining:
            return False
        return not any(shard.copy_of(disk.storage) for shard in self.map.shards)

    def _boot(self, pod: str) -> None:
        claim = f"data-{pod}"
        disk = self.disks.get(claim)
        if disk is None or disk.has_left:
            self._disk_number += 1
            disk = self.disks[claim] = Disk(f"5{self._disk_number:015x}")
        disk.boots += 1
        if self.map is not None:
            disk.cluster_id = CLUSTER_ID
            self._register(pod, disk)

    def _register(self, pod: str, disk: Disk) -> None:
        assert self.map is not None
        held = self.map
        if disk.storage in held.left:
            disk.has_left = True
            return
        present = held.by_name.get(pod)
        replaces = present.storage if present is not None and present.storage != disk.storage else None
        live = tuple(member.storage for member in held.members.values())
        entry = Boot(
            name=pod, storage=disk.storage, boot=f"b{disk.boots:015x}", counter=disk.boots, url=f"http://{pod}:8080",
            peer=f"{pod}:7400", live=live, replaces=replaces,
        )  # fmt: skip
        self._propose(entry)

    def _propose(self, entry: Any) -> str:
        assert self.map is not None
        outcome = apply(self.map, self.map.version + 1, entry)
        for refusal in outcome.outcomes:
            if refusal is not None:
                return refusal.detail or refusal.code
        self._hold(outcome.map)
        return ""

    def _hold(self, held: ShardMap) -> None:
        self.map = held
        changed, self._map_changed = self._map_changed, asyncio.Event()
        changed.set()

    def alive(self) -> list[str]:
        """Return the names of members whose pod runs and answers."""
        running = [pod for pod in self.kube.names("pods") if self.kube.get("pods", pod)["status"]["phase"] == "Running"]
        return [pod for pod in running if pod not in self.silent | self.hanging | self.strangers]

    def move(self) -> None:
        """Bring every copy to its place at once, as a plan would in the end."""
        held = self.map
        if held is None or self.holds_moves:
            return
        target = target_of(held, held.wanted, self._facts())
        version, shards = held.version + 1, []
        for shard, assigned in zip(held.shards, target.shards, strict=True):
            storages = [held.by_name[name].storage for name in assigned.copies]
            primary = held.by_name[assigned.primary] if assigned.primary is not None else None
            if primary is None:
                shards.append(shard)
                continue
            in_sync = tuple(shard.copy_of(storage) or Copy(storage, version) for storage in storages)
            changed = (shard.primary.storage, shard.in_sync) != (primary.storage, in_sync)
            shards.append(
                Shard(
                    epoch=shard.epoch + (shard.primary.storage != primary.storage),
                    revision=shard.revision + changed,
                    primary=Primary(primary.storage, primary.boot),
                    in_sync=in_sync,
                    eligible=(),
                    learners=(),
                    need=min(replace(held, wanted=held.wanted).need_wanted(), len(in_sync)),
                )
            )
        if tuple(shards) != held.shards:
            self._hold(replace(held, version=version, shards=tuple(shards)))

    def _facts(self) -> dict[str, NodeFacts]:
        assert self.map is not None
        alive = self.alive()
        state = {True: NodeState.ALIVE, False: NodeState.DEAD_IN_GRACE}
        return {name: NodeFacts(state[name in alive]) for name in self.map.by_name}

    # --- REST

    async def _answer(self, request: web.Request) -> web.Response:
        pod, rest = request.match_info["pod"], request.match_info["rest"]
        meant = request.headers.get("Ringkeep-Cluster", "")
        self.asked.append((request.method, rest, meant))
        if pod in self.hanging:
            await asyncio.Event().wait()
        if pod in self.strangers:
            return self._stranger(pod, rest, meant)
        if pod not in self.alive():
            assert request.transport is not None
            request.transport.abort()
            return web.Response()
        if request.method != "GET":
            return await self._change(request, pod, rest)
        if rest == "":
            return encoded(self._summary(pod))
        if self.map is None:
            return problem(503, "no_primary", "this node has no map yet")
        match rest:
            case "/map":
                return await self._map(request)
            case "/members":
                return encoded({"members": self._members()})
            case "/leader":
                return encoded(LeaderReport(self._leader(), "", 1))
            case "/plan":
                left = self._moves_left()
                return encoded(
                    {"copies": left, "primaries": 0, "bytes": left * 1000, "opinion": "same", "running": self.running}
                )
        return problem(404, "not_found", rest)

    def _stranger(self, pod: str, rest: str, meant: str) -> web.Response:
        if meant != STRANGER_ID and rest:
            return problem(421, "wrong_cluster", f"this node belongs to {STRANGER_ID}")
        return encoded(
            {"node": pod, "storage_id": "5f00", "cluster_id": STRANGER_ID, "version": 1 << 40, "leader": pod}
        )

    def _summary(self, pod: str) -> Json:
        disk = self.disks[f"data-{pod}"]
        return {
            "node": pod,
            "storage_id": disk.storage,
            "peer": f"{pod}:7400",
            "url": f"http://{pod}:8080",
            "has_left": disk.has_left,
            "cluster_id": disk.cluster_id,
            "version": self.map.version if self.map is not None and disk.cluster_id else 0,
            "leader": self._leader() if self.map is not None else None,
        }

    async def _map(self, request: web.Request) -> web.Response:
        newer_than = int(request.query.get("wait_newer_than", -1))
        timeout_s = float(request.headers.get("Ringkeep-Timeout", 5))
        assert self.map is not None
        if self.map.version <= newer_than:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._map_changed.wait(), timeout_s)
        return encoded(map_shape(self.map))

    def _members(self) -> list[MemberReport]:
        assert self.map is not None
        held, alive = self.map, self.alive()
        reports = []
        for storage, member in held.members.items():
            want = held.wanted.members.get(member.name)
            reports.append(
                MemberReport(
                    name=member.name,
                    state="alive" if member.name in alive else "dead",
                    storage_id=storage,
                    boot_id=member.boot,
                    url=member.url,
                    peer=member.peer,
                    draining=want is None or want.draining,
                    weight=want.weight if want is not None else 1.0,
                    copies=sum(1 for shard in held.shards if shard.copy_of(storage)),
                    primaries=sum(1 for shard in held.shards if shard.primary.storage == storage),
                )
            )
        return reports

    def _leader(self) -> str:
        members = self.map.by_name if self.map is not None else {}
        able = [name for name in self.alive() if name in members]
        if self.leader not in able:
            self.leader = able[0] if able else ""
        return self.leader

    def _moves_left(self) -> int:
        assert self.map is not None
        return target_of(self.map, self.map.wanted, self._facts()).moves

    async def _change(self, request: web.Request, pod: str, rest: str) -> web.Response:
        if request.headers.get("Authorization") != f"Bearer {self.token}" and self.token:
            return problem(401, "unauthorized", "the token is missing or wrong")
        body = await request.read()
        if refused := next((said for end, said in self.refusals.items() if rest.endswith(end)), ""):
            return problem(409, "conflict", refused)
        if rest == "/bootstrap":
            return self._found(msgspec.json.decode(body, type=BootstrapRequest))
        if self.map is None:
            return problem(503, "no_primary", "this node has no map yet")
        if rest == "/wanted":
            return self._want(msgspec.json.decode(body, type=WantedBody))
        if rest == "/transfer-leader":
            self.changes.append("transfer")
            able = [name for name in self.alive() if name in self.map.by_name and name != self._leader()]
            self.leader = able[0] if able else self.leader
            return encoded(LeaderReport(self.leader, "", 1))
        name = rest.removeprefix("/members/").removesuffix("/leave")
        member = self.map.by_name.get(name)
        if member is None:
            return problem(404, "not_found", f"there is no member {name}")
        refused = self._propose(Leave(member.storage, "asked"))
        if refused:
            return problem(409, "conflict", refused)
        self.changes.append(f"leave {name}")
        for disk in self.disks.values():
            disk.has_left = disk.has_left or disk.storage == member.storage
        self.settle()
        return encoded({"left": name, "storage_id": member.storage})

    def _found(self, asked: BootstrapRequest) -> web.Response:
        if self.map is not None:
            return problem(409, "conflict", "there is a cluster already")
        disks = {disk.storage: (claim.removeprefix("data-"), disk) for claim, disk in self.disks.items()}
        members = []
        for one in asked.members:
            pod, disk = disks[one.storage_id]
            disk.cluster_id = CLUSTER_ID
            members.append(
                Member(disk.storage, pod, f"b{disk.boots:015x}", disk.boots, f"http://{pod}:8080", one.peer, "", 0)
            )
        settings = Settings(replication_factor=asked.replication_factor, min_in_sync=asked.min_in_sync)
        self._hold(bootstrap(cluster_id=CLUSTER_ID, members=members, shards=asked.shards, settings=settings))
        self.changes.append("bootstrap")
        for pod in self.alive():
            disk = self.disks[f"data-{pod}"]
            if not disk.cluster_id:
                disk.cluster_id = CLUSTER_ID
                self._register(pod, disk)
        self.settle()
        return encoded({"cluster_id": CLUSTER_ID})

    def _want(self, body: WantedBody) -> web.Response:
        held = self.map
        assert held is not None
        if held.wanted.revision != body.revision:
            return problem(
                409, "conflict", f"the wanted state is at revision {held.wanted.revision}, not {body.revision}"
            )
        new = wanted_of(body, held.wanted)
        refusal = refusal_of(held, new, self._facts(), tuple(held.members))
        if refusal is not None:
            return problem(409, "conflict", f"{refusal.code}: {refusal.detail}")
        refused = self._propose(SetWanted(new, "asked"))
        if refused:
            return problem(409, "conflict", refused)
        self.changes.append("wanted")
        self.move()
        return encoded(new)


def is_ready(pod: Mapping[str, Any]) -> bool:
    """Return whether a pod's condition Ready is true."""
    conditions = pod["status"].get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def encoded(value: object) -> web.Response:
    """Return an answer with this as JSON."""
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def problem(status: int, code: str, detail: str) -> web.Response:
    """Return a problem document."""
    body = msgspec.json.encode({"code": code, "detail": detail, "status": status})
    return web.Response(body=body, status=status, content_type="application/problem+json")
